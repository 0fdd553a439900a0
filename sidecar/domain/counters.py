"""
Counters: what quotas, caps and rate limits count, and what one check takes of each.

A check takes all its counters in the same step as its credit, or none. A capture then replaces
what the hold took by what was really used, in the windows that the hold took it from.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sidecar.domain.customers import CustomerFacts
from sidecar.domain.holds import QuotaLine
from sidecar.domain.usage import UsageEvent, failed_for_nothing
from sidecar.domain.windows import RollingWindow, Window

COUNTERS_MAX = 16
"""Most counters of one check; the script's work grows with them."""

RATE_WORK_MAX = 2**50
"""Most of burst x milliseconds: a rate's level stays below what a Lua number holds exactly."""

MONEY = "@money"
REQUESTS = "@requests"
TOKENS = "@tokens"
IN_FLIGHT = "@in_flight"
"""Measures that are no meter's name: a meter's begins with a letter or digit."""


class CounterKind(StrEnum):
    """How a counter forgets; also the prefix of its field in the store."""

    WINDOW = "q"
    """Counts from zero in each window."""
    ROLLING = "v"
    """A sum over the slices of a rolling window."""
    RATE = "l"
    """A level that drains evenly (GCRA)."""
    IN_FLIGHT = "f"
    """How many holds are open."""


class Level(StrEnum):
    """Whom a counter counts: customer > team > user > key."""

    CUSTOMER = "customer"
    TEAM = "team"
    USER = "user"
    KEY = "key"

    def name_in(self, customer: CustomerFacts) -> str:
        """Who it is at this level; empty where the caller did not say."""
        match self:
            case Level.CUSTOMER:
                return customer.customer_id
            case Level.TEAM:
                return customer.team_id
            case Level.USER:
                return customer.user_id
            case Level.KEY:
                return customer.credential_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """`limit` each `per_ms` milliseconds, and at most `burst` at once."""

    per_ms: int
    burst: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter:
    """
    At most `limit` of a measure: in each window, at a rate, or in flight.

    `measure` is a meter's name, or one of the constants above. Money is in nano.
    """

    name: str
    kind: CounterKind
    measure: str
    limit: int
    level: Level = Level.CUSTOMER
    window: Window | None = None
    rate: Rate | None = None

    def take(
        self, customer: CustomerFacts, quantity: int, now: datetime, *, hard: bool
    ) -> "CounterTake":
        """What a check takes at an instant; the store confirms that its window still stands."""
        name = self.name
        if self.level is not Level.CUSTOMER:
            name = f"{name}@{self.level.value}={self.level.name_in(customer)}"
        field = f"{self.kind.value}:{name}"
        if self.window is None:
            return CounterTake(counter=self, name=name, field=field, quantity=quantity, hard=hard)
        period = self.window.at(now)
        leaves = period.end_ms
        if isinstance(self.window, RollingWindow):
            leaves = self.window.leaves_ms(period)
        return CounterTake(
            counter=self,
            name=name,
            field=f"{field}:{period.start_ms}",
            quantity=quantity,
            hard=hard,
            start_ms=period.start_ms,
            end_ms=period.end_ms,
            leaves_ms=leaves,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterTake:
    """
    What a check takes of one counter; `hard` refuses beyond the limit.

    `name` tells the counters of a check apart. A window's field ends with its start in
    milliseconds; a rolling window's is the current slice, which counts until `leaves_ms`.
    """

    counter: Counter
    name: str
    field: str
    quantity: int
    hard: bool
    start_ms: int = 0
    end_ms: int = 0
    leaves_ms: int = 0

    @property
    def line(self) -> QuotaLine:
        """The take as a hold remembers it."""
        return QuotaLine(field=self.field, meter=self.counter.measure, quantity=self.quantity)


def counted_quantity(line: QuotaLine, event: UsageEvent, quantities: Mapping[str, int]) -> int:
    """
    What an event really took of a counter that its hold took.

    Args:
        line: As the hold took it.
        event: Priced.
        quantities: What each meter counted.
    """
    match line.meter:
        case "@money":
            # What a correction gives back beyond its own charge makes no room for other usage.
            return max(0, event.amount_nano)
        case "@requests":
            return line.quantity
        case "@tokens":
            # A response that says nothing used what was held: unknown is never free.
            total = event.usage.known_total
            if total is None and failed_for_nothing(event.status, event.usage):
                return 0
            return line.quantity if total is None else total
        case "@in_flight":
            return 0
        case meter:
            return quantities.get(meter, 0)
