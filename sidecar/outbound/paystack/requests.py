"""
Payment requests: a draft first, which harms nobody, then finalized under a code that was noted.

Paystack has no key for repeats here. Drafts carry our reference at the end of their description,
so that a later worker finds what an earlier one has made; of several the oldest counts and the
others are archived.
"""

from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote

from sidecar import telemetry
from sidecar.domain.collecting import CollectOutcome
from sidecar.domain.errors import ProviderRefused, StoreUnavailable
from sidecar.outbound.paystack.client import PaystackClient
from sidecar.services.provider_ports import CollectAnswer, Demand

PAGES_MAX: Final = 20
PAGE_SIZE: Final = 100
_HTTP_NOT_FOUND: Final = 404
_CODE_CHARS_MAX: Final = 64
_NAME_CHARS_MAX: Final = 100


class PaystackRequests:
    """Drafts, finalizes, and asks what became of them. Raises what the client raises."""

    def __init__(self, client: PaystackClient) -> None:
        """Wire it."""
        self._client = client

    async def draft(self, demand: Demand) -> str:
        """
        The code of the demand's draft: what was noted, what is found, or a new one.

        Raises:
            ProviderRefused, StoreUnavailable: Nothing is live.
        """
        if demand.provider_reference:
            return demand.provider_reference
        customer_code, customer_number = await self._customer(demand)
        if demand.retried:
            found = await self._drafts(demand, customer_number)
            if found:
                await self._archive(found[1:])
                return found[0]
        body: dict[str, Any] = {
            "customer": customer_code,
            "currency": demand.currency,
            "line_items": [
                {"name": line.text[:_NAME_CHARS_MAX], "amount": line.amount_minor, "quantity": 1}
                for line in demand.lines
            ]
            or [{"name": f"Invoice {demand.number}", "amount": demand.amount_minor, "quantity": 1}],
            "description": description(demand),
            "draft": True,
            "send_notification": False,
        }
        if demand.due_at is not None:
            body["due_date"] = demand.due_at.isoformat()
        reply = await self._client.call("POST", "/paymentrequest", body=body)
        code = _code(reply.data)
        if not code:
            raise StoreUnavailable("Paystack: a draft without a code")
        return code

    async def finalize(self, demand: Demand, code: str) -> CollectAnswer:
        """Make the noted draft live; one that is live already says so."""
        try:
            await self._client.call(
                "POST",
                f"/paymentrequest/finalize/{quote(code, safe='')}",
                body={"send_notification": True},
            )
        except ProviderRefused:
            answer = await self._look(demand, code)
            if answer.outcome is CollectOutcome.ABSENT:  # A draft still: it was refused.
                raise
            return answer
        if demand.retried:
            await self._archive_late(demand, code)
        return await self._look(demand, code)

    async def verify(self, demand: Demand) -> CollectAnswer:
        """Ask what became of the noted code; without one, nothing has been made live."""
        if not demand.provider_reference:
            return CollectAnswer(outcome=CollectOutcome.ABSENT, detail="no draft was noted")
        return await self._look(demand, demand.provider_reference)

    async def _look(self, demand: Demand, code: str) -> CollectAnswer:
        try:
            reply = await self._client.call("GET", f"/paymentrequest/verify/{quote(code, safe='')}")
        except ProviderRefused as error:
            if error.status == _HTTP_NOT_FOUND or "slug is invalid" in error.detail.lower():
                # It was noted, so it was there. Somebody has removed it.
                return _refused("the payment request that was made is gone", code)
            raise
        return read_request(reply.data, demand, code)

    async def _customer(self, demand: Demand) -> tuple[str, str]:
        """
        The payer's code and number at Paystack.

        To create a customer whose email is known answers the one that is there.
        """
        payer = demand.payer
        if payer.provider_customer_id:
            path = f"/customer/{quote(payer.provider_customer_id, safe='')}"
            reply = await self._client.call("GET", path)
        elif payer.email:
            reply = await self._client.call("POST", "/customer", body={"email": payer.email})
        else:
            raise ProviderRefused(0, "", "the customer has neither an id nor an email at Paystack")
        data = reply.data if isinstance(reply.data, dict) else {}
        code, number = data.get("customer_code"), data.get("id")
        if not isinstance(code, str) or not isinstance(number, int):
            raise StoreUnavailable("Paystack: a customer without a code")
        return code, str(number)

    async def _drafts(self, demand: Demand, customer_number: str) -> list[str]:
        """Codes of this demand's drafts, the oldest first; all pages, or it raises."""
        wanted = description(demand)
        found: list[tuple[int, str]] = []
        for page in range(1, PAGES_MAX + 1):
            reply = await self._client.call(
                "GET",
                "/paymentrequest",
                query={
                    "customer": customer_number,
                    "status": "draft",
                    "perPage": str(PAGE_SIZE),
                    "page": str(page),
                },
            )
            items = reply.data if isinstance(reply.data, list) else None
            if items is None:
                raise StoreUnavailable("Paystack: a list that is none")
            found += [
                (item["id"], _code(item))
                for item in _objects(items)
                if item.get("description") == wanted
                and item.get("status") == "draft"
                and item.get("archived") is not True
                and (item.get("amount"), item.get("currency"))
                == (demand.amount_minor, demand.currency)
                and isinstance(item.get("id"), int)
                and _code(item)
            ]
            if len(items) < PAGE_SIZE:
                return [code for _, code in sorted(found)]
        raise StoreUnavailable("Paystack: too many drafts of this customer")

    async def _archive_late(self, demand: Demand, code: str) -> None:
        """Archive drafts that arrived late."""
        try:
            _, number = await self._customer(demand)
            late = [one for one in await self._drafts(demand, number) if one != code]
        except (ProviderRefused, StoreUnavailable) as error:
            telemetry.get_logger().info("paystack_drafts_left", error=str(error))
            return
        await self._archive(late)

    async def _archive(self, codes: list[str]) -> None:
        """That it fails leaves drafts, which harm nobody."""
        for code in codes:
            try:
                await self._client.call("POST", f"/paymentrequest/archive/{quote(code, safe='')}")
            except (ProviderRefused, StoreUnavailable) as error:
                telemetry.get_logger().info("paystack_drafts_left", error=str(error))


def description(demand: Demand) -> str:
    """What the customer reads, and what drafts are found by."""
    return f"Invoice {demand.number} [{demand.reference}]"


def read_request(data: Any, demand: Demand, code: str) -> CollectAnswer:
    """What a payment request says, if it is this demand's; unclear is UNKNOWN."""
    if not isinstance(data, dict) or _code(data) != code:
        return CollectAnswer(
            outcome=CollectOutcome.UNKNOWN, detail="the answer is about another payment request"
        )
    if (data.get("amount"), data.get("currency")) != (demand.amount_minor, demand.currency):
        return _refused("the payment request has another amount or currency", code)
    status = data.get("status")
    if data.get("paid") is True or status == "success":
        return CollectAnswer(
            outcome=CollectOutcome.PAID, provider_reference=code, detail="payment request paid"
        )
    if data.get("archived") is True:
        return _refused("somebody has archived the payment request", code)
    outcome = {
        "draft": CollectOutcome.ABSENT,
        "pending": CollectOutcome.PENDING,
        "failed": CollectOutcome.PENDING,  # A try of the customer's; they may try again.
    }.get(status if isinstance(status, str) else "", CollectOutcome.UNKNOWN)
    return CollectAnswer(
        outcome=outcome, provider_reference=code, detail=f"payment request {outcome.value}"
    )


def _refused(detail: str, code: str) -> CollectAnswer:
    return CollectAnswer(outcome=CollectOutcome.REFUSED, provider_reference=code, detail=detail)


def _code(data: Any) -> str:
    code = data.get("request_code") if isinstance(data, dict) else None
    fits = isinstance(code, str) and code.isascii() and len(code) <= _CODE_CHARS_MAX
    return code if fits and isinstance(code, str) else ""


def _objects(items: list[Any]) -> Iterator[dict[str, Any]]:
    return (item for item in items if isinstance(item, dict))
