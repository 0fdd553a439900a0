"""What records change of each meter: rows of usage lines, and the report windows they go into."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, Final, TypeAlias

from sidecar.domain.errors import InvalidInput
from sidecar.domain.usage import EventKind, RatedLine
from sidecar.outbound.postgres.settlement_batch import HoldKey, day_of, event_key, summed
from sidecar.services.control_ports import StreamRecord

WindowKey = tuple[str, str, datetime]
"""customer_id, meter, window_start."""

LINE_COLUMNS: Final = (
    *("customer_id", "day", "hold_id", "kind", "meter", "quantity", "amount_nano"),
    *("groups", "text_hash", "owed_nano", "window_start", "window_seq"),
)
"""Of `Line`."""
# By place, for speed: most of what settlement does is done for each line.
_METER: Final = 4
_QUANTITY: Final = 5
_START: Final = 10
_SEQ: Final = 11
_Change: TypeAlias = tuple[int, int, RatedLine | None]
"""Quantity and amount of a meter, and the line that tells of it, if the record has one."""
_UNCHANGED: Final[_Change] = (0, 0, None)
_NOWHERE: Final[tuple[None, frozenset[str]]] = (None, frozenset())

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
    current: dict[HoldKey, Mapping[str, _Change]] = {
        hold: {meter: (*numbers, None) for meter, numbers in meters.items()}
        for hold, meters in stored.items()
    }
    lines: list[Line] = []
    for record in records:
        told = _told(record)
        wanted = _meters(told)
        hold = record.customer_id, record.hold_id
        changed = _differences(wanted, current[hold]) if hold in current else wanted
        current[hold] = wanted
        amount = sum([amount for _, amount, _ in changed.values()])
        if amount != record.amount_nano:
            raise InvalidInput(
                f"entry {record.entry_id}: its lines come to {amount}, "
                f"its amount is {record.amount_nano}"
            )
        lines += _lines(record, changed, _reported(record, windows_for, reported_meters))
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
        [
            ((line[0], line[_METER], start), line[_QUANTITY])
            for line in lines
            if (start := line[_START]) is not None
        ]
    )


def in_windows(lines: Iterable[Line], seqs: Mapping[WindowKey, int]) -> list[Line]:
    """The same lines, with the seq of the window that took each quantity in."""
    return [
        line
        if (start := line[_START]) is None
        else (*line[:_SEQ], seqs[line[0], line[_METER], start])
        for line in lines
    ]


def _told(record: StreamRecord) -> tuple[RatedLine, ...]:
    """What the record says of meters."""
    if record.event is None or (record.kind == EventKind.ORPHAN and record.amount_nano == 0):
        # A released orphan's lines say what the hold was for, not what was used.
        return ()
    return record.event.lines


def _meters(told: Sequence[RatedLine]) -> dict[str, _Change]:
    """Quantity, amount and the line by meter; a meter's first line tells of it."""
    wanted: dict[str, _Change] = {
        line.meter: (line.quantity, line.amount_nano, line) for line in told
    }
    if len(wanted) < len(told):
        wanted = {}
        for line in told:
            quantity, amount, first = wanted.get(line.meter, (0, 0, line))
            wanted[line.meter] = quantity + line.quantity, amount + line.amount_nano, first
    return wanted


def _differences(
    wanted: Mapping[str, _Change], before: Mapping[str, _Change]
) -> dict[str, _Change]:
    changed: dict[str, _Change] = {}
    for meter in wanted.keys() | before.keys():
        quantity, amount, line = wanted.get(meter, _UNCHANGED)
        quantity_before, amount_before, _ = before.get(meter, _UNCHANGED)
        changed[meter] = quantity - quantity_before, amount - amount_before, line
    return changed


def _lines(
    record: StreamRecord,
    changed: Mapping[str, _Change],
    reported: tuple[datetime, frozenset[str]] | None,
) -> list[Line]:
    """The record's rows, by meter. All that is stored of a line is put together here."""
    customer_id, hold_id, kind = record.customer_id, record.hold_id, record.kind
    day = day_of(record)
    hour, meters = reported or _NOWHERE
    lines: list[Line] = []
    owed = None if record.owed is None else dict(record.owed)
    for meter in sorted(changed.keys() | owed.keys() if owed else changed):
        quantity, amount, line = changed.get(meter, _UNCHANGED)
        owed_nano = None if owed is None else owed.get(meter, 0)
        groups = text_hash = None
        is_told = False
        if line is not None:
            groups = json.dumps(dict(line.groups)) if line.groups else None
            text_hash = line.text_hash or None
            # A query takes a hold's newest line for its groups, so what follows tells them again.
            is_told = line.observed or (groups is not None and kind != EventKind.CAPTURE)
        if quantity or amount or is_told or owed_nano:
            start = hour if quantity and meter in meters else None
            lines.append(
                (
                    customer_id,
                    day,
                    hold_id,
                    kind,
                    meter,
                    quantity,
                    amount,
                    groups,
                    text_hash,
                    owed_nano,
                    start,
                    None,
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
    at = event.occurred_at
    if at.tzinfo is not UTC:
        at = at.astimezone(UTC)
    return at.replace(minute=0, second=0, microsecond=0), meters
