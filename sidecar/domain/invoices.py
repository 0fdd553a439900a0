"""
Invoices: what a customer's settled usage of a period comes to, line by line.

Amounts were decided when usage was captured; an invoice adds them up and checks them against the
price of the total, but never decides them again. Amounts are nano, minor units the provider's.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from sidecar.domain.errors import InvalidInput
from sidecar.domain.minor_units import WEBHOOK, Rounding, minor_unit
from sidecar.domain.periods import CalendarUnit, CalendarWindow, Period
from sidecar.domain.pricing import RateCard
from sidecar.domain.windows import AnchoredWindow

PRICE_MONTH = CalendarWindow(unit=CalendarUnit.MONTH)
"""A running total is that of a calendar month (UTC), whatever the period of the invoice."""
LINE_ROUNDING = Rounding.HALF_UP


class InvoiceState(StrEnum):
    """
    A preview is kept nowhere. A draft's usage is settled for good; closing gives the number.

    What is void keeps its number and its lines, and nothing of it is owed.
    """

    PREVIEW = "preview"
    DRAFT = "draft"
    CLOSED = "closed"
    VOID = "void"


class LatePolicy(StrEnum):
    """Where postpaid usage goes that was posted after its period was cut."""

    NEXT_PERIOD = "next_period"
    INVOICE_ITEM = "invoice_item"
    """To an invoice of its own, for the period that was closed last."""
    WRITE_OFF = "write_off"


@dataclass(frozen=True, slots=True, kw_only=True)
class LateRule:
    """Where late usage of each plan's customers goes; `default` where a plan does not say."""

    default: LatePolicy = LatePolicy.NEXT_PERIOD
    plans: Mapping[str, LatePolicy] = field(default_factory=dict)

    def of(self, plan: str) -> LatePolicy:
        """The plan's, which may be in no policy."""
        return self.plans.get(plan, self.default)

    def plans_with(self, policy: LatePolicy) -> tuple[list[str], bool]:
        """The plans that a policy is for; with True: all but those."""
        all_but = policy is self.default
        return [plan for plan, own in self.plans.items() if (own is policy) is not all_but], all_but


class FindingKind(StrEnum):
    """What people should look at on an invoice; nothing of it is mended silently."""

    AMOUNT_DIFFERS = "amount_differs"
    """What was captured is not the price of the total."""
    CORRECTED_TOTAL = "corrected_total"
    """The same where corrections took usage from one price line to another, which explains it."""
    UNPRICED_AMOUNT = "unpriced_amount"
    """Usage without a price line has an amount."""
    LATE_CHARGE = "late_charge"
    """Usage of a price that the period's end decides came late, and nobody knows its period."""
    LATE_WRITTEN_OFF = "late_written_off"
    """What late usage would have raised prices of a period's end by, and is not asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What differs, in nano, and on which line; 0 is none of them."""

    kind: FindingKind
    line_number: int
    captured_nano: int
    expected_nano: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UsagePart:
    """
    Usage that was added up: by month of the running total, version, meter and model.

    `late` is what was posted after its period was cut; `corrections` how many of `events` are.
    `owed_nano` is what of prepaid usage credit did not pay, where the plan invoices that.
    """

    late: bool
    month: datetime
    price_version: str
    meter: str
    model: str
    prepaid: bool
    events: int
    corrections: int
    quantity: int
    amount_nano: int
    owed_nano: int = 0

    @property
    def credit_nano(self) -> int:
        """What credit paid of it."""
        return self.amount_nano - self.owed_nano if self.prepaid else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """
    An amount that the period's end decides, of a line of a card, for a quantity.

    One that is `late` is what usage that came late changed of it, of either sign; `period` is then
    the one that the usage is of (None: that of the invoice).
    """

    card: RateCard
    index: int
    quantity: int
    amount_nano: int
    period: Period | None = None
    late: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceLine:
    """
    One line. `credit_nano` of the amount was paid from credit, the rest is due.

    `price` is the content of the price line at `price_version`, empty of usage without a price.
    `charge` marks what the period's end decided rather than captures.
    """

    number: int
    meter: str
    models: tuple[str, ...]
    plan: str
    price_version: str
    price: Mapping[str, object]
    period: Period
    events: int
    quantity: int
    amount_nano: int
    credit_nano: int
    amount_minor: int
    due_minor: int
    rounding: Rounding = LINE_ROUNDING
    charge: bool = False
    late: bool = False

    @property
    def due_nano(self) -> int:
        """What of it credit did not pay."""
        return self.amount_nano - self.credit_nano


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What an invoice says: lines, the parts that each was added up from, findings and sums."""

    lines: tuple[InvoiceLine, ...]
    parts: tuple[tuple[int, UsagePart], ...]
    """With the number of its line."""
    findings: tuple[Finding, ...]

    @property
    def total_nano(self) -> int:
        """All lines."""
        return sum(line.amount_nano for line in self.lines)

    @property
    def credit_nano(self) -> int:
        """What credit paid of them."""
        return sum(line.credit_nano for line in self.lines)

    @property
    def charged_nano(self) -> int:
        """What the period's end decided, which no capture has posted."""
        return sum(line.amount_nano for line in self.lines if line.charge)

    @property
    def lines_due_minor(self) -> int:
        """What is due of the lines, each rounded once."""
        return sum(line.due_minor for line in self.lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoice:
    """
    An invoice's head. `overage_nano` of the credit was not there: later grants pay it.

    `carried_nano` (0 or less) is what invoices before owed the customer; due is never below 0,
    what is left goes on to the next one.
    """

    invoice_id: str
    customer_id: str
    currency: str
    sequence: int
    period: Period
    state: InvoiceState
    provider: str
    number: int | None = None
    total_nano: int = 0
    credit_nano: int = 0
    overage_nano: int = 0
    carried_nano: int = 0
    carried_minor: int = 0
    due_nano: int = 0
    due_minor: int = 0
    charged_nano: int = 0
    credited_nano: int = 0
    findings: tuple[Finding, ...] = ()
    cut_at: datetime | None = None
    closed_at: datetime | None = None
    voided_at: datetime | None = None
    lines: tuple[InvoiceLine, ...] = ()

    @property
    def number_text(self) -> str | None:
        """The number for people: without gaps for each customer, unique in an installation."""
        return None if self.number is None else f"{self.customer_id}-{self.number:04d}"


def billing_window(anchor: datetime | None) -> CalendarWindow | AnchoredWindow:
    """Invoice periods: calendar months in UTC, or months from an anchor with its day clamped."""
    if anchor is None:
        return CalendarWindow(unit=CalendarUnit.MONTH)
    return AnchoredWindow(anchor=anchor, unit=CalendarUnit.MONTH)


def period_from(start: datetime, anchor: datetime | None) -> Period:
    """The period that begins at an instant: up to the next edge, however short."""
    return Period(start=start, end=billing_window(anchor).at(start).end)


def invoice_id_of(customer_id: str, currency: str, start: datetime, sequence: int) -> str:
    """The id of the one invoice of a customer, currency, period and sequence: always the same."""
    told = json.dumps([customer_id, currency, start.isoformat(), sequence])
    return f"inv_{hashlib.sha256(told.encode()).hexdigest()[:24]}"


def provider_of(currency: str, provider: str) -> str:
    """The provider in whose minor units an invoice is rounded: ours where it takes no such one."""
    try:
        minor_unit(currency, provider)
    except InvalidInput:
        return WEBHOOK
    return provider


def amounts_due(lines_due: int, carried: int) -> tuple[int, int]:
    """What is due of an invoice, and what goes on to the next one (0 or less)."""
    due = lines_due + carried
    return max(0, due), min(0, due)
