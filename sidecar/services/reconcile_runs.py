"""Summaries of what the background comparisons of balances with the ledger found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from sidecar.services.reconciling import ReconcileReport

RUNS_KEPT_MAX: Final = 100
"""The newest of all processes together; older ones go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileRun:
    """One comparison of all customers; `counts` and `nano` are by kind of difference."""

    number: int
    finished_at: datetime
    customers: int
    unread: int
    wrong: int
    counts: Mapping[str, int]
    nano: Mapping[str, int]


class ReconcileRuns(Protocol):
    """Runs on record; may raise StoreUnavailable."""

    async def keep(self, report: ReconcileReport) -> None:
        """Note a run of all customers, and forget all but the newest RUNS_KEPT_MAX."""

    async def list(self, *, limit: int) -> Sequence[ReconcileRun]:
        """The newest first."""


class ReconcilesCustomers(Protocol):
    """What the admin API needs of the `Reconciler`."""

    async def run_once(
        self, *, customer_id: str | None = None, fix: bool = False
    ) -> ReconcileReport:
        """Compare, and mend if asked to. Raises NotFound, StoreUnavailable."""
