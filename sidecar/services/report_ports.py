"""Ports of reports beyond sending them: rows on record, the provider's own sums, read budgets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Protocol

from sidecar.domain.errors import SidecarError
from sidecar.services.control_ports import ReportState


class ReportErrors(Protocol):
    """Takes what a provider says about a report after it had accepted it."""

    async def note(self, identifier: str, code: str, detail: str = "") -> None:
        """
        Note an asynchronous error: the event was not counted. Safe to repeat.

        Args:
            identifier: The event's, or the HTTP key that begins with it: whichever is named.
            code: The provider's own.
            detail: Words for people, without any secret.

        Raises:
            StoreUnavailable: Repeat it.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """
    A quantity to report and how far it has come. `identifier` is None while it is open.

    `kind` is usage or correction; `uncounted` says that the provider is known not to have counted
    it under its present identifier.
    """

    number: int
    customer_id: str
    provider: str
    provider_customer_id: str
    meter: str
    window_start: datetime
    seq: int
    kind: str
    quantity: int
    state: ReportState
    identifier: str | None
    attempts: int
    error_code: str
    uncounted: bool
    opened_at: datetime
    sealed_at: datetime | None
    event_at: datetime | None
    first_attempt_at: datetime | None
    next_attempt_at: datetime | None
    finished_at: datetime | None
    detail: str


class SettlementRecord(Protocol):
    """Quantities to report, for people."""

    async def list(
        self, *, customer_id: str, state: ReportState | None, after: int, limit: int
    ) -> Sequence[Settlement]:
        """By number; of all customers if `customer_id` is empty."""

    async def read(self, number: int) -> Settlement | None:
        """One."""

    async def reopen(self, settlement: Settlement) -> bool:
        """Send it again under its next name; False if it is no longer as it was read."""

    async def note_error(self, identifier: str, *, code: str, detail: str) -> bool:
        """Mark a row as accepted and not counted; False if no row has that name now."""


class Outcome(StrEnum):
    """What a comparison came to."""

    SAME = "same"
    WAITING = "waiting"
    """Something is in flight or young, or differs for the first time: it is read again."""
    MENDED = "mended"
    UNEXPLAINED = "unexplained"
    """Nothing that we did leads to what the provider says: people are to look."""
    UNREADABLE = "unreadable"
    """The provider's sums cannot be had or compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """A customer's meter."""

    customer_id: str
    meter: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SentRow:
    """A row of a lane as a comparison sees it."""

    row_id: int
    kind: str
    window_start: datetime
    quantity: int
    state: ReportState
    retry_number: int
    attempts: int
    tries: int
    uncounted: bool
    error_code: str
    identifier: str
    provider_customer_id: str
    finished_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """What the last comparison of a lane's period [start, end) said, and what has been mended."""

    customer_id: str
    meter: str
    period_start: datetime
    period_end: datetime
    outcome: Outcome
    expected: int
    found: Decimal | None = None
    confirmed: int = 0
    resent: int = 0
    cancelled: int = 0
    corrected: int = 0
    detail: str = ""
    evidence: str = ""
    read_at: datetime | None = None
    acted_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mending:
    """What is done on record about a difference; corrections are by hour, in the meter's unit."""

    confirm: Sequence[SentRow] = ()
    resend: Sequence[SentRow] = ()
    corrections: Mapping[datetime, int] | None = None
    provider_customer_id: str = ""


class ReconciliationRecord(Protocol):
    """Lanes, their rows, and what comparisons said; may raise StoreUnavailable."""

    async def claim_lanes(self, *, before: datetime, now: datetime, limit: int) -> Sequence[Lane]:
        """Lanes whose last turn was before an instant, the longest first; it is now from here."""

    async def lanes_of(self, customer_id: str, *, limit: int) -> Sequence[Lane]:
        """A customer's lanes."""

    async def look_again(self, lane: Lane, *, at: datetime) -> None:
        """Count the lane's last turn as of an instant."""

    async def rows(
        self, lane: Lane, start: datetime, end: datetime, *, limit: int
    ) -> Sequence[SentRow]:
        """Rows of windows that begin in [start, end), open ones left out."""

    async def read(self, lane: Lane, period_start: datetime) -> Reconciliation | None:
        """What the last comparison said."""

    async def list(
        self, *, customer_id: str, outcome: Outcome | None, limit: int
    ) -> Sequence[Reconciliation]:
        """The newest first."""

    async def put(self, result: Reconciliation, mending: Mending, *, acts: bool) -> None:
        """Keep a result and do what it says on record, together; counts add up."""

    async def note_cancel_refused(self, row: SentRow, customer_id: str, *, detail: str) -> None:
        """The provider does not cancel it: it is to be balanced instead."""


class BudgetSpent(SidecarError):  # noqa: N818
    """The provider's reads of this month, or of this run, are used up."""


class ReadBudget(Protocol):
    """Counts reads of a provider."""

    async def take(self) -> None:
        """Take one read, before it is made. Raises BudgetSpent, StoreUnavailable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderMeter:
    """A meter at the provider."""

    meter_id: str
    active: bool


class MeterSums(Protocol):
    """What a provider says it has counted. Each read is taken off the budget."""

    async def find_meter(self, event_name: str) -> ProviderMeter | None:
        """The meter that takes these events; its archived one if there is no other."""

    async def total(
        self, meter: ProviderMeter, provider_customer_id: str, start: datetime, end: datetime
    ) -> Decimal:
        """The sum over [start, end), on whole minutes. Raises ProviderRefused."""

    async def by_hour(
        self, meter: ProviderMeter, provider_customer_id: str, start: datetime, end: datetime
    ) -> Mapping[datetime, Decimal]:
        """The sums of the hours that have any. Raises ProviderRefused."""

    async def cancel(self, event_name: str, identifier: str) -> None:
        """Take an event back. Raises ProviderRefused, StoreUnavailable."""


class PeriodSums(Protocol):
    """Whoever compares what was reported with what the provider has counted."""

    async def compare(self, customer_id: str, start: datetime, end: datetime) -> None:
        """Compare a customer's meters over [start, end), and keep what is found. Repeatable."""
