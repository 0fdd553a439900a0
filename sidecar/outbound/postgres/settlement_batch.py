"""Stream records as rows: pure functions, so that settlement's SQL stays a list of steps."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Any, Final, TypeAlias, TypeVar

from sidecar.domain.errors import InvalidInput
from sidecar.domain.holds import check_hold_id, hold_day
from sidecar.domain.periods import from_epoch_ms
from sidecar.domain.usage import EventKind, RatedLine, TokenUsage
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
WindowKey = tuple[str, str, datetime]
"""customer_id, meter, window_start."""

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
LINE_COLUMNS: Final = (
    *("customer_id", "day", "hold_id", "kind", "meter", "quantity", "amount_nano"),
    *("groups", "text_hash", "owed_nano", "window_start", "window_seq"),
)
"""Of `Line`."""
_NO_USAGE: Final = TokenUsage()
_UNCHANGED: Final = (0, 0)
_NOWHERE: Final[tuple[None, frozenset[str]]] = (None, frozenset())
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


_Text: TypeAlias = str | None
_Number: TypeAlias = int | None
Line: TypeAlias = tuple[
    str, date, str, str, str, int, int, _Text, _Text, _Number, datetime | None, _Number
]
"""
What one record changes of one meter: a row of `usage_lines`, in the order of LINE_COLUMNS.

Its window is where it is reported, if anywhere; the window's seq is known once the window has
taken the quantity in. Plain, because an event has several of them.
"""


def make_batch(
    records: Sequence[AnyRecord], *, shard: int, epoch: int, offset: str
) -> Batch | None:
    """The records above the offset, or None if there are none: a replay ends here."""
    floor = entry_order(offset)
    fresh = [record for record in records if entry_order(record.entry_id) > floor]
    if not fresh:
        return None
    told = [record for record in fresh if isinstance(record, StreamRecord)]
    decided = [record for record in told if record.kind != CLAIM]
    return Batch(
        shard=shard,
        epoch=epoch,
        offset=fresh[-1].entry_id,
        settled=max(((record.epoch, record.seq) for record in told), default=(0, 0)),
        usage=tuple(record for record in decided if record.kind not in _OF_GRANTS),
        grants=tuple(record for record in decided if record.kind == EventKind.GRANT),
        changes=tuple(
            record
            for record in decided
            if record.kind in _OF_GRANTS and record.kind != EventKind.GRANT
        ),
        aside=tuple(record for record in fresh if not isinstance(record, StreamRecord)),
    )


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
        ids.setdefault(
            (record.customer_id, record.currency),
            f"usage:{batch.shard}:{batch.epoch}:{record.entry_id}",
        )
    return ids


def event_row(record: StreamRecord, *, shard: int, transaction_id: str) -> tuple[Any, ...]:
    """
    A record's row, in the order of EVENT_COLUMNS; an orphan may have no event of its own.

    Raises:
        InvalidInput: If the record contradicts its event, or its hold id is none.
    """
    event = record.event
    if event is not None and (event.customer_id, event.hold_id, event.currency) != (
        record.customer_id,
        record.hold_id,
        record.currency,
    ):
        raise InvalidInput(f"entry {record.entry_id}: the event is not the record's")
    usage = _NO_USAGE if event is None else event.usage
    decided_at = from_epoch_ms(record.decided_at_ms)
    hold_id = check_hold_id(record.hold_id)
    head = (
        record.customer_id,
        day_of(record),
        hold_id,
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
    tokens = (
        usage.input,
        usage.output,
        usage.cache_read,
        usage.cache_creation,
        usage.reasoning,
        usage.total,
    )
    if event is None:
        facts: tuple[Any, ...] = ("", "", "", "", "", "", "", "", None)
        tail: tuple[Any, ...] = (0, 0, 0, False, "", "", b"", decided_at, decided_at)
    else:
        facts = (
            event.plan,
            event.price_version,
            event.model,
            event.user_id,
            event.credential_id,
            event.route,
            event.edge,
            event.gateway_id,
            event.status,
        )
        tail = (
            event.duration_ms,
            event.request_bytes,
            event.response_bytes,
            event.estimated,
            event.estimate_reason,
            event.client_key,
            event.request_id,
            event.occurred_at,
            event.received_at,
        )
    owed = None if record.owed is None else record.owed_nano
    return (*head, *facts, *tokens, *tail, decided_at, owed)


def make_lines(
    records: Iterable[StreamRecord],
    stored: Mapping[HoldKey, Mapping[str, tuple[int, int]]],
    windows_for: Mapping[str, str],
    reported_meters: Mapping[str, frozenset[str]],
) -> list[Line]:
    """
    What each new record changes of each meter.

    A record carries full quantities. Where the hold has lines already (a correction, a late
    capture after an orphan), only the signed difference is new.

    Args:
        records: New ones, in stream order.
        stored: Quantity and amount by meter that holds had before this batch.
        windows_for: Customers that are reported, with the provider's id.
        reported_meters: By price version.

    Raises:
        InvalidInput: If a record's amount is not what its lines come to.
    """
    current = dict(stored)
    lines: list[Line] = []
    for record in records:
        told = _told(record)
        wanted = _meters(told)
        hold = record.customer_id, record.hold_id
        changed = _differences(wanted, current[hold]) if hold in current else wanted
        current[hold] = wanted
        amount = sum([amount for _, amount in changed.values()])
        if amount != record.amount_nano:
            raise InvalidInput(
                f"entry {record.entry_id}: its lines come to {amount}, "
                f"its amount is {record.amount_nano}"
            )
        lines += _lines(record, changed, told, _reported(record, windows_for, reported_meters))
    return lines


def late_rows(
    records: Iterable[StreamRecord],
    lines: Iterable[Line],
    closed_until: Mapping[str, datetime],
) -> list[tuple[Any, ...]]:
    """Rows of `late_usage`: events that have lines, of before their customer's instant."""
    if not closed_until:
        return []
    lined = {(customer_id, hold_id, kind) for customer_id, _, hold_id, kind, *_ in lines}
    return [
        (
            record.customer_id,
            day_of(record),
            record.hold_id,
            record.kind,
            *_late_amount(record),
        )
        for record in records
        if (until := closed_until.get(record.customer_id)) is not None
        and record.event is not None
        and record.event.occurred_at < until
        and event_key(record) in lined
    ]


def _late_amount(record: StreamRecord) -> tuple[int, bool]:
    """What of it an invoice asks for, or what credit paid; and whether credit paid all of it."""
    if record.owed is None:
        return record.amount_nano, record.prepaid
    owed = record.owed_nano
    return (owed, False) if owed else (record.amount_nano, True)


def window_sums(lines: Iterable[Line]) -> dict[WindowKey, int]:
    """What the batch adds to each report window."""
    return summed(
        ((customer_id, meter, start), quantity)
        for customer_id, _, _, _, meter, quantity, *_, start, _ in lines
        if start is not None
    )


def in_windows(lines: Iterable[Line], seqs: Mapping[WindowKey, int]) -> list[Line]:
    """The same lines, with the seq of the window that took each quantity in."""
    placed: list[Line] = []
    for line in lines:
        customer_id, _, _, _, meter, *_, start, _ = line
        placed.append(line if start is None else (*line[:-1], seqs[customer_id, meter, start]))
    return placed


def columns(rows: Sequence[Sequence[Any]], width: int = 0) -> list[Sequence[Any]]:
    """Rows as one array per column, for unnest; `width` says how many if there may be no row."""
    return list(zip(*rows, strict=True)) or [()] * width


def day_of(record: StreamRecord) -> date:
    """The UTC day inside the record's hold id."""
    # The id's first digits alone say it, and many ids of a batch share them.
    return _day_of_second(record.hold_id[:_SECOND_DIGITS])


def _told(record: StreamRecord) -> tuple[RatedLine, ...]:
    """What the record says of meters."""
    if record.event is None or (record.kind == EventKind.ORPHAN and record.amount_nano == 0):
        # A released orphan's lines say what the hold was for, not what was used.
        return ()
    return record.event.lines


def _meters(told: Sequence[RatedLine]) -> dict[str, tuple[int, int]]:
    """Quantity and amount by meter."""
    wanted = {line.meter: (line.quantity, line.amount_nano) for line in told}
    if len(wanted) < len(told):
        wanted = dict.fromkeys(wanted, (0, 0))
        for line in told:
            quantity, amount = wanted[line.meter]
            wanted[line.meter] = quantity + line.quantity, amount + line.amount_nano
    return wanted


def _differences(
    wanted: Mapping[str, tuple[int, int]], before: Mapping[str, tuple[int, int]]
) -> dict[str, tuple[int, int]]:
    changed: dict[str, tuple[int, int]] = {}
    for meter in wanted.keys() | before.keys():
        quantity, amount = wanted.get(meter, (0, 0))
        quantity_before, amount_before = before.get(meter, (0, 0))
        changed[meter] = quantity - quantity_before, amount - amount_before
    return changed


def _lines(
    record: StreamRecord,
    changed: Mapping[str, tuple[int, int]],
    told: Sequence[RatedLine],
    reported: tuple[datetime, frozenset[str]] | None,
) -> list[Line]:
    """The record's rows, by meter. All that is stored of a line is put together here."""
    customer_id, hold_id, kind = record.customer_id, record.hold_id, record.kind
    day = day_of(record)
    hour, meters = reported or _NOWHERE
    # A meter's first line tells of it.
    by_meter = {line.meter: line for line in reversed(told)}
    lines: list[Line] = []
    owed = None if record.owed is None else dict(record.owed)
    for meter in sorted(changed.keys() | owed.keys() if owed else changed):
        quantity, amount = changed.get(meter, _UNCHANGED)
        owed_nano = None if owed is None else owed.get(meter, 0)
        groups = text_hash = None
        is_told = False
        if (line := by_meter.get(meter)) is not None:
            groups = json.dumps(dict(line.groups)) if line.groups else None
            text_hash = line.text_hash or None
            # A query takes a hold's newest line for its groups, so what follows tells them again.
            is_told = line.observed or (groups is not None and kind != EventKind.CAPTURE)
        if quantity or amount or is_told or owed_nano:
            start = hour if quantity and meter in meters else None
            lines.append(
                (
                    *(customer_id, day, hold_id, kind, meter, quantity, amount),
                    *(groups, text_hash, owed_nano, start, None),
                )
            )
    return lines


def _reported(
    record: StreamRecord,
    windows_for: Mapping[str, str],
    reported_meters: Mapping[str, frozenset[str]],
) -> tuple[datetime, frozenset[str]] | None:
    """The UTC hour and the meters that are reported; what credit paid is never also invoiced."""
    event = record.event
    if event is None or record.prepaid or record.customer_id not in windows_for:
        return None
    meters = reported_meters.get(event.price_version)
    if not meters:
        return None
    hour = event.occurred_at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return hour, meters


def summed(pairs: Iterable[tuple[_Key, int]]) -> dict[_Key, int]:
    """Sums by key, in the order in which keys come first."""
    sums: dict[_Key, int] = {}
    for key, value in pairs:
        sums[key] = sums.get(key, 0) + value
    return sums
