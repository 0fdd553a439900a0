"""Stream records as rows: pure functions, so that settlement's SQL stays a list of steps."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, Final, TypeVar

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
_NO_USAGE: Final = TokenUsage()
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What one record changes of one meter; `window` is where it is reported, if anywhere."""

    record: StreamRecord
    meter: str
    quantity: int
    amount_nano: int
    window: WindowKey | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    text_hash: str = ""
    owed_nano: int | None = None
    """What of the amount is left to an invoice where credit pays first."""


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
    A record's row, in the order of `insert_events`; an orphan may have no event of its own.

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
    head = (
        record.customer_id,
        hold_day(check_hold_id(record.hold_id)),
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
    return (*head, *facts, *tokens, *tail, decided_at, _owed_of(record))


def _owed_of(record: StreamRecord) -> int | None:
    return None if record.owed is None else record.owed_nano


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
    current = {hold: dict(meters) for hold, meters in stored.items()}
    lines: list[Line] = []
    for record in records:
        hold = (record.customer_id, record.hold_id)
        wanted = _meters(record)
        before = current.get(hold, {})
        owed = dict(record.owed or ())
        amount = 0
        for meter in sorted(wanted.keys() | before.keys() | owed.keys()):
            quantity = wanted.get(meter, (0, 0))[0] - before.get(meter, (0, 0))[0]
            line_amount = wanted.get(meter, (0, 0))[1] - before.get(meter, (0, 0))[1]
            amount += line_amount
            told = _told(record, meter)
            # A query takes a hold's newest line for its groups, so what follows tells them again.
            tells = told is not None and (
                told.observed or (bool(told.groups) and record.kind != EventKind.CAPTURE)
            )
            if quantity or line_amount or tells or owed.get(meter):
                lines.append(
                    Line(
                        record=record,
                        meter=meter,
                        quantity=quantity,
                        amount_nano=line_amount,
                        window=_window(record, meter, quantity, windows_for, reported_meters),
                        groups={} if told is None else told.groups,
                        text_hash="" if told is None else told.text_hash,
                        owed_nano=None if record.owed is None else owed.get(meter, 0),
                    )
                )
        if amount != record.amount_nano:
            raise InvalidInput(
                f"entry {record.entry_id}: its lines come to {amount}, "
                f"its amount is {record.amount_nano}"
            )
        current[hold] = wanted
    return lines


def late_rows(lines: Iterable[Line], closed_until: Mapping[str, datetime]) -> list[tuple[Any, ...]]:
    """Rows of `late_usage`: events that have lines, of before their customer's instant."""
    rows: dict[EventKey, tuple[Any, ...]] = {}
    for line in lines:
        record = line.record
        until = closed_until.get(record.customer_id)
        if until is None or record.event is None or record.event.occurred_at >= until:
            continue
        key = event_key(record)
        rows[key] = (
            record.customer_id,
            day_of(record),
            record.hold_id,
            record.kind,
            *_late_amount(record),
        )
    return list(rows.values())


def _late_amount(record: StreamRecord) -> tuple[int, bool]:
    """What of it an invoice asks for, or what credit paid; and whether credit paid all of it."""
    if record.owed is None:
        return record.amount_nano, record.prepaid
    owed = record.owed_nano
    return (owed, False) if owed else (record.amount_nano, True)


def window_sums(lines: Iterable[Line]) -> dict[WindowKey, int]:
    """What the batch adds to each report window."""
    return summed((line.window, line.quantity) for line in lines if line.window is not None)


def columns(rows: Sequence[Sequence[Any]], width: int = 0) -> list[Sequence[Any]]:
    """Rows as one array per column, for unnest; `width` says how many if there may be no row."""
    return list(zip(*rows, strict=True)) or [()] * width


def day_of(record: StreamRecord) -> date:
    """The UTC day inside the record's hold id."""
    return hold_day(record.hold_id)


def _meters(record: StreamRecord) -> dict[str, tuple[int, int]]:
    wanted: dict[str, tuple[int, int]] = {}
    if record.event is None or (record.kind == EventKind.ORPHAN and record.amount_nano == 0):
        # A released orphan's lines say what the hold was for, not what was used.
        return wanted
    for line in record.event.lines:
        quantity, amount = wanted.get(line.meter, (0, 0))
        wanted[line.meter] = quantity + line.quantity, amount + line.amount_nano
    return wanted


def _told(record: StreamRecord, meter: str) -> RatedLine | None:
    """The event's own line of a meter."""
    if record.event is None or (record.kind == EventKind.ORPHAN and record.amount_nano == 0):
        return None
    return next((line for line in record.event.lines if line.meter == meter), None)


def _window(
    record: StreamRecord,
    meter: str,
    quantity: int,
    windows_for: Mapping[str, str],
    reported_meters: Mapping[str, frozenset[str]],
) -> WindowKey | None:
    """The UTC hour that the quantity is reported in; what credit paid is never also invoiced."""
    event = record.event
    if event is None or record.prepaid or not quantity or record.customer_id not in windows_for:
        return None
    if meter not in reported_meters.get(event.price_version, frozenset()):
        return None
    hour = event.occurred_at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return record.customer_id, meter, hour


def summed(pairs: Iterable[tuple[_Key, int]]) -> dict[_Key, int]:
    """Sums by key, in the order in which keys come first."""
    sums: dict[_Key, int] = {}
    for key, value in pairs:
        sums[key] = sums.get(key, 0) + value
    return sums
