"""Rows to report, by lanes of one customer's meter: the port `Outbox`."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

from sidecar import telemetry
from sidecar.domain.errors import InvariantViolated
from sidecar.outbound.postgres.pool import Pool, translate_errors
from sidecar.outbound.postgres.queries import query
from sidecar.services.control_ports import ReportResult, ReportRow, ReportState, ReportVerdict

_STATE_AFTER: Final = {
    ReportVerdict.DELIVERED: ReportState.SENT,
    ReportVerdict.DUPLICATE: ReportState.SENT,
    ReportVerdict.RETRY: ReportState.PENDING,
    ReportVerdict.RETRY_ROTATED: ReportState.PENDING,
    ReportVerdict.REJECTED: ReportState.FAILED,
}
_DETAIL_CHARS_MAX: Final = 500
_CODE_CHARS_MAX: Final = 100
NO_METERS: Final[Mapping[str, datetime]] = MappingProxyType({})


class PostgresOutbox:
    """
    Seals windows and hands out their rows, one per lane at a time over all workers.

    Time is Postgres' own: leases, due rows, the 23-hour fence and each row's event time.
    """

    def __init__(self, pool: Pool, *, provider: str = "stripe") -> None:
        self._pool = pool
        self._provider = provider

    async def seal(
        self,
        *,
        opened_before: datetime,
        limit: int,
        by_meter: Mapping[str, datetime] = NO_METERS,
    ) -> int:
        """
        Close open windows that were opened before an instant; returns how many.

        Fewer than `limit` does not mean that none is left: those that settlement was adding to
        are skipped. A window whose sum is 0 has nothing to report and is done at once. Rows whose
        customer has got an account meanwhile get it; those of customers who are marked as a
        test are refused.
        """
        with translate_errors():
            sealed = await self._pool.fetchval(
                query("seal_windows"),
                self._provider,
                opened_before,
                limit,
                list(by_meter),
                list(by_meter.values()),
            )
            await self._pool.execute(query("house_reports"), self._provider)
            tests = await self._pool.fetch(query("refuse_test_reports"), self._provider)
            foreign = await self._pool.fetch(query("refuse_foreign_reports"), self._provider)
        log = telemetry.get_logger()
        for rows, reason, tell in (
            (tests, "test_customer", log.warning),
            (foreign, "other_currency", log.error),
        ):
            for row in rows:
                telemetry.REPORTS.labels(ReportVerdict.REJECTED.value).inc()
                tell("report_refused", identifier=row["identifier"], reason=reason)
        if not isinstance(sealed, int):
            raise InvariantViolated("seal_windows did not answer a count")
        return sealed

    async def claim(self, owner: str, *, limit: int, lease_seconds: int) -> Sequence[ReportRow]:
        """
        Lease pending rows, at most one per (customer, meter) at a time over all workers.

        Rows that are ambiguous for 23 hours become uncertain first, counted and logged.
        """
        with translate_errors():
            fenced = await self._pool.fetch(query("fence_reports"), self._provider)
            rows = await self._pool.fetch(
                query("claim_reports"),
                self._provider,
                owner,
                limit,
                timedelta(seconds=lease_seconds),
            )
        for row in fenced:
            telemetry.REPORTS.labels(ReportState.UNCERTAIN.value).inc()
            telemetry.get_logger().error("report_uncertain", identifier=row["identifier"])
        return [
            ReportRow(
                row_id=row["row_id"],
                customer_id=row["customer_id"],
                provider_customer_id=row["provider_customer_id"],
                event_name=row["meter"],
                quantity=row["quantity"],
                identifier=row["identifier"],
                event_at=row["event_at"],
                http_generation=row["http_generation"],
                attempts=row["attempts"],
                first_attempt_at=row["first_attempt_at"],
            )
            for row in rows
        ]

    async def finish(self, results: Sequence[ReportResult]) -> None:
        """
        Record attempts and free their lanes; what a later attempt found is never undone.

        All in one statement, so that many cost one commit.
        """
        if not results:
            return
        with translate_errors():
            await self._pool.execute(
                query("finish_reports"),
                self._provider,
                *zip(*(_columns(one) for one in results), strict=True),
            )


def _columns(result: ReportResult) -> tuple[object, ...]:
    row, attempt = result.row, result.attempt
    state = _STATE_AFTER[attempt.verdict]
    return (
        row.customer_id,
        row.event_name,
        row.row_id,
        row.attempts,
        state.value,
        int(attempt.verdict is ReportVerdict.RETRY_ROTATED),
        result.retry_at if state is ReportState.PENDING else None,
        # Postgres refuses NUL in text, and a provider's words may hold anything.
        attempt.detail.replace("\0", "")[:_DETAIL_CHARS_MAX],
        row.identifier,
        attempt.code.replace("\0", "")[:_CODE_CHARS_MAX],
    )
