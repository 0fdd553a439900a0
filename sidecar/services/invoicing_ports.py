"""Ports of invoicing: the record of invoices, and what it tells of a customer's place in it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from sidecar.domain.invoice_content import MonthTotal, TotalKey
from sidecar.domain.invoices import (
    Content,
    Invoice,
    InvoiceState,
    LatePolicy,
    UsagePart,
)
from sidecar.domain.periods import Period
from sidecar.domain.plan_history import PlanStart

PeriodOf = Callable[[datetime], Period]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """
    Up to where a customer's usage is on invoices, and the period that runs from there.

    `provider` is whose minor units the customer's invoices are in.
    """

    customer_id: str
    currency: str
    plan: str
    provider: str
    anchor: datetime | None
    closed_until: datetime
    period_end: datetime

    @property
    def period(self) -> Period:
        """The period that is not cut yet."""
        return Period(start=self.closed_until, end=self.period_end)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """
    A period to be cut: its invoice, and where the next period ends.

    With `late` next_period the late usage that waits goes on the invoice too; else only what
    is prepaid or does not raise it, of which invoice_item leaves out what a period's end prices.
    """

    cursor: Cursor
    invoice_id: str
    provider: str
    next_end: datetime
    late: LatePolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An invoice whose usage is settled for good. A preview has no `invoice_id`."""

    invoice_id: str | None
    customer_id: str
    currency: str
    plan: str
    provider: str
    sequence: int
    period: Period


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """A draft with what it comes to; `overage_nano` is what no credit was there for."""

    draft: Draft
    content: Content
    overage_nano: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditNoteLine:
    """What of a line is credited, in nano."""

    line_number: int
    amount_nano: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditNote:
    """
    What is not owed any more of an invoice; `void` is all that is left of it.

    An intent until `posted_at`. `amount_nano` 0 of a void that is asked for: the store fills in.
    """

    credit_note_id: str
    customer_id: str
    invoice_id: str
    amount_nano: int
    reason: str = ""
    void: bool = False
    lines: tuple[CreditNoteLine, ...] = ()
    currency: str = ""
    amount_minor: int = 0
    created_at: datetime | None = None
    posted_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOff:
    """Late usage that is not asked for."""

    write_off_id: str
    customer_id: str
    currency: str
    amount_nano: int
    events: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LineEvent:
    """
    A usage event's part of an invoice line.

    `owed_nano` is what of it credit left to the invoice; None where the plan does not split.
    """

    customer_id: str
    hold_id: str
    kind: str
    meter: str
    model: str
    quantity: int
    amount_nano: int
    owed_nano: int | None
    occurred_at: datetime
    transaction_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedLine:
    """
    Where one meter of one usage event went.

    `window` is the report row's identifier at the provider, `line_number` is None where it is on
    no line: not invoiced yet, written off, or without a price. `owed_nano` is as in LineEvent.
    """

    customer_id: str
    hold_id: str
    kind: str
    meter: str
    model: str
    plan: str
    price_version: str
    quantity: int
    amount_nano: int
    owed_nano: int | None
    currency: str
    prepaid: bool
    late: bool
    occurred_at: datetime
    posted_at: datetime
    transaction_id: str
    chain: int | None
    chain_seq: int | None
    report_identifier: str | None
    report_state: str | None
    invoice_id: str | None
    invoice_state: InvoiceState | None
    number: int | None
    line_number: int | None
    write_off_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceFilter:
    """Which invoices of a list; None is any."""

    customer_id: str | None = None
    state: InvoiceState | None = None
    ends_from: datetime | None = None
    ends_before: datetime | None = None


class InvoiceRecord(Protocol):
    """Invoices of record, for the admin role. May raise StoreUnavailable."""

    async def read_cursor(self, customer_id: str) -> Cursor | None:
        """Where the customer stands; None before the first round of invoicing."""

    async def describe_customer(self, customer_id: str) -> Cursor | None:
        """A cursor as it would be made now, its period empty; None for an unknown customer."""

    async def ask_close(self, customer_id: str, end: datetime) -> bool:
        """Have the period that ends then closed without grace; False if it does not run."""

    async def set_anchor(self, customer_id: str, anchor: datetime | None, end: datetime) -> bool:
        """Where periods begin from now on; `end` is that of the running one."""

    async def sum_usage(self, drafts: Sequence[Draft]) -> list[list[UsagePart]]:
        """The usage of each draft, added up."""

    async def sum_months(
        self, wanted: Sequence[tuple[str, datetime]]
    ) -> dict[str, dict[TotalKey, MonthTotal]]:
        """By customer all usage of months (customer, month's start)."""

    async def plans_within(self, wanted: Sequence[tuple[str, Period]]) -> list[list[PlanStart]]:
        """For each (customer, period) the plan at its start, and those that begin in it."""

    async def late_periods(self, drafts: Sequence[Draft]) -> list[list[Period | None]]:
        """For each draft the periods that its late usage is of; None: one that was never cut."""

    async def sum_periods(self, wanted: Sequence[tuple[Draft, Period]]) -> list[list[UsagePart]]:
        """
        For each (draft, period that was cut) its usage on invoices, added up.

        What is late on this draft is `late`, what is late on others is not.
        """

    async def overage(self, drafts: Sequence[Draft]) -> list[int]:
        """What no credit was there for, of the prepaid usage of each draft."""

    async def read_card(self, version: str) -> str | None:
        """The content of a price version, if it was noted."""

    async def note_cards(self, cards: Mapping[str, str]) -> None:
        """Keep the content of price versions for as long as there are invoices."""

    async def list(
        self, which: InvoiceFilter, *, before: tuple[datetime, str] | None, limit: int
    ) -> Sequence[Invoice]:
        """A page without lines, that which ended last first."""

    async def read(self, invoice_id: str) -> Invoice | None:
        """One invoice with its lines."""

    async def create_credit_note(self, note: CreditNote) -> CreditNote:
        """
        Write an intent down; a repeat finds it again.

        Raises:
            NotFound: Unknown invoice or line.
            Conflict: The invoice is no closed one, has not so much left, or the id differs.
        """

    async def list_credit_notes(self, invoice_id: str, limit: int) -> Sequence[CreditNote]:
        """Of one invoice, the oldest first."""

    async def list_line_events(
        self, invoice: Invoice, line_number: int, *, after: tuple[str, str], limit: int
    ) -> Sequence[LineEvent]:
        """What a line was added up from, by (hold id, kind)."""

    async def trace_hold(self, hold_id: str, customer_id: str | None) -> Sequence[TracedLine]:
        """Every meter of every event of a hold, and where it went."""


class InvoiceBook(InvoiceRecord, Protocol):
    """What invoicing does, in the settlement role. Each step is safe to repeat."""

    async def enroll(
        self,
        shard_of: Callable[[str], int],
        period_of: PeriodOf,
        *,
        now: datetime,
        since: datetime | None,
        limit: int,
    ) -> int:
        """Give customers without one a cursor, from their first usage on."""

    async def due(
        self, *, ended_before: datetime, asked_before: datetime, limit: int, lease: timedelta
    ) -> Sequence[Cursor]:
        """Cursors whose period is over and not being cut, leased."""

    async def offset_of(self, shard: int) -> str:
        """Up to where a shard's stream is settled."""

    async def cut(self, shard: int, cuts: Sequence[Cut]) -> int:
        """
        Settle for good which usage is on the invoices: what is posted later is late.

        Args:
            shard: Of all these customers.
            cuts: Periods that run.
        """

    async def drafts(self, *, limit: int, lease: timedelta) -> Sequence[Draft]:
        """Drafts that nobody is closing, leased."""

    async def close(self, shard: int, closings: Sequence[Closing]) -> int:
        """Number and freeze drafts, and post what they charge; those that are closed are left."""

    async def late_customers(
        self, *, noted_before: datetime, plans: Sequence[str], all_but: bool, limit: int
    ) -> Sequence[Cursor]:
        """Customers on these plans, or on any other, with postpaid late usage that waits."""

    async def cut_late(self, shard: int, cursor: Cursor, period: Period, provider: str) -> bool:
        """Put late usage that waits on an invoice of its own."""

    async def write_off(self, shard: int, customer_id: str, *, limit: int) -> WriteOff | None:
        """Post that late usage that waits is not asked for, at most so many events."""

    async def unposted_credit_notes(self, limit: int) -> Sequence[tuple[str, str]]:
        """(customer, credit note), the oldest first."""

    async def post_credit_note(self, shard: int, customer_id: str, credit_note_id: str) -> bool:
        """Post one; False if it is posted."""


@dataclass(slots=True)
class InvoicingRound:
    """What one round did."""

    enrolled: int = 0
    cut: int = 0
    closed: int = 0
    written_off: int = 0
    credited: int = 0
    waiting: int = 0
    """Drafts whose prices are not known, or shards that are not settled so far."""
    problems: list[str] = field(default_factory=list)

    @property
    def did(self) -> int:
        """How much there was to do."""
        return self.enrolled + self.cut + self.closed + self.written_off + self.credited
