"""
Recurring grants: one for each period of a calendar that starts at an anchor.

An occurrence is a half-open period [start, end): its grant is effective at the start and expires
at the end. A schedule has those that start in [starts_at, ends_at), each to its own end. The
grant of an occurrence has an id that is made of the schedule and the start, so giving it twice
is giving it once.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sidecar.domain.errors import InvalidInput
from sidecar.domain.grants import (
    PRIORITY_DEFAULT,
    GrantKind,
    GrantTerms,
    Rollover,
    check_grant,
)
from sidecar.domain.money import AMOUNT_NANO_MAX
from sidecar.domain.periods import CalendarUnit, Period, to_epoch_ms
from sidecar.domain.windows import AnchoredWindow

SCHEDULE_ID_CHARS_MAX = 200
"""The start stands behind it in the ids of the grants."""
_INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantSchedule:
    """
    What is given, and every how many units from the anchor, in the zone's calendar.

    `rolls_most_nano` 0 is without rollover. `next_start` is the start of the first occurrence
    that has not been issued, None once there is none left; before the schedule is stored it says
    nothing.
    """

    schedule_id: str
    customer_id: str
    amount_nano: int
    currency: str
    unit: CalendarUnit
    anchor: datetime
    starts_at: datetime
    every: int = 1
    tz: str = "UTC"
    ends_at: datetime | None = None
    kind: GrantKind = GrantKind.PAID
    priority: int = PRIORITY_DEFAULT
    meters: tuple[str, ...] = ()
    rolls_least_nano: int = 0
    rolls_most_nano: int = 0
    next_start: datetime | None = None
    created_at: datetime | None = None

    @property
    def ended(self) -> bool:
        """Whether a stored schedule has no occurrence left to issue."""
        return self.next_start is None

    @property
    def window(self) -> AnchoredWindow:
        """Its calendar. Raises InvalidInput for a unit, zone, count or anchor that is none."""
        return AnchoredWindow(anchor=self.anchor, every=self.every, unit=self.unit, tz=self.tz)

    def first_start(self) -> datetime | None:
        """Start of the first occurrence, None if it would be at the schedule's end or later."""
        window = self.window
        period = window.at(self.starts_at)
        start = period.start if period.start == self.starts_at else period.end
        return self._within(start)

    def next_period(self) -> Period | None:
        """The occurrence to issue next."""
        return None if self.next_start is None else self.window.at(self.next_start)

    def start_after(self, occurrence: Period) -> datetime | None:
        """Start of the occurrence that follows, None if the schedule ends before it."""
        return self._within(occurrence.end)

    def due_at(self, start: datetime) -> datetime:
        """
        When the occurrence that starts then is to be issued: as the one before it starts.

        So a grant is known for a whole period before it is needed.
        """
        return self.window.at(start - _INSTANT).start

    def grant_id(self, start: datetime) -> str:
        """The id of the grant of the occurrence that starts then."""
        return f"{self.schedule_id}:{to_epoch_ms(start)}"

    def terms(self, occurrence: Period) -> GrantTerms:
        """What is given for an occurrence; any but the first takes along what may roll over."""
        rollover = None
        if self.rolls_most_nano and occurrence.start != self.first_start():
            rollover = Rollover(
                from_grant_id=self.grant_id(self.due_at(occurrence.start)),
                least_nano=self.rolls_least_nano,
                most_nano=self.rolls_most_nano,
            )
        return GrantTerms(
            grant_id=self.grant_id(occurrence.start),
            amount_nano=self.amount_nano,
            kind=self.kind,
            priority=self.priority,
            effective_at=occurrence.start,
            expires_at=occurrence.end,
            meters=self.meters,
            rollover=rollover,
        )

    def _within(self, start: datetime) -> datetime | None:
        return start if self.ends_at is None or start < self.ends_at else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """What a due schedule gives now (None: all that was due has ended), and where it goes on."""

    terms: GrantTerms | None
    next_start: datetime | None


def issue_next(schedule: GrantSchedule, now: datetime) -> Issue:
    """
    The next occurrence that has not ended.

    Those that ended while nobody was there to issue them are left out: their credit would have
    expired. In constant time, however many they are.
    """
    period = schedule.next_period()
    if period is None:
        return Issue(terms=None, next_start=None)
    if period.end <= now:
        period = schedule.window.at(now)
        if schedule.ends_at is not None and period.start >= schedule.ends_at:
            return Issue(terms=None, next_start=None)
    return Issue(terms=schedule.terms(period), next_start=schedule.start_after(period))


def check_schedule(schedule: GrantSchedule) -> None:
    """
    Refuse what cannot be given.

    Raises:
        InvalidInput: No such calendar, an end that leaves no occurrence, or grants that could
            not be given; see `check_grant`.
    """
    if not 1 <= len(schedule.schedule_id) <= SCHEDULE_ID_CHARS_MAX:
        raise InvalidInput(
            f"a schedule's id must have 1 to {SCHEDULE_ID_CHARS_MAX} characters", field="id"
        )
    if not 0 <= schedule.rolls_least_nano <= schedule.rolls_most_nano <= AMOUNT_NANO_MAX:
        raise InvalidInput("rollover needs 0 <= min <= max", field="rollover")
    start = schedule.first_start()
    if start is None:
        raise InvalidInput("ends_at leaves no occurrence", field="ends_at")
    check_grant(schedule.terms(schedule.window.at(start)), start)
