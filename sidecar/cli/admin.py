"""What the commands that speak to the admin API share: where it is, with what token, and tables."""

import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from sidecar.cli.common import run, settings_from
from sidecar.domain.errors import ConfigError
from sidecar.inbound.listen_address import TcpAddress, UnixAddress
from sidecar.settings import Settings, parse_listen

if TYPE_CHECKING:
    from sidecar.outbound.admin_api import AdminApi

LIST_MAX = 10_000

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limit = Annotated[int, typer.Option(min=1, max=LIST_MAX, help="List at most so many.")]

_ANY_HOST = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  What a listener says for all.

T = TypeVar("T")


def call_admin(config: Path | None, use: "Callable[[AdminApi], Awaitable[T]]") -> T:
    """
    Do something with the admin API of the settings.

    Raises:
        ConfigError: There is no token, or it is refused.
        StoreUnavailable: Nobody answers.
    """
    from sidecar.outbound.admin_api import AdminApi

    settings = settings_from(config, roles="admin")
    address, token = _address(settings), _token(settings)

    async def main() -> T:
        async with AdminApi(address, token) as api:
            return await use(api)

    return run(main())


def print_rows(items: Sequence[dict[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Print a list as JSON, or the named columns as aligned text."""
    if as_json:
        print(json.dumps(list(items), indent=2))
        return
    rows = [tuple(columns), *(tuple(_text(item.get(name)) for name in columns) for item in items)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(columns))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def print_one(item: dict[str, Any], *, as_json: bool) -> None:
    """Print one thing as JSON, or one `name: value` a line."""
    if as_json:
        print(json.dumps(item, indent=2))
        return
    for name, value in item.items():
        print(f"{name}: {_text(value)}")


def _text(value: object) -> str:
    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            return ",".join(_text(inner) for inner in value) or "-"
        case dict():
            return ",".join(f"{name}={inner}" for name, inner in sorted(value.items())) or "-"
        case _:
            return str(value)


def _address(settings: Settings) -> str:
    address = parse_listen(settings.admin_listen)
    if isinstance(address, UnixAddress):
        return str(address)
    if address.port == 0:
        raise ConfigError("admin_listen has port 0, which only `serve` can resolve; name the port")
    return str(TcpAddress(_ANY_HOST.get(address.host, address.host), address.port))


def _token(settings: Settings) -> str:
    from sidecar.app import read_secret
    from sidecar.outbound.embedded import default_data_dir

    if settings.admin_token_file is not None:
        return read_secret(settings.admin_token_file)
    path = (settings.data_dir or default_data_dir()) / "admin-token"
    if not path.exists():
        raise ConfigError(
            f"there is no {path}: `sidecar serve` makes it at its first start; "
            "else set SIDECAR_ADMIN_TOKEN_FILE"
        )
    return read_secret(path)
