"""Queries of meters: what was used in each window and group, from what settlement stored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Protocol
from zoneinfo import available_timezones

from sidecar.domain.errors import InvalidInput, NotFound
from sidecar.domain.meters import GROUPS_MAX, Aggregation, Meter
from sidecar.domain.periods import CalendarUnit, CalendarWindow, from_epoch_ms
from sidecar.services.ports import Clock, Policies

ROWS_MAX = 10_000
"""Rows of one answer; more are refused, since a cut answer would look like less usage."""
SPAN_DAYS_MAX = 366
SUBJECT = "subject"


class WindowSize(StrEnum):
    """How an answer is cut in time."""

    MINUTE = "MINUTE"
    HOUR = "HOUR"
    DAY = "DAY"
    MONTH = "MONTH"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterQuery:
    """
    What is asked of one meter.

    `subjects` are customer ids; none is all. Without `window_size` the whole span is one window.
    `group_by` may hold "subject" beside what the meter groups by. `filters` keep what has one of
    the values in each named group.
    """

    meter: str
    start: datetime
    end: datetime
    subjects: tuple[str, ...] = ()
    window_size: WindowSize | None = None
    time_zone: str = "UTC"
    group_by: tuple[str, ...] = ()
    filters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredUsage:
    """One window and group as the ledger has it; which number counts is the meter's word."""

    subject: str
    window_start: datetime
    groups: tuple[str, ...]
    total: int
    largest: int
    distinct: int
    newest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterRow:
    """One line of an answer; the window is [start, end)."""

    value: int
    window_start: datetime
    window_end: datetime
    subject: str
    groups: Mapping[str, str]


class MeterUsage(Protocol):
    """Settled usage, by meter."""

    async def query(
        self, query: MeterQuery, groups: Sequence[str], *, groups_max: int, limit: int
    ) -> Sequence[StoredUsage]:
        """
        At most `limit` rows, by window, subject and group.

        Args:
            query: As it was asked.
            groups: What to group by, without "subject".
            groups_max: Distinct groups of a subject and window; later ones join under "other".
            limit: Of rows.

        Raises:
            StoreUnavailable: It may be asked again, perhaps for less.
        """


class MeterQueries:
    """Answers queries about the meters of the policy in force."""

    def __init__(self, usage: MeterUsage, policies: Policies, clock: Clock) -> None:
        """Wire the ports."""
        self._usage = usage
        self._policies = policies
        self._clock = clock

    def meters(self) -> tuple[Meter, ...]:
        """All meters, by name."""
        rules = self._policies.current().meters
        return tuple(sorted((rule.meter for rule in rules), key=lambda meter: meter.name))

    def now(self) -> datetime:
        """The instant that an open query ends at."""
        return self._clock.now()

    async def query(self, query: MeterQuery) -> tuple[Meter, list[MeterRow]]:
        """
        What a meter counted.

        Raises:
            NotFound: The policy has no such meter.
            InvalidInput: The query asks for what the meter does not tell, or for too much.
            StoreUnavailable: Ask again.
        """
        meter = next((meter for meter in self.meters() if meter.name == query.meter), None)
        if meter is None:
            raise NotFound(f"no meter {query.meter!r}")
        _check(query, meter)
        groups = [name for name in query.group_by if name != SUBJECT]
        found = await self._usage.query(query, groups, groups_max=GROUPS_MAX, limit=ROWS_MAX + 1)
        if len(found) > ROWS_MAX:
            raise InvalidInput(
                f"the answer has more than {ROWS_MAX} rows; ask for a shorter span, longer "
                "windows, fewer groups or fewer subjects",
                field="windowSize",
            )
        rows = []
        for stored in found:
            start, end = _window(query, stored.window_start)
            rows.append(
                MeterRow(
                    value=_value(meter.aggregation, stored),
                    window_start=start,
                    window_end=end,
                    subject=stored.subject,
                    groups=dict(zip(groups, stored.groups, strict=True)),
                )
            )
        return meter, rows


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def _check(query: MeterQuery, meter: Meter) -> None:
    if query.start >= query.end:
        raise InvalidInput("from must lie before to", field="from")
    if query.end - query.start > timedelta(days=SPAN_DAYS_MAX):
        raise InvalidInput(f"a query spans at most {SPAN_DAYS_MAX} days", field="from")
    if query.time_zone not in _zones():
        raise InvalidInput(
            "windowTimeZone must be an IANA time zone such as UTC or Europe/Berlin",
            field="windowTimeZone",
        )
    allowed = (SUBJECT, *meter.group_by)
    for field_name, names in (("groupBy", query.group_by), ("filterGroupBy", tuple(query.filters))):
        for name in names:
            if name not in allowed or (field_name == "filterGroupBy" and name == SUBJECT):
                raise InvalidInput(
                    f"meter {meter.name} is not grouped by {name[:80]!r}; "
                    f"it has: {', '.join(allowed if field_name == 'groupBy' else meter.group_by)}",
                    field=field_name,
                )


def _value(aggregation: Aggregation, stored: StoredUsage) -> int:
    match aggregation:
        case Aggregation.SUM | Aggregation.COUNT:
            return stored.total
        case Aggregation.MAX:
            return stored.largest
        case Aggregation.UNIQUE:
            return stored.distinct
        case Aggregation.LATEST:
            return stored.newest


def _window(query: MeterQuery, start: datetime) -> tuple[datetime, datetime]:
    if query.window_size is None:
        return query.start, query.end
    if query.window_size is WindowSize.MINUTE:
        return start, start + timedelta(minutes=1)
    unit = CalendarUnit(query.window_size.value.lower())
    period = CalendarWindow(unit=unit, tz=query.time_zone).at(start)
    return from_epoch_ms(period.start_ms), from_epoch_ms(period.end_ms)
