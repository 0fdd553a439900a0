"""Objects as their provider has them now, and the port that reads them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from sidecar.domain.periods import Period
from sidecar.domain.standing import InvoiceState
from sidecar.services.inbox_ports import ObjectKind, ReceivedEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedInvoice:
    """
    An invoice at its provider; amounts in minor units of `currency` (upper case).

    `outside_minor` is what was paid outside of the provider. `net_minor` is the total without tax.
    `cycle` is the period whose usage a subscription's regular invoice is for. `subscribed` is an
    invoice of a subscription, `collected` one that we have made of an invoice of ours: of others
    nothing is known that would say what they are for.
    """

    invoice_id: str
    provider_customer_id: str
    state: InvoiceState
    currency: str
    amount_due_minor: int
    amount_paid_minor: int
    due_at: datetime | None
    attempts: int
    livemode: bool
    payment_id: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    cycle: Period | None = None
    outside_minor: int = 0
    total_minor: int = 0
    net_minor: int = 0
    subscribed: bool = False
    collected: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedSubscription:
    """
    A subscription; `prices` are the ids, lookup keys and products of what it is for.

    `plans` are those that the catalog has written on its prices, each once. `currency` is upper
    case, "" where it is not told.
    """

    subscription_id: str
    provider_customer_id: str
    status: str
    prices: tuple[str, ...]
    livemode: bool
    plans: tuple[str, ...] = ()
    currency: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedRefund:
    """Money that was given back; it is gone once it has succeeded."""

    refund_id: str
    amount_minor: int
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedDispute:
    """Money that the bank has taken back, or may; `won` says that it came back to us."""

    dispute_id: str
    amount_minor: int
    status: str
    taken: bool
    won: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedPayment:
    """
    A payment with all that hangs on it.

    `credit_minor` is what it bought, without tax. `metadata` is that of the payment, its checkout
    session and its invoice together. `for_usage` says that its invoice is of a subscription, or
    one that we have made of an invoice of ours.
    """

    payment_id: str
    provider_customer_id: str
    invoice_id: str
    currency: str
    paid: bool
    amount_minor: int
    credit_minor: int
    livemode: bool
    metadata: Mapping[str, str] = field(default_factory=dict)
    for_usage: bool = False
    refunds: tuple[FetchedRefund, ...] = ()
    disputes: tuple[FetchedDispute, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterError:
    """A rejected meter event: `identifier` is the event's, or the HTTP key it was sent under."""

    identifier: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectPage:
    """A page of a list; `next_cursor` is None after the last."""

    invoices: tuple[FetchedInvoice, ...] = ()
    events: tuple[ReceivedEvent, ...] = ()
    next_cursor: str | None = None


class ProviderObjects(Protocol):
    """
    Reads of a provider's objects; each is None for one that does not exist.

    Raises StoreUnavailable where there is no answer that can be read, and ProviderRefused where
    the key may not read it.
    """

    provider: str
    livemode: bool | None
    """The mode of the key that reads; None if it does not tell."""
    costs: Mapping[ObjectKind, int]
    """The most reads that fetching one takes, with what is fetched because of it; else one."""

    async def fetch_invoice(self, invoice_id: str) -> FetchedInvoice | None:
        """One invoice."""

    async def fetch_subscription(self, subscription_id: str) -> FetchedSubscription | None:
        """One subscription."""

    async def fetch_payment(self, payment_id: str) -> FetchedPayment | None:
        """One payment with its refunds and disputes."""

    async def fetch_meter_errors(self, event_id: str) -> Sequence[MeterError] | None:
        """What a report of errors names."""

    async def list_open_invoices(self, cursor: str | None) -> ObjectPage:
        """A page of the invoices that are open now."""

    async def list_events(self, cursor: str | None, *, since: datetime) -> ObjectPage:
        """A page of the events since an instant, the newest first."""
