"""`sidecar credits`: what is given, taken back and left."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidecar.cli import credit_rules
from sidecar.cli.admin import AsJson, Limit, call_admin, print_one, print_rows
from sidecar.cli.common import ConfigFile

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.outbound.admin_api import AdminApi

app = typer.Typer(help="Credit: grants, withdrawals, top-ups, balances.", no_args_is_help=True)
app.add_typer(credit_rules.schedules, name="schedules")
app.add_typer(credit_rules.auto_top_up, name="auto-top-up")

CustomerId = Annotated[str, typer.Argument(help="The customer's id.")]
GrantId = Annotated[str, typer.Argument(help="The grant's id.")]
Amount = Annotated[str, typer.Argument(help='A decimal, such as "12.50".')]
Currency = Annotated[str, typer.Option(help="The customer's currency.")]
Part = Annotated[str | None, typer.Option("--amount", help="Only so much; default: all.")]
Reason = Annotated[str, typer.Option(help="For people.")]
_GRANT_COLUMNS = (
    *("id", "kind", "priority", "amount", "remaining", "currency"),
    *("effective_at", "expires_at", "meters", "state", "refusal"),
)
_LIVE_COLUMNS = (
    *("id", "state", "kind", "priority", "free", "pinned"),
    *("effective_at", "expires_at", "meters"),
)
_WITHDRAWAL_COLUMNS = (
    *("id", "grant_id", "kind", "amount", "withdrawn", "state", "refusal", "reason", "created_at"),
)


@app.command("grant")
def grant(
    customer: CustomerId,
    amount: Amount,
    currency: Currency = "USD",
    promotional: Annotated[bool, typer.Option("--promotional", help="Nobody paid for it.")] = False,
    priority: Annotated[int | None, typer.Option(help="0 (burns first) to 100.")] = None,
    effective_at: Annotated[str | None, typer.Option(help="RFC 3339; default: at once.")] = None,
    expires_at: Annotated[str | None, typer.Option(help="RFC 3339; default: never.")] = None,
    meter: Annotated[
        list[str] | None, typer.Option(help="Pays this meter only; may be repeated.")
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Give credit; each call gives anew."""
    body = {
        "customer_id": customer,
        "amount": amount,
        "currency": currency,
        "kind": "promotional" if promotional else "paid",
        "priority": priority,
        "effective_at": effective_at,
        "expires_at": expires_at,
        "meters": meter or [],
    }
    print_one(call_admin(config, lambda api: api.create_grant(body)), as_json=as_json)


@app.command("list")
def list_grants(
    customer: CustomerId,
    live: Annotated[
        bool, typer.Option("--live", help="What checks see, in the order in which it burns.")
    ] = False,
    config: ConfigFile = None,
    limit: Limit = 1_000,
    as_json: AsJson = False,
) -> None:
    """List a customer's grants."""
    if live:
        found = call_admin(config, lambda api: api.list_live_grants(customer))
        print_rows(found[:limit], _LIVE_COLUMNS, as_json=as_json)
        return
    found = call_admin(config, lambda api: api.list_grants(customer, limit))
    print_rows(found, _GRANT_COLUMNS, as_json=as_json)


@app.command("show")
def show(
    customer: CustomerId, grant_id: GrantId, config: ConfigFile = None, as_json: AsJson = False
) -> None:
    """Show a grant."""
    print_one(call_admin(config, lambda api: api.read_grant(customer, grant_id)), as_json=as_json)


@app.command("void")
def void(
    customer: CustomerId,
    grant_id: GrantId,
    amount: Part = None,
    reason: Reason = "",
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Take back what is free of a grant; without --amount the grant ends."""
    withdraw = _withdrawal("void", customer, grant_id, amount, reason)
    print_one(call_admin(config, withdraw), as_json=as_json)


@app.command("refund")
def refund(
    customer: CustomerId,
    grant_id: GrantId,
    amount: Part = None,
    reason: Reason = "",
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Take back what is free of a grant, because it was paid back."""
    withdraw = _withdrawal("refund", customer, grant_id, amount, reason)
    print_one(call_admin(config, withdraw), as_json=as_json)


@app.command("dispute")
def dispute(
    customer: CustomerId,
    grant_id: GrantId,
    amount: Annotated[str, typer.Option(help="So much as the reversal took.")],
    reason: Reason = "",
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Take back what was given, spent or not, because its payment was reversed."""
    withdraw = _withdrawal("dispute", customer, grant_id, amount, reason)
    print_one(call_admin(config, withdraw), as_json=as_json)


@app.command("withdrawals")
def withdrawals(
    customer: CustomerId, config: ConfigFile = None, limit: Limit = 1_000, as_json: AsJson = False
) -> None:
    """List what was taken back of a customer's grants."""
    found = call_admin(config, lambda api: api.list_withdrawals(customer, limit))
    print_rows(found, _WITHDRAWAL_COLUMNS, as_json=as_json)


@app.command("balance")
def balance(customer: CustomerId, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show the live balance."""
    print_one(call_admin(config, lambda api: api.read_balance(customer)), as_json=as_json)


@app.command("top-up")
def top_up(
    customer: CustomerId,
    amount: Amount,
    reference: Annotated[str, typer.Option(help="The payment's own id; it counts once.")],
    currency: Currency = "USD",
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Give credit for a payment; the same reference again is the same credit."""
    body = {"amount": amount, "currency": currency, "reference": reference}
    print_one(call_admin(config, lambda api: api.top_up(customer, body)), as_json=as_json)


def _withdrawal(
    kind: str, customer: str, grant_id: str, amount: str | None, reason: str
) -> "Callable[[AdminApi], Awaitable[dict[str, Any]]]":
    body = {"customer_id": customer, "amount": amount, "reason": reason}
    return lambda api: api.withdraw(kind, grant_id, body)
