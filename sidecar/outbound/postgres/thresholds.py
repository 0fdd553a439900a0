"""Thresholds that were reached, once each: implements `ThresholdRecord`."""

from collections.abc import Sequence

from asyncpg import Record

from sidecar.outbound.postgres.pool import Pool, translate_errors
from sidecar.outbound.postgres.queries import query
from sidecar.services.thresholds import ThresholdReached


class PostgresThresholds:
    """Implements ThresholdRecord; the table's key makes each once."""

    def __init__(self, pool: Pool) -> None:
        """Wire it."""
        self._pool = pool

    async def record(self, reached: Sequence[ThresholdReached]) -> Sequence[ThresholdReached]:
        """Record those that are not yet; returns them."""
        # One order for all writers, so that two of them never wait for each other's rows.
        ordered = sorted(
            reached,
            key=lambda one: (
                one.customer_id,
                one.quota,
                one.subject,
                one.period_start,
                one.percent,
            ),
        )
        with translate_errors():
            rows = await self._pool.fetch(
                query("record_thresholds"),
                [one.customer_id for one in ordered],
                [one.quota for one in ordered],
                [one.subject for one in ordered],
                [one.period_start for one in ordered],
                [one.percent for one in ordered],
                [one.used for one in ordered],
                [one.limit for one in ordered],
            )
        return [_reached(row) for row in rows]

    async def list_reached(self, customer_id: str, *, limit: int) -> Sequence[ThresholdReached]:
        """A customer's, the newest first."""
        with translate_errors():
            rows = await self._pool.fetch(query("list_thresholds"), customer_id, limit)
        return [_reached(row) for row in rows]


def _reached(row: Record) -> ThresholdReached:
    return ThresholdReached(
        customer_id=row["customer_id"],
        quota=row["quota"],
        subject=row["subject"],
        period_start=row["period_start"],
        percent=row["percent"],
        used=int(row["used"]),
        limit=int(row["quota_limit"]),
    )
