"""Where each worker of a gateway listens, and which settings allow more than one."""

from pathlib import Path

from sidecar.app.journaling import journal_folder
from sidecar.domain.errors import ConfigError
from sidecar.inbound.listen_address import TcpAddress, UnixAddress, parse_listen
from sidecar.outbound.embedded import default_data_dir
from sidecar.settings import Role, Settings

_OWN_LISTENERS = ("grpc_listen", "grpc_fast_listen")
_PORT_MAX = 65_535


def check_workers(settings: Settings) -> None:
    """
    Refuse settings that several workers cannot share.

    Raises:
        ConfigError: With each problem.
    """
    problems = []
    if settings.roles != frozenset({Role.GATEWAY}):
        roles = ", ".join(sorted(role.value for role in settings.roles))
        problems.append(
            f"workers is {settings.workers}, which is for the role gateway alone, but roles is "
            f"{roles}: run settlement and admin in a process of their own"
        )
    if settings.embedded_redis:
        problems.append(
            f"workers is {settings.workers}, which needs SIDECAR_REDIS_URL: an embedded Redis "
            "belongs to one process"
        )
    taken: dict[str, str] = {}
    for name, text in _addresses(settings):
        before = taken.setdefault(text, name)
        if before != name:
            problems.append(f"{name} and {before} would both listen on {text}")
    for name in _OWN_LISTENERS:
        text = getattr(settings, name)
        address = parse_listen(text) if text else None
        if not isinstance(address, TcpAddress):
            continue
        if not address.port:
            problems.append(f"{name} is {text}: with workers its port must be named")
        elif address.port + settings.workers - 1 > _PORT_MAX:
            problems.append(f"{name} is {text}: the last worker's port would be beyond {_PORT_MAX}")
    if problems:
        raise ConfigError("\n".join(problems))


def settings_of_worker(settings: Settings, number: int) -> Settings:
    """
    What the worker of a number, from 0, runs with: ports count up, socket paths end in the number.

    The HTTP port is shared, its connections dealt out by the kernel. A journal belongs to one
    process, so each has a folder of its own.
    """
    update: dict[str, object] = {
        name: nth_address(getattr(settings, name), number)
        for name in _OWN_LISTENERS
        if getattr(settings, name)
    }
    if isinstance(parse_listen(settings.http_listen), UnixAddress):
        update["http_listen"] = nth_address(settings.http_listen, number)
    journal = journal_folder(settings, settings.data_dir or default_data_dir())
    if journal is not None:
        update["journal_dir"] = journal / f"worker-{number}"
    return settings.model_copy(update=update | {"workers": 1})


def nth_address(listen: str, number: int) -> str:
    """The address of one of several that count up from this one."""
    address = parse_listen(listen)
    if isinstance(address, UnixAddress):
        return str(UnixAddress(Path(f"{address.path}.{number}")))
    return str(TcpAddress(address.host, address.port + number))


def gateway_addresses(settings: Settings, listen: str) -> list[str]:
    """Where the workers of a gateway listen, for a balancer: one address where there is one."""
    if settings.workers == 1:
        return [listen]
    return [nth_address(listen, number) for number in range(settings.workers)]


def _addresses(settings: Settings) -> list[tuple[str, str]]:
    found = [("supervisor_listen", settings.supervisor_listen)]
    if isinstance(parse_listen(settings.http_listen), TcpAddress):
        found.append(("http_listen", settings.http_listen))
    for number in range(settings.workers):
        found += [
            (name, nth_address(getattr(settings, name), number))
            for name in _OWN_LISTENERS
            if getattr(settings, name)
        ]
    return found
