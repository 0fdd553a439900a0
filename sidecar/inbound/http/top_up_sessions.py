"""The admin API's words about pages on which credit is paid for."""

from http import HTTPStatus
from typing import Annotated

from pydantic import Field

from sidecar.domain.money import format_amount, parse_amount
from sidecar.inbound.http.admin import customer_id_of
from sidecar.inbound.http.admin_edge import ADMIN
from sidecar.inbound.http.credits import keyed_id
from sidecar.inbound.http.field_types import (
    AmountText,
    Currency,
    Instant,
    NanoInt,
    RequestModel,
    ResponseModel,
)
from sidecar.inbound.http.routing import Answer, Call
from sidecar.services.top_up_sessions import TopUpSession

_URL = r"^https?://[A-Za-z0-9.\[\]:-]{1,255}(/[!-~]{0,1700})?$"

ReturnUrl = Annotated[
    str, Field(pattern=_URL, max_length=2_000, description="Where the payer goes afterwards.")
]


class TopUpSessionBody(RequestModel):
    """What is to be paid. `save_card` keeps the card for automatic top-ups."""

    amount: AmountText
    currency: Currency
    success_url: ReturnUrl
    cancel_url: ReturnUrl
    save_card: bool = False


class TopUpSessionAnswer(ResponseModel):
    """A page; `reference` is what the grant will be named after once it is paid."""

    id: str
    url: str
    reference: str
    customer_id: str
    amount: str
    amount_nano: NanoInt
    currency: str
    expires_at: Instant | None

    @classmethod
    def of(cls, session: TopUpSession) -> "TopUpSessionAnswer":
        """From the use case."""
        return cls(
            id=session.page.page_id,
            url=session.page.url,
            reference=session.reference,
            customer_id=session.customer_id,
            amount=format_amount(session.amount_nano),
            amount_nano=session.amount_nano,
            currency=session.currency,
            expires_at=session.page.expires_at,
        )


async def post_top_up_session(call: Call) -> Answer:
    """Make a page; under an Idempotency-Key a repeat finds the same one."""
    assert isinstance(call.body, TopUpSessionBody)
    session = await call.request.app[ADMIN].reports.top_up_sessions.open(
        customer_id_of(call),
        amount_nano=parse_amount(call.body.amount),
        currency=call.body.currency,
        reference=keyed_id(call, "tus"),
        success_url=call.body.success_url,
        cancel_url=call.body.cancel_url,
        save_card=call.body.save_card,
    )
    return Answer(status=HTTPStatus.CREATED, body=TopUpSessionAnswer.of(session))
