"""Bodies and answers of the admin role: customers, credentials, standing, holds."""

from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import Field

from sidecar.domain.money import format_amount
from sidecar.domain.standing import Standing
from sidecar.inbound.http.field_types import (
    AmountText,
    Currency,
    CustomerId,
    Instant,
    Labels,
    NanoInt,
    Overlap,
    PlanName,
    RequestModel,
    ResponseModel,
    SignedAmountText,
    Text128,
    Text500,
)
from sidecar.services.accounts import IssuedCredential
from sidecar.services.control_ports import (
    Credential,
    CredentialState,
    Customer,
)
from sidecar.services.standing_ports import StandingView

StripeCustomerId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,255}$")]


class CustomerBody(RequestModel):
    """A new customer."""

    id: CustomerId
    plan: PlanName
    currency: Currency
    labels: Annotated[Labels, Field(default_factory=dict)]
    stripe_customer_id: StripeCustomerId | None = None
    overdraft: AmountText = "0"


class CustomerChangeBody(RequestModel):
    """A customer as it is to be: what is left out is empty afterwards. The currency stays."""

    plan: PlanName
    labels: Annotated[Labels, Field(default_factory=dict)]
    stripe_customer_id: StripeCustomerId | None = None
    currency: Currency | None = None
    overdraft: AmountText = "0"


class CustomerPatchBody(RequestModel):
    """What is to change of a customer: what is left out stays. null takes the Stripe customer."""

    plan: PlanName | None = None
    labels: Labels | None = None
    stripe_customer_id: StripeCustomerId | None = None
    overdraft: AmountText | None = None


class CustomerAnswer(ResponseModel):
    """A customer. `overdraft` is how far prepaid usage may go beyond all credit."""

    id: str
    plan: str
    currency: str
    labels: dict[str, str]
    stripe_customer_id: str | None
    overdraft: SignedAmountText
    overdraft_nano: NanoInt
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
            overdraft=format_amount(customer.overdraft_nano),
            overdraft_nano=customer.overdraft_nano,
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


class StandingBody(RequestModel):
    """A standing to set, whatever invoices say; after `until` it is what they say again."""

    standing: Literal["good", "grace", "delinquent"]
    reason: Text500 = ""
    until: Instant | None = None
    overdue_since: Instant | None = None
    overdue_amount: AmountText | None = None
    disputed: bool = False


class StandingAnswer(ResponseModel):
    """
    A customer's standing, and what is known of the invoices behind it.

    `source` is `operator` while a standing that was set lasts, else `invoices`; `derived` is what
    invoices say by themselves.
    """

    standing: Standing
    source: Literal["operator", "invoices"]
    derived: Standing
    reason: str
    until: Instant | None
    overdue_since: Instant | None
    overdue_amount: SignedAmountText | None
    overdue_amount_nano: NanoInt | None
    disputed: bool

    @classmethod
    def of(cls, view: StandingView, now: datetime) -> "StandingAnswer":
        """From the record; an operator's word has its own end."""
        set_now = view.set_at(now)
        fact = view.fact if set_now is None else set_now
        nano = fact.overdue_nano
        return cls(
            standing=fact.standing,
            source="invoices" if set_now is None else "operator",
            derived=view.derived.standing,
            reason=fact.reason,
            until=fact.until,
            overdue_since=fact.overdue_since,
            overdue_amount=None if nano is None else format_amount(nano),
            overdue_amount_nano=nano,
            disputed=fact.disputed,
        )
