"""Bodies and answers about what is reported to the billing provider."""

from typing import Annotated

from pydantic import Field

from sidecar.inbound.http.field_types import (
    CustomerId,
    Instant,
    PageLimit,
    QueryModel,
    ResponseModel,
)
from sidecar.services.control_ports import ReportState
from sidecar.services.report_ports import Outcome, Reconciliation, Settlement

_PAGE_DEFAULT = 50

SettlementCursor = Annotated[
    str,
    Field(pattern=r"^[1-9][0-9]{0,17}$", description="`next` of the page before, a number."),
]
Quantity = Annotated[int, Field(description="In the meter's unit; a correction's may be negative.")]


class SettlementsQuery(QueryModel):
    """Which page of settlements."""

    customer_id: CustomerId | None = None
    state: ReportState | None = None
    limit: PageLimit = _PAGE_DEFAULT
    after: SettlementCursor | None = None


class ReconciliationsQuery(QueryModel):
    """Which comparisons."""

    customer_id: CustomerId | None = None
    outcome: Outcome | None = None
    limit: PageLimit = _PAGE_DEFAULT


class SettlementAnswer(ResponseModel):
    """
    A quantity to report, and how far it has come.

    `uncounted` says that the provider is known not to have counted it: then a failed one can be
    sent again. `identifier` is null while the window is open.
    """

    number: int
    customer_id: str
    provider: str
    provider_customer_id: str
    meter: str
    window_start: Instant
    kind: str
    quantity: Quantity
    state: ReportState
    identifier: str | None
    attempts: int
    error_code: str
    uncounted: bool
    opened_at: Instant
    event_at: Instant | None
    first_attempt_at: Instant | None
    next_attempt_at: Instant | None
    finished_at: Instant | None
    detail: str

    @classmethod
    def of(cls, settlement: Settlement) -> "SettlementAnswer":
        """From the record."""
        return cls(**{name: getattr(settlement, name) for name in cls.model_fields})


class SettlementPage(ResponseModel):
    """A page of settlements, by number."""

    items: list[SettlementAnswer]
    next: str | None


class ReconciliationAnswer(ResponseModel):
    """
    What the last comparison of a customer's meter and month with the provider's sums said.

    Sums are texts: they may be larger than a JSON number is exact. The counts of what was mended
    are those of all comparisons of the month.
    """

    customer_id: str
    meter: str
    period_start: Instant
    period_end: Instant
    outcome: Outcome
    expected: str
    found: str | None
    confirmed: int
    resent: int
    cancelled: int
    corrected: int
    detail: str
    read_at: Instant | None

    @classmethod
    def of(cls, one: Reconciliation) -> "ReconciliationAnswer":
        """From the record."""
        return cls(
            customer_id=one.customer_id,
            meter=one.meter,
            period_start=one.period_start,
            period_end=one.period_end,
            outcome=one.outcome,
            expected=str(one.expected),
            found=None if one.found is None else format(one.found, "f"),
            confirmed=one.confirmed,
            resent=one.resent,
            cancelled=one.cancelled,
            corrected=one.corrected,
            detail=one.detail,
            read_at=one.read_at,
        )


class ReconciliationList(ResponseModel):
    """The newest first; `more` says that there are others."""

    items: list[ReconciliationAnswer]
    more: bool
