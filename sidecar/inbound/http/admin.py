"""The admin role's resources: thin words between JSON and the account use cases."""

import base64
import binascii
from collections.abc import Sequence
from http import HTTPStatus
from typing import TypeVar
from urllib.parse import quote

from sidecar.domain.errors import InvalidInput
from sidecar.domain.money import parse_amount
from sidecar.domain.standing import Standing, StandingFact
from sidecar.inbound.http.admin_models import (
    BalanceAnswer,
    CredentialAnswer,
    CredentialBody,
    CredentialPage,
    CustomerAnswer,
    CustomerBody,
    CustomerChangeBody,
    CustomerPage,
    CustomerPageQuery,
    GrantAnswer,
    GrantBody,
    GrantPage,
    IssuedCredentialAnswer,
    PageQuery,
    RotationBody,
    StandingAnswer,
    StandingBody,
)
from sidecar.inbound.http.edge import ADMIN, EDGE
from sidecar.inbound.http.problems import ProblemError
from sidecar.inbound.http.routing import Answer, Call
from sidecar.inbound.principals import is_name
from sidecar.services.accounts import AccountService
from sidecar.services.control_ports import Customer, Grant
from sidecar.services.idempotency import derived_id

T = TypeVar("T")


async def post_customer(call: Call) -> Answer:
    """Create a customer; the same content again is the same customer."""
    assert isinstance(call.body, CustomerBody)
    customer = await _accounts(call).create_customer(
        Customer(
            customer_id=call.body.id,
            plan=call.body.plan,
            currency=call.body.currency,
            labels=call.body.labels,
            stripe_customer_id=call.body.stripe_customer_id,
        )
    )
    return Answer(
        status=HTTPStatus.CREATED,
        body=CustomerAnswer.of(customer),
        headers={"Location": f"/api/v1/customers/{quote(customer.customer_id, safe='')}"},
    )


async def list_customers(call: Call) -> Answer:
    """A page of customers, by id."""
    assert isinstance(call.query, PageQuery)
    found = await _accounts(call).list_customers(
        after=_read_cursor(call.query), limit=call.query.limit + 1
    )
    page = found[: call.query.limit]
    return Answer(
        body=CustomerPage(
            items=[CustomerAnswer.of(item) for item in page],
            next=_next(found, call.query, page[-1].customer_id if page else ""),
        )
    )


async def get_customer(call: Call) -> Answer:
    """One customer."""
    return Answer(body=CustomerAnswer.of(await _accounts(call).read_customer(customer_id_of(call))))


async def put_customer(call: Call) -> Answer:
    """Change a customer; gateways act on it at their next check."""
    assert isinstance(call.body, CustomerChangeBody)
    customer = await _accounts(call).update_customer(
        Customer(
            customer_id=customer_id_of(call),
            plan=call.body.plan,
            currency=call.body.currency or "",
            labels=call.body.labels,
            stripe_customer_id=call.body.stripe_customer_id,
        )
    )
    return Answer(body=CustomerAnswer.of(customer))


async def erase_customer(call: Call) -> Answer:
    """Clear a customer's personal data and revoke its keys; again changes nothing."""
    return Answer(
        body=CustomerAnswer.of(await _accounts(call).erase_customer(customer_id_of(call)))
    )


async def get_balance(call: Call) -> Answer:
    """The live balance."""
    return Answer(body=BalanceAnswer.of(await _accounts(call).read_balance(customer_id_of(call))))


async def get_standing(call: Call) -> Answer:
    """The standing of record."""
    return Answer(body=StandingAnswer.of(await _accounts(call).read_standing(customer_id_of(call))))


async def put_standing(call: Call) -> Answer:
    """Set the standing."""
    assert isinstance(call.body, StandingBody)
    body = call.body
    overdue_nano = None
    if body.overdue_amount is not None:
        overdue_nano = parse_amount(body.overdue_amount, field="overdue_amount")
    fact = StandingFact(
        standing=Standing(body.standing),
        reason=body.reason,
        until=body.until,
        overdue_since=body.overdue_since,
        overdue_nano=overdue_nano,
        disputed=body.disputed,
    )
    await _accounts(call).put_standing(customer_id_of(call), fact)
    return Answer(body=StandingAnswer.of(fact))


async def post_credential(call: Call) -> Answer:
    """Issue a credential; its secret is in this answer only."""
    assert isinstance(call.body, CredentialBody)
    issued = await _accounts(call).create_credential(
        call.body.customer_id,
        team_id=call.body.team_id,
        user_id=call.body.user_id,
        name=call.body.name,
        expires_at=call.body.expires_at,
    )
    return Answer(status=HTTPStatus.CREATED, body=IssuedCredentialAnswer.of(issued))


async def rotate_credential(call: Call) -> Answer:
    """
    Issue a credential in the place of another; its secret is in this answer only.

    Under an Idempotency-Key it is named after the key, so that a repeat of an attempt that
    died makes no second one.
    """
    assert isinstance(call.body, RotationBody)
    issued = await _accounts(call).rotate_credential(
        _path_name(call, "credential_id"),
        overlap=call.body.overlap,
        successor_id=derived_id("crd", call.claim) if call.claim else None,
    )
    return Answer(status=HTTPStatus.CREATED, body=IssuedCredentialAnswer.of(issued))


async def revoke_credential(call: Call) -> Answer:
    """End a credential at once; again changes nothing."""
    accounts = _accounts(call)
    credential = await accounts.revoke_credential(_path_name(call, "credential_id"))
    return Answer(body=CredentialAnswer.of(credential, accounts.now()))


async def list_credentials(call: Call) -> Answer:
    """A page of a customer's credentials, by id."""
    assert isinstance(call.query, CustomerPageQuery)
    query, accounts = call.query, _accounts(call)
    found = await accounts.list_credentials(
        query.customer_id, after=_read_cursor(query), limit=query.limit + 1
    )
    page = found[: query.limit]
    return Answer(
        body=CredentialPage(
            items=[CredentialAnswer.of(item, accounts.now()) for item in page],
            next=_next(found, query, page[-1].credential_id if page else ""),
        )
    )


async def post_grant(call: Call) -> Answer:
    """
    Give credit.

    Under an Idempotency-Key the grant is named after the key, so that a repeat gives no
    second credit even where the first attempt died before its answer was kept.
    """
    assert isinstance(call.body, GrantBody)
    new_id = call.request.app[EDGE].new_id
    grant = await _accounts(call).create_grant(
        Grant(
            grant_id=derived_id("grt", call.claim) if call.claim else new_id("grt"),
            customer_id=call.body.customer_id,
            amount_nano=parse_amount(call.body.amount),
            currency=call.body.currency,
            kind=call.body.kind,
        )
    )
    return Answer(status=HTTPStatus.CREATED, body=GrantAnswer.of(grant))


async def list_grants(call: Call) -> Answer:
    """A page of a customer's grants, by id."""
    assert isinstance(call.query, CustomerPageQuery)
    query = call.query
    found = await _accounts(call).list_grants(
        query.customer_id, after=_read_cursor(query), limit=query.limit + 1
    )
    page = found[: query.limit]
    return Answer(
        body=GrantPage(
            items=[GrantAnswer.of(item) for item in page],
            next=_next(found, query, page[-1].grant_id if page else ""),
        )
    )


def _accounts(call: Call) -> AccountService:
    return call.request.app[ADMIN].accounts


def customer_id_of(call: Call) -> str:
    """The customer in the path. Raises ProblemError if it cannot be one."""
    return _path_name(call, "customer_id")


def _path_name(call: Call, parameter: str) -> str:
    name = call.request.match_info[parameter]
    if not is_name(name):
        what = parameter.replace("_", " ")
        raise ProblemError.of_field(parameter, f"is no {what}: 1 to 64 of A-Z a-z 0-9 _ . : -")
    return name


def _next(found: Sequence[T], query: PageQuery, last_id: str) -> str | None:
    """The cursor of the next page: one more than the page was asked for, to know of it."""
    if len(found) <= query.limit:
        return None
    return base64.urlsafe_b64encode(last_id.encode()).decode().rstrip("=")


def _read_cursor(query: PageQuery) -> str:
    if query.after is None:
        return ""
    try:
        padded = query.after + "=" * (-len(query.after) % 4)
        last_id = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        last_id = ""
    if not is_name(last_id):
        raise InvalidInput("after is not a cursor of this list", field="after")
    return last_id
