"""Bodies and answers about credit: grants, withdrawals, top-ups, balances."""

from typing import Annotated, Literal

from pydantic import Field

from sidecar.domain.grants import (
    GRANT_METERS_MAX,
    PRIORITY_DEFAULT,
    PRIORITY_MAX,
    GrantKind,
    Rollover,
    WithdrawalKind,
)
from sidecar.domain.money import format_amount
from sidecar.inbound.http.field_types import (
    AmountText,
    Currency,
    CustomerId,
    Instant,
    NanoInt,
    Priority,
    QueryModel,
    RequestModel,
    ResponseModel,
    SignedAmountText,
    Text500,
)
from sidecar.services.control_ports import (
    Balance,
    Grant,
    GrantState,
    LiveGrant,
    Withdrawal,
    WithdrawalState,
)
from sidecar.services.credits import REFERENCE_CHARS_MAX

KindName = Literal["paid", "promotional"]
MeterNames = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[\x20-\x7e]+$")]],
    Field(max_length=GRANT_METERS_MAX),
]
PriorityNumber = Annotated[
    Priority,
    Field(description=f"0 (first) to {PRIORITY_MAX}; null is {PRIORITY_DEFAULT}."),
]


class GrantBody(RequestModel):
    """Credit to give, from `effective_at` (null: at once) until `expires_at` (null: for good)."""

    customer_id: CustomerId
    amount: AmountText
    currency: Currency
    kind: KindName = "paid"
    priority: PriorityNumber | None = None
    effective_at: Instant | None = None
    expires_at: Instant | None = None
    meters: Annotated[MeterNames, Field(default_factory=list)]


class CustomerQuery(QueryModel):
    """Whose thing it is."""

    customer_id: CustomerId


class RolloverAnswer(ResponseModel):
    """What comes along of the grant before: what is left, but at least `min`, at most `max`."""

    from_grant_id: str
    min: SignedAmountText
    max: SignedAmountText

    @classmethod
    def of(cls, rollover: Rollover) -> "RolloverAnswer":
        """From the record."""
        return cls(
            from_grant_id=rollover.from_grant_id,
            min=format_amount(rollover.least_nano),
            max=format_amount(rollover.most_nano),
        )


class GrantAnswer(ResponseModel):
    """
    A grant. `state` is intent until the ledger has posted it; its credit counts before that.

    `remaining` is what the ledger has left of it, open holds included.
    """

    id: str
    customer_id: str
    amount: SignedAmountText
    amount_nano: NanoInt
    remaining: SignedAmountText
    remaining_nano: NanoInt
    currency: str
    kind: GrantKind
    priority: int
    effective_at: Instant | None
    expires_at: Instant | None
    meters: list[str]
    rollover: RolloverAnswer | None
    schedule_id: str | None
    state: GrantState
    refusal: str | None
    created_at: Instant | None

    @classmethod
    def of(cls, grant: Grant) -> "GrantAnswer":
        """From the record."""
        return cls(
            id=grant.grant_id,
            customer_id=grant.customer_id,
            amount=format_amount(grant.amount_nano),
            amount_nano=grant.amount_nano,
            remaining=format_amount(grant.remaining_nano),
            remaining_nano=grant.remaining_nano,
            currency=grant.currency,
            kind=grant.kind,
            priority=grant.priority,
            effective_at=grant.effective_at,
            expires_at=grant.expires_at,
            meters=list(grant.meters),
            rollover=RolloverAnswer.of(grant.rollover) if grant.rollover else None,
            schedule_id=grant.schedule_id or None,
            state=grant.state,
            refusal=grant.refusal or None,
            created_at=grant.created_at,
        )


class GrantPage(ResponseModel):
    """A page of grants."""

    items: list[GrantAnswer]
    next: str | None


class LiveGrantAnswer(ResponseModel):
    """
    A grant as checks see it: `free` can be spent, `pinned` is set aside by open holds.

    `state` is scheduled, active, or how it ended; an ended grant is listed while a part of it
    is pinned.
    """

    id: str
    kind: GrantKind
    state: str
    priority: int
    effective_at: Instant | None
    expires_at: Instant | None
    meters: list[str]
    free: SignedAmountText
    free_nano: NanoInt
    pinned: SignedAmountText
    pinned_nano: NanoInt

    @classmethod
    def of(cls, grant: LiveGrant) -> "LiveGrantAnswer":
        """From the live store's record."""
        return cls(
            id=grant.grant_id,
            kind=grant.kind,
            state=grant.state,
            priority=grant.priority,
            effective_at=grant.effective_at,
            expires_at=grant.expires_at,
            meters=list(grant.meters),
            free=format_amount(grant.free_nano),
            free_nano=grant.free_nano,
            pinned=format_amount(grant.pinned_nano),
            pinned_nano=grant.pinned_nano,
        )


class LiveGrantList(ResponseModel):
    """Grants that still matter, in the order in which they burn; all of them."""

    items: list[LiveGrantAnswer]
    next: None = None


class WithdrawalBody(RequestModel):
    """What to take back of a grant; without an amount, all that there is to take."""

    customer_id: CustomerId
    amount: AmountText | None = None
    reason: Text500 = ""


class DisputeBody(RequestModel):
    """What the reversal of a payment took; a part of it may be spent already."""

    customer_id: CustomerId
    amount: AmountText
    reason: Text500 = ""


class WithdrawalAnswer(ResponseModel):
    """
    Credit taken back. `amount` is what was asked for (null: all), `withdrawn` what was taken.

    `state` is intent while the live store has not been told, then applied or refused; `refusal`
    says why.
    """

    id: str
    customer_id: str
    grant_id: str
    kind: WithdrawalKind
    amount: SignedAmountText | None
    amount_nano: NanoInt | None
    withdrawn: SignedAmountText
    withdrawn_nano: NanoInt
    reason: str
    state: WithdrawalState
    refusal: str | None
    created_at: Instant | None

    @classmethod
    def of(cls, withdrawal: Withdrawal) -> "WithdrawalAnswer":
        """From the record."""
        asked = withdrawal.amount_nano
        return cls(
            id=withdrawal.withdrawal_id,
            customer_id=withdrawal.customer_id,
            grant_id=withdrawal.grant_id,
            kind=withdrawal.kind,
            amount=None if asked is None else format_amount(asked),
            amount_nano=asked,
            withdrawn=format_amount(withdrawal.withdrawn_nano),
            withdrawn_nano=withdrawal.withdrawn_nano,
            reason=withdrawal.reason,
            state=withdrawal.state,
            refusal=withdrawal.refusal or None,
            created_at=withdrawal.created_at,
        )


class WithdrawalPage(ResponseModel):
    """A page of withdrawals."""

    items: list[WithdrawalAnswer]
    next: str | None


class TopUpBody(RequestModel):
    """A payment that was taken; `reference` is its own id, and counts once."""

    amount: AmountText
    currency: Currency
    reference: Annotated[str, Field(pattern=rf"^[A-Za-z0-9_.:-]{{1,{REFERENCE_CHARS_MAX}}}$")]


class BalanceAnswer(ResponseModel):
    """
    Live balance: available = granted - voided - expired - used - held + overdraft.

    `voided` is all that was taken back (voids, refunds, disputes). `deficit` is prepaid usage
    that no grant has paid: it is in `used`, and the next grant pays it first.
    """

    currency: str
    granted: SignedAmountText
    voided: SignedAmountText
    expired: SignedAmountText
    used: SignedAmountText
    held: SignedAmountText
    overdraft: SignedAmountText
    deficit: SignedAmountText
    available: SignedAmountText
    granted_nano: NanoInt
    voided_nano: NanoInt
    expired_nano: NanoInt
    used_nano: NanoInt
    held_nano: NanoInt
    overdraft_nano: NanoInt
    deficit_nano: NanoInt
    available_nano: NanoInt
    as_of: Instant

    @classmethod
    def of(cls, balance: Balance) -> "BalanceAnswer":
        """From the live store's numbers."""
        return cls(
            currency=balance.currency,
            granted=format_amount(balance.granted_nano),
            voided=format_amount(balance.voided_nano),
            expired=format_amount(balance.expired_nano),
            used=format_amount(balance.used_nano),
            held=format_amount(balance.held_nano),
            overdraft=format_amount(balance.overdraft_nano),
            deficit=format_amount(balance.deficit_nano),
            available=format_amount(balance.available_nano),
            granted_nano=balance.granted_nano,
            voided_nano=balance.voided_nano,
            expired_nano=balance.expired_nano,
            used_nano=balance.used_nano,
            held_nano=balance.held_nano,
            overdraft_nano=balance.overdraft_nano,
            deficit_nano=balance.deficit_nano,
            available_nano=balance.available_nano,
            as_of=balance.as_of,
        )
