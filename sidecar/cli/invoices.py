"""`sidecar invoices`: what settled usage comes to, period by period."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidecar.cli.admin import AsJson, Limit, call_admin, print_one, print_rows
from sidecar.cli.common import ConfigFile
from sidecar.domain.errors import InvalidInput

if TYPE_CHECKING:
    from sidecar.outbound.admin_api import AdminApi
    from sidecar.outbound.admin_invoices import InvoicesApi

app = typer.Typer(help="Invoices: usage of closed periods.", no_args_is_help=True)

_COLUMNS = (
    *("id", "number", "customer_id", "state", "period_start", "period_end"),
    *("currency", "total", "due", "due_minor"),
)
_LINE_COLUMNS = (
    *("number", "meter", "models", "quantity", "amount", "credit", "due_minor", "late"),
    *("charge", "price_version", "period_start"),
)
_EVENT_COLUMNS = ("hold_id", "kind", "model", "quantity", "amount_nano", "occurred_at")
_HEAD = (
    *("id", "number", "customer_id", "state", "period_start", "period_end", "currency"),
    *("provider", "total", "credit", "carried", "due", "due_minor"),
)

InvoiceId = Annotated[str, typer.Argument(help="An invoice's id.")]
CustomerId = Annotated[str, typer.Argument(help="A customer's id.")]
Reason = Annotated[str, typer.Option(help="Why, for people.")]


@app.command("list")
def list_invoices(
    customer: Annotated[str | None, typer.Option(help="Of this customer alone.")] = None,
    state: Annotated[str | None, typer.Option(help="draft, closed or void.")] = None,
    config: ConfigFile = None,
    limit: Limit = 1_000,
    as_json: AsJson = False,
) -> None:
    """List invoices, that whose period ended last first."""
    filters = {"customer_id": customer, "state": state}
    given = {name: value for name, value in filters.items() if value is not None}
    found = call_admin(config, lambda api: _api(api).list_invoices(given, limit))
    print_rows(found, _COLUMNS, as_json=as_json)


@app.command("show")
def show(invoice: InvoiceId, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show an invoice with its lines and what is to be looked at."""
    _print_invoice(call_admin(config, lambda api: _api(api).read(invoice)), as_json=as_json)


@app.command("preview")
def preview(customer: CustomerId, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show what a customer's running period comes to, as far as usage is settled."""
    _print_invoice(call_admin(config, lambda api: _api(api).preview(customer)), as_json=as_json)


@app.command("close")
def close(customer: CustomerId, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Have a customer's period that is over closed without waiting for the grace."""
    print_one(call_admin(config, lambda api: _api(api).close(customer)), as_json=as_json)


@app.command("anchor")
def anchor(
    customer: CustomerId,
    at: Annotated[
        str | None, typer.Argument(help="An instant such as 2026-01-15T00:00:00Z.")
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Have a customer's periods begin at this day and time; without one, with the month."""
    print_one(call_admin(config, lambda api: _api(api).set_anchor(customer, at)), as_json=as_json)


@app.command("credit-note")
def credit_note(
    invoice: InvoiceId,
    amount: Annotated[str | None, typer.Option(help='Such as "12.50".')] = None,
    line: Annotated[
        list[str] | None, typer.Option(help="NUMBER=AMOUNT; may be given again.")
    ] = None,
    reason: Reason = "",
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Credit an amount of an invoice, or parts of its lines."""
    body = {"amount": amount, "lines": [_line(one) for one in line or ()], "reason": reason}
    print_one(call_admin(config, lambda api: _api(api).credit(invoice, body)), as_json=as_json)


@app.command("void")
def void(
    invoice: InvoiceId, reason: Reason = "", config: ConfigFile = None, as_json: AsJson = False
) -> None:
    """Credit all that is left of an invoice; its number stays taken."""
    print_one(call_admin(config, lambda api: _api(api).void(invoice, reason)), as_json=as_json)


@app.command("events")
def events(
    invoice: InvoiceId,
    line: Annotated[int, typer.Argument(min=1, help="A line's number.")],
    config: ConfigFile = None,
    limit: Limit = 1_000,
    as_json: AsJson = False,
) -> None:
    """List the usage events that a line was added up from; `sidecar trace` leads back."""
    found = call_admin(config, lambda api: _api(api).list_line_events(invoice, line, limit))
    print_rows(found, _EVENT_COLUMNS, as_json=as_json)


def _print_invoice(invoice: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(invoice, indent=2))
        return
    print_one({name: invoice[name] for name in _HEAD}, as_json=False)
    print()
    print_rows(invoice["lines"], _LINE_COLUMNS, as_json=False)
    for finding in invoice["findings"]:
        number = finding["line_number"]
        print(
            f"look at {f'line {number}' if number else 'the invoice'}: {finding['kind']}: captured "
            f"{finding['captured_nano']} nano, the price of the total is {finding['expected_nano']}"
        )
    for version in invoice["unknown_versions"]:
        print(f"price version {version} is not known: nothing is worked out")
    for plan in invoice["unknown_plans"]:
        print(f"plan {plan} is not in the policy: nothing is worked out")


def _line(text: str) -> dict[str, Any]:
    number, found, amount = text.partition("=")
    if not found or not number.isdecimal():
        raise InvalidInput(f"--line {text!r} is not NUMBER=AMOUNT")
    return {"line_number": int(number), "amount": amount}


def _api(api: "AdminApi") -> "InvoicesApi":
    from sidecar.outbound.admin_invoices import InvoicesApi

    return InvoicesApi(api)
