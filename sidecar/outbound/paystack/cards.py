"""Saved cards: Paystack's transactions, each named by our reference, which it takes once."""

from datetime import timedelta
from typing import Any, Final
from urllib.parse import quote

from sidecar.domain.collecting import CollectOutcome
from sidecar.domain.errors import ProviderRefused
from sidecar.outbound.paystack.client import PaystackClient, words
from sidecar.services.provider_ports import CollectAnswer, Demand

_HTTP_NOT_FOUND: Final = 404
_OUTCOMES: Final = {
    "success": CollectOutcome.PAID,
    "failed": CollectOutcome.FAILED,
    # The customer has walked away and may come back: nothing definitive.
    "abandoned": CollectOutcome.PENDING,
    "ongoing": CollectOutcome.PENDING,
    "pending": CollectOutcome.PENDING,
    "processing": CollectOutcome.PENDING,
    "queued": CollectOutcome.PENDING,
    # It was paid, and then taken back: for people.
    "reversed": CollectOutcome.REFUSED,
}
_DUPLICATE: Final = ("duplicate transaction reference", "duplicate charge request for reference")
_LATER: Final = ("cannot be fulfilled until", "wait a few minutes")
_LATER_WAIT: Final = timedelta(hours=1)


class PaystackCards:
    """Charges, and asks what became of them. Raises what the client raises."""

    def __init__(self, client: PaystackClient) -> None:
        """Wire it."""
        self._client = client

    async def charge(self, demand: Demand) -> CollectAnswer:
        """
        Charge the saved card.

        The reference is Paystack's key for repeats: a second charge under it is refused as a
        duplicate, and then the first one is asked about.
        """
        payer = demand.payer
        if not payer.authorization_code or not payer.email:
            return _refused("no saved card, or no email to it")
        try:
            reply = await self._client.call(
                "POST",
                "/transaction/charge_authorization",
                body={
                    "email": payer.email,
                    "amount": demand.amount_minor,
                    "currency": demand.currency,
                    "authorization_code": payer.authorization_code,
                    "reference": demand.reference,
                    "queue": True,
                    "metadata": {
                        "invoice_id": demand.invoice_id,
                        "customer_id": payer.customer_id,
                    },
                },
            )
        except ProviderRefused as error:
            said = error.detail.lower()
            if any(text in said for text in _DUPLICATE):
                return await self.verify(demand)
            if any(text in said for text in _LATER):
                # A card at rest: nothing was charged, and the same reference may be sent later.
                return CollectAnswer(
                    outcome=CollectOutcome.UNKNOWN, detail=error.detail, wait=_LATER_WAIT
                )
            raise
        return read_transaction(reply.data, demand)

    async def verify(self, demand: Demand) -> CollectAnswer:
        """Ask what became of the reference."""
        try:
            reply = await self._client.call(
                "GET", f"/transaction/verify/{quote(demand.reference, safe='')}"
            )
        except ProviderRefused as error:
            if error.status == _HTTP_NOT_FOUND or "not found" in error.detail.lower():
                return CollectAnswer(outcome=CollectOutcome.ABSENT, detail=error.detail)
            raise
        return read_transaction(reply.data, demand)


def read_transaction(data: Any, demand: Demand) -> CollectAnswer:
    """What a transaction says, if it is this demand's; unclear is UNKNOWN."""
    if not isinstance(data, dict) or data.get("reference") != demand.reference:
        return _unknown("the answer is about another reference")
    said = (data.get("amount"), data.get("currency"))
    # A charge that waits for the customer may answer without them.
    if (None not in said and said != (demand.amount_minor, demand.currency)) or (
        None in said and data.get("status") == "success"
    ):
        return _refused("the reference belongs to a payment of another amount or currency")
    if data.get("paused") is True:
        return CollectAnswer(
            outcome=CollectOutcome.PENDING, detail="the customer's bank asks them to confirm"
        )
    status = words(data.get("status"))
    outcome = _OUTCOMES.get(status)
    if outcome is None:
        return _unknown(f"a status that is not known: {status}")
    identity = data.get("id")
    return CollectAnswer(
        outcome=outcome,
        provider_reference=str(identity) if isinstance(identity, int) else "",
        detail=f"{status} {words(data.get('gateway_response'))}".rstrip(),
    )


def _refused(detail: str) -> CollectAnswer:
    return CollectAnswer(outcome=CollectOutcome.REFUSED, detail=detail)


def _unknown(detail: str) -> CollectAnswer:
    return CollectAnswer(outcome=CollectOutcome.UNKNOWN, detail=detail)
