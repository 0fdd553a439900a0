"""Summaries of comparisons of balances with the ledger: implements `ReconcileRuns`."""

import json
from collections.abc import Sequence

from sidecar.outbound.postgres.pool import ACQUIRE_SECONDS_MAX, Pool, translate_errors
from sidecar.outbound.postgres.queries import query
from sidecar.services.reconcile_runs import RUNS_KEPT_MAX, ReconcileRun
from sidecar.services.reconciling import ReconcileReport


class PostgresReconcileRuns:
    """Keeps the newest runs of all processes."""

    def __init__(self, pool: Pool) -> None:
        """Wire it."""
        self._pool = pool

    async def keep(self, report: ReconcileReport) -> None:
        """Note a run of all customers, and forget all but the newest RUNS_KEPT_MAX."""
        counts = {kind.value: count for kind, count in report.counts.items()}
        nano = {kind.value: str(amount) for kind, amount in report.nano.items()}
        with translate_errors():
            async with (
                self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection,
                connection.transaction(),
            ):
                await connection.execute(
                    query("insert_reconcile_run"),
                    report.customers,
                    len(report.unread),
                    report.wrong,
                    json.dumps(counts),
                    json.dumps(nano),
                )
                await connection.execute(query("forget_reconcile_runs"), RUNS_KEPT_MAX)

    async def list(self, *, limit: int) -> Sequence[ReconcileRun]:
        """The newest first; at most RUNS_KEPT_MAX."""
        with translate_errors():
            rows = await self._pool.fetch(query("list_reconcile_runs"), min(limit, RUNS_KEPT_MAX))
        return [
            ReconcileRun(
                number=row["run_number"],
                finished_at=row["finished_at"],
                customers=row["customers"],
                unread=row["unread"],
                wrong=row["wrong"],
                counts=json.loads(row["counts"]),
                nano={kind: int(amount) for kind, amount in json.loads(row["nano"]).items()},
            )
            for row in rows
        ]
