"""Unix sockets of gRPC listeners: their paths, and files that are in the way."""

import socket
import stat
from pathlib import Path

from sidecar.domain.errors import ConfigError
from sidecar.inbound.listen_address import UNIX_PREFIX

_UNIX_PATH_BYTES_MAX = 107  # sun_path of Linux, less its terminator.


def unix_path(listen: str) -> Path | None:
    """The path in "unix:PATH", None for other addresses. Raises ConfigError if it is too long."""
    if not listen.startswith(UNIX_PREFIX):
        return None
    path = Path(listen.removeprefix(UNIX_PREFIX)).absolute()
    if len(str(path).encode()) > _UNIX_PATH_BYTES_MAX:
        raise ConfigError(
            f"cannot listen for gRPC on {listen}: a socket's path has at most "
            f"{_UNIX_PATH_BYTES_MAX} bytes"
        )
    return path


def clear_stale_socket(path: Path) -> None:
    """
    Remove the socket of a process that is gone. Raises ConfigError for any other file.

    grpcio removes whatever socket is there, also that of a running process, whose calls would
    then come here.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"cannot listen for gRPC on unix:{path}: a file of that name is there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as error:
            raise ConfigError(f"cannot listen for gRPC on unix:{path}: {error.strerror}") from error
    raise ConfigError(f"cannot listen for gRPC on unix:{path}: another process serves it")
