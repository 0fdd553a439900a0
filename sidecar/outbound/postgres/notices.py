"""Notices and their deliveries: implements `NoticeRecord`."""

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from asyncpg import Record

from sidecar import telemetry
from sidecar.domain.notices import Channel, Notice, NoticeKind
from sidecar.outbound.postgres.pool import (
    ACQUIRE_SECONDS_MAX,
    Connection,
    Pool,
    translate_errors,
)
from sidecar.outbound.postgres.queries import query
from sidecar.services.notice_ports import (
    Delivery,
    DeliveryFact,
    DeliveryState,
    StoredNotice,
    Target,
    Unrouted,
)

_NUMBER_MAX: Final = 2**63 - 1
_DETAIL_CHARS_MAX: Final = 400
_KINDS: Final = frozenset(kind.value for kind in NoticeKind)


class PostgresNotices:
    """
    Implements NoticeRecord; keys make each notice and each delivery one row.

    Time is Postgres' own: leases, due deliveries, retries.
    """

    def __init__(self, pool: Pool) -> None:
        """Wire it."""
        self._pool = pool

    async def put(self, *notices: Notice) -> int:
        """Put facts to be told, each key once; returns how many were new."""
        with translate_errors():
            async with self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection:
                kinds = await insert_notices(connection, notices)
        count_notices(kinds)
        return len(kinds)

    async def unrouted(self, *, email_label: str, limit: int) -> Sequence[Unrouted]:
        """Notices without deliveries, the oldest first."""
        with translate_errors():
            rows = await self._pool.fetch(
                query("unrouted_notices"), email_label, limit, list(_KINDS)
            )
        return [
            Unrouted(notice_id=row["notice_id"], notice=_notice(row), customer_email=row["email"])
            for row in rows
        ]

    async def route(self, found: Sequence[tuple[Unrouted, Sequence[Target]]]) -> None:
        """Make the deliveries of notices, once each; none is fine."""
        made = [(one, to) for one, targets in found for to in targets]
        with translate_errors():
            async with (
                self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection,
                connection.transaction(),
            ):
                await connection.execute(
                    query("insert_notice_deliveries"),
                    [one.notice.customer_id for one, _ in made],
                    [one.notice_id for one, _ in made],
                    [to.channel.value for _, to in made],
                    [to.target for _, to in made],
                )
                await connection.execute(
                    query("note_routed"),
                    [one.notice.customer_id for one, _ in found],
                    [one.notice_id for one, _ in found],
                )

    async def claim(
        self, owner: str, channel: Channel, *, email_label: str, limit: int, lease_seconds: float
    ) -> Sequence[Delivery]:
        """Due deliveries of a channel, leased to one worker over all that run."""
        with translate_errors():
            rows = await self._pool.fetch(
                query("claim_notice_deliveries"),
                channel.value,
                owner,
                limit,
                timedelta(seconds=lease_seconds),
                email_label,
            )
        return [
            Delivery(
                notice_id=row["notice_id"],
                notice=_notice(row),
                to=Target(channel=channel, target=row["target"]),
                attempts=row["attempts"],
                customer_email=row["email"],
            )
            for row in rows
            if _is_known(row)
        ]

    async def finish(
        self,
        owner: str,
        delivery: Delivery,
        *,
        state: DeliveryState,
        detail: str,
        retry_seconds: float,
    ) -> None:
        """Record an attempt; what a later attempt found is never undone."""
        with translate_errors():
            await self._pool.execute(
                query("finish_notice_delivery"),
                delivery.notice.customer_id,
                delivery.notice_id,
                delivery.to.channel.value,
                delivery.to.target,
                delivery.attempts,
                state.value,
                owner,
                # Postgres refuses NUL in text, and the other side's words may hold anything.
                detail.replace("\0", "")[:_DETAIL_CHARS_MAX],
                timedelta(seconds=retry_seconds),
            )

    async def list(
        self,
        *,
        before: int | None,
        limit: int,
        customer_id: str = "",
        state: DeliveryState | None = None,
    ) -> Sequence[StoredNotice]:
        """The newest first, those with a smaller number than `before`."""
        return await self._read(
            _NUMBER_MAX if before is None else before,
            customer_id,
            "",
            "" if state is None else state.value,
            limit,
        )

    async def retry(self, notice_id: str) -> StoredNotice | None:
        """Make failed deliveries of a notice pending again; None for an unknown notice."""
        found = await self._read(_NUMBER_MAX, "", notice_id, "", 1)
        if not found:
            return None
        with translate_errors():
            await self._pool.execute(
                query("retry_notice_deliveries"), found[0].notice.customer_id, notice_id
            )
        again = await self._read(_NUMBER_MAX, found[0].notice.customer_id, notice_id, "", 1)
        return again[0] if again else None

    async def forget(self, *, older_than_days: int, limit: int) -> int:
        """Drop old notices and their deliveries; returns how many."""
        with translate_errors():
            tag = await self._pool.execute(
                query("forget_notices"), timedelta(days=older_than_days), limit
            )
        return int(tag.rpartition(" ")[2])

    async def _read(self, *arguments: Any) -> Sequence[StoredNotice]:
        with translate_errors():
            async with self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection:
                rows = await connection.fetch(query("list_notices"), *arguments)
                deliveries = await connection.fetch(
                    query("list_notice_deliveries"),
                    [row["customer_id"] for row in rows],
                    [row["notice_id"] for row in rows],
                )
        by_notice: dict[str, list[DeliveryFact]] = {}
        for row in deliveries:
            by_notice.setdefault(row["notice_id"], []).append(_fact(row))
        return [
            StoredNotice(
                notice_id=row["notice_id"],
                number=row["notice_number"],
                notice=_notice(row),
                created_at=row["created_at"],
                routed=row["routed"],
                deliveries=tuple(by_notice.get(row["notice_id"], ())),
            )
            for row in rows
            if _is_known(row)
        ]


async def insert_notices(connection: Connection, notices: Sequence[Notice]) -> Sequence[NoticeKind]:
    """
    Put notices within the caller's transaction, so that they stand if it does.

    Returns:
        The kinds of those that were new: give them to `count_notices` after the commit.
    """
    if not notices:
        return ()
    # One order for all writers, so that two of them never wait for each other's rows.
    ordered = sorted(notices, key=lambda one: (one.customer_id, one.kind.value, one.fact_key))
    rows = await connection.fetch(
        query("put_notices"),
        [one.customer_id for one in ordered],
        [one.kind.value for one in ordered],
        [one.fact_key for one in ordered],
        [json.dumps(dict(one.facts)) for one in ordered],
        [json.dumps({name: str(nano) for name, nano in one.amounts.items()}) for one in ordered],
        [one.occurred_at for one in ordered],
    )
    return [NoticeKind(row["kind"]) for row in rows]


def count_notices(kinds: Sequence[NoticeKind]) -> None:
    """Count notices that are on record now."""
    for kind in kinds:
        telemetry.NOTICES.labels(kind.value).inc()


def _is_known(row: Record) -> bool:
    """Whether this version knows the kind; a newer one tells what this one does not know."""
    return row["kind"] in _KINDS


def _notice(row: Record) -> Notice:
    return Notice(
        kind=NoticeKind(row["kind"]),
        fact_key=row["fact_key"],
        occurred_at=row["occurred_at"],
        customer_id=row["customer_id"],
        facts=json.loads(row["facts"]),
        amounts={name: int(nano) for name, nano in json.loads(row["amounts"]).items()},
    )


def _fact(row: Record) -> DeliveryFact:
    return DeliveryFact(
        to=Target(channel=Channel(row["channel"]), target=row["target"]),
        state=DeliveryState(row["state"]),
        attempts=row["attempts"],
        next_attempt_at=row["next_attempt_at"],
        finished_at=row["finished_at"],
        detail=row["last_detail"],
    )
