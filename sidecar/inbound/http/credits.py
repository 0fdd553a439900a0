"""The admin role's resources of credit: thin words between JSON and the use cases."""

from http import HTTPStatus
from urllib.parse import quote

from sidecar.domain.grants import PRIORITY_DEFAULT, GrantKind, WithdrawalKind
from sidecar.domain.money import parse_amount
from sidecar.inbound.http.admin import customer_id_of, path_name
from sidecar.inbound.http.admin_edge import ADMIN
from sidecar.inbound.http.credit_models import (
    BalanceAnswer,
    CustomerQuery,
    DisputeBody,
    GrantAnswer,
    GrantBody,
    GrantPage,
    LiveGrantAnswer,
    LiveGrantList,
    TopUpBody,
    WithdrawalAnswer,
    WithdrawalBody,
    WithdrawalPage,
)
from sidecar.inbound.http.edge import EDGE
from sidecar.inbound.http.paging import CustomerPageQuery, page_of, read_cursor
from sidecar.inbound.http.routing import Answer, Call
from sidecar.services.control_ports import Grant, Withdrawal
from sidecar.services.credits import CreditService
from sidecar.services.idempotency import derived_id
from sidecar.services.withdrawals import WithdrawalService


async def post_grant(call: Call) -> Answer:
    """
    Give credit.

    Under an Idempotency-Key the grant is named after the key, so that a repeat gives no
    second credit even where the first attempt died before its answer was kept.
    """
    assert isinstance(call.body, GrantBody)
    body = call.body
    grant = await _credits(call).create_grant(
        Grant(
            grant_id=keyed_id(call, "grt"),
            customer_id=body.customer_id,
            amount_nano=parse_amount(body.amount),
            currency=body.currency,
            kind=GrantKind(body.kind),
            priority=PRIORITY_DEFAULT if body.priority is None else body.priority,
            effective_at=body.effective_at,
            expires_at=body.expires_at,
            meters=tuple(body.meters),
        )
    )
    return _created(grant)


async def post_top_up(call: Call) -> Answer:
    """Give paid credit for a payment; the same reference is the same grant, key or no key."""
    assert isinstance(call.body, TopUpBody)
    grant = await _credits(call).top_up(
        customer_id_of(call),
        amount_nano=parse_amount(call.body.amount),
        currency=call.body.currency,
        reference=call.body.reference,
    )
    return _created(grant)


async def list_grants(call: Call) -> Answer:
    """A page of a customer's grants, by id."""
    assert isinstance(call.query, CustomerPageQuery)
    query = call.query
    found = await _credits(call).list_grants(
        query.customer_id, after=read_cursor(query), limit=query.limit + 1
    )
    page, following = page_of(found, query, lambda grant: grant.grant_id)
    return Answer(body=GrantPage(items=[GrantAnswer.of(item) for item in page], next=following))


async def get_grant(call: Call) -> Answer:
    """One grant."""
    assert isinstance(call.query, CustomerQuery)
    grant = await _credits(call).read_grant(call.query.customer_id, path_name(call, "grant_id"))
    return Answer(body=GrantAnswer.of(grant))


async def list_live_grants(call: Call) -> Answer:
    """What checks see of a customer's grants."""
    found = await _credits(call).list_live_grants(customer_id_of(call))
    return Answer(body=LiveGrantList(items=[LiveGrantAnswer.of(item) for item in found]))


async def get_balance(call: Call) -> Answer:
    """The live balance."""
    return Answer(body=BalanceAnswer.of(await _credits(call).read_balance(customer_id_of(call))))


async def void_grant(call: Call) -> Answer:
    """Take back what is free; without an amount, the grant ends."""
    return await _withdraw(call, WithdrawalKind.VOID)


async def refund_grant(call: Call) -> Answer:
    """Take back what is free, because it was paid back."""
    return await _withdraw(call, WithdrawalKind.REFUND)


async def dispute_grant(call: Call) -> Answer:
    """Take back what was given, spent or not, because its payment was reversed."""
    return await _withdraw(call, WithdrawalKind.DISPUTE)


async def _withdraw(call: Call, kind: WithdrawalKind) -> Answer:
    """Named after an Idempotency-Key as a grant is."""
    assert isinstance(call.body, WithdrawalBody | DisputeBody)
    amount = call.body.amount
    withdrawal = await _withdrawals(call).withdraw(
        Withdrawal(
            withdrawal_id=keyed_id(call, "wdr"),
            customer_id=call.body.customer_id,
            grant_id=path_name(call, "grant_id"),
            kind=kind,
            amount_nano=None if amount is None else parse_amount(amount),
            reason=call.body.reason,
        )
    )
    return Answer(status=HTTPStatus.CREATED, body=WithdrawalAnswer.of(withdrawal))


async def list_withdrawals(call: Call) -> Answer:
    """A page of a customer's withdrawals, by id."""
    assert isinstance(call.query, CustomerPageQuery)
    query = call.query
    found = await _withdrawals(call).list(
        query.customer_id, after=read_cursor(query), limit=query.limit + 1
    )
    page, following = page_of(found, query, lambda one: one.withdrawal_id)
    items = [WithdrawalAnswer.of(item) for item in page]
    return Answer(body=WithdrawalPage(items=items, next=following))


def keyed_id(call: Call, prefix: str) -> str:
    """The id of what the call creates: named after its Idempotency-Key, if it has one."""
    if call.claim is not None:
        return derived_id(prefix, call.claim)
    return call.request.app[EDGE].new_id(prefix)


def _created(grant: Grant) -> Answer:
    where = f"{quote(grant.grant_id, safe='')}?customer_id={quote(grant.customer_id, safe='')}"
    return Answer(
        status=HTTPStatus.CREATED,
        body=GrantAnswer.of(grant),
        headers={"Location": f"/api/v1/grants/{where}"},
    )


def _credits(call: Call) -> CreditService:
    return call.request.app[ADMIN].credits


def _withdrawals(call: Call) -> WithdrawalService:
    return call.request.app[ADMIN].withdrawals
