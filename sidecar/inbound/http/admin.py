"""The admin role's resources: thin words between JSON and the account use cases."""

from dataclasses import replace
from http import HTTPStatus
from urllib.parse import quote

from sidecar.domain.money import parse_amount
from sidecar.domain.standing import Standing, StandingFact
from sidecar.inbound.http.admin_edge import ADMIN
from sidecar.inbound.http.admin_models import (
    CredentialAnswer,
    CredentialBody,
    CredentialPage,
    CustomerAnswer,
    CustomerBody,
    CustomerChangeBody,
    CustomerPage,
    CustomerPatchBody,
    IssuedCredentialAnswer,
    RotationBody,
    StandingAnswer,
    StandingBody,
)
from sidecar.inbound.http.paging import (
    CustomerPageQuery,
    PageQuery,
    page_of,
    read_cursor,
)
from sidecar.inbound.http.problems import ProblemError
from sidecar.inbound.http.routing import Answer, Call, is_path_id, path_id_chars
from sidecar.services.accounts import AccountService
from sidecar.services.control_ports import Customer
from sidecar.services.idempotency import derived_id


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
            overdraft_nano=parse_amount(call.body.overdraft, field="overdraft"),
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
        after=read_cursor(call.query), limit=call.query.limit + 1
    )
    page, following = page_of(found, call.query, lambda customer: customer.customer_id)
    items = [CustomerAnswer.of(item) for item in page]
    return Answer(body=CustomerPage(items=items, next=following))


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
            overdraft_nano=parse_amount(call.body.overdraft, field="overdraft"),
        )
    )
    return Answer(body=CustomerAnswer.of(customer))


async def patch_customer(call: Call) -> Answer:
    """Change parts of a customer; of two that change it at a time, the last one's word counts."""
    assert isinstance(call.body, CustomerPatchBody)
    body, told = call.body, call.body.model_fields_set
    accounts = _accounts(call)
    found = await accounts.read_customer(customer_id_of(call))
    if body.plan is not None:
        found = replace(found, plan=body.plan)
    if body.labels is not None:
        found = replace(found, labels=body.labels)
    if "stripe_customer_id" in told:
        found = replace(found, stripe_customer_id=body.stripe_customer_id)
    if body.overdraft is not None:
        overdraft_nano = parse_amount(body.overdraft, field="overdraft")
        found = replace(found, overdraft_nano=overdraft_nano)
    return Answer(body=CustomerAnswer.of(await accounts.update_customer(found)))


async def erase_customer(call: Call) -> Answer:
    """Clear a customer's personal data and revoke its keys; again changes nothing."""
    return Answer(
        body=CustomerAnswer.of(await _accounts(call).erase_customer(customer_id_of(call)))
    )


async def get_standing(call: Call) -> Answer:
    """The standing of record."""
    return await _standing(call, customer_id_of(call))


async def put_standing(call: Call) -> Answer:
    """Set the standing, whatever invoices say."""
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
    customer_id = customer_id_of(call)
    await call.request.app[ADMIN].standings.put(customer_id, fact)
    return await _standing(call, customer_id)


async def delete_standing(call: Call) -> Answer:
    """Take back what was set: invoices count again."""
    customer_id = customer_id_of(call)
    await call.request.app[ADMIN].standings.clear(customer_id)
    return await _standing(call, customer_id)


async def _standing(call: Call, customer_id: str) -> Answer:
    standings = call.request.app[ADMIN].standings
    view = await standings.read(customer_id)
    return Answer(body=StandingAnswer.of(view, standings.now()))


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
        path_name(call, "credential_id"),
        overlap=call.body.overlap,
        successor_id=derived_id("crd", call.claim) if call.claim else None,
    )
    return Answer(status=HTTPStatus.CREATED, body=IssuedCredentialAnswer.of(issued))


async def revoke_credential(call: Call) -> Answer:
    """End a credential at once; again changes nothing."""
    accounts = _accounts(call)
    credential = await accounts.revoke_credential(path_name(call, "credential_id"))
    return Answer(body=CredentialAnswer.of(credential, accounts.now()))


async def list_credentials(call: Call) -> Answer:
    """A page of a customer's credentials, by id."""
    assert isinstance(call.query, CustomerPageQuery)
    query, accounts = call.query, _accounts(call)
    found = await accounts.list_credentials(
        query.customer_id, after=read_cursor(query), limit=query.limit + 1
    )
    page, following = page_of(found, query, lambda credential: credential.credential_id)
    items = [CredentialAnswer.of(item, accounts.now()) for item in page]
    return Answer(body=CredentialPage(items=items, next=following))


def _accounts(call: Call) -> AccountService:
    return call.request.app[ADMIN].accounts


def customer_id_of(call: Call) -> str:
    """The customer in the path. Raises ProblemError if it cannot be one."""
    return path_name(call, "customer_id")


def path_name(call: Call, parameter: str) -> str:
    """An id in the path. Raises ProblemError if it cannot be one."""
    name = call.request.match_info[parameter]
    if not is_path_id(parameter, name):
        what, most = parameter.replace("_", " "), path_id_chars(parameter)
        raise ProblemError.of_field(parameter, f"is no {what}: 1 to {most} of A-Z a-z 0-9 _ . : -")
    return name
