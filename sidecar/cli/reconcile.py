"""`sidecar reconcile`: do live balances say what the ledger says?"""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidecar.cli.common import ConfigFile, run, settings_from
from sidecar.domain.money import format_amount

if TYPE_CHECKING:
    from sidecar.services.reconciling import ReconcileReport

_UNREAD_SHOWN = 20


def reconcile(
    config: ConfigFile = None,
    customer: Annotated[str | None, typer.Option(help="One customer only.")] = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="Mend what is wrong; what passes by is left alone.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """
    Compare balances in Redis with stream and ledger; exit 1 if anything is wrong or unread.

    What an open hold or an unsettled decision explains is in_flight, late or orphan and passes
    by. A manual_edit or an unknown difference is wrong; --fix makes the live balance what ledger
    and stream say, and sums projections of the ledger up anew.
    """
    from sidecar.app.reconciling import reconcile as compare

    report = run(compare(settings_from(config), customer_id=customer, fix=fix))
    if as_json:
        print(json.dumps(_json(report), indent=2))
    else:
        _print(report)
    if report.unread or report.unmended or (report.wrong and not fix):
        raise typer.Exit(1)


def _print(report: "ReconcileReport") -> None:
    for one in report.differences:
        if one.kind.wrong:
            print(
                f"{one.customer_id}: {one.kind.value}: {one.what}: "
                f"{format_amount(one.expected_nano)} expected, "
                f"{format_amount(one.found_nano)} found ({one.remedy.value})"
            )
    for customer_id in report.unread[:_UNREAD_SHOWN]:
        print(f"{customer_id}: could not be compared")
    counts = ", ".join(
        f"{count} {kind.value} ({format_amount(report.nano[kind])})"
        for kind, count in sorted(report.counts.items())
    )
    mended = f", {report.mended} mended" if report.mended else ""
    unread = f", {len(report.unread)} could not be compared" if report.unread else ""
    left = f", {report.unmended} not mended" if report.unmended else ""
    print(f"{report.customers} customers: {counts or 'no differences'}{mended}{left}{unread}")


def _json(report: "ReconcileReport") -> dict[str, Any]:
    return {
        "customers": report.customers,
        "wrong": report.wrong,
        "mended": report.mended,
        "unmended": report.unmended,
        "unread": report.unread,
        "counts": {kind.value: count for kind, count in report.counts.items()},
        "nano": {kind.value: str(nano) for kind, nano in report.nano.items()},
        "differences": [asdict(one) for one in report.differences],
    }
