"""What waits for the live store, and what is due: grants, withdrawals, recurring grants."""

import asyncio
from collections.abc import Awaitable, Callable

from sidecar import telemetry
from sidecar.domain.errors import Conflict, InvalidInput, NotFound
from sidecar.services.control_ports import Accounts, Grant, Withdrawal
from sidecar.services.credits import CreditService
from sidecar.services.rounds import run_rounds, try_each
from sidecar.services.schedules import ScheduleService
from sidecar.services.withdrawals import WithdrawalService

ROUND_MAX = 100
"""Of each kind in one round; the oldest first."""


class PendingCredits:
    """Finishes what was recorded while the live store was away, and issues recurring grants."""

    def __init__(
        self,
        *,
        accounts: Accounts,
        credit: CreditService,
        withdrawals: WithdrawalService,
        schedules: ScheduleService,
        interval_seconds: float,
    ) -> None:
        """
        Wire the parts.

        Args:
            accounts: The record.
            credit, withdrawals, schedules: The use cases.
            interval_seconds: Pause between rounds.
        """
        self._accounts = accounts
        self._credits = credit
        self._withdrawals = withdrawals
        self._schedules = schedules
        self._interval_seconds = interval_seconds

    async def run(self, stop: asyncio.Event) -> None:
        """Work in rounds until stopped."""
        works = {
            "grants": self.apply_grants,
            "withdrawals": self.apply_withdrawals,
            "schedules": self._schedules.issue_due,
        }
        await run_rounds(
            stop,
            lambda: try_each(works, name="grants", event="credits_pending_failed"),
            name="grants",
            pause_seconds=self._interval_seconds,
        )

    async def apply_grants(self, *, limit: int = ROUND_MAX) -> int:
        """
        Apply grants whose intent was recorded while the live store was away.

        One that the live store refuses is noted as that, one that it cannot take now is tried
        later: neither keeps others from being applied.

        Returns:
            How many were applied.

        Raises:
            StoreUnavailable: Repeat it.
        """
        applied = 0
        for grant in await self._accounts.pending_grants(limit=limit):
            applied += await self._try_grant(grant)
        return applied

    async def apply_withdrawals(self, *, limit: int = ROUND_MAX) -> int:
        """
        Apply withdrawals whose intent was recorded while the live store was away.

        Returns:
            How many were applied; one that is refused is noted as that.

        Raises:
            StoreUnavailable: Repeat it.
        """
        applied = 0
        for withdrawal in await self._accounts.pending_withdrawals(limit=limit):
            applied += await self._try_withdrawal(withdrawal)
        return applied

    async def _try_grant(self, grant: Grant) -> bool:
        return await _tried(
            lambda: self._credits.apply_grant(grant),
            worker="grants",
            event="grant_refused",
            customer_id=grant.customer_id,
            grant_id=grant.grant_id,
        )

    async def _try_withdrawal(self, withdrawal: Withdrawal) -> bool:
        return await _tried(
            lambda: self._withdrawals.apply(withdrawal),
            worker="withdrawals",
            event="withdrawal_refused",
            customer_id=withdrawal.customer_id,
            grant_id=withdrawal.grant_id,
        )


async def _tried(
    work: Callable[[], Awaitable[object]], *, worker: str, event: str, **fields: str
) -> bool:
    """Whether it went through; a refusal is counted and logged."""
    try:
        await work()
    except (InvalidInput, NotFound, Conflict) as error:
        telemetry.WORKER_FAILURES.labels(worker).inc()
        telemetry.get_logger().warning(event, error=str(error), **fields)
        return False
    return True
