"""`sidecar holds`: what is set aside for requests in flight."""

from typing import Annotated

import typer

from sidecar.cli.admin import AsJson, Limit, call_admin, print_rows
from sidecar.cli.common import ConfigFile

app = typer.Typer(help="Holds: what is set aside for requests in flight.", no_args_is_help=True)

_COLUMNS = (
    *("id", "customer_id", "amount", "currency", "bound", "route", "model", "age_seconds"),
    *("expires_at", "served", "due"),
)


@app.callback()
def main() -> None:
    """Keep `list` a command of its own: with one alone the group would be that command."""


@app.command("list")
def list_holds(
    customer: Annotated[str | None, typer.Option(help="Of this customer alone.")] = None,
    config: ConfigFile = None,
    limit: Limit = 1_000,
    as_json: AsJson = False,
) -> None:
    """List open holds, by shard those first that expire first."""
    found = call_admin(config, lambda api: api.list_open_holds(customer, limit))
    print_rows(found, _COLUMNS, as_json=as_json)
