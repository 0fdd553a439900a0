"""Bodies and answers about credit that comes by itself: schedules of grants, automatic top-ups."""

from typing import Annotated, Literal

from pydantic import Field

from sidecar.domain.grants import GrantKind
from sidecar.domain.money import format_amount
from sidecar.domain.periods import CalendarUnit
from sidecar.domain.schedules import GrantSchedule
from sidecar.domain.top_ups import TopUpAttempt, TopUpRule, TopUpState
from sidecar.inbound.http.credit_models import KindName, MeterNames, PriorityNumber
from sidecar.inbound.http.field_types import (
    AmountText,
    Currency,
    CustomerId,
    Every,
    Instant,
    NanoInt,
    RequestModel,
    ResponseModel,
    SignedAmountText,
    ZoneName,
)


class RolloverBody(RequestModel):
    """What comes along into the next grant: what is left, but at least `min`, at most `max`."""

    min: AmountText = "0"
    max: AmountText


class RolloverLimits(ResponseModel):
    """The same, in an answer."""

    min: SignedAmountText
    max: SignedAmountText


class ScheduleBody(RequestModel):
    """
    A grant for each period that begins in [starts_at, ends_at).

    Periods are every so many units from `anchor` (null: `starts_at`), in the calendar of `tz`.
    """

    customer_id: CustomerId
    amount: AmountText
    currency: Currency
    kind: KindName = "paid"
    priority: PriorityNumber | None = None
    meters: Annotated[MeterNames, Field(default_factory=list)]
    unit: Literal["day", "week", "month", "year"]
    every: Every = 1
    tz: ZoneName = "UTC"
    anchor: Instant | None = None
    starts_at: Instant
    ends_at: Instant | None = None
    rollover: RolloverBody | None = None


class ScheduleAnswer(ResponseModel):
    """
    A schedule. `next_start` begins the first period whose grant is not issued yet.

    It is null once there is none left.
    """

    id: str
    customer_id: str
    amount: SignedAmountText
    amount_nano: NanoInt
    currency: str
    kind: GrantKind
    priority: int
    meters: list[str]
    unit: CalendarUnit
    every: int
    tz: str
    anchor: Instant
    starts_at: Instant
    ends_at: Instant | None
    rollover: RolloverLimits | None
    next_start: Instant | None
    created_at: Instant | None

    @classmethod
    def of(cls, schedule: GrantSchedule) -> "ScheduleAnswer":
        """From the record."""
        rollover = None
        if schedule.rolls_most_nano:
            rollover = RolloverLimits(
                min=format_amount(schedule.rolls_least_nano),
                max=format_amount(schedule.rolls_most_nano),
            )
        return cls(
            id=schedule.schedule_id,
            customer_id=schedule.customer_id,
            amount=format_amount(schedule.amount_nano),
            amount_nano=schedule.amount_nano,
            currency=schedule.currency,
            kind=schedule.kind,
            priority=schedule.priority,
            meters=list(schedule.meters),
            unit=schedule.unit,
            every=schedule.every,
            tz=schedule.tz,
            anchor=schedule.anchor,
            starts_at=schedule.starts_at,
            ends_at=schedule.ends_at,
            rollover=rollover,
            next_start=schedule.next_start,
            created_at=schedule.created_at,
        )


class SchedulePage(ResponseModel):
    """A page of schedules."""

    items: list[ScheduleAnswer]
    next: str | None


class TopUpRuleBody(RequestModel):
    """Ask for `amount`, or up to `target`, once credit falls below `threshold`; one of the two."""

    threshold: AmountText
    amount: AmountText | None = None
    target: AmountText | None = None


class TopUpRuleAnswer(ResponseModel):
    """A rule for automatic top-ups, in the customer's currency."""

    customer_id: str
    threshold: SignedAmountText
    threshold_nano: NanoInt
    amount: SignedAmountText | None
    amount_nano: NanoInt | None
    target: SignedAmountText | None
    target_nano: NanoInt | None

    @classmethod
    def of(cls, customer_id: str, rule: TopUpRule) -> "TopUpRuleAnswer":
        """From the record."""
        return cls(
            customer_id=customer_id,
            threshold=format_amount(rule.threshold_nano),
            threshold_nano=rule.threshold_nano,
            amount=_optional(rule.amount_nano),
            amount_nano=rule.amount_nano,
            target=_optional(rule.target_nano),
            target_nano=rule.target_nano,
        )


class TopUpAttemptAnswer(ResponseModel):
    """
    A payment that was asked for by itself; `tries` is how often, under the one reference.

    `state` is asked while there is no clear answer, then paid or declined, and given once its
    grant is.
    """

    number: int
    reference: str
    provider_reference: str
    amount: SignedAmountText
    amount_nano: NanoInt
    currency: str
    state: TopUpState
    tries: int
    asked_at: Instant
    ended_at: Instant | None

    @classmethod
    def of(cls, attempt: TopUpAttempt) -> "TopUpAttemptAnswer":
        """From the record."""
        return cls(
            number=attempt.number,
            reference=attempt.reference,
            provider_reference=attempt.provider_reference,
            amount=format_amount(attempt.amount_nano),
            amount_nano=attempt.amount_nano,
            currency=attempt.currency,
            state=attempt.state,
            tries=attempt.tries,
            asked_at=attempt.asked_at,
            ended_at=attempt.ended_at,
        )


class TopUpAttemptList(ResponseModel):
    """Attempts, the newest first, at most `limit`; `more` says that there are others."""

    items: list[TopUpAttemptAnswer]
    next: None = None
    more: bool


def _optional(nano: int | None) -> str | None:
    return None if nano is None else format_amount(nano)
