"""Closed invoices through Paystack, by saved card or payment request: `InvoiceCollector`."""

from collections.abc import Awaitable, Callable
from typing import Final

from sidecar.domain.collecting import CollectOutcome, CollectWay
from sidecar.domain.errors import ProviderRefused, StoreUnavailable
from sidecar.outbound.paystack.cards import PaystackCards
from sidecar.outbound.paystack.client import PaystackBusy, PaystackClient
from sidecar.outbound.paystack.requests import PaystackRequests
from sidecar.services.provider_ports import (
    CollectAnswer,
    CollectCapabilities,
    Demand,
    NoteProviderReference,
)

CARD_CURRENCIES: Final = frozenset({"NGN", "GHS", "ZAR", "KES", "USD"})
REQUEST_CURRENCIES: Final = frozenset({"NGN", "GHS", "ZAR", "USD"})
"""Paystack has no payment requests in KES."""
_LINES_MAX: Final = 50


class PaystackCollector:
    """
    Chooses between the two ways of Paystack, and words what its client raises.

    A card is charged under the demand's reference, which Paystack takes once. A payment request
    has no such key: it is drafted, noted and only then finalized.
    """

    def __init__(self, client: PaystackClient) -> None:
        """Wire it; the caller closes the client."""
        self._cards = PaystackCards(client)
        self._requests = PaystackRequests(client)

    @property
    def capabilities(self) -> CollectCapabilities:
        """Five currencies by card, four by payment request."""
        return CollectCapabilities(
            currencies={
                CollectWay.CARD: CARD_CURRENCIES,
                CollectWay.INVOICE: REQUEST_CURRENCIES,
            },
            lines_max=_LINES_MAX,
        )

    async def collect(self, demand: Demand, note: NoteProviderReference) -> CollectAnswer:
        """Ask for the payment. Raises Conflict and StoreUnavailable from `note` only."""
        taken = self.capabilities.currencies[demand.way]
        if demand.currency not in taken:
            return CollectAnswer(
                outcome=CollectOutcome.REFUSED,
                detail=f"Paystack takes no {demand.currency} by {demand.way.value}",
            )
        if demand.way is CollectWay.CARD:
            return await _answered(lambda: self._cards.charge(demand))
        drafted = await _drafted(lambda: self._requests.draft(demand))
        if isinstance(drafted, CollectAnswer):
            return drafted
        # Outside of what words errors: a lost lease is no answer of Paystack's.
        await note(drafted)
        return await _answered(lambda: self._requests.finalize(demand, drafted))

    async def verify(self, demand: Demand) -> CollectAnswer:
        """Ask what became of a reference."""
        if demand.way is CollectWay.CARD:
            return await _answered(lambda: self._cards.verify(demand))
        return await _answered(lambda: self._requests.verify(demand))


async def _answered(call: Callable[[], Awaitable[CollectAnswer]]) -> CollectAnswer:
    try:
        return await call()
    except (ProviderRefused, StoreUnavailable) as error:
        return _worded(error)


async def _drafted(call: Callable[[], Awaitable[str]]) -> str | CollectAnswer:
    try:
        return await call()
    except (ProviderRefused, StoreUnavailable) as error:
        return _worded(error)


def _worded(error: ProviderRefused | StoreUnavailable) -> CollectAnswer:
    if isinstance(error, PaystackBusy):
        return CollectAnswer(outcome=CollectOutcome.UNKNOWN, detail=str(error), wait=error.wait)
    refused = isinstance(error, ProviderRefused)
    outcome = CollectOutcome.REFUSED if refused else CollectOutcome.UNKNOWN
    return CollectAnswer(outcome=outcome, detail=str(error))
