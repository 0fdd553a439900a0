"""`sidecar credits schedules` and `sidecar credits auto-top-up`: credit that comes by itself."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidecar.cli.admin import AsJson, Limit, call_admin, print_one, print_rows
from sidecar.cli.common import ConfigFile

if TYPE_CHECKING:
    from sidecar.outbound.admin_api import AdminApi

schedules = typer.Typer(help="Recurring grants.", no_args_is_help=True)
auto_top_up = typer.Typer(help="Payments asked for by themselves.", no_args_is_help=True)

CustomerId = Annotated[str, typer.Argument(help="The customer's id.")]
_SCHEDULE_COLUMNS = (
    *("id", "amount", "currency", "kind", "priority", "every", "unit", "tz"),
    *("rollover", "next_start", "ends_at"),
)
_ATTEMPTS_SHOWN = 10


@schedules.command("create")
def create(
    customer: CustomerId,
    amount: Annotated[str, typer.Argument(help='Of each grant, such as "12.50".')],
    starts_at: Annotated[str, typer.Option(help="RFC 3339: no period begins before.")],
    unit: Annotated[str, typer.Option(help="day, week, month or year.")] = "month",
    every: Annotated[int, typer.Option(help="So many units.")] = 1,
    tz: Annotated[str, typer.Option(help="An IANA time zone.")] = "UTC",
    anchor: Annotated[
        str | None, typer.Option(help="RFC 3339: periods are counted from it; default: the start.")
    ] = None,
    ends_at: Annotated[str | None, typer.Option(help="RFC 3339; default: never.")] = None,
    currency: Annotated[str, typer.Option(help="The customer's currency.")] = "USD",
    promotional: Annotated[bool, typer.Option("--promotional", help="Nobody paid for it.")] = False,
    priority: Annotated[int | None, typer.Option(help="0 (burns first) to 100.")] = None,
    meter: Annotated[
        list[str] | None, typer.Option(help="Pays this meter only; may be repeated.")
    ] = None,
    rollover_max: Annotated[
        str | None, typer.Option(help="At most so much rolls over; default: nothing does.")
    ] = None,
    rollover_min: Annotated[
        str | None,
        typer.Option(help="At least so much rolls over, with --rollover-max; default: 0."),
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Give credit in each period of a calendar."""
    if rollover_max is None and rollover_min is not None:
        raise typer.BadParameter("without --rollover-max nothing rolls over; give both")
    rollover = None
    if rollover_max is not None:
        rollover = {"min": rollover_min or "0", "max": rollover_max}
    body = {
        "customer_id": customer,
        "amount": amount,
        "currency": currency,
        "kind": "promotional" if promotional else "paid",
        "priority": priority,
        "meters": meter or [],
        "unit": unit,
        "every": every,
        "tz": tz,
        "anchor": anchor,
        "starts_at": starts_at,
        "ends_at": ends_at,
        "rollover": rollover,
    }
    print_one(call_admin(config, lambda api: api.create_schedule(body)), as_json=as_json)


@schedules.command("list")
def list_schedules(
    customer: CustomerId, config: ConfigFile = None, limit: Limit = 1_000, as_json: AsJson = False
) -> None:
    """List a customer's schedules, also those that have ended."""
    found = call_admin(config, lambda api: api.list_schedules(customer, limit))
    print_rows(found, _SCHEDULE_COLUMNS, as_json=as_json)


@schedules.command("end")
def end(
    customer: CustomerId,
    schedule: Annotated[str, typer.Argument(help="The schedule's id.")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Issue no further grant; those that are issued stay and can be voided."""
    print_one(call_admin(config, lambda api: api.end_schedule(customer, schedule)), as_json=as_json)


@auto_top_up.command("set")
def set_rule(
    customer: CustomerId,
    threshold: Annotated[str, typer.Option(help="Ask once credit falls below this.")],
    amount: Annotated[str | None, typer.Option(help="Ask for so much.")] = None,
    target: Annotated[str | None, typer.Option(help="Or for what is missing to this.")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Ask for a payment by itself when credit runs low; give --amount or --target."""
    body = {"threshold": threshold, "amount": amount, "target": target}
    print_one(call_admin(config, lambda api: api.put_top_up_rule(customer, body)), as_json=as_json)


@auto_top_up.command("show")
def show_rule(customer: CustomerId, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show a customer's rule and the newest payments that it asked for."""

    async def read(api: "AdminApi") -> dict[str, Any]:
        rule = await api.read_top_up_rule(customer)
        return rule | {"attempts": await api.list_top_up_attempts(customer, _ATTEMPTS_SHOWN)}

    print_one(call_admin(config, read), as_json=as_json)


@auto_top_up.command("off")
def delete_rule(customer: CustomerId, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Ask for no further payment."""
    print_one(call_admin(config, lambda api: api.delete_top_up_rule(customer)), as_json=as_json)
