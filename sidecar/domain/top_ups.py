"""
Automatic top-ups: when to ask for a payment, for how much, and what holds it back.

A payment moves somebody's money, so an attempt without a clear answer is repeated under its own
reference and no other is begun meanwhile; at most three begin in ten minutes, and a decline is
followed by an hour of rest.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sidecar.domain.errors import InvalidInput
from sidecar.domain.money import AMOUNT_NANO_MAX, format_amount

BURST_MAX = 3
BURST_SPAN = timedelta(minutes=10)
DECLINE_PAUSE = timedelta(hours=1)
ASK_PAUSE = timedelta(seconds=30)
"""Before an attempt without an answer is repeated the first time; then twice as long each time."""
ASK_PAUSE_MAX = timedelta(minutes=10)
ATTEMPTS_READ = BURST_MAX + 1
"""Newest attempts that the guards look at."""
_DOUBLINGS_MAX = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class TopUpRule:
    """
    Ask when credit falls below `threshold_nano`: for `amount_nano`, or up to `target_nano`.

    Exactly one of the two is set. Amounts are in the customer's currency.
    """

    threshold_nano: int
    amount_nano: int | None = None
    target_nano: int | None = None

    def amount(self, credit_nano: int) -> int:
        """What to ask for at this much credit, which may be negative."""
        if self.amount_nano is not None:
            return self.amount_nano
        assert self.target_nano is not None
        return min(self.target_nano - credit_nano, AMOUNT_NANO_MAX)


def check_top_up_rule(rule: TopUpRule) -> None:
    """
    Refuse a rule that cannot work.

    Raises:
        InvalidInput: Both or none of amount and target, an amount that is not above zero, or a
            target that is not above the threshold.
    """
    if (rule.amount_nano is None) == (rule.target_nano is None):
        raise InvalidInput("give either amount or target", field="amount")
    if not 0 <= rule.threshold_nano <= AMOUNT_NANO_MAX:
        raise InvalidInput("threshold must be zero or more", field="threshold")
    if rule.amount_nano is not None and not 0 < rule.amount_nano <= AMOUNT_NANO_MAX:
        raise InvalidInput(
            f"amount must be above zero and at most {format_amount(AMOUNT_NANO_MAX)}",
            field="amount",
        )
    if rule.target_nano is not None and not rule.threshold_nano < rule.target_nano:
        raise InvalidInput("target must be above threshold", field="target")
    if rule.target_nano is not None and rule.target_nano > AMOUNT_NANO_MAX:
        raise InvalidInput(
            f"target must be at most {format_amount(AMOUNT_NANO_MAX)}", field="target"
        )


class TopUpState(StrEnum):
    """How far an attempt has come."""

    ASKED = "asked"
    """No clear answer yet: it may have been paid."""
    PAID = "paid"
    """The provider has said so; the grant is to be given."""
    GIVEN = "given"
    DECLINED = "declined"


@dataclass(frozen=True, slots=True, kw_only=True)
class TopUpAttempt:
    """
    One payment that was asked for; `number` counts a customer's from 1.

    `tries` is how often the provider was asked under the same reference, `tried_at` when last.
    """

    customer_id: str
    number: int
    amount_nano: int
    currency: str
    asked_at: datetime
    state: TopUpState = TopUpState.ASKED
    tries: int = 0
    tried_at: datetime | None = None
    provider_reference: str = ""
    ended_at: datetime | None = None

    @property
    def reference(self) -> str:
        """Names the payment to the provider and in the grant: the same at each try."""
        digest = hashlib.sha256(f"{self.customer_id}\n{self.number}".encode()).hexdigest()
        return f"auto_{digest[:32]}"

    @property
    def next_try_at(self) -> datetime:
        """Before then the provider is not asked again."""
        if self.tried_at is None:
            return self.asked_at
        pause = ASK_PAUSE * (1 << min(max(self.tries - 1, 0), _DOUBLINGS_MAX))
        return self.tried_at + min(pause, ASK_PAUSE_MAX)


class TopUpStep(StrEnum):
    """What to do about a customer's credit now."""

    NOTHING = "nothing"
    """There is enough."""
    WAIT = "wait"
    """A guard holds it back."""
    ASK = "ask"
    """Begin an attempt."""
    RESUME = "resume"
    """Ask again for the attempt that has no answer."""
    GIVE = "give"
    """The attempt was paid: give its grant."""


def next_step(
    rule: TopUpRule, *, credit_nano: int, attempts: Sequence[TopUpAttempt], now: datetime
) -> TopUpStep:
    """
    What a rule asks for now.

    Args:
        rule: The customer's.
        credit_nano: What can be spent without an overdraft; may be negative.
        attempts: At least the newest ATTEMPTS_READ, the newest first.
        now: Of the clock that wrote the attempts' instants.
    """
    last = attempts[0] if attempts else None
    if last is not None and last.state is TopUpState.PAID:
        return TopUpStep.GIVE
    if last is not None and last.state is TopUpState.ASKED:
        return TopUpStep.RESUME if last.next_try_at <= now else TopUpStep.WAIT
    if credit_nano >= rule.threshold_nano:
        return TopUpStep.NOTHING
    return TopUpStep.WAIT if _held_back(attempts, now) else TopUpStep.ASK


def _held_back(attempts: Sequence[TopUpAttempt], now: datetime) -> bool:
    begun = sum(1 for one in attempts if one.asked_at > now - BURST_SPAN)
    declined = any(
        one.state is TopUpState.DECLINED
        and one.ended_at is not None
        and one.ended_at > now - DECLINE_PAUSE
        for one in attempts
    )
    return declined or begun >= BURST_MAX
