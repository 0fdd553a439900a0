"""`sidecar webhooks`: what billing providers told us, and what became of it."""

from enum import StrEnum
from typing import Annotated

import typer

from sidecar.cli.admin import AsJson, Limit, call_admin, print_one, print_rows
from sidecar.cli.common import ConfigFile

app = typer.Typer(help="Webhooks: what billing providers told us.", no_args_is_help=True)

_COLUMNS = ("id", "state", "reason", "events", "attempts", "event_type", "wanted_at", "retry_at")


class State(StrEnum):
    """States that can be asked for."""

    IDLE = "idle"
    PENDING = "pending"
    PARKED = "parked"


@app.command("list")
def list_webhooks(
    state: Annotated[State | None, typer.Option(help="Only those in this state.")] = None,
    config: ConfigFile = None,
    limit: Limit = 1_000,
    as_json: AsJson = False,
) -> None:
    """List objects that webhooks named, by id; `parked` are those that people must look at."""
    name = None if state is None else state.value
    found = call_admin(config, lambda api: api.list_webhooks(name, limit))
    print_rows(found, _COLUMNS, as_json=as_json)


@app.command("retry")
def retry(
    key: Annotated[str, typer.Argument(help="The id of the list: provider:kind:object.")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Have an object fetched from its provider now."""
    print_one(call_admin(config, lambda api: api.retry_webhook(key)), as_json=as_json)
