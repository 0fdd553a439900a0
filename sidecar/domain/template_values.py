"""What the templates of a rule's answer may name, worked out one by one as they are named."""

from collections.abc import Callable, Mapping
from typing import Final

from sidecar.domain.counters import MONEY, CounterKind, CounterTake
from sidecar.domain.customers import CustomerFacts
from sidecar.domain.money import format_amount
from sidecar.domain.outlines import MatchedRule
from sidecar.domain.planning import CheckPlan
from sidecar.domain.store_numbers import StoreNumbers
from sidecar.domain.variables import used_percent

_MS_PER_SECOND = 1_000
_MS_PER_DAY = 86_400_000


class TemplateValues:
    """Values of the variables for one rule; one that nobody knows has none, nor an empty one."""

    __slots__ = ("customer", "matched", "numbers", "plan")

    def __init__(
        self,
        plan: CheckPlan,
        matched: MatchedRule,
        customer: CustomerFacts,
        numbers: StoreNumbers | None,
    ) -> None:
        """Take what they come from; `numbers` are None where the store was not asked."""
        self.plan, self.matched = plan, matched
        self.customer, self.numbers = customer, numbers

    def get(self, name: str, default: str) -> str:
        """The value of a variable; the member's own list comes first."""
        own = self.matched.values.get(name)
        if own is not None:
            return own
        plain = _PLAIN.get(name)
        if plain is not None:
            return plain(self) or default
        if self.numbers is None:
            return default
        seen = _SEEN.get(name)
        if seen is not None:
            value = seen(self.numbers)
            return default if value is None else value
        kind, _, part = name.partition(".")
        counted = _COUNTED.get(part) if kind in _COUNTER_KINDS else None
        if counted is None or self.matched.take is None:
            return default
        value = counted(self.matched.take, self.numbers)
        return default if value is None else value


def limit_of(take: CounterTake) -> int:
    """The most that the counter allows at once."""
    rate = take.counter.rate
    return take.counter.limit if rate is None else rate.burst


def remaining(take: CounterTake, numbers: StoreNumbers) -> int:
    """What the counter has left, never below 0."""
    return max(0, limit_of(take) - numbers.used.get(take.name, 0))


def reset_seconds(take: CounterTake, numbers: StoreNumbers) -> int:
    """Seconds until nothing is used any more, as far as the numbers tell."""
    counter, rate = take.counter, take.counter.rate
    if rate is None:
        return seconds_until(take.leaves_ms, numbers)
    drained_ms = numbers.used.get(take.name, 0) * rate.per_ms
    return max(1, -(-drained_ms // (counter.limit * _MS_PER_SECOND)))


def seconds_until(instant_ms: int, numbers: StoreNumbers) -> int:
    """Whole seconds until an instant by the store's clock, at least 1."""
    return max(1, -(-(instant_ms - numbers.instant_ms) // _MS_PER_SECOND))


def _overdue_days(numbers: StoreNumbers) -> str | None:
    if numbers.due_since_ms is None:
        return None
    return str(max(0, numbers.instant_ms - numbers.due_since_ms) // _MS_PER_DAY)


def _counted_text(take: CounterTake, value: int) -> str:
    return format_amount(value) if take.counter.measure == MONEY else str(value)


def _used_percent(take: CounterTake, numbers: StoreNumbers) -> str:
    return str(used_percent(numbers.used.get(take.name, 0), limit_of(take)))


def _reset_text(take: CounterTake, numbers: StoreNumbers) -> str | None:
    if take.counter.kind is CounterKind.IN_FLIGHT:
        return None  # How long requests in flight last is not known.
    return str(reset_seconds(take, numbers))


_PLAIN: Final[Mapping[str, Callable[[TemplateValues], str]]] = {
    "credits.currency": lambda of: of.customer.currency,
    "customer.id": lambda of: of.customer.customer_id,
    "customer.plan": lambda of: of.customer.plan,
    "hold.amount": lambda of: format_amount(of.plan.amount_nano),
    "key.id": lambda of: of.customer.credential_id,
    "request.model": lambda of: of.plan.model,
    "rule.name": lambda of: of.matched.rule.name,
    "team.id": lambda of: of.customer.team_id,
    "user.id": lambda of: of.customer.user_id,
}
_SEEN: Final[Mapping[str, Callable[[StoreNumbers], str | None]]] = {
    "credits.available": lambda seen: format_amount(seen.available_nano),
    "standing": lambda seen: seen.standing.value,
    "invoices.overdue": lambda seen: (
        None if seen.due_nano is None else format_amount(seen.due_nano)
    ),
    "invoices.overdue_days": _overdue_days,
}
_COUNTER_KINDS: Final = frozenset({"quota", "limit"})
_COUNTED: Final[Mapping[str, Callable[[CounterTake, StoreNumbers], str | None]]] = {
    "name": lambda take, _: take.counter.name,
    "used": lambda take, seen: _counted_text(take, seen.used.get(take.name, 0)),
    "limit": lambda take, _: _counted_text(take, limit_of(take)),
    "remaining": lambda take, seen: _counted_text(take, remaining(take, seen)),
    "used_percent": _used_percent,
    "reset_seconds": _reset_text,
}
