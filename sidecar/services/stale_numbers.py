"""
What the store last said of each customer, for rules that may decide by it while it is away.

Nothing here decides while the store answers, and nothing is kept while no rule says `stale`:
10,000 customers take 9 MiB. Without the store, a decision by old numbers counts what this
process let through since; what other gateways let through is not known, which is what a rule
accepts that says `stale`.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from sidecar.domain.counters import CounterKind
from sidecar.domain.planning import CheckPlan
from sidecar.domain.store_numbers import StoreNumbers

CUSTOMERS_MAX = 10_000
FIELDS_MAX = 256


@dataclass(slots=True)
class _Seen:
    """A customer's newest numbers, since when, and counters by their field, each since when."""

    numbers: StoreNumbers
    at: float
    used: dict[str, tuple[int, float]] = field(default_factory=dict)


class StaleNumbers:
    """Remembers numbers for a while; bounded, the least recently seen customer goes first."""

    def __init__(
        self,
        customers_max: int = CUSTOMERS_MAX,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start empty; `monotonic` is seconds of a clock that never runs backwards."""
        self._customers_max = customers_max
        self._monotonic = monotonic
        self._seen: OrderedDict[str, _Seen] = OrderedDict()

    def remember(self, customer_id: str, plan: CheckPlan, numbers: StoreNumbers) -> None:
        """Note what the store just said."""
        before = self._seen.pop(customer_id, None)
        used = before.used if before is not None and len(before.used) < FIELDS_MAX else {}
        now = self._monotonic()
        used |= {take.field: (numbers.used[take.name], now) for take in plan.counters}
        self._seen[customer_id] = _Seen(numbers, now, used)
        if len(self._seen) > self._customers_max:
            self._seen.popitem(last=False)

    def clear(self) -> None:
        """Forget all: no rule decides by them any more."""
        self._seen.clear()

    def decide(self, customer_id: str, plan: CheckPlan, seconds: int) -> StoreNumbers | None:
        """
        The numbers that a placed or refused hold would have had; None if they are too old.

        A hold that they allow is counted, so that the next decision sees it. A window that
        was not seen, or a rate, has no number to decide by.
        """
        seen = self._seen.get(customer_id)
        oldest = self._monotonic() - seconds
        if seen is None or seen.at < oldest:
            return None
        used = {}
        for take in plan.counters:
            # Another request's answer says nothing of the counters that it did not take.
            count, at = seen.used.get(take.field, (0, -math.inf))
            if at < oldest or take.counter.kind is CounterKind.RATE:
                return None
            used[take.name] = count
        over = frozenset(
            take.name
            for take in plan.counters
            if used[take.name] + take.quantity > take.counter.limit
        )
        numbers = replace(seen.numbers, used=used, over=over, retry_at_ms={}, denied=False)
        short = plan.credit_required and numbers.available_nano < plan.amount_nano
        refused = (
            short
            or any(take.hard and take.name in over for take in plan.counters)
            or any(demand.hard and demand.fails(numbers) for demand in plan.invoices)
        )
        if refused:
            return replace(numbers, failed_credit=short, denied=True)
        for take in plan.counters:
            count, at = seen.used[take.field]
            seen.used[take.field] = count + take.quantity, at
        seen.numbers = replace(
            seen.numbers, available_nano=plan.available_after(seen.numbers.available_nano)
        )
        return replace(
            numbers,
            available_nano=seen.numbers.available_nano,
            used={take.name: seen.used[take.field][0] for take in plan.counters},
            failed_credit=False,
        )
