"""
Closed invoices through Stripe: the port `InvoiceCollector`.

For customers whose usage is not reported to Stripe's meters. An invoice is made as a draft, noted,
given its lines, compared with what is due, and only then finalized; from there on Stripe collects.

Each write has a chain of Idempotency-Keys. Stripe replays a stored 5xx for as long as the key stays
the same, so the next key is used, but only once a replay shows that the call before has ended, and
only if what it was to make is not there: so no two calls that could both take effect are ever open.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import stripe

from sidecar.domain.collecting import CollectOutcome, CollectWay
from sidecar.domain.errors import ProviderFailed, ProviderRefused, StoreUnavailable
from sidecar.domain.minor_units import STRIPE, currencies_of
from sidecar.outbound.stripe.client import StripeConnection, translate_stripe
from sidecar.services.provider_ports import (
    CollectAnswer,
    CollectCapabilities,
    Demand,
    DemandLine,
    NoteProviderReference,
)

T = TypeVar("T")

KEYS_MAX: Final = 8
PAGES_MAX: Final = 20
PAGE_SIZE: Final = 100
_LINES_MAX: Final = 200
_REFERENCE: Final = "sidecar_reference"
COLLECTED_KEY: Final = "sidecar_invoice"
"""Of metadata: which invoice of ours one at Stripe was made of."""
_LINE: Final = "sidecar_line"
_HTTP_NOT_FOUND: Final = 404
_HTTP_CREDENTIALS: Final = frozenset({401, 403})
_OUTCOMES: Final = {
    "draft": CollectOutcome.ABSENT,
    "open": CollectOutcome.PENDING,
    "paid": CollectOutcome.PAID,
    # Somebody has ended it at Stripe: for people.
    "void": CollectOutcome.REFUSED,
    "uncollectible": CollectOutcome.REFUSED,
}


class StripeCollector:
    """Invoices of our own making at Stripe. Stripe tries again by itself, so nothing is FAILED."""

    def __init__(self, connection: StripeConnection) -> None:
        """Wire it; the caller closes the connection."""
        self._v1 = connection.client.v1

    @property
    def capabilities(self) -> CollectCapabilities:
        """Every currency that Stripe takes."""
        return CollectCapabilities(
            currencies={CollectWay.INVOICE: currencies_of(STRIPE)}, lines_max=_LINES_MAX
        )

    async def collect(self, demand: Demand, note: NoteProviderReference) -> CollectAnswer:
        """Ask for the payment. Raises Conflict and StoreUnavailable from `note` only."""
        if demand.currency not in self.capabilities.currencies.get(demand.way, frozenset()):
            return _refused(f"Stripe takes no {demand.currency} by {demand.way.value}")
        if not demand.payer.provider_customer_id:
            return _refused("the customer has no id at Stripe")
        drafted = await _answered(lambda: self._draft(demand))
        if isinstance(drafted, CollectAnswer):
            return drafted
        # Outside of what words errors: a lost lease is no answer of Stripe's.
        await note(drafted)
        return await _answered(lambda: self._make_live(demand, drafted))

    async def verify(self, demand: Demand) -> CollectAnswer:
        """Ask what became of what was noted; without a note nothing is live."""
        if not demand.provider_reference:
            return CollectAnswer(outcome=CollectOutcome.ABSENT, detail="no draft was noted")
        named = demand.provider_reference
        return await _answered(lambda: self._look(demand, named, drafting=True))

    async def _draft(self, demand: Demand) -> str:
        """The id of the demand's draft: what was noted, what is found, or a new one."""
        if demand.provider_reference:
            return demand.provider_reference
        if demand.retried:
            found = await self._find_draft(demand)
            if found:
                return found
        params: Any = {
            "customer": demand.payer.provider_customer_id,
            "currency": demand.currency.lower(),
            "auto_advance": False,
            "pending_invoice_items_behavior": "exclude",
            "description": f"Invoice {demand.number}",
            "metadata": {_REFERENCE: demand.reference, COLLECTED_KEY: demand.invoice_id},
            "collection_method": "charge_automatically",
        }
        if demand.due_at is not None:
            params |= {
                "collection_method": "send_invoice",
                "due_date": int(demand.due_at.timestamp()),
            }

        async def create(key: str) -> str:
            made = await self._v1.invoices.create_async(params, {"idempotency_key": key})
            return str(_read(made, "invoice")["id"])

        return await _once(f"{demand.reference}:draft", create, lambda: self._find_draft(demand))

    async def _find_draft(self, demand: Demand) -> str | None:
        """The oldest draft with the demand's reference; all pages, or it raises."""
        found: str | None = None
        params: Any = {
            "customer": demand.payer.provider_customer_id,
            "status": "draft",
            "limit": PAGE_SIZE,
        }
        for _ in range(PAGES_MAX):
            async with translate_stripe():
                page = _read(await self._v1.invoices.list_async(params), "list")
            for invoice in page["data"]:  # The newest first.
                if _metadata(invoice).get(_REFERENCE) == demand.reference:
                    found = str(invoice["id"])
            if not page["has_more"]:
                return found
            params["starting_after"] = page["data"][-1]["id"]
        raise StoreUnavailable("Stripe: too many drafts of this customer")

    async def _make_live(self, demand: Demand, invoice_id: str) -> CollectAnswer:
        """Give the noted draft its lines and finalize it; one that is live says so."""
        answer = await self._look(demand, invoice_id, drafting=True)
        if answer.outcome is not CollectOutcome.ABSENT:
            return answer
        everything = DemandLine(text=f"Invoice {demand.number}", amount_minor=demand.amount_minor)
        present = await self._lines(invoice_id)
        for number, line in enumerate(demand.lines or (everything,), start=1):
            if str(number) not in present:
                await self._add_line(demand, invoice_id, number, line)
        answer = await self._look(demand, invoice_id)
        if answer.outcome is not CollectOutcome.ABSENT:
            return answer

        async def finalize(key: str) -> str:
            made = await self._v1.invoices.finalize_invoice_async(
                invoice_id, {"auto_advance": True}, {"idempotency_key": key}
            )
            return str(_read(made, "invoice")["id"])

        async def finalized() -> str | None:
            seen = await self._look(demand, invoice_id)
            return None if seen.outcome is CollectOutcome.ABSENT else invoice_id

        await _once(f"{demand.reference}:finalize", finalize, finalized)
        return await self._look(demand, invoice_id)

    async def _add_line(
        self, demand: Demand, invoice_id: str, number: int, line: DemandLine
    ) -> None:
        async def create(key: str) -> str:
            made = await self._v1.invoice_items.create_async(
                {
                    "customer": demand.payer.provider_customer_id,
                    "invoice": invoice_id,
                    "amount": line.amount_minor,
                    "currency": demand.currency.lower(),
                    "description": line.text,
                    "metadata": {_LINE: str(number)},
                },
                {"idempotency_key": key},
            )
            return str(_read(made, "invoiceitem")["id"])

        async def there() -> str | None:
            return (await self._lines(invoice_id)).get(str(number))

        await _once(f"{demand.reference}:{invoice_id}:line-{number}", create, there)

    async def _lines(self, invoice_id: str) -> dict[str, str]:
        """Ids of the lines that we have added, by number."""
        found: dict[str, str] = {}
        params: Any = {"invoice": invoice_id, "limit": PAGE_SIZE}
        for _ in range(PAGES_MAX):
            async with translate_stripe():
                page = _read(await self._v1.invoice_items.list_async(params), "list")
            found |= {
                number: str(item["id"])
                for item in page["data"]
                if (number := _metadata(item).get(_LINE)) is not None
            }
            if not page["has_more"]:
                return found
            params["starting_after"] = page["data"][-1]["id"]
        raise StoreUnavailable("Stripe: too many lines of this invoice")

    async def _look(
        self, demand: Demand, invoice_id: str, *, drafting: bool = False
    ) -> CollectAnswer:
        """What the invoice says, if it is this demand's; `drafting`: it may lack lines."""
        try:
            async with translate_stripe():
                invoice = _read(await self._v1.invoices.retrieve_async(invoice_id), "invoice")
        except ProviderRefused as error:
            if error.status == _HTTP_NOT_FOUND:
                return _refused("the invoice that was made is gone")
            raise
        if _metadata(invoice).get(_REFERENCE) != demand.reference:
            return _refused("the invoice at Stripe belongs to another payment")
        outcome = _OUTCOMES.get(str(invoice["status"]), CollectOutcome.UNKNOWN)
        differs = (invoice["total"], invoice["currency"]) != (
            demand.amount_minor,
            demand.currency.lower(),
        )
        unfinished = outcome is CollectOutcome.ABSENT and drafting
        if differs and not unfinished:
            return _refused("the invoice at Stripe has another amount or currency")
        return CollectAnswer(
            outcome=outcome,
            provider_reference=invoice_id,
            detail=f"invoice {invoice['status']}",
        )


def _read(answer: Any, kind: str) -> dict[str, Any]:
    """
    What Stripe answered, as plain data.

    Raises:
        StoreUnavailable: It is not what was asked for: a proxy's word, not Stripe's.
    """
    data = answer.to_dict() if isinstance(answer, stripe.StripeObject) else None
    names = {
        "invoice": ("id", "status", "total", "currency"),
        "invoiceitem": ("id",),
        "list": ("data", "has_more"),
    }[kind]
    if data is None or data.get("object") != kind or not all(name in data for name in names):
        raise StoreUnavailable("Stripe: the answer is not Stripe's")
    return data


def _metadata(thing: dict[str, Any]) -> dict[str, str]:
    return thing.get("metadata") or {}


async def _once(
    key: str,
    call: Callable[[str], Awaitable[str]],
    there: Callable[[], Awaitable[str | None]],
) -> str:
    """
    Make one thing; answers its id.

    Args:
        key: Its chain of Idempotency-Keys begins so.
        call: Makes it under a key.
        there: The id of what was made already, if it was.

    Raises:
        ProviderRefused, StoreUnavailable: As `translate_stripe` does.
    """
    for generation in range(KEYS_MAX):
        try:
            async with translate_stripe():
                return await call(f"{key}:{generation}")
        except ProviderFailed as error:
            if not _is_replay(error.__cause__):
                raise
        found = await there()
        if found is not None:
            return found
    raise StoreUnavailable("Stripe: failed under every key")


def _is_replay(error: BaseException | None) -> bool:
    """Whether Stripe has told an answer that it gave before: that call has ended."""
    if not isinstance(error, stripe.StripeError):
        return False
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    return headers.get("idempotent-replayed") == "true"


async def _answered(call: Callable[[], Awaitable[T]]) -> T | CollectAnswer:
    try:
        return await call()
    except ProviderRefused as error:
        key_refused = error.status in _HTTP_CREDENTIALS
        outcome = CollectOutcome.UNKNOWN if key_refused else CollectOutcome.REFUSED
        return CollectAnswer(outcome=outcome, detail=str(error))
    except StoreUnavailable as error:
        return CollectAnswer(outcome=CollectOutcome.UNKNOWN, detail=str(error))


def _refused(detail: str) -> CollectAnswer:
    return CollectAnswer(outcome=CollectOutcome.REFUSED, detail=detail)
