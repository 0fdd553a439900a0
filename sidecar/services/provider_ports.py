"""
What a billing provider can do, in small Protocols; a provider is one module that has some of them.

Quantities go through `control_ports.MeterReporter`, payments for credit through
`top_ups.TopUpProvider`, closed invoices through `InvoiceCollector`. `docs/providers.md` says
how to attach another.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from sidecar.domain.collecting import CollectOutcome, CollectWay

NoteProviderReference = Callable[[str], Awaitable[None]]
"""
Stores the provider's own name of what was made for a demand, before it can take money.

Raises Conflict if another worker has this invoice by now, or has noted another name: then the
collector must stop and must not make live what it has made.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Payer:
    """
    A customer as one provider knows it.

    Args:
        customer_id: Ours.
        provider: Whose the rest is.
        provider_customer_id: The provider's own id, "" if none is needed or known.
        email: Where the provider writes to; personal data.
        authorization_code: A saved card's code, "" if there is none. It works like a secret:
            whoever has it and the provider's key can charge the card. Never logged or shown.
        collect: Whether this provider collects the customer's invoices.
    """

    customer_id: str
    provider: str
    provider_customer_id: str = ""
    email: str = field(default="", repr=False)
    authorization_code: str = field(default="", repr=False)
    collect: bool = False

    @property
    def way(self) -> CollectWay:
        """How a new attempt is made."""
        return CollectWay.CARD if self.authorization_code else CollectWay.INVOICE


@dataclass(frozen=True, slots=True, kw_only=True)
class DemandLine:
    """A line for people, in the provider's minor units."""

    text: str
    amount_minor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """
    A closed invoice to be collected: one attempt.

    Args:
        invoice_id, number: Ours; the number is for people.
        reference: Names this attempt; the same at each try. Letters, digits, hyphens.
        way: How this attempt is made.
        currency, amount_minor: What is due, above zero, in the provider's minor units.
        lines: Of the invoice. They sum up to the amount, or there are none.
        due_at: When it is due, None if at once.
        payer: Who pays.
        retried: Something may have been sent under this reference before.
        provider_reference: What was noted for this attempt, "" if nothing was.
    """

    invoice_id: str
    number: str
    reference: str
    way: CollectWay
    currency: str
    amount_minor: int
    payer: Payer
    lines: tuple[DemandLine, ...] = ()
    due_at: datetime | None = None
    retried: bool = False
    provider_reference: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectAnswer:
    """
    What became of a reference.

    Args:
        outcome: As the provider says it.
        provider_reference: The provider's own name of it, "" if it gave none.
        detail: For people; bounded, without secrets and personal data.
        wait: How long the provider asks to be left alone, None if it does not say.
    """

    outcome: CollectOutcome
    provider_reference: str = ""
    detail: str = ""
    wait: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectCapabilities:
    """
    What a collector can take; what it cannot is refused before anything is sent.

    Args:
        currencies: By way; a way that is missing is not offered.
        lines_max: Lines of one invoice; with more, one line stands for all.
    """

    currencies: dict[CollectWay, frozenset[str]]
    lines_max: int = 100


class InvoiceCollector(Protocol):
    """
    Collects closed invoices.

    Both calls are one attempt each, without retries inside, and end within the time that their
    maker was given. Neither raises for what the provider says or does not say: that is
    CollectOutcome.UNKNOWN. Both may be repeated with the same demand, from several processes.
    """

    @property
    def capabilities(self) -> CollectCapabilities:
        """What it can take."""

    async def collect(self, demand: Demand, note: NoteProviderReference) -> CollectAnswer:
        """
        Ask for the payment; the same reference is the same payment.

        A provider without keys of its own for repeats makes a draft first, notes it, and only
        then makes it live.

        Raises:
            Conflict: From `note`; nothing was made live.
            StoreUnavailable: From `note`; nothing was made live.
        """

    async def verify(self, demand: Demand) -> CollectAnswer:
        """
        Ask what became of a reference; changes nothing.

        ABSENT also says "it can only be told by sending it again": the webhook provider's way.
        """


class Payers(Protocol):
    """Customers as providers know them: of record."""

    async def put(self, payer: Payer, *, keep_authorization: bool) -> Payer:
        """
        Set what one provider knows.

        Args:
            payer: All of it.
            keep_authorization: The stored code stays, and the payer's own is not looked at.

        Raises:
            NotFound: Unknown customer.
            Conflict: Another provider collects this customer's invoices.
        """

    async def read(self, customer_id: str, provider: str) -> Payer | None:
        """What one provider knows."""

    async def list(self, customer_id: str) -> list[Payer]:
        """By provider."""

    async def delete(self, customer_id: str, provider: str) -> bool:
        """Whether there was something."""
