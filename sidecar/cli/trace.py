"""`sidecar trace`: from a request's hold to ledger, report and invoice line, and back."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidecar.cli.admin import AsJson, Limit, call_admin, print_rows
from sidecar.cli.common import ConfigFile

if TYPE_CHECKING:
    from sidecar.outbound.admin_api import AdminApi

_INVOICE = "inv_"
_EVENT_COLUMNS = ("line", "hold_id", "kind", "meter", "quantity", "amount_nano", "occurred_at")


def trace(
    id_: Annotated[
        str, typer.Argument(metavar="ID", help="A hold's id, an invoice's, or INVOICE/LINE.")
    ],
    customer: Annotated[
        str | None, typer.Option(help="Whose hold it is; it is found sooner then.")
    ] = None,
    config: ConfigFile = None,
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """Follow a hold to its invoice line, or an invoice or one of its lines to their holds."""
    if id_.startswith(_INVOICE):
        invoice, _, line = id_.partition("/")
        found = call_admin(config, lambda api: _events(api, invoice, line, limit))
        print_rows(found, _EVENT_COLUMNS, as_json=as_json)
        return
    traced = call_admin(config, lambda api: _hold(api, id_, customer))
    if as_json:
        print(json.dumps(traced, indent=2))
        return
    for line in traced["lines"]:
        _print_line(line)


def _print_line(line: dict[str, Any]) -> None:
    owed = "" if line["owed_nano"] is None else f", {line['owed_nano']} of it owed"
    print(f"{line['kind']} {line['meter']}: {line['quantity']}, {line['amount_nano']} nano{owed}")
    print(f"  customer  {line['customer_id']}, plan {line['plan']}, {line['occurred_at']}")
    print(f"  price     version {line['price_version']}, model {line['model'] or '-'}")
    print(f"  ledger    {line['transaction_id']}, chain {line['chain']} link {line['chain_seq']}")
    if line["report_identifier"] or line["report_state"]:
        print(f"  report    {line['report_identifier'] or 'not sealed'} ({line['report_state']})")
    if line["write_off_id"]:
        print(f"  invoice   none: written off as {line['write_off_id']}")
    elif line["invoice_id"]:
        late = ", late" if line["late"] else ""
        number = f"line {line['line_number']}" if line["line_number"] else "no line"
        print(f"  invoice   {line['invoice_id']} {number} ({line['invoice_state']}{late})")
    else:
        print(f"  invoice   none yet{' (late)' if line['late'] else ''}")


async def _hold(api: "AdminApi", hold_id: str, customer: str | None) -> dict[str, Any]:
    from sidecar.outbound.admin_invoices import InvoicesApi

    return await InvoicesApi(api).trace(hold_id, customer)


async def _events(api: "AdminApi", invoice: str, line: str, limit: int) -> list[dict[str, Any]]:
    from sidecar.outbound.admin_invoices import InvoicesApi

    invoices = InvoicesApi(api)
    numbers = [int(line)] if line.isdecimal() else []
    if not numbers:
        numbers = [one["number"] for one in (await invoices.read(invoice))["lines"]]
    found: list[dict[str, Any]] = []
    for number in numbers:
        if len(found) >= limit:
            break
        events = await invoices.list_line_events(invoice, number, limit - len(found))
        found += [{"line": number} | event for event in events]
    return found
