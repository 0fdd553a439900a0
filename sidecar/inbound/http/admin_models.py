"""Bodies and queries of the admin role: customers, credentials, grants, standing, holds."""

from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from sidecar.domain.money import format_amount
from sidecar.domain.standing import Standing, StandingFact
from sidecar.inbound.http.field_types import (
    AmountText,
    Currency,
    Cursor,
    CustomerId,
    Instant,
    Labels,
    NanoInt,
    NotYet,
    Overlap,
    PageLimit,
    PlanName,
    QueryModel,
    RequestModel,
    ResponseModel,
    SignedAmountText,
    Text128,
    Text500,
)
from sidecar.services.accounts import IssuedCredential
from sidecar.services.control_ports import (
    Balance,
    Credential,
    CredentialState,
    Customer,
    Grant,
    GrantState,
)

_PAGE_DEFAULT = 50

StripeCustomerId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,255}$")]


def _paid_only(value: object) -> object:
    if value == "promotional":
        raise PydanticCustomError(
            "unsupported", "promotional is not supported in this version; supported: paid"
        )
    return value


class PageQuery(QueryModel):
    """Which page of a list."""

    limit: PageLimit = _PAGE_DEFAULT
    after: Cursor | None = None


class CustomerPageQuery(PageQuery):
    """Which page of one customer's things."""

    customer_id: CustomerId


class LimitQuery(QueryModel):
    """How many at most."""

    limit: PageLimit = _PAGE_DEFAULT


class CustomerBody(RequestModel):
    """A new customer."""

    id: CustomerId
    plan: PlanName
    currency: Currency
    labels: Annotated[Labels, Field(default_factory=dict)]
    stripe_customer_id: StripeCustomerId | None = None


class CustomerChangeBody(RequestModel):
    """A customer as it is to be: what is left out is empty afterwards. The currency stays."""

    plan: PlanName
    labels: Annotated[Labels, Field(default_factory=dict)]
    stripe_customer_id: StripeCustomerId | None = None
    currency: Currency | None = None


class CustomerAnswer(ResponseModel):
    """A customer."""

    id: str
    plan: str
    currency: str
    labels: dict[str, str]
    stripe_customer_id: str | None
    created_at: Instant | None

    @classmethod
    def of(cls, customer: Customer) -> "CustomerAnswer":
        """From the record."""
        return cls(
            id=customer.customer_id,
            plan=customer.plan,
            currency=customer.currency,
            labels=dict(customer.labels),
            stripe_customer_id=customer.stripe_customer_id,
            created_at=customer.created_at,
        )


class CustomerPage(ResponseModel):
    """A page of customers."""

    items: list[CustomerAnswer]
    next: str | None


class CredentialBody(RequestModel):
    """A new credential of a customer, perhaps for one of its teams and users."""

    customer_id: CustomerId
    team_id: Text128 = ""
    user_id: Text128 = ""
    name: Text128 = ""
    expires_at: Instant | None = None


class RotationBody(RequestModel):
    """How long the old credential goes on working beside the new one."""

    overlap: Overlap = timedelta(days=1)


class CredentialAnswer(ResponseModel):
    """
    A credential, never its secret.

    `state` is expiring until `expires_at`, and revoked from then on, or since `revoked_at`.
    `replaced_by` is the credential that it was rotated to.
    """

    id: str
    customer_id: str
    team_id: str
    user_id: str
    name: str
    state: CredentialState
    created_at: Instant | None
    expires_at: Instant | None
    revoked_at: Instant | None
    replaced_by: str | None

    @classmethod
    def of(cls, credential: Credential, now: datetime) -> "CredentialAnswer":
        """From the record, as of an instant."""
        return cls(
            id=credential.credential_id,
            customer_id=credential.customer_id,
            team_id=credential.team_id,
            user_id=credential.user_id,
            name=credential.name,
            state=credential.state_at(now),
            created_at=credential.created_at,
            expires_at=credential.expires_at,
            revoked_at=credential.revoked_at,
            replaced_by=credential.replaced_by,
        )


class IssuedCredentialAnswer(ResponseModel):
    """A new credential. `secret` is shown once: null where an Idempotency-Key is repeated."""

    id: str
    customer_id: str
    team_id: str
    user_id: str
    name: str
    created_at: Instant | None
    expires_at: Instant | None
    secret: str | None

    @classmethod
    def of(cls, issued: IssuedCredential) -> "IssuedCredentialAnswer":
        """With the secret."""
        credential = issued.credential
        return cls(
            id=credential.credential_id,
            customer_id=credential.customer_id,
            team_id=credential.team_id,
            user_id=credential.user_id,
            name=credential.name,
            created_at=credential.created_at,
            expires_at=credential.expires_at,
            secret=issued.secret,
        )


class CredentialPage(ResponseModel):
    """A page of credentials."""

    items: list[CredentialAnswer]
    next: str | None


class GrantBody(RequestModel):
    """Credit to give. Only paid grants that are valid at once and for good, in this version."""

    customer_id: CustomerId
    amount: AmountText
    currency: Currency
    kind: Annotated[Literal["paid"], BeforeValidator(_paid_only)] = "paid"
    priority: NotYet = None
    effective_at: NotYet = None
    expires_at: NotYet = None


class GrantAnswer(ResponseModel):
    """A grant. `state` is intent until the ledger has posted it; its credit counts at once."""

    id: str
    customer_id: str
    amount: SignedAmountText
    amount_nano: NanoInt
    currency: str
    kind: str
    state: GrantState
    created_at: Instant | None

    @classmethod
    def of(cls, grant: Grant) -> "GrantAnswer":
        """From the record."""
        return cls(
            id=grant.grant_id,
            customer_id=grant.customer_id,
            amount=format_amount(grant.amount_nano),
            amount_nano=grant.amount_nano,
            currency=grant.currency,
            kind=grant.kind,
            state=grant.state,
            created_at=grant.created_at,
        )


class GrantPage(ResponseModel):
    """A page of grants."""

    items: list[GrantAnswer]
    next: str | None


class BalanceAnswer(ResponseModel):
    """Live balance: available = granted - used - held."""

    currency: str
    granted: SignedAmountText
    used: SignedAmountText
    held: SignedAmountText
    available: SignedAmountText
    granted_nano: NanoInt
    used_nano: NanoInt
    held_nano: NanoInt
    available_nano: NanoInt
    as_of: Instant

    @classmethod
    def of(cls, balance: Balance) -> "BalanceAnswer":
        """From the live store's numbers."""
        return cls(
            currency=balance.currency,
            granted=format_amount(balance.granted_nano),
            used=format_amount(balance.used_nano),
            held=format_amount(balance.held_nano),
            available=format_amount(balance.available_nano),
            granted_nano=balance.granted_nano,
            used_nano=balance.used_nano,
            held_nano=balance.held_nano,
            available_nano=balance.available_nano,
            as_of=balance.as_of,
        )


class StandingBody(RequestModel):
    """A standing to set; after `until` the customer is in good standing again."""

    standing: Literal["good", "grace", "delinquent"]
    reason: Text500 = ""
    until: Instant | None = None
    overdue_since: Instant | None = None
    overdue_amount: AmountText | None = None
    disputed: bool = False


class StandingAnswer(ResponseModel):
    """A customer's standing, and what is known of the invoices behind it."""

    standing: Standing
    reason: str
    until: Instant | None
    overdue_since: Instant | None
    overdue_amount: SignedAmountText | None
    overdue_amount_nano: NanoInt | None
    disputed: bool

    @classmethod
    def of(cls, fact: StandingFact) -> "StandingAnswer":
        """From the record."""
        nano = fact.overdue_nano
        return cls(
            standing=fact.standing,
            reason=fact.reason,
            until=fact.until,
            overdue_since=fact.overdue_since,
            overdue_amount=None if nano is None else format_amount(nano),
            overdue_amount_nano=nano,
            disputed=fact.disputed,
        )
