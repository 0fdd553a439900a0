"""
What replay keeps of one customer: how the changed policy's world differs from the recorded one.

The recorded numbers are taken as they are; only the difference evolves. So where nothing
changes, every difference is zero and the recorded numbers are what rules judge.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sidecar.domain.counter_model import CounterModel, Slot, counted
from sidecar.domain.counters import CounterKind
from sidecar.domain.decision_records import DecisionRecord, NumbersFrom, RecordedTake
from sidecar.domain.planning import Ask, CheckPlan
from sidecar.domain.standing import Standing
from sidecar.domain.store_numbers import StoreNumbers

HOLDS_MAX = 100_000
ENDED_KEPT_MS = 3_600_000
OPEN_KEPT_MS = 6 * 3_600_000
"""
How many holds of a customer are remembered, and how long those whose usage has come and those
whose has not. Usage that comes later is that of an unknown hold.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayUsage:
    """
    Settled usage of one hold: `amount_nano` and `quantities` of a correction are differences.

    `tokens` is all that the response used by its newest word; None where it did not say.
    """

    customer_id: str
    hold_id: str
    at_ms: int
    kind: str
    currency: str
    amount_nano: int
    plan: str = ""
    price_version: str = ""
    model: str = ""
    occurred_ms: int = 0
    tokens: int | None = None
    quantities: Mapping[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Side:
    """One hold in one of the two worlds: what it took, and what it came to so far."""

    allowed: bool
    held_nano: int
    slots: list[tuple[Slot, int]]
    """Each take, and what its counter has counted for it by now."""
    captured_nano: int = 0


@dataclass(slots=True)
class ReplayedHold:
    """A hold in both worlds."""

    was: Side
    now: Side
    at_ms: int = 0
    ended: bool = False
    meters: dict[str, int] = field(default_factory=dict)
    """What its usage added up to by meter."""
    unmeasured: frozenset[str] = frozenset()
    """Meters that the new policy prices for it and the recorded one did not count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The recorded world's numbers when last seen, kept up with what came since."""

    available_nano: int
    standing: Standing
    due_since_ms: int | None
    due_nano: int | None
    disputed: bool


@dataclass(slots=True)
class CustomerState:
    """One customer in both worlds; `more_nano` is how much more credit the new one has."""

    more_nano: int = 0
    seen: Seen | None = None
    was: CounterModel = field(default_factory=CounterModel)
    now: CounterModel = field(default_factory=CounterModel)
    base: dict[str, int] = field(default_factory=dict)
    """By window or in-flight counter, what was used beyond what the replay saw happen."""
    holds: OrderedDict[str, ReplayedHold] = field(default_factory=OrderedDict)

    def numbers(self, record: DecisionRecord, plan: CheckPlan) -> StoreNumbers | None:
        """
        What the store would have answered to the plan; None where no number is known at all.

        On a placed hold they are the numbers after it.
        """
        seen = self._seen_at(record)
        if seen is None:
            return None
        at_ms = record.instant_ms
        available = seen.available_nano + self.more_nano
        used: dict[str, int] = {}
        over: set[str] = set()
        hard_over = False
        retry_at: dict[str, int] = {}
        recorded = _recorded_takes(record)
        for take in plan.counters:
            slot = Slot.of_take(take)
            before, exceeded, retry = self._look(slot, recorded.get(take.field), record)
            used[take.name] = before
            if exceeded:
                over.add(take.name)
                hard_over = hard_over or take.hard
            if retry:
                retry_at[take.name] = retry
        failed_credit = plan.credit_required and available < plan.amount_nano
        numbers = StoreNumbers(
            instant_ms=at_ms,
            available_nano=available,
            standing=seen.standing,
            due_since_ms=seen.due_since_ms,
            due_nano=seen.due_nano,
            disputed=seen.disputed,
            used=used,
            over=frozenset(over),
            retry_at_ms=retry_at,
            failed_credit=failed_credit,
        )
        refused = (
            plan.ask is Ask.PROBE
            or failed_credit
            or hard_over
            or any(demand.hard and demand.fails(numbers) for demand in plan.invoices)
        )
        if refused:
            return replace(numbers, denied=True)
        for take in plan.counters:
            if take.counter.kind is not CounterKind.RATE or take.name not in over:
                used[take.name] += take.quantity
        return replace(numbers, available_nano=plan.available_after(available), used=used)

    def apply(self, record: DecisionRecord, hold: ReplayedHold) -> None:
        """Let a decision take effect in both worlds."""
        was, now, at_ms = hold.was, hold.now, record.instant_ms
        if record.numbers_from is NumbersFrom.STORE:
            self._remember(record, held_nano=was.held_nano)
        self.more_nano += was.held_nano - now.held_nano
        for model, side in ((self.was, was), (self.now, now)):
            for slot, quantity in side.slots:
                model.adjust(slot, quantity, at_ms)
        if not (was.allowed or now.allowed):
            return
        if now.allowed and not was.allowed:
            # Its usage is not known: it stays as its estimate, and is in flight for no time.
            now.captured_nano, now.held_nano = now.held_nano, 0
            for slot, quantity in now.slots:
                if slot.kind is CounterKind.IN_FLIGHT:
                    self.now.adjust(slot, -quantity, at_ms)
        hold.at_ms = at_ms
        self.holds[record.hold_id] = hold
        self._forget_holds(at_ms)

    def settle(self, usage: ReplayUsage, now_nano: int) -> ReplayedHold | None:
        """
        Let usage take effect in both worlds.

        Args:
            usage: As it was settled.
            now_nano: What it comes to at the new prices.

        Returns:
            Its hold; None where the replay has not seen it.
        """
        hold = self.holds.get(usage.hold_id)
        if hold is None:
            self._add_seen(-usage.amount_nano)
            self.more_nano += usage.amount_nano - now_nano
            return None
        if not hold.now.allowed:
            now_nano = 0
        hold.ended = True
        _add_meters(hold, usage)
        released = hold.was.held_nano
        self._add_seen(released - usage.amount_nano)
        self.more_nano += (hold.now.held_nano - now_nano) - (released - usage.amount_nano)
        for model, side, amount in (
            (self.was, hold.was, usage.amount_nano),
            (self.now, hold.now, now_nano),
        ):
            side.captured_nano += amount
            side.held_nano = 0
            if side.allowed:
                _settle_slots(model, side, usage, hold.meters)
        return hold

    def _look(
        self, slot: Slot, known: RecordedTake | None, record: DecisionRecord
    ) -> tuple[int, bool, int | None]:
        """What is used before the take, whether it does not fit, and from when on it would."""
        at_ms = record.instant_ms
        was, now = self.was.used(slot, at_ms), self.now.used(slot, at_ms)
        if known is None or known.measure != slot.measure:
            before = max(0, self.base.get(slot.field, 0) + now)
        else:
            before = _used_before(known, placed=record.placed) - was + now
            if was == now and known.slot == slot._replace(hard=known.hard):
                return before, known.over, known.retry_at_ms or None
            before = max(0, before)
        exceeded = before + slot.quantity > slot.capacity
        missing = before + slot.quantity - slot.capacity
        return before, exceeded, self.now.retry_at_ms(slot, at_ms, missing) if exceeded else None

    def _seen_at(self, record: DecisionRecord) -> Seen | None:
        if record.numbers_from is not NumbersFrom.STORE:
            return self.seen
        return _seen_in(record)

    def _remember(self, record: DecisionRecord, *, held_nano: int) -> None:
        """Keep the recorded numbers as they are after the decision, for who has none."""
        before = _seen_in(record)
        self.seen = replace(before, available_nano=before.available_nano - held_nano)
        for take in record.takes:
            slot = take.slot
            if slot.kind in (CounterKind.WINDOW, CounterKind.IN_FLIGHT):
                used = _used_before(take, placed=record.placed)
                self.base[slot.field] = used - self.was.used(slot, record.instant_ms)
        if len(self.base) > HOLDS_MAX:
            self.base.clear()

    def _forget_holds(self, at_ms: int) -> None:
        while len(self.holds) > 1:
            oldest = next(iter(self.holds.values()))
            kept_ms = ENDED_KEPT_MS if oldest.ended else OPEN_KEPT_MS
            if len(self.holds) <= HOLDS_MAX and at_ms - oldest.at_ms <= kept_ms:
                break
            self.holds.popitem(last=False)

    def _add_seen(self, nano: int) -> None:
        if self.seen is not None:
            available = self.seen.available_nano + nano
            self.seen = replace(self.seen, available_nano=available)


def recorded_side(record: DecisionRecord) -> Side:
    """What the record's own decision took, beyond its instant."""
    if not (record.placed and record.allow):
        return Side(allowed=record.allow, held_nano=0, slots=[])
    slots = [(take.slot, take.quantity) for take in record.takes if take.counted]
    return Side(allowed=True, held_nano=record.amount_nano, slots=slots)


def planned_side(plan: CheckPlan, numbers: StoreNumbers, *, allowed: bool) -> Side:
    """What a hold of the plan takes, beyond its instant."""
    if numbers.denied or not allowed:
        return Side(allowed=False, held_nano=0, slots=[])
    over = numbers.over
    slots = [
        (Slot.of_take(take), take.quantity)
        for take in plan.counters
        if take.counter.kind is not CounterKind.RATE or take.name not in over
    ]
    return Side(allowed=True, held_nano=plan.amount_nano, slots=slots)


def _used_before(take: RecordedTake, *, placed: bool) -> int:
    return take.used - take.quantity if placed and take.counted else take.used


def _seen_in(record: DecisionRecord) -> Seen:
    """The recorded numbers as they were before the hold."""
    return Seen(
        available_nano=record.available_nano + (record.amount_nano if record.placed else 0),
        standing=Standing(record.standing),
        due_since_ms=record.due_since_ms,
        due_nano=record.due_nano,
        disputed=record.disputed,
    )


def _recorded_takes(record: DecisionRecord) -> dict[str, RecordedTake]:
    if record.numbers_from is not NumbersFrom.STORE:
        return {}
    return {take.field: take for take in record.takes}


def _add_meters(hold: ReplayedHold, usage: ReplayUsage) -> None:
    if usage.kind == "orphan" and not usage.amount_nano:
        # The lines of a released orphan say what was held, not what was used.
        return
    for meter, quantity in usage.quantities.items():
        hold.meters[meter] = hold.meters.get(meter, 0) + quantity


def _settle_slots(
    model: CounterModel, side: Side, usage: ReplayUsage, meters: Mapping[str, int]
) -> None:
    """Replace what the counters counted for the hold by what was used."""
    given_back = usage.kind == "orphan" and not usage.amount_nano
    for number, (slot, before) in enumerate(side.slots):
        after = 0
        if not given_back:
            after = counted(
                slot, amount_nano=side.captured_nano, tokens=usage.tokens, meters=meters
            )
        model.adjust(slot, after - before, usage.at_ms)
        side.slots[number] = slot, after
