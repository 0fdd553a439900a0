"""
The place script, played on given numbers: what the store would answer if it held these.

For tests of rules and explanations; a check asks the real store.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

from sidecar.domain.counters import CounterKind, CounterTake
from sidecar.domain.money import AMOUNT_NANO_MAX
from sidecar.domain.periods import to_epoch_ms
from sidecar.domain.planning import Ask, CheckPlan
from sidecar.domain.rules import RuleTemplate
from sidecar.domain.standing import Standing
from sidecar.domain.store_numbers import StoreNumbers
from sidecar.services.rule_test_cases import GivenInvoices

_MS_PER_DAY = 86_400_000
_NO_INVOICES = GivenInvoices()


class Given(Protocol):
    """What is given of a customer's numbers; `used` is by the counter's name."""

    @property
    def available_nano(self) -> int:
        """Credit that is neither used nor held."""

    @property
    def standing(self) -> Standing:
        """How the customer stands with its invoices."""

    @property
    def invoices(self) -> GivenInvoices:
        """What is known of unpaid invoices."""

    @property
    def used(self) -> Mapping[str, int]:
        """What counters have counted."""

    @property
    def at(self) -> datetime:
        """The instant of the check."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenNumbers:
    """Given numbers; the defaults refuse nothing."""

    at: datetime
    available_nano: int = AMOUNT_NANO_MAX
    standing: Standing = Standing.GOOD
    invoices: GivenInvoices = _NO_INVOICES
    used: Mapping[str, int] = field(default_factory=dict)


def play_place(plan: CheckPlan, given: Given) -> StoreNumbers:
    """What the place script would answer; the numbers are those before the hold."""
    instant_ms = to_epoch_ms(given.at)
    used = {take.name: given.used.get(take.counter.name, 0) for take in plan.counters}
    over = [take for take in plan.counters if used[take.name] + take.quantity > room(take)]
    overdue, short = given.invoices.overdue_days, plan.amount_nano > given.available_nano
    numbers = StoreNumbers(
        instant_ms=instant_ms,
        available_nano=given.available_nano,
        standing=given.standing,
        due_since_ms=None if overdue is None else instant_ms - overdue * _MS_PER_DAY,
        due_nano=given.invoices.amount_nano,
        disputed=given.invoices.disputed,
        used=used,
        over=frozenset(take.name for take in over),
        retry_at_ms={
            take.name: retry_at_ms
            for take in over
            if (retry_at_ms := _retry_at_ms(take, used[take.name], instant_ms)) is not None
        },
        failed_credit=plan.credit_required and short,
    )
    denied = refuses(plan, numbers)
    if not denied and short and _speaks_of_credit(plan):
        # The hold stands and credit is below zero; a rule that does not enforce tells so.
        return replace(numbers, failed_credit=True)
    return replace(numbers, denied=denied)


def refuses(plan: CheckPlan, numbers: StoreNumbers) -> bool:
    """Whether the script refuses on these numbers; a probe is always answered so."""
    return (
        plan.ask is Ask.PROBE
        or numbers.failed_credit
        or any(take.hard and take.name in numbers.over for take in plan.counters)
        or any(demand.hard and demand.fails(numbers) for demand in plan.invoices)
    )


def after_place(plan: CheckPlan, numbers: StoreNumbers) -> StoreNumbers:
    """The numbers as the script tells them of a hold that it placed: those after it."""
    if numbers.denied:
        return numbers
    used = {
        take.name: numbers.used.get(take.name, 0) + counted(take, numbers) for take in plan.counters
    }
    return replace(
        numbers,
        used=used,
        available_nano=plan.available_after(numbers.available_nano),
        failed_credit=False,
    )


def counted(take: CounterTake, numbers: StoreNumbers) -> int:
    """What a placed hold adds to the counter: a soft rate that is full takes nothing more."""
    full = take.counter.kind is CounterKind.RATE and take.name in numbers.over
    return 0 if full else take.quantity


def room(take: CounterTake) -> int:
    """The most that fits into the counter at once."""
    rate = take.counter.rate
    return take.counter.limit if rate is None else rate.burst


def _speaks_of_credit(plan: CheckPlan) -> bool:
    if plan.invoices_rest:
        return False
    return any(matched.rule.template is RuleTemplate.NO_CREDITS for matched in plan.rules)


def _retry_at_ms(take: CounterTake, used: int, instant_ms: int) -> int | None:
    """When there is room again; all that a rolling window counts is taken to be of now."""
    counter = take.counter
    if take.quantity > room(take):
        return None
    if counter.rate is not None:
        excess = used + take.quantity - counter.rate.burst
        return instant_ms - (-excess * counter.rate.per_ms // counter.limit)
    return take.leaves_ms if counter.kind is CounterKind.ROLLING else None
