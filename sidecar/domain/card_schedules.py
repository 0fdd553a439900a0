"""Which rate card counts when: a plan's versions, and customers with prices of their own."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sidecar.domain.periods import Period
from sidecar.domain.rate_cards import RateCard


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """
    One card after the other: `cards[0]` since ever, `cards[n]` from `starts[n - 1]` on.

    Starts ascend; spans are half-open, so an instant has one card.
    """

    cards: tuple[RateCard, ...]
    starts: tuple[datetime, ...] = ()

    def __post_init__(self) -> None:
        assert len(self.cards) == len(self.starts) + 1
        assert list(self.starts) == sorted(set(self.starts))

    def at(self, instant: datetime) -> RateCard:
        """The card in force at an aware instant."""
        return self.cards[bisect_right(self.starts, instant)]

    def within(self, period: Period) -> Iterator[tuple[RateCard, Period]]:
        """Each card that is in force in the period, with its part of it, in order of time."""
        first = bisect_right(self.starts, period.start)
        start = period.start
        for number, end in enumerate(self.starts[first:], first):
            if end >= period.end:
                break
            yield self.cards[number], Period(start=start, end=end)
            start = end
        yield self.at(start), Period(start=start, end=period.end)


@dataclass(frozen=True, slots=True, kw_only=True)
class CardSchedule:
    """A plan's cards over time, and those of customers with prices of their own."""

    general: Timeline
    customers: Mapping[str, Timeline] = field(default_factory=dict)

    def of(self, customer_id: str) -> Timeline:
        """The customer's cards over time."""
        return self.customers.get(customer_id, self.general)

    @property
    def timelines(self) -> Iterator[Timeline]:
        """Each timeline once, though many customers share one."""
        yield self.general
        yield from {id(one): one for one in self.customers.values()}.values()
