"""What the sources of notices look at: implements `NoticeSources`."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from asyncpg import Record

from sidecar.domain.errors import Conflict, InvariantViolated
from sidecar.domain.notices import Notice
from sidecar.domain.projection import WINDOWS, UsedSample
from sidecar.outbound.postgres.notices import count_notices, insert_notices
from sidecar.outbound.postgres.pool import ACQUIRE_SECONDS_MAX, Pool, translate_errors
from sidecar.outbound.postgres.queries import query
from sidecar.services.notice_ports import (
    Look,
    SeenCredit,
    SeenReports,
    SeenStanding,
    SeenState,
    SeenThreshold,
    StateChange,
)

OVERLAP: Final = timedelta(seconds=120)
"""A row bears the instant of its transaction's beginning, and is seen from its end on. No
transaction of ours is open for longer: a statement ends after 11 s, an idle one after 60."""
_SAMPLES_KEPT: Final = max(WINDOWS)


class PostgresNoticeSources:
    """Implements NoticeSources; time is Postgres' own."""

    def __init__(self, pool: Pool) -> None:
        """Wire it."""
        self._pool = pool

    async def begin(
        self, source: str, owner: str, *, lease_seconds: float, all_every_seconds: float
    ) -> Look | None:
        """Lease a source; None while another worker has it."""
        with translate_errors():
            async with self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection:
                await connection.execute(query("ensure_notice_source"), source)
                row = await connection.fetchrow(
                    query("begin_notice_look"),
                    source,
                    owner,
                    timedelta(seconds=lease_seconds),
                    timedelta(seconds=all_every_seconds),
                    OVERLAP,
                )
        if row is None:
            return None
        return Look(
            source=source,
            owner=owner,
            since=row["since"],
            until=row["until"],
            everything=row["everything"],
            first=row["first"],
            lease=timedelta(seconds=lease_seconds),
        )

    async def keep(
        self, look: Look, notices: Sequence[Notice], changes: Sequence[StateChange]
    ) -> None:
        """Put notices and note states in one transaction. Raises Conflict without the lease."""
        ordered = sorted(changes, key=lambda one: (one.customer_id, one.source))
        with translate_errors():
            async with (
                self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection,
                connection.transaction(),
            ):
                # Locked until the commit, so that nobody takes the lease over in between.
                held = await connection.fetchval(
                    query("renew_notice_look"), look.source, look.owner, look.lease
                )
                if held is None:
                    raise Conflict(f"the lease on notices' source {look.source} was lost")
                await connection.execute(
                    query("put_notice_states"),
                    [one.customer_id for one in ordered],
                    [one.source for one in ordered],
                    [one.to.state for one in ordered],
                    [one.to.mark for one in ordered],
                    [one.to.episode for one in ordered],
                )
                kinds = await insert_notices(connection, notices)
        count_notices(kinds)

    async def finish(self, look: Look) -> None:
        """The look is over: the next begins where it ended."""
        with translate_errors():
            await self._pool.execute(
                query("finish_notice_look"), look.source, look.owner, look.until, look.everything
            )

    async def thresholds(
        self, look: Look, *, after: tuple[datetime, int] | None, limit: int
    ) -> Sequence[SeenThreshold]:
        """Thresholds that were reached, the oldest first."""
        reached_at, number = after or (look.since, -1)
        with translate_errors():
            rows = await self._pool.fetch(
                query("seen_thresholds"), look.since, look.until, reached_at, number, limit
            )
        return [
            SeenThreshold(
                customer_id=row["customer_id"],
                quota=row["quota"],
                subject=row["subject"],
                period_start=row["period_start"],
                percent=row["percent"],
                reached_at=row["reached_at"],
                number=row["event_number"],
            )
            for row in rows
        ]

    async def credits(self, look: Look, *, after: str, limit: int) -> Sequence[SeenCredit]:
        """Customers who were ever given credit, by id."""
        with translate_errors():
            rows = await self._pool.fetch(
                query("seen_credits"),
                after,
                look.everything,
                look.until,
                look.since,
                limit,
                list(WINDOWS),
            )
        return [
            SeenCredit(
                customer_id=row["customer_id"],
                currency=row["currency"],
                available_nano=int(row["available_nano"]),
                granted_nano=int(row["granted_nano"]),
                used_nano=int(row["used_nano"]),
                samples=tuple(
                    UsedSample(at=at, used_nano=int(used)) for at, used in row["samples"]
                ),
                exhausted=_state(row, "exhausted_"),
                running_out=_state(row, "running_"),
            )
            for row in rows
        ]

    async def sample_credit(self, customer_ids: Sequence[str]) -> None:
        """Note what they have ever used by now, and forget samples that no window needs."""
        with translate_errors():
            await self._pool.execute(query("sample_credit"), customer_ids)
            await self._pool.execute(query("forget_credit_samples"), customer_ids, _SAMPLES_KEPT)

    async def standings(self, look: Look, *, after: str, limit: int) -> Sequence[SeenStanding]:
        """Standings that changed or ended, by customer."""
        with translate_errors():
            rows = await self._pool.fetch(
                query("seen_standings"), after, look.everything, look.until, look.since, limit
            )
        return [
            SeenStanding(
                customer_id=row["customer_id"],
                standing=row["standing"],
                until=row["until"],
                seen=_state(row, ""),
            )
            for row in rows
        ]

    async def reports(self, look: Look, *, limit: int) -> Sequence[SeenReports]:
        """Reports that failed or are uncertain, by meter and hour."""
        with translate_errors():
            rows = await self._pool.fetch(query("seen_reports"), look.since, look.until, limit)
        return [
            SeenReports(
                provider=row["provider"],
                meter=row["meter"],
                uncertain=row["uncertain"],
                hour=row["hour"],
                rows=row["row_count"],
                customers=row["customer_count"],
                first_at=row["first_at"],
            )
            for row in rows
        ]


def _state(row: Record, prefix: str) -> SeenState:
    """What was noted; all NULL where nothing was."""
    state, mark, episode = (row[f"{prefix}{name}"] for name in ("state", "mark", "episode"))
    if state is None:
        return SeenState()
    if not isinstance(episode, int):
        raise InvariantViolated("a noted state has no episode")
    return SeenState(state=state, mark=mark, episode=episode)
