"""`sidecar ledger verify` and `sidecar ledger root`."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidecar.cli.common import ConfigFile, run, settings_from
from sidecar.domain.errors import InvalidInput

if TYPE_CHECKING:
    from sidecar.domain.ledger_chain import LedgerBreak, LedgerRoot
    from sidecar.services.ledger_roots import LedgerVerdict

app = typer.Typer(help="The ledger's tamper evidence.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("verify")
def verify(
    config: ConfigFile = None,
    chain: Annotated[int | None, typer.Option(min=0, help="One shard's chain only.")] = None,
    from_root: Annotated[
        bool, typer.Option("--from-root", help="Only what came after the newest root.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Recompute the chains from the ledger and check the roots; exit 1 if anything is broken."""
    from sidecar.app.auditing import verify_ledger

    verdict = run(verify_ledger(settings_from(config), chain=chain, from_root=from_root))
    if as_json:
        print(json.dumps(_verdict_json(verdict), indent=2))
    else:
        _print_verdict(verdict)
    if not verdict.intact:
        raise typer.Exit(1)


@app.command("root")
def root(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Sign where all chains stand now, unless the newest root says the same, and print it."""
    from sidecar.app.auditing import write_root

    written = run(write_root(settings_from(config)))
    if written is None:
        raise InvalidInput("no chain has begun yet, so there is nothing to sign")
    if as_json:
        print(json.dumps(_root_json(written), indent=2))
        return
    print(
        f"root {written.number} of {written.day}: {len(written.heads)} chains, "
        f"{sum(head.seq for head in written.heads)} transactions, "
        f"signed by key {written.key_id}: {written.signature.hex()}"
    )


def _print_verdict(verdict: "LedgerVerdict") -> None:
    for broken in verdict.breaks:
        print(_broken_words(broken))
    for shard, count in verdict.unbegun.items():
        print(
            f"chain {shard}: {count} transactions wait for the shard's next settlement to link them"
        )
    transactions = sum(chain.transactions for chain in verdict.chains)
    events = sum(chain.events for chain in verdict.chains)
    word = "intact" if verdict.intact else f"BROKEN: {len(verdict.breaks)} breaks"
    print(
        f"{len(verdict.chains)} chains, {transactions} transactions, {events} events, "
        f"{verdict.roots} roots: {word}"
    )


def _broken_words(broken: "LedgerBreak") -> str:
    place = "ledger" if broken.chain is None else f"chain {broken.chain}"
    if broken.seq is not None:
        place += f", link {broken.seq}"
    whose = f" ({broken.customer_id} {broken.transaction_id})" if broken.transaction_id else ""
    return f"{place}{whose}: {broken.kind}: {broken.detail}"


def _verdict_json(verdict: "LedgerVerdict") -> dict[str, Any]:
    return {
        "intact": verdict.intact,
        "chains": [asdict(chain) for chain in verdict.chains],
        "roots": verdict.roots,
        "breaks": [asdict(broken) for broken in verdict.breaks],
        "unbegun": {str(shard): count for shard, count in verdict.unbegun.items()},
    }


def _root_json(root: "LedgerRoot") -> dict[str, Any]:
    return {
        "number": root.number,
        "day": root.day.isoformat(),
        "daily": root.daily,
        "made_at": root.made_at.isoformat(),
        "heads": [
            {"chain": head.chain, "seq": head.seq, "hash": head.hash.hex()} for head in root.heads
        ],
        "previous": root.previous.hex(),
        "key_id": root.key_id,
        "signature": root.signature.hex(),
    }
