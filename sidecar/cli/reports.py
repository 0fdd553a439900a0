"""`sidecar reports`: what is reported to the billing provider, and whether it was counted."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidecar.cli.admin import AsJson, Limit, call_admin, print_one, print_rows
from sidecar.cli.common import ConfigFile, run, settings_from
from sidecar.domain.errors import InvalidInput, SidecarError

if TYPE_CHECKING:
    from sidecar.outbound.admin_api import AdminApi
    from sidecar.services.report_ports import Reconciliation

app = typer.Typer(
    help="Reports to the billing provider: list them, send failed ones again, compare.",
    no_args_is_help=True,
)

_RETRY_MAX = 1_000
_COLUMNS = (
    *("number", "customer_id", "meter", "window_start", "quantity", "state", "error_code"),
    *("uncounted", "attempts", "detail"),
)
_COMPARED = (
    *("customer_id", "meter", "period_start", "outcome", "expected", "found"),
    *("confirmed", "resent", "cancelled", "corrected", "detail"),
)

Customer = Annotated[str | None, typer.Option(help="Of this customer alone.")]


@app.command("list")
def list_reports(
    state: Annotated[
        str | None, typer.Option(help="open, pending, sent, failed or uncertain.")
    ] = None,
    customer: Customer = None,
    config: ConfigFile = None,
    limit: Limit = 1_000,
    as_json: AsJson = False,
) -> None:
    """List quantities to report, by number."""
    query = _query(customer_id=customer, state=state)
    found = call_admin(config, lambda api: api.list_settlements(query, limit))
    print_rows(found, _COLUMNS, as_json=as_json)


@app.command("retry")
def retry(
    number: Annotated[int | None, typer.Argument(min=1, help="Which, by its number.")] = None,
    code: Annotated[
        str | None, typer.Option(help="All that failed with this code, such as no_meter.")
    ] = None,
    customer: Customer = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Send again what failed and is known not to have been counted; exit 1 if one is refused."""
    if (number is None) == (code is None):
        raise InvalidInput("give either a number or --code")
    if number is not None:
        print_one(call_admin(config, lambda api: api.retry_settlement(number)), as_json=as_json)
        return
    query = _query(customer_id=customer, state="failed")

    async def retry_all(api: "AdminApi") -> tuple[int, list[str]]:
        rows = await api.list_settlements(query, _RETRY_MAX)
        wanted = [row for row in rows if row["error_code"] == code and row["uncounted"]]
        refused = []
        for row in wanted:
            try:
                await api.retry_settlement(row["number"])
            except SidecarError as error:
                refused.append(f"{row['number']}: {error}")
        return len(wanted) - len(refused), refused

    count, refused = call_admin(config, retry_all)
    for line in refused:
        print(line)
    print(f"{count} are sent again")
    if refused:
        raise typer.Exit(1)


@app.command("reconcile")
def reconcile(
    customer: Customer = None,
    correct: Annotated[
        bool,
        typer.Option(
            "--correct",
            help="Balance also what nothing explains; it takes a second reading as well.",
        ),
    ] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """
    Compare what was reported with what the provider has counted; exit 1 if anything differs.

    Looks at the lanes whose turn it is, or at all of one customer. What differs is mended once a
    second reading, report_reread_seconds later, says the same.
    """
    from sidecar.app import reconcile_reports

    if correct and customer is None:
        raise InvalidInput("--correct needs --customer: look at each before you balance it")
    found = run(
        reconcile_reports(
            settings_from(config, roles="settlement"), customer_id=customer or "", correct=correct
        )
    )
    items = [_compared(one) for one in found]
    print_rows(items, _COMPARED, as_json=as_json)
    if any(item["outcome"] not in ("same", "waiting") or item["differs"] for item in items):
        raise typer.Exit(1)


@app.command("reconciliations")
def reconciliations(
    outcome: Annotated[
        str | None, typer.Option(help="same, waiting, mended, unexplained or unreadable.")
    ] = None,
    customer: Customer = None,
    config: ConfigFile = None,
    limit: Limit = 200,
    as_json: AsJson = False,
) -> None:
    """List what the last comparisons said, the newest first."""
    query = _query(customer_id=customer, outcome=outcome)
    found = call_admin(config, lambda api: api.list_reconciliations(query, limit))
    print_rows(found, _COMPARED, as_json=as_json)


@app.command("top-up-page")
def top_up_page(
    customer: Annotated[str, typer.Argument(help="Who pays.")],
    amount: Annotated[str, typer.Argument(help="Such as 25.00.")],
    success_url: Annotated[str, typer.Option(help="Where the payer goes afterwards.")],
    cancel_url: Annotated[str, typer.Option(help="Where the payer goes who does not pay.")],
    currency: Annotated[str, typer.Option(help="The customer's.")] = "USD",
    save_card: Annotated[
        bool, typer.Option("--save-card", help="Keep the card for automatic top-ups.")
    ] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a page at the provider on which a customer pays for credit, and print its address."""
    body = {
        "amount": amount,
        "currency": currency,
        "success_url": success_url,
        "cancel_url": cancel_url,
        "save_card": save_card,
    }
    made = call_admin(config, lambda api: api.open_top_up_session(customer, body))
    if as_json:
        print(json.dumps(made, indent=2))
    else:
        print(made["url"])


def _query(**values: str | None) -> dict[str, str]:
    return {name: value for name, value in values.items() if value is not None}


def _compared(one: "Reconciliation") -> dict[str, Any]:
    return {
        "customer_id": one.customer_id,
        "meter": one.meter,
        "period_start": one.period_start.isoformat(),
        "outcome": one.outcome.value,
        "expected": str(one.expected),
        "found": None if one.found is None else format(one.found, "f"),
        "differs": one.found is not None and one.found != one.expected,
        "confirmed": one.confirmed,
        "resent": one.resent,
        "cancelled": one.cancelled,
        "corrected": one.corrected,
        "detail": one.detail,
    }
