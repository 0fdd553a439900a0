"""The admin role's resources of billing providers: customers as they know them, collections."""

from typing import Annotated

from pydantic import Field

from sidecar.domain.collecting import CollectState, CollectWay
from sidecar.domain.minor_units import from_minor
from sidecar.domain.money import format_amount
from sidecar.inbound.http.admin import customer_id_of, path_name
from sidecar.inbound.http.admin_edge import ADMIN
from sidecar.inbound.http.field_types import (
    CustomerId,
    Instant,
    NanoInt,
    RequestModel,
    ResponseModel,
    SignedAmountText,
    Text256,
)
from sidecar.inbound.http.paging import PageQuery, page_of, read_cursor
from sidecar.inbound.http.routing import Answer, Call
from sidecar.services.collecting_ports import Collection, CollectionAttempt
from sidecar.services.provider_customers import CollectionService, ProviderCustomerService
from sidecar.services.provider_ports import Payer


class ProviderCustomerBody(RequestModel):
    """
    What a provider is to know; what is left out is empty afterwards, but for a saved card.

    `authorization_code` is a saved card's: null leaves it as it is, "" forgets it.
    """

    provider_customer_id: Annotated[Text256, Field(max_length=191)] = ""
    email: Annotated[Text256, Field(max_length=254)] = ""
    authorization_code: Annotated[Text256 | None, Field(max_length=191)] = None
    collect: bool = False


class ProviderCustomerAnswer(ResponseModel):
    """What a provider knows; a saved card's code is never shown, only that there is one."""

    customer_id: str
    provider: str
    provider_customer_id: str
    email: str
    has_authorization: bool
    collect: bool

    @classmethod
    def of(cls, payer: Payer) -> "ProviderCustomerAnswer":
        """From the record."""
        return cls(
            customer_id=payer.customer_id,
            provider=payer.provider,
            provider_customer_id=payer.provider_customer_id,
            email=payer.email,
            has_authorization=bool(payer.authorization_code),
            collect=payer.collect,
        )


class ProviderCustomerList(ResponseModel):
    """By provider; there are few."""

    items: list[ProviderCustomerAnswer]
    next: None = None


class CollectionsQuery(PageQuery):
    """Which collections."""

    customer_id: CustomerId | None = None
    state: CollectState | None = None


class AttemptAnswer(ResponseModel):
    """A reference that was sent, and what became of it: pending, paid, failed, refused."""

    attempt: int
    reference: str
    provider_reference: str
    way: CollectWay
    amount: SignedAmountText
    amount_nano: NanoInt
    outcome: str
    detail: str
    sent_at: Instant
    ended_at: Instant | None

    @classmethod
    def of(cls, attempt: CollectionAttempt, provider: str) -> "AttemptAnswer":
        """From the record."""
        nano = from_minor(attempt.amount_minor, attempt.currency, provider)
        return cls(
            attempt=attempt.attempt,
            reference=attempt.reference,
            provider_reference=attempt.provider_reference,
            way=CollectWay(attempt.way),
            amount=format_amount(nano),
            amount_nano=nano,
            outcome=attempt.outcome,
            detail=attempt.detail,
            sent_at=attempt.sent_at,
            ended_at=attempt.ended_at,
        )


class CollectionAnswer(ResponseModel):
    """
    How far the collecting of one invoice has come.

    The amount is null until something was sent. `attempt` counts references, `tries` how often
    the present one was sent, `unclear` the answers in a row that said nothing clear.
    """

    invoice_id: str
    customer_id: str
    provider: str
    state: CollectState
    detail: str
    currency: str
    amount: SignedAmountText | None
    amount_nano: NanoInt | None
    way: CollectWay | None
    attempt: int
    attempts_max: int
    tries: int
    unclear: int
    reference: str
    provider_reference: str
    created_at: Instant
    next_look_at: Instant | None
    ended_at: Instant | None

    @classmethod
    def of(cls, found: Collection) -> "CollectionAnswer":
        """From the record."""
        nano = None
        if found.tries:
            nano = from_minor(found.amount_minor, found.currency, found.provider)
        return cls(
            invoice_id=found.invoice_id,
            customer_id=found.customer_id,
            provider=found.provider,
            state=found.state,
            detail=found.detail,
            currency=found.currency,
            amount=None if nano is None else format_amount(nano),
            amount_nano=nano,
            way=found.way if found.tries else None,
            attempt=found.attempt,
            attempts_max=found.attempts_max,
            tries=found.tries,
            unclear=found.unclear,
            reference=found.reference,
            provider_reference=found.provider_reference,
            created_at=found.created_at,
            next_look_at=found.next_look_at,
            ended_at=found.ended_at,
        )


class CollectionPage(ResponseModel):
    """A page, by invoice id."""

    items: list[CollectionAnswer]
    next: str | None


class CollectionWithAttempts(CollectionAnswer):
    """One, with every reference that was sent."""

    attempts: list[AttemptAnswer]


async def list_provider_customers(call: Call) -> Answer:
    """What each provider knows of a customer."""
    found = await _customers(call).list(customer_id_of(call))
    return Answer(
        body=ProviderCustomerList(items=[ProviderCustomerAnswer.of(one) for one in found])
    )


async def put_provider_customer(call: Call) -> Answer:
    """Set what one provider knows."""
    assert isinstance(call.body, ProviderCustomerBody)
    body = call.body
    payer = await _customers(call).put(
        Payer(
            customer_id=customer_id_of(call),
            provider=path_name(call, "provider"),
            provider_customer_id=body.provider_customer_id,
            email=body.email,
            authorization_code=body.authorization_code or "",
            collect=body.collect,
        ),
        keep_authorization=body.authorization_code is None,
    )
    return Answer(body=ProviderCustomerAnswer.of(payer))


async def delete_provider_customer(call: Call) -> Answer:
    """Forget what one provider knows; answers what it was."""
    found = await _customers(call).delete(customer_id_of(call), path_name(call, "provider"))
    return Answer(body=ProviderCustomerAnswer.of(found))


async def list_collections(call: Call) -> Answer:
    """A page of collections, by invoice id."""
    assert isinstance(call.query, CollectionsQuery)
    query = call.query
    found = await _collections(call).list(
        customer_id=query.customer_id,
        state=query.state,
        after=read_cursor(query),
        limit=query.limit + 1,
    )
    page, following = page_of(found, query, lambda one: one.invoice_id)
    items = [CollectionAnswer.of(one) for one in page]
    return Answer(body=CollectionPage(items=items, next=following))


async def get_collection(call: Call) -> Answer:
    """One, with every reference that was sent."""
    found, attempts = await _collections(call).read(path_name(call, "invoice_id"))
    body = CollectionWithAttempts(
        **CollectionAnswer.of(found).model_dump(),
        attempts=[AttemptAnswer.of(one, found.provider) for one in attempts],
    )
    return Answer(body=body)


async def retry_collection(call: Call) -> Answer:
    """Look at a failed one again at once."""
    found = await _collections(call).retry(path_name(call, "invoice_id"))
    return Answer(body=CollectionAnswer.of(found))


def _customers(call: Call) -> ProviderCustomerService:
    return call.request.app[ADMIN].provider_customers


def _collections(call: Call) -> CollectionService:
    return call.request.app[ADMIN].collections
