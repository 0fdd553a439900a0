"""
One customer's counters in memory, of each kind, as the store counts them.

Used where there is no store: replay keeps two of these, one as it was and one as it would have
been, and only their difference counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sidecar.domain.counters import CounterKind, CounterTake

FIELDS_MAX = 100_000
"""Fields of one customer and kind that are remembered; beyond it the first ones go."""


class Slot(NamedTuple):
    """A take, reduced to what counting needs. `key` is the counter's name with its kind."""

    kind: CounterKind
    key: str
    field: str
    measure: str
    quantity: int
    limit: int
    hard: bool
    start_ms: int
    leaves_ms: int
    per_ms: int
    burst: int

    @classmethod
    def of_take(cls, take: CounterTake) -> "Slot":
        """A planned take."""
        counter, rate = take.counter, take.counter.rate
        return cls(
            counter.kind,
            f"{counter.kind.value}:{take.name}",
            take.field,
            counter.measure,
            take.quantity,
            counter.limit,
            take.hard,
            take.start_ms,
            take.leaves_ms,
            0 if rate is None else rate.per_ms,
            0 if rate is None else rate.burst,
        )

    @classmethod
    def of_field(
        cls,
        name: str,
        *,
        measure: str,
        quantity: int,
        limit: int,
        hard: bool,
        kept_ms: int,
        per_ms: int,
        burst: int,
    ) -> "Slot":
        """A take that is known by its field in the store, which ends with a window's start."""
        kind = CounterKind(name[:1])
        key, start, leaves_ms = name, 0, 0
        if kind in (CounterKind.WINDOW, CounterKind.ROLLING):
            key, _, text = name.rpartition(":")
            start = int(text)
            leaves_ms = start + kept_ms
        return cls(kind, key, name, measure, quantity, limit, hard, start, leaves_ms, per_ms, burst)

    @property
    def capacity(self) -> int:
        """The most that may be used."""
        return self.burst if self.kind is CounterKind.RATE else self.limit


@dataclass(slots=True)
class _Rate:
    """A level in units of quantity x milliseconds, which drains by `limit` each millisecond."""

    level: int
    at_ms: int
    limit: int
    per_ms: int

    def drain(self, at_ms: int) -> None:
        elapsed = max(0, at_ms - self.at_ms)
        self.level = max(0, self.level - elapsed * self.limit)
        self.at_ms = max(at_ms, self.at_ms)


@dataclass(slots=True)
class CounterModel:
    """Counts by field; instants are epoch milliseconds and never run backwards."""

    _windows: dict[str, tuple[int, int]] = field(default_factory=dict)
    _slices: dict[str, dict[int, tuple[int, int]]] = field(default_factory=dict)
    _rates: dict[str, _Rate] = field(default_factory=dict)
    _open: dict[str, int] = field(default_factory=dict)

    def used(self, slot: Slot, at_ms: int) -> int:
        """What is used of the counter now; of a rate, how much of the burst is taken."""
        match slot.kind:
            case CounterKind.WINDOW:
                return self._windows.get(slot.field, (0, 0))[0]
            case CounterKind.ROLLING:
                slices = self._slices.get(slot.key, {})
                return sum(count for count, leaves in slices.values() if leaves > at_ms)
            case CounterKind.RATE:
                return -(-self._level(slot, at_ms) // slot.per_ms)
            case CounterKind.IN_FLIGHT:
                return self._open.get(slot.field, 0)

    def exceeds(self, slot: Slot, at_ms: int) -> bool:
        """Whether the take does not fit."""
        if slot.kind is CounterKind.RATE:
            work = (slot.quantity - slot.burst) * slot.per_ms
            return self._level(slot, at_ms) + work > 0
        return self.used(slot, at_ms) + slot.quantity > slot.limit

    def retry_at_ms(self, slot: Slot, at_ms: int, missing: int) -> int | None:
        """
        From when on the take would fit if nothing else were taken; None where that is unknown.

        Args:
            slot: The take.
            at_ms: Now.
            missing: How much too little room there is.
        """
        if slot.quantity > slot.capacity:
            return None
        match slot.kind:
            case CounterKind.WINDOW:
                return slot.leaves_ms
            case CounterKind.ROLLING:
                for start, (count, leaves) in sorted(self._slices.get(slot.key, {}).items()):
                    if leaves > at_ms and start <= slot.start_ms:
                        missing -= count
                        if missing <= 0:
                            return leaves
                return None
            case CounterKind.RATE:
                work = (slot.quantity - slot.burst) * slot.per_ms
                excess = max(self._level(slot, at_ms) + work, 1)
                return at_ms + -(-excess // slot.limit) if slot.limit else None
            case CounterKind.IN_FLIGHT:
                return None

    def take(self, slot: Slot, at_ms: int) -> None:
        """Count the take, whether it fits or not."""
        self._add(slot, slot.quantity, at_ms)

    def adjust(self, slot: Slot, by: int, at_ms: int) -> None:
        """Correct what was taken: by what was really used, or by all of it given back."""
        if by:
            self._add(slot, by, at_ms)

    def _add(self, slot: Slot, quantity: int, at_ms: int) -> None:
        match slot.kind:
            case CounterKind.WINDOW:
                count, _ = self._windows.get(slot.field, (0, 0))
                self._windows[slot.field] = count + quantity, slot.leaves_ms
                _bound(self._windows)
            case CounterKind.ROLLING:
                slices = self._slices.setdefault(slot.key, {})
                count, _ = slices.get(slot.start_ms, (0, 0))
                slices[slot.start_ms] = count + quantity, slot.leaves_ms
                for start in [s for s, (_, leaves) in slices.items() if leaves <= at_ms]:
                    del slices[start]
                _bound(self._slices)
            case CounterKind.RATE:
                level = self._level(slot, at_ms)
                rate = self._rates.setdefault(slot.field, _Rate(0, at_ms, slot.limit, slot.per_ms))
                rate.level = max(0, level + quantity * slot.per_ms)
                rate.at_ms = max(at_ms, rate.at_ms)
                rate.limit, rate.per_ms = slot.limit, slot.per_ms
                _bound(self._rates)
            case CounterKind.IN_FLIGHT:
                self._open[slot.field] = max(0, self._open.get(slot.field, 0) + quantity)
                _bound(self._open)

    def _level(self, slot: Slot, at_ms: int) -> int:
        """The rate's level now; under another `per_ms` it is carried over in whole units."""
        rate = self._rates.get(slot.field)
        if rate is None:
            return 0
        rate.drain(at_ms)
        if rate.per_ms == slot.per_ms:
            return rate.level
        return -(-rate.level // rate.per_ms) * slot.per_ms


def _bound(fields: dict[str, Any]) -> None:
    if len(fields) > FIELDS_MAX:
        del fields[next(iter(fields))]


def counted(slot: Slot, *, amount_nano: int, tokens: int | None, meters: Mapping[str, int]) -> int:
    """
    What a finished request really took of a counter that its hold took.

    Args:
        slot: As the hold took it.
        amount_nano: What the usage cost.
        tokens: All its tokens; None where the response did not say.
        meters: What each meter counted.
    """
    match slot.measure:
        case "@money":
            return amount_nano
        case "@requests":
            return slot.quantity
        case "@tokens":
            return slot.quantity if tokens is None else tokens
        case "@in_flight":
            return 0
        case meter:
            return meters.get(meter, 0)
