"""Decision records, and settled usage as replay reads it: the port `DecisionTable`."""

import json
import re
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sidecar import telemetry
from sidecar.domain.decision_records import DecisionRecord, decode_record
from sidecar.domain.errors import InvalidInput
from sidecar.domain.holds import hold_day
from sidecar.domain.periods import EPOCH, from_epoch_ms, to_epoch_ms
from sidecar.domain.replay_state import ReplayUsage
from sidecar.outbound.postgres.pool import (
    ACQUIRE_SECONDS_MAX,
    Pool,
    refuse_bad_data,
    translate_errors,
)
from sidecar.outbound.postgres.queries import query
from sidecar.outbound.postgres.settlement_batch import columns
from sidecar.services.decision_ports import PLACE_PATTERN, StreamedDecision

_PREFETCH: Final = 1_000
_PLACE: Final = re.compile(PLACE_PATTERN, re.ASCII)
_START: Final = (datetime(1970, 1, 1, tzinfo=UTC), -1, -1, False, "", False)
_MICROSECOND: Final = timedelta(microseconds=1)


class PostgresDecisions:
    """Implements DecisionTable."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def insert(self, decisions: Sequence[StreamedDecision]) -> int:
        """Insert records, those that are there already aside; returns how many were new."""
        rows = [_row(entry, entry.record) for entry in decisions if entry.record is not None]
        if not rows:
            return 0
        with translate_errors(), refuse_bad_data():
            tag = await self._pool.execute(query("insert_decisions"), *columns(rows))
        return _count(tag)

    async def forget(self, *, days: int, limit: int) -> int:
        """Drop records older than so many days, at most `limit`; returns how many."""
        with translate_errors():
            tag = await self._pool.execute(query("forget_decisions"), timedelta(days=days), limit)
        return _count(tag)

    async def find(self, decision_id: str) -> DecisionRecord | None:
        """One record by its decision's public id."""
        with translate_errors():
            record = await self._pool.fetchval(query("find_decision"), decision_id)
        return None if record is None else decode_record(record)

    async def page(
        self,
        *,
        since: datetime,
        until: datetime,
        customer_id: str = "",
        after: str = "",
        limit: int,
    ) -> Sequence[tuple[str, DecisionRecord]]:
        """Records of [since, until) in the order of time, each with its place in the list."""
        place = _read_place(after) if after else _START
        arguments: tuple[Any, ...] = (since, until, *place, limit)
        name = "page_decisions"
        if customer_id:
            name, arguments = "page_customer_decisions", (*arguments, customer_id)
        with translate_errors():
            rows = await self._pool.fetch(query(name), *arguments)
        return [(_place(row), record) for row in rows if (record := _readable(row)) is not None]

    async def usage(
        self, *, since: datetime, until: datetime, customer_id: str = ""
    ) -> AsyncIterator[ReplayUsage]:
        """Settled usage of [since, until); one snapshot, read as the caller goes on."""
        with translate_errors():
            async with (
                self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection,
                connection.transaction(readonly=True),
            ):
                rows = connection.cursor(
                    query("read_usage"), since, until, customer_id, prefetch=_PREFETCH
                )
                async for row in rows:
                    yield _usage(row)


def _row(entry: StreamedDecision, record: DecisionRecord) -> tuple[Any, ...]:
    return (
        record.customer_id,
        hold_day(record.hold_id),
        record.decision_id,
        record.allow,
        from_epoch_ms(record.instant_ms),
        record.epoch,
        record.seq,
        not record.placed,
        entry.shard,
        entry.entry_id,
        record.policy_version,
        record.code,
        record.rule,
        entry.payload.decode(),
    )


def _readable(row: Any) -> DecisionRecord | None:
    """The record; None for one that a newer version of this program wrote."""
    try:
        return decode_record(row["record"])
    except InvalidInput as error:
        telemetry.get_logger().warning(
            "decision_unreadable", decision_id=row["decision_id"], error=str(error)
        )
        return None


def _usage(row: Any) -> ReplayUsage:
    return ReplayUsage(
        customer_id=row["customer_id"],
        hold_id=row["hold_id"],
        at_ms=to_epoch_ms(row["decided_at"]),
        kind=row["kind"],
        currency=row["currency"],
        amount_nano=row["amount_nano"],
        plan=row["plan"],
        price_version=row["price_version"],
        model=row["model"],
        occurred_ms=to_epoch_ms(row["occurred_at"]),
        tokens=row["tokens"],
        quantities=json.loads(row["quantities"] or "{}"),
    )


def _place(row: Any) -> str:
    microseconds = (row["decided_at"] - EPOCH) // _MICROSECOND
    return (
        f"{microseconds}-{row['epoch']}-{row['seq']}-{row['unplaced']:d}"
        f"-{row['decision_id']}-{row['allowed']:d}"
    )


def _read_place(after: str) -> tuple[Any, ...]:
    if not _PLACE.fullmatch(after):
        raise InvalidInput("after is not a cursor of this list", field="after")
    microseconds, epoch, seq, unplaced, decision_id, allowed = after.split("-")
    return (
        EPOCH + int(microseconds) * _MICROSECOND,
        int(epoch),
        int(seq),
        unplaced == "1",
        decision_id,
        allowed == "1",
    )


def _count(tag: str) -> int:
    return int(tag.rpartition(" ")[2])
