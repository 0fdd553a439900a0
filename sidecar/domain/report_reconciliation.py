"""
Whether a provider's sums are what was reported to it, and what mends a difference.

A difference is mended only where what we did explains it: a row that was not counted is sent again,
a row that was counted twice under two names is taken back. Whatever explains the numbers makes the
sum right, so it does not matter which of two equal rows it was. What nothing explains is left to
people.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

EXACT_MAX: Final = 2**53
"""Providers tell sums as floats; up to here each whole number has its own."""
_SUMS_MAX: Final = 20_000
_TWOS_MAX: Final = 10_000
_THREES_MAX: Final = 300
"""Places at which choices of two, and of three, may begin: some ten milliseconds of search."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedRow:
    """
    A quantity that was sent, in the meter's unit; a correction's may be negative.

    Args:
        row_id: Its number.
        hour: Start of the UTC hour that it belongs to.
        quantity: What the provider was told.
        sure: Whether the provider has said that it took it.
        copies: How often it was sent under another name before.
        cancellable: Whether the provider still takes a cancellation of its present name.
        correction: Whether it is no usage, but balances what the provider has counted wrongly.
    """

    row_id: int
    hour: datetime
    quantity: int
    sure: bool = True
    copies: int = 0
    cancellable: bool = False
    correction: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HourVerdict:
    """
    What mends one hour: rows by number, and a correction by quantity.

    `explained` is False where nothing that we did leads to what was found.
    """

    hour: datetime
    expected: int
    found: Decimal
    confirm: tuple[int, ...] = ()
    resend: tuple[int, ...] = ()
    cancel: tuple[int, ...] = ()
    correct: int = 0
    explained: bool = True

    @property
    def same(self) -> bool:
        """Whether the sums agree, so that nothing but doubt is to be mended."""
        return self.explained and not (self.resend or self.cancel or self.correct)


def expected_sum(rows: Iterable[ReportedRow]) -> int:
    """What was used, which the provider should say; it never says less than zero."""
    return max(0, _used(rows))


def agrees(rows: Sequence[ReportedRow], found: Decimal) -> bool:
    """Whether a sum over all rows is found as it should be, and can be told exactly."""
    expected = expected_sum(rows)
    return expected <= EXACT_MAX and found == expected


def judge_hours(
    rows: Iterable[ReportedRow], found: Mapping[datetime, Decimal]
) -> list[HourVerdict]:
    """Judge each hour that has rows, or that the provider has a sum of."""
    by_hour: dict[datetime, list[ReportedRow]] = {hour: [] for hour in found}
    for row in rows:
        by_hour.setdefault(row.hour, []).append(row)
    return [
        judge_hour(hour, by_hour[hour], found.get(hour, Decimal(0))) for hour in sorted(by_hour)
    ]


def judge_hour(hour: datetime, rows: Sequence[ReportedRow], found: Decimal) -> HourVerdict:
    """
    What mends one hour.

    Args:
        hour: Its start.
        rows: All that were sent for it. None is in flight, none younger than the provider's lag.
        found: The provider's sum.
    """
    total = _used(rows)
    expected = max(0, total)
    unsure = tuple(row.row_id for row in rows if not row.sure)
    if expected > EXACT_MAX or found > EXACT_MAX or found != found.to_integral_value():
        return HourVerdict(hour=hour, expected=expected, found=found, explained=False)
    if found == expected:
        return HourVerdict(hour=hour, expected=expected, found=found, confirm=unsure)
    # Doubtful rows first: they are the likelier to be missing.
    ordered = sorted(rows, key=lambda row: row.sure)
    missing = pick([row.quantity for row in ordered], total - int(found))
    if missing is not None:
        resend = tuple(ordered[place].row_id for place in missing)
        return HourVerdict(
            hour=hour,
            expected=expected,
            found=found,
            resend=resend,
            confirm=tuple(number for number in unsure if number not in resend),
        )
    return _judge_excess(hour, rows, found, unsure)


def _judge_excess(
    hour: datetime, rows: Sequence[ReportedRow], found: Decimal, unsure: tuple[int, ...]
) -> HourVerdict:
    """More was counted than was used: names that a row had before may have counted, too."""
    total = _used(rows)
    expected = max(0, total)
    # A row's present name can be cancelled once; its other copies only balanced.
    copies = [
        (row, copy == 0 and row.cancellable)
        for row in rows
        for copy in range(row.copies)
        if row.quantity > 0
    ]
    copies.sort(key=lambda item: not item[1])
    twice = pick([row.quantity for row, _ in copies], int(found) - total)
    if twice is None:
        return HourVerdict(hour=hour, expected=expected, found=found, explained=False)
    chosen = [copies[place] for place in twice]
    return HourVerdict(
        hour=hour,
        expected=expected,
        found=found,
        confirm=unsure,
        cancel=tuple(row.row_id for row, cancellable in chosen if cancellable),
        correct=-sum(row.quantity for row, cancellable in chosen if not cancellable),
    )


def _used(rows: Iterable[ReportedRow]) -> int:
    """
    The usage among the rows.

    A correction and what it balances come to nothing together, so while both are counted neither
    is to be seen in the provider's sum.
    """
    return sum(row.quantity for row in rows if not row.correction)


def pick(quantities: Sequence[int], wanted: int) -> tuple[int, ...] | None:
    """
    Places whose quantities sum to `wanted`, those of the earliest places that do.

    Where places have too many sums for all of them to be looked at, one, two or three places.

    Returns:
        At least one place; None if there is no such choice, or none that is looked at.
    """
    sums: dict[int, int] = {}
    for place, quantity in enumerate(quantities):
        for known, mask in [(0, 0), *sums.items()]:
            sums.setdefault(known + quantity, mask | 1 << place)
        if wanted in sums:
            chosen = sums[wanted]
            return tuple(place for place in range(len(quantities)) if chosen >> place & 1)
        if len(sums) > _SUMS_MAX:
            return _pick_few(quantities, wanted)
    return None


def _pick_few(quantities: Sequence[int], wanted: int) -> tuple[int, ...] | None:
    """Up to three places, as few as will do: most often a single row was lost."""
    if wanted in quantities:
        return (quantities.index(wanted),)
    last = {quantity: place for place, quantity in enumerate(quantities)}
    if (two := _pick_two(quantities, wanted, last, range(_TWOS_MAX))) is not None:
        return two
    for place, quantity in enumerate(quantities[:_THREES_MAX]):
        begins = range(place + 1, _THREES_MAX)
        if (two := _pick_two(quantities, wanted - quantity, last, begins)) is not None:
            return (place, *two)
    return None


def _pick_two(
    quantities: Sequence[int], wanted: int, last: Mapping[int, int], begins: range
) -> tuple[int, int] | None:
    """Two places, the first of them one of `begins`; `last` is where each quantity stands last."""
    for place in begins[: max(0, len(quantities) - begins.start)]:
        other = last.get(wanted - quantities[place], -1)
        if other > place:
            return place, other
    return None
