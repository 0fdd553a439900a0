"""
Ports of the inbox: what comes in from billing providers, and what is read back from them.

A webhook is a hint that an object has changed and no more: the object is fetched again, so that
neither the order of webhooks nor how often each comes decides anything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from sidecar.domain.errors import InvalidInput
from sidecar.domain.notices import Notice
from sidecar.domain.payment_postings import PaymentPosting
from sidecar.domain.standing import InvoiceState

EVENT_ID_CHARS_MAX = 255
OBJECT_ID_CHARS_MAX = 120
"""With provider and kind in front it is an id in a path of the API."""


class ObjectKind(StrEnum):
    """What is fetched again; everything about one payment is fetched by the payment."""

    INVOICE = "invoice"
    SUBSCRIPTION = "subscription"
    PAYMENT = "payment"
    INVOICE_SUMS = "invoice_sums"
    """What the provider has counted for an invoice's period; the object is the invoice."""
    METER_ERROR = "meter_error"
    """A report of rejected meter events; the object is the event itself."""
    UNREADABLE = "unreadable"
    """Signed by the provider, but not an event that we know how to read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectRef:
    """Names an object at a provider."""

    provider: str
    kind: ObjectKind
    object_id: str

    @property
    def key(self) -> str:
        """As the inbox names it."""
        return f"{self.provider}:{self.kind.value}:{self.object_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedEvent:
    """
    A webhook whose signature holds, without its content.

    `ref` is the object to fetch; None for an event that says nothing to us. `reason` says why an
    object is put aside for people at once.
    """

    provider: str
    event_id: str
    event_type: str
    ref: ObjectRef | None = None
    livemode: bool | None = None
    reason: str = ""


class WebhookRefusal(StrEnum):
    """Why a webhook is not taken in."""

    BAD_SIGNATURE = "bad_signature"
    STALE = "stale"
    """Signed too long ago: a replay. Or in the future, by the provider's clock or ours."""


class WebhookRefused(InvalidInput):
    """The signature does not hold. Never with content in its words."""

    def __init__(self, refusal: WebhookRefusal, detail: str) -> None:
        super().__init__(detail)
        self.refusal = refusal
        self.detail = detail


class WebhookVerifier(Protocol):
    """One provider's webhooks: is it them, and what do they name."""

    provider: str

    def verify(self, headers: Mapping[str, str], body: bytes, now: datetime) -> None:
        """
        Check the signature of the bytes as they came.

        Args:
            headers: By lower-case name; a repeated one is joined by commas.
            body: Never parsed before this has returned.
            now: For signatures that have a time.

        Raises:
            WebhookRefused: It is not the provider, or a replay.
        """

    def parse(self, body: bytes) -> ReceivedEvent:
        """
        What a verified body names; one that cannot be read is UNREADABLE, by its hash.

        Never raises for what the provider says.
        """


class Receipt(StrEnum):
    """What the inbox made of an event."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    IGNORED = "ignored"


class InboxState(StrEnum):
    """States of an object in the inbox."""

    IDLE = "idle"
    """Nothing has come since it was fetched."""
    PENDING = "pending"
    PARKED = "parked"
    """For people: `reason` says why. The next event of it tries again by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxObject:
    """An object in the inbox; `events` counts what asked for it, `attempts` the tries since."""

    ref: ObjectRef
    state: InboxState
    reason: str
    events: int
    attempts: int
    event_type: str
    livemode: bool | None
    wanted_at: datetime
    retry_at: datetime
    handled_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxClaim:
    """
    One worker's time-bounded right to an object.

    `fence` only grows, over all objects: what was fetched under a lower one never overwrites what
    was under a higher. `events` is how often it had been asked for when it was claimed, and
    `types` those of the events among these that are not done.
    """

    ref: ObjectRef
    fence: int
    events: int
    attempts: int
    livemode: bool | None
    types: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceRecord:
    """
    A provider's invoice as it was last fetched; amounts are minor units of `currency`.

    `customer_id` is ours, "" for a customer of the provider's that is nobody's of ours.
    `amount_nano` is what remains in the customer's currency, None where it is in another.
    """

    provider: str
    invoice_id: str
    customer_id: str
    provider_customer_id: str
    state: InvoiceState
    currency: str
    amount_due_minor: int
    amount_nano: int | None
    due_at: datetime | None
    attempts: int
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionRecord:
    """A provider's subscription as it was last fetched; `plan` is ours, "" for none."""

    provider: str
    subscription_id: str
    customer_id: str
    provider_customer_id: str
    status: str
    plan: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentRecord:
    """A payment as it was last fetched: what it pays, and whether its money is held against us."""

    provider: str
    payment_id: str
    customer_id: str
    invoice_id: str
    reference: str
    currency: str
    amount_minor: int
    refunded_minor: int
    disputed: bool
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountCurrency:
    """In which currency a provider bills a customer of its own (upper case)."""

    provider_customer_id: str
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Handled:
    """
    What came of an object: rows to write, what else to fetch, who is to be told of what.

    `postings` are what is to stand in the ledger. `parked` says why people must look at it; the
    rows are written all the same.
    """

    invoice: InvoiceRecord | None = None
    gone_invoice: str = ""
    subscription: SubscriptionRecord | None = None
    gone_subscription: str = ""
    payment: PaymentRecord | None = None
    bills_in: AccountCurrency | None = None
    follow: tuple[ObjectRef, ...] = ()
    notices: tuple[Notice, ...] = ()
    postings: tuple[PaymentPosting, ...] = ()
    parked: str = ""


class Inbox(Protocol):
    """Events, each once; and the objects that they name, each with one worker at a time."""

    async def receive(self, event: ReceivedEvent) -> Receipt:
        """Store an event, and its object as wanted, together; a repeat changes nothing."""

    async def want(self, refs: Sequence[ObjectRef]) -> None:
        """Have objects fetched again without an event."""

    async def claim(
        self,
        owner: str,
        *,
        limit: int,
        lease_seconds: int,
        providers: Sequence[str] | None = None,
    ) -> Sequence[InboxClaim]:
        """
        Lease wanted objects whose time has come, the longest wanted first.

        Of these providers only; None is all. Others wait for a process that can handle them.
        """

    async def finish(self, claim: InboxClaim, handled: Handled) -> Sequence[str] | None:
        """
        Write what was fetched and mark the events that the claim saw as done, in one transaction.

        An event that came since leaves the object wanted.

        Returns:
            Customers whose standing is to be looked at, who are marked; None if the lease was lost:
            then nothing was written.
        """

    async def fail(self, claim: InboxClaim, *, reason: str, retry_in_seconds: float | None) -> None:
        """Try later, or park it (None); no effect if the lease was lost."""

    async def list(
        self, *, state: InboxState | None, after: str, limit: int
    ) -> Sequence[InboxObject]:
        """Objects by key, those after `after`."""

    async def retry(self, key: str) -> InboxObject | None:
        """Want an object now, with its attempts counted anew; None if there is none."""

    async def count(self) -> Mapping[InboxState, int]:
        """How many are pending and parked."""

    async def forget(self, *, older_than_days: int, limit: int) -> int:
        """Delete events that were done so long ago, and idle objects; returns how many."""


class InboxHandler(Protocol):
    """What is made of one provider's objects."""

    async def handle(self, claim: InboxClaim) -> Handled:
        """
        Do what an object asks for; safe to repeat.

        Raises:
            SidecarError: It is tried again later.
        """


class PaymentNews(Protocol):
    """Whoever sent payments off by references."""

    async def hear(self, provider: str, name: str) -> str | None:
        """
        Have a reference asked about at once; nothing else is taken from the news.

        Returns:
            The state of what it pays, None for a name that nothing was sent under.
        """


class ReportErrors(Protocol):
    """Whoever reported what the provider rejected."""

    async def note(self, identifier: str, code: str, detail: str) -> None:
        """Reopen the row of an identifier, or of an HTTP key that begins with it. Repeatable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownCustomer:
    """Our customer behind a provider's."""

    customer_id: str
    currency: str


class ProviderRecords(Protocol):
    """What was fetched before, and whose it is."""

    async def find_customers(
        self, provider: str, provider_customer_id: str
    ) -> Sequence[KnownCustomer]:
        """Our customers behind one of the provider's: none, one, or wrongly several."""

    async def read_customer(self, customer_id: str) -> KnownCustomer | None:
        """Our customer of that id."""

    async def unseen_open_invoices(
        self, provider: str, *, before: datetime, after: str, limit: int
    ) -> Sequence[str]:
        """Ids of invoices that are open as far as we know and were last seen before an instant."""

    async def mark_seen(self, provider: str, invoice_ids: Sequence[str], now: datetime) -> None:
        """Note that the provider lists them as open."""

    async def read_invoices(
        self, provider: str, invoice_ids: Sequence[str]
    ) -> Mapping[str, InvoiceRecord]:
        """Those of the invoices that are known."""

    async def name_payment(
        self, provider: str, payment_id: str, *, customer_id: str, reference: str
    ) -> str:
        """
        The reference that a payment's credit is given under, the first time and ever after.

        It is the one asked for unless another payment has it: then it is the payment's own id.
        """


class ProviderSweeps(Protocol):
    """When the provider was last asked for everything, and how far that came."""

    async def begin(self, provider: str, *, now: datetime) -> "SweepPosition | None":
        """Take the next sweep if it is due and nobody has it; None if not."""

    async def save(self, position: "SweepPosition", *, done: bool, next_at: datetime) -> None:
        """
        Note how far it came, and when it goes on.

        One that is done has covered all events until it began; the next begins there, a while
        before, and with an empty position.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPosition:
    """
    How far a sweep has come: `part` is what it lists, `cursor` where in the list it is.

    It began at `begun_at`, and looks at events since `since`.
    """

    provider: str
    since: datetime
    begun_at: datetime
    part: str = ""
    cursor: str | None = None
