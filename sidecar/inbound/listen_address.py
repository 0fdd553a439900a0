"""Listen addresses as text, and whether only this machine can reach them; for every listener."""

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from sidecar.domain.errors import ConfigError

UNIX_PREFIX = "unix:"
_UNIX_PATH_BYTES_MAX = 107
_PORT_MAX = 65_535
_TCP = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<host>[A-Za-z0-9.-]*)):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host (no name resolves to all interfaces but the empty one) and a port, 0 for any."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A socket in the file system."""

    path: Path

    def __str__(self) -> str:
        return f"{UNIX_PREFIX}{self.path}"


ListenAddress = TcpAddress | UnixAddress


def parse_listen(text: str) -> ListenAddress:
    """
    Read "host:port" (an IPv6 host in brackets) or "unix:PATH".

    Raises:
        ConfigError: If it is neither.
    """
    if text.startswith(UNIX_PREFIX):
        path = text.removeprefix(UNIX_PREFIX)
        if not path or len(path.encode()) > _UNIX_PATH_BYTES_MAX:
            raise ConfigError(
                f"listen address {text!r}: a socket's path has 1 to {_UNIX_PATH_BYTES_MAX} bytes"
            )
        return UnixAddress(Path(path))
    match = _TCP.fullmatch(text)
    if match is None or int(match["port"]) > _PORT_MAX:
        raise ConfigError(
            f"listen address {text!r} cannot be used; write host:port, [v6]:port or unix:PATH"
        )
    if match["v6"] is not None:
        try:
            ipaddress.IPv6Address(match["v6"])
        except ValueError as error:
            raise ConfigError(f"listen address {text!r} holds no IPv6 address") from error
    return TcpAddress(match["v6"] or match["host"] or "", int(match["port"]))


def is_private(address: ListenAddress) -> bool:
    """Whether only this machine can connect: loopback or a unix socket."""
    return isinstance(address, UnixAddress) or address.is_loopback
