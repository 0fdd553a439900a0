"""`sidecar customers`: who pays, on which plan, in which standing."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidecar.cli.admin import AsJson, Limit, call_admin, print_one, print_rows
from sidecar.cli.common import ConfigFile
from sidecar.domain.errors import InvalidInput

if TYPE_CHECKING:
    from sidecar.outbound.admin_api import AdminApi

app = typer.Typer(help="Customers: who pays.", no_args_is_help=True)

CustomerId = Annotated[str, typer.Argument(help="The customer's id.")]
_COLUMNS = ("id", "plan", "currency", "stripe_customer_id", "labels", "overdraft", "created_at")


@app.command("list")
def list_customers(
    config: ConfigFile = None, limit: Limit = 1_000, as_json: AsJson = False
) -> None:
    """List customers by id."""
    found = call_admin(config, lambda api: api.list_customers(limit))
    print_rows(found, _COLUMNS, as_json=as_json)


@app.command("show")
def show(customer: CustomerId, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show a customer with balance and standing."""

    async def read(api: "AdminApi") -> dict[str, Any]:
        return {
            **await api.read_customer(customer),
            "balance": await api.read_balance(customer),
            "standing": await api.read_standing(customer),
        }

    print_one(call_admin(config, read), as_json=as_json)


@app.command("create")
def create(
    customer: CustomerId,
    plan: Annotated[str, typer.Option(help="A plan of the policy.")],
    currency: Annotated[str, typer.Option(help="The plan's currency.")] = "USD",
    label: Annotated[list[str] | None, typer.Option(help="NAME=VALUE; may be repeated.")] = None,
    stripe_customer: Annotated[
        str | None, typer.Option(help="The customer's id at Stripe.")
    ] = None,
    overdraft: Annotated[str, typer.Option(help='How far beyond all credit, as "5.00".')] = "0",
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Create a customer; the same content again is the same customer."""
    body = {
        "id": customer,
        "plan": plan,
        "currency": currency,
        "labels": _labels(label or []),
        "stripe_customer_id": stripe_customer,
        "overdraft": overdraft,
    }
    print_one(call_admin(config, lambda api: api.create_customer(body)), as_json=as_json)


@app.command("update")
def update(
    customer: CustomerId,
    plan: Annotated[str | None, typer.Option(help="A plan in the same currency.")] = None,
    overdraft: Annotated[
        str | None, typer.Option(help='How far beyond all credit, as "5.00".')
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE; all labels that are to be.")
    ] = None,
    stripe_customer: Annotated[
        str | None, typer.Option(help="The customer's id at Stripe; empty: none.")
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Change parts of a customer; what is left out stays."""
    body: dict[str, Any] = {}
    if plan is not None:
        body["plan"] = plan
    if overdraft is not None:
        body["overdraft"] = overdraft
    if label:
        body["labels"] = _labels(label)
    if stripe_customer is not None:
        body["stripe_customer_id"] = stripe_customer or None
    if not body:
        raise InvalidInput("nothing is to change: give --plan, --overdraft, --label or another")
    print_one(call_admin(config, lambda api: api.patch_customer(customer, body)), as_json=as_json)


@app.command("set-plan")
def set_plan(
    customer: CustomerId,
    plan: Annotated[str, typer.Argument(help="A plan of the policy, in the same currency.")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Move a customer to another plan; the rest stays."""
    body = {"plan": plan}
    print_one(call_admin(config, lambda api: api.patch_customer(customer, body)), as_json=as_json)


@app.command("erase")
def erase(customer: CustomerId, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Clear a customer's personal data and revoke all keys, for good; the ledger stays."""
    print_one(call_admin(config, lambda api: api.erase_customer(customer)), as_json=as_json)


@app.command("set-standing")
def set_standing(
    customer: CustomerId,
    standing: Annotated[str, typer.Argument(help="good, grace or delinquent.")],
    reason: Annotated[str, typer.Option(help="For people.")] = "",
    until: Annotated[str | None, typer.Option(help="RFC 3339; then invoices count again.")] = None,
    overdue_since: Annotated[str | None, typer.Option(help="RFC 3339.")] = None,
    overdue_amount: Annotated[str | None, typer.Option(help='Such as "12.50".')] = None,
    disputed: Annotated[bool, typer.Option("--disputed", help="The customer disputes it.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Set a customer's standing, whatever invoices say; what is left out is empty afterwards."""
    body = {
        "standing": standing,
        "reason": reason,
        "until": until,
        "overdue_since": overdue_since,
        "overdue_amount": overdue_amount,
        "disputed": disputed,
    }
    print_one(call_admin(config, lambda api: api.put_standing(customer, body)), as_json=as_json)


@app.command("clear-standing")
def clear_standing(
    customer: CustomerId, config: ConfigFile = None, as_json: AsJson = False
) -> None:
    """Take back a standing that was set: invoices count again."""
    print_one(call_admin(config, lambda api: api.clear_standing(customer)), as_json=as_json)


def _labels(texts: list[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or name in labels:
            raise InvalidInput(f"--label {text!r} must be NAME=VALUE, each name once")
        labels[name] = value
    return labels
