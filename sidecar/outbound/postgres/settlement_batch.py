"""Stream records as rows: pure functions, so that settlement's SQL stays a list of steps."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Any, Final, TypeVar

from sidecar.domain.errors import InvalidInput
from sidecar.domain.holds import check_hold_id, hold_day
from sidecar.domain.periods import from_epoch_ms
from sidecar.domain.usage import EventKind
from sidecar.services.control_ports import (
    CLAIM,
    AnyRecord,
    SetAsideRecord,
    StreamRecord,
    UnreadableRecord,
)
from sidecar.services.entry_ids import entry_order

EventKey = tuple[str, str, str]
"""customer_id, hold_id, kind; the day is inside the hold id."""
HoldKey = tuple[str, str]
"""customer_id, hold_id."""
UNREADABLE: Final = "unreadable"
EVENT_COLUMNS: Final = (
    *("customer_id", "day", "hold_id", "kind", "transaction_id", "shard", "entry_id", "currency"),
    *("amount_nano", "overage_nano", "held_nano", "prepaid", "late"),
    *("plan", "price_version", "model", "user_id", "credential_id", "route", "edge", "gateway_id"),
    *("status", "input_tokens", "output_tokens", "cache_read_tokens", "cache_creation_tokens"),
    *("reasoning_tokens", "total_tokens", "duration_ms", "request_bytes", "response_bytes"),
    *("estimated", "estimate_reason", "client_key", "request_id"),
    *("occurred_at", "received_at", "decided_at", "owed_nano"),
)
"""Of `event_row`."""
_NO_EVENT: Final = (
    *("", "", "", "", "", "", "", "", None),
    *(None, None, None, None, None, None),
    *(0, 0, 0, False, "", "", b""),
)
"""From plan to request id; an orphan may have no event of its own."""
_SECOND_DIGITS: Final = 8
_day_of_second = lru_cache(maxsize=4_096)(hold_day)
_OF_GRANTS: Final = frozenset(kind.value for kind in EventKind if kind.of_grant)
_Key = TypeVar("_Key")


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """
    A shard's records after its committed offset, by what they become.

    `settled` is the last decision's epoch and seq. Claims become nothing: what they were about
    was settled or captured before.
    """

    shard: int
    epoch: int
    offset: str
    settled: tuple[int, int]
    usage: tuple[StreamRecord, ...]
    grants: tuple[StreamRecord, ...]
    """Those that begin."""
    changes: tuple[StreamRecord, ...]
    """What else was decided about grants: expiries, rollovers, withdrawals."""
    aside: tuple[SetAsideRecord | UnreadableRecord, ...]


def make_batch(
    records: Sequence[AnyRecord], *, shard: int, epoch: int, offset: str
) -> Batch | None:
    """The records above the offset, or None if there are none: a replay ends here."""
    floor = entry_order(offset)
    # They are in the stream's order.
    fresh = records[bisect_right(records, floor, key=_order) :]
    if not fresh:
        return None
    told = [record for record in fresh if isinstance(record, StreamRecord)]
    decided = [record for record in told if record.kind != CLAIM]
    return Batch(
        shard=shard,
        epoch=epoch,
        offset=fresh[-1].entry_id,
        settled=max([(record.epoch, record.seq) for record in told], default=(0, 0)),
        usage=tuple([record for record in decided if record.kind not in _OF_GRANTS]),
        grants=tuple([record for record in decided if record.kind == EventKind.GRANT]),
        changes=tuple(
            record
            for record in decided
            if record.kind in _OF_GRANTS and record.kind != EventKind.GRANT
        ),
        aside=tuple(record for record in fresh if not isinstance(record, StreamRecord)),
    )


def _order(record: AnyRecord) -> tuple[int, int]:
    return entry_order(record.entry_id)


def event_key(record: StreamRecord) -> EventKey:
    """What makes a usage event unique."""
    return record.customer_id, record.hold_id, record.kind


def usage_transaction_ids(batch: Batch) -> dict[tuple[str, str], str]:
    """
    The ledger transaction of each (customer, currency) of the batch.

    Named by the first stream entry of the customer and currency in the batch. An entry is
    settled in one committed batch only (the offset sees to it), so no other batch can come to
    the same name however a replay cuts the stream; the epoch tells a stream that began anew.
    """
    ids: dict[tuple[str, str], str] = {}
    for record in batch.usage:
        key = record.customer_id, record.currency
        if key not in ids:
            ids[key] = f"usage:{batch.shard}:{batch.epoch}:{record.entry_id}"
    return ids


def event_row(record: StreamRecord, *, shard: int, transaction_id: str) -> tuple[Any, ...]:
    """
    A record's row, in the order of EVENT_COLUMNS; an orphan may have no event of its own.

    Raises:
        InvalidInput: If the record contradicts its event, or its hold id is none.
    """
    event = record.event
    if event is None:
        check_hold_id(record.hold_id)
    elif (
        event.customer_id != record.customer_id
        or event.hold_id != record.hold_id
        or event.currency != record.currency
    ):
        raise InvalidInput(f"entry {record.entry_id}: the event is not the record's")
    decided_at = from_epoch_ms(record.decided_at_ms)
    head = (
        record.customer_id,
        day_of(record),
        record.hold_id,
        record.kind,
        transaction_id,
        shard,
        record.entry_id,
        record.currency,
        record.amount_nano,
        record.overage_nano,
        record.held_nano,
        record.prepaid,
        record.late,
    )
    owed = None if record.owed is None else record.owed_nano
    if event is None:
        return (*head, *_NO_EVENT, decided_at, decided_at, decided_at, owed)
    usage = event.usage
    return (
        *head,
        event.plan,
        event.price_version,
        event.model,
        event.user_id,
        event.credential_id,
        event.route,
        event.edge,
        event.gateway_id,
        event.status,
        usage.input,
        usage.output,
        usage.cache_read,
        usage.cache_creation,
        usage.reasoning,
        usage.total,
        event.duration_ms,
        event.request_bytes,
        event.response_bytes,
        event.estimated,
        event.estimate_reason,
        event.client_key,
        event.request_id,
        event.occurred_at,
        event.received_at,
        decided_at,
        owed,
    )


def columns(rows: Sequence[Sequence[Any]], width: int = 0) -> list[Sequence[Any]]:
    """Rows as one array per column, for unnest; `width` says how many if there may be no row."""
    return list(zip(*rows, strict=True)) or [()] * width


def day_of(record: StreamRecord) -> date:
    """The UTC day inside the record's hold id."""
    # The id's first digits alone say it, and many ids of a batch share them.
    return _day_of_second(record.hold_id[:_SECOND_DIGITS])


def summed(pairs: Iterable[tuple[_Key, int]]) -> dict[_Key, int]:
    """Sums by key, in the order in which keys come first."""
    sums: dict[_Key, int] = {}
    for key, value in pairs:
        sums[key] = sums.get(key, 0) + value
    return sums
