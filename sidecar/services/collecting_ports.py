"""Stores that collecting stands on: what is due, and how far each invoice has come."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from sidecar.domain.collecting import CollectState, CollectStep, CollectWay
from sidecar.services.provider_ports import CollectAnswer


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceLine:
    """A line for people; the minor units are None where they were not rounded for this provider."""

    text: str
    amount_nano: int
    amount_minor: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DueInvoice:
    """
    A closed invoice with something due.

    Args:
        customer_id, invoice_id, number: Ours.
        provider: Whose turn it is to collect.
        currency, due_nano: What is still due, above zero.
        due_minor: The same in the provider's minor units, line by line as the invoice has rounded
            it; None where it was not rounded for this provider.
        due_at: None if at once.
        lines: At most as many as were asked for, none if there are more.
        metered_by: The provider that rates this customer's usage itself, "" if none does.
    """

    customer_id: str
    invoice_id: str
    number: str
    provider: str
    currency: str
    due_nano: int
    due_minor: int | None = None
    due_at: datetime | None = None
    lines: tuple[InvoiceLine, ...] = ()
    metered_by: str = ""


class InvoicesDue(Protocol):
    """Closed invoices, as the ledger's side keeps them."""

    async def due(self, *, limit: int) -> Sequence[DueInvoice]:
        """
        Invoices of customers with a collecting provider that no collection exists for yet.

        Their lines may be left out.
        """

    async def read(self, customer_id: str, invoice_id: str, *, lines_max: int) -> DueInvoice | None:
        """One invoice as it is now; None if nothing is due on it any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """
    How far one invoice has come.

    `claim` counts leases: who holds an older one can write nothing. `tries` counts how often
    the present reference was sent, `unclear` the answers in a row that said nothing clear.
    `amount_minor` and `way` are those of the
    present attempt, fixed when it is first sent.
    """

    customer_id: str
    invoice_id: str
    provider: str
    currency: str
    amount_minor: int
    way: CollectWay
    attempt: int
    attempts_max: int
    reference: str
    state: CollectState
    tries: int
    unclear: int
    provider_reference: str
    detail: str
    claim: int
    next_look_at: datetime | None
    sent_at: datetime | None
    ended_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionAttempt:
    """A reference that was sent, and what became of it: pending, paid, failed, refused."""

    attempt: int
    reference: str
    way: str
    currency: str
    amount_minor: int
    provider_reference: str
    outcome: str
    detail: str
    sent_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCollection:
    """An invoice that is to be collected from now on."""

    customer_id: str
    invoice_id: str
    provider: str
    currency: str
    attempts_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """What is written down before something is sent: amount and way count for a first try only."""

    amount_minor: int
    way: CollectWay


class CollectionRecord(Protocol):
    """Collections of record. Each write checks the claim it was read with."""

    async def adopt(self, new: Sequence[NewCollection]) -> int:
        """Begin to collect; those that exist stay as they are. Returns how many are new."""

    async def claim(
        self, providers: Sequence[str], *, limit: int, lease: timedelta
    ) -> Sequence[Collection]:
        """Lease those that are due, the longest due first; nobody else gets them meanwhile."""

    async def note_try(self, collection: Collection, trying: Try) -> Collection:
        """
        Say that the reference is about to be sent; commits before it is.

        Raises:
            Conflict: The lease was lost.
        """

    async def note_provider_reference(self, collection: Collection, name: str) -> None:
        """
        Keep the provider's own name of this attempt.

        Raises:
            Conflict: The lease was lost, or another name is kept.
        """

    async def finish(
        self,
        collection: Collection,
        answer: CollectAnswer,
        step: CollectStep,
        *,
        next_reference: str,
    ) -> Collection:
        """
        Keep an answer and end the lease.

        Args:
            collection: As it was claimed.
            answer: What became of the reference.
            step: Where it leads.
            next_reference: Of the step's attempt.

        Raises:
            Conflict: The lease was lost.
        """

    async def list(
        self, *, customer_id: str | None, state: CollectState | None, after: str, limit: int
    ) -> Sequence[Collection]:
        """By invoice id, those after `after`."""

    async def read(self, invoice_id: str) -> Collection | None:
        """One invoice's."""

    async def attempts(self, collection: Collection) -> Sequence[CollectionAttempt]:
        """Every reference that was sent for an invoice, in order."""

    async def retry(self, invoice_id: str) -> Collection | None:
        """
        Look at a failed one again at once, with one more attempt allowed.

        The present reference is asked about first. None if there is no failed one.
        """

    async def wake(self, provider: str, name: str) -> str | None:
        """
        Look at once at the collection with this reference, ours or the provider's.

        Returns:
            Its state, "stale" if an earlier attempt has that name, None if none has.
        """

    async def ledger_id(self) -> str:
        """Of the ledger whose invoices these are."""
