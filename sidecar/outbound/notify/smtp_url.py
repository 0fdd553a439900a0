"""Where mail goes: `smtp://` or `smtps://`, with TLS unless the server is this machine."""

import ssl
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from sidecar.domain.errors import ConfigError

_PORTS: Final = {"smtp": 587, "smtps": 465}
_LOCAL: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_OPTIONS: Final = frozenset({"starttls", "ca_file"})


class Tls(StrEnum):
    """How the connection is protected; certificates are always checked."""

    IMPLICIT = "implicit"
    STARTTLS = "starttls"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class SmtpServer:
    """A server and how to log in; the password never shows."""

    host: str
    port: int
    tls: Tls
    username: str = ""
    password: str = field(default="", repr=False)
    ca_file: Path | None = None

    def tls_context(self) -> ssl.SSLContext:
        """Certificates of the system's authorities, or of the file's alone. Raises ConfigError."""
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError):
            raise ConfigError(f"smtp_url: {self.ca_file} holds no certificates") from None


def parse_smtp_url(url: str, *, password: str = "") -> SmtpServer:
    """
    Read a URL such as `smtp://user@mail.example.com:587` or `smtps://mail.example.com`.

    `?starttls=required|off` says whether `smtp://` upgrades; it does unless the host is this
    machine. `?ca_file=PATH` names the authorities that are believed. User and password are
    percent-encoded.

    Args:
        url: The URL; never shown, since a password may stand in it.
        password: From a file, in place of one in the URL.

    Raises:
        ConfigError: It cannot be used; a password would travel in the clear.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
        options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
    except ValueError:
        raise ConfigError("smtp_url is no URL of the form smtp://user@host:port") from None
    if parts.scheme not in _PORTS or not parts.hostname or parts.path not in ("", "/"):
        raise ConfigError("smtp_url must be smtp://host or smtps://host, with a port if need be")
    unknown = sorted(set(options) - _OPTIONS)
    if unknown:
        raise ConfigError(f"smtp_url: unknown option {unknown[0]!r}; there are starttls, ca_file")
    tls = _tls(parts.scheme, parts.hostname, options.get("starttls"))
    if password and parts.password:
        raise ConfigError("smtp_url holds a password, and so does notify.email.password_file")
    username, secret = unquote(parts.username or ""), password or unquote(parts.password or "")
    if secret and not username:
        raise ConfigError("smtp_url has a password and no user")
    if secret and tls is Tls.NONE and parts.hostname not in _LOCAL:
        raise ConfigError("smtp_url: a password is not sent without TLS; leave starttls=off out")
    ca_file = options.get("ca_file")
    return SmtpServer(
        host=parts.hostname,
        port=_PORTS[parts.scheme] if port is None else port,
        tls=tls,
        username=username,
        password=secret,
        ca_file=Path(ca_file) if ca_file else None,
    )


def _tls(scheme: str, host: str, starttls: str | None) -> Tls:
    if scheme == "smtps":
        if starttls is not None:
            raise ConfigError("smtp_url: smtps:// is encrypted from the start; starttls has no use")
        return Tls.IMPLICIT
    match starttls:
        case None:
            return Tls.NONE if host in _LOCAL else Tls.STARTTLS
        case "required":
            return Tls.STARTTLS
        case "off":
            return Tls.NONE
        case _:
            raise ConfigError("smtp_url: starttls is required or off")
