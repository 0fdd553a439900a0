"""Rows to report for people, and comparisons of them with a provider's sums."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from asyncpg import Record

from sidecar.domain.errors import Conflict
from sidecar.outbound.postgres.pool import ACQUIRE_SECONDS_MAX, Connection, Pool, translate_errors
from sidecar.outbound.postgres.queries import query
from sidecar.services.control_ports import ReportState
from sidecar.services.report_ports import (
    BudgetSpent,
    Lane,
    Mending,
    Outcome,
    Reconciliation,
    SentRow,
    Settlement,
)

LIST_MAX: Final = 1_000
_DETAIL_CHARS_MAX: Final = 500
_CODE_CHARS_MAX: Final = 100
_ACTED_UPON: Final = frozenset({Outcome.WAITING, Outcome.UNEXPLAINED})


class PostgresSettlements:
    """Implements SettlementRecord."""

    def __init__(self, pool: Pool, *, provider: str = "stripe") -> None:
        """Wire it."""
        self._pool = pool
        self._provider = provider

    async def list(
        self, *, customer_id: str, state: ReportState | None, after: int, limit: int
    ) -> Sequence[Settlement]:
        """By number; at most LIST_MAX and one."""
        with translate_errors():
            rows = await self._pool.fetch(
                query("list_settlements"),
                after,
                customer_id,
                "" if state is None else state.value,
                min(limit, LIST_MAX + 1),
            )
        return [_settlement(row) for row in rows]

    async def read(self, number: int) -> Settlement | None:
        """One."""
        with translate_errors():
            row = await self._pool.fetchrow(query("read_settlement"), number)
        return None if row is None else _settlement(row)

    async def reopen(self, settlement: Settlement) -> bool:
        """Send it again under its next name; False if it has changed since it was read."""
        with translate_errors():
            number = await self._pool.fetchval(
                query("reopen_report"),
                settlement.number,
                settlement.customer_id,
                settlement.attempts,
            )
        return number is not None

    async def note_error(self, identifier: str, *, code: str, detail: str) -> bool:
        """Mark a row as not counted; its lane is compared next."""
        with translate_errors():
            row = await self._pool.fetchrow(
                query("note_report_error"),
                self._provider,
                identifier,
                _text(code, _CODE_CHARS_MAX),
                _text(detail, _DETAIL_CHARS_MAX),
            )
        return row is not None

    async def states(self) -> dict[str, int]:
        """How many rows are in each state but sent; `homeless` wait for an account."""
        with translate_errors():
            rows = await self._pool.fetch(query("report_states"), self._provider)
            homeless = await self._pool.fetchval(query("homeless_reports"), self._provider)
        return {row["state"]: row["rows"] for row in rows} | {"homeless": homeless}


class PostgresReconciliations:
    """Implements ReconciliationRecord."""

    def __init__(self, pool: Pool, *, provider: str = "stripe") -> None:
        """Wire it."""
        self._pool = pool
        self._provider = provider

    async def claim_lanes(self, *, before: datetime, now: datetime, limit: int) -> Sequence[Lane]:
        """Lanes whose last turn was before an instant; `now` becomes their last turn."""
        with translate_errors():
            rows = await self._pool.fetch(query("claim_lanes"), self._provider, before, limit, now)
        return [Lane(customer_id=row["customer_id"], meter=row["meter"]) for row in rows]

    async def lanes_of(self, customer_id: str, *, limit: int) -> Sequence[Lane]:
        """A customer's lanes, by meter."""
        with translate_errors():
            rows = await self._pool.fetch(
                query("lanes_of_customer"), self._provider, customer_id, limit
            )
        return [Lane(customer_id=row["customer_id"], meter=row["meter"]) for row in rows]

    async def look_again(self, lane: Lane, *, at: datetime) -> None:
        """Count the lane's wait from an instant."""
        with translate_errors():
            await self._pool.execute(
                query("postpone_lane"), lane.customer_id, self._provider, lane.meter, at
            )

    async def rows(
        self, lane: Lane, start: datetime, end: datetime, *, limit: int
    ) -> Sequence[SentRow]:
        """Sealed rows of a span, by window."""
        with translate_errors():
            rows = await self._pool.fetch(
                query("reported_rows"),
                lane.customer_id,
                self._provider,
                lane.meter,
                start,
                end,
                limit,
            )
        return [SentRow(**dict(row) | {"state": ReportState(row["state"])}) for row in rows]

    async def read(self, lane: Lane, period_start: datetime) -> Reconciliation | None:
        """What the last comparison of a period said."""
        with translate_errors():
            row = await self._pool.fetchrow(
                query("read_reconciliation"),
                lane.customer_id,
                self._provider,
                lane.meter,
                period_start,
            )
        return None if row is None else _reconciliation(row)

    async def list(
        self, *, customer_id: str, outcome: Outcome | None, limit: int
    ) -> Sequence[Reconciliation]:
        """The newest first; at most LIST_MAX and one."""
        with translate_errors():
            rows = await self._pool.fetch(
                query("list_reconciliations"),
                self._provider,
                customer_id,
                "" if outcome is None else outcome.value,
                min(limit, LIST_MAX + 1),
            )
        return [_reconciliation(row) for row in rows]

    async def put(self, result: Reconciliation, mending: Mending, *, acts: bool) -> None:
        """
        Keep a result and mend the rows, in one transaction.

        Args:
            result: What is kept.
            mending: What is done about it.
            acts: Whether it mends; then it must be the second reading of the same evidence.

        Raises:
            Conflict: Another writer was faster; nothing was written.
            StoreUnavailable: All of it or nothing.
        """
        with translate_errors():
            async with (
                self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection,
                connection.transaction(),
            ):
                if acts:
                    await self._check_evidence(connection, result)
                for name, rows in (
                    ("confirm_reports", mending.confirm),
                    ("resend_reports", mending.resend),
                ):
                    await connection.fetch(
                        query(name),
                        result.customer_id,
                        [row.row_id for row in rows],
                        [row.attempts for row in rows],
                    )
                for hour, quantity in (mending.corrections or {}).items():
                    await connection.execute(
                        query("insert_correction"),
                        result.customer_id,
                        self._provider,
                        result.meter,
                        hour,
                        mending.provider_customer_id,
                        quantity,
                        "balances what the provider counted",
                    )
                await connection.execute(query("put_reconciliation"), *self._columns(result), acts)

    async def _check_evidence(self, connection: Connection, result: Reconciliation) -> None:
        """Lock the result that stands, and see that it is the first reading of what is mended."""
        row = await connection.fetchrow(
            query("lock_reconciliation"),
            result.customer_id,
            self._provider,
            result.meter,
            result.period_start,
        )
        if row is None or row["evidence"] != result.evidence or row["outcome"] not in _ACTED_UPON:
            raise Conflict("another comparison was faster")

    async def note_cancel_refused(self, row: SentRow, customer_id: str, *, detail: str) -> None:
        """Remember that the present name cannot be cancelled."""
        with translate_errors():
            await self._pool.execute(
                query("note_cancel_refused"),
                customer_id,
                row.row_id,
                _text(detail, _DETAIL_CHARS_MAX),
            )

    def _columns(self, result: Reconciliation) -> tuple[Any, ...]:
        return (
            result.customer_id,
            self._provider,
            result.meter,
            result.period_start,
            result.period_end,
            result.outcome.value,
            result.expected,
            result.found,
            result.confirmed,
            result.resent,
            result.cancelled,
            result.corrected,
            _text(result.detail, _DETAIL_CHARS_MAX),
            result.evidence,
        )


class PostgresReadBudget:
    """
    Implements ReadBudget: counted by month over all processes, and by run in this one.

    Stripe allows 500 reads for each payment, and at least 10,000 a month.
    """

    def __init__(
        self, pool: Pool, *, month_max: int, run_max: int, provider: str = "stripe"
    ) -> None:
        """Wire it."""
        self._pool = pool
        self._provider = provider
        self._month_max = month_max
        self._run_max = run_max
        self._run_used = 0

    def begin_run(self) -> None:
        """Count the run's reads from nothing."""
        self._run_used = 0

    async def take(self) -> None:
        """Take one read. Raises BudgetSpent, StoreUnavailable."""
        if self._run_used >= self._run_max:
            raise BudgetSpent(f"this run's {self._run_max} reads of {self._provider} are used up")
        with translate_errors():
            used = await self._pool.fetchval(query("take_reads"), self._provider, self._month_max)
        if used is None:
            raise BudgetSpent(
                f"this month's {self._month_max} reads of {self._provider} are used up"
            )
        self._run_used += 1

    async def used(self) -> int:
        """Reads of this month, over all processes."""
        with translate_errors():
            used = await self._pool.fetchval(query("reads_used"), self._provider)
        return used or 0


def _settlement(row: Record) -> Settlement:
    values = dict(row)
    return Settlement(
        number=values.pop("row_id"),
        state=ReportState(values.pop("state")),
        detail=values.pop("last_detail"),
        **values,
    )


def _reconciliation(row: Record) -> Reconciliation:
    values = dict(row)
    return Reconciliation(
        outcome=Outcome(values.pop("outcome")), expected=int(values.pop("expected")), **values
    )


def _text(words: str, limit: int) -> str:
    """Postgres refuses NUL in text, and a provider's words may hold anything."""
    return words.replace("\0", "")[:limit]
