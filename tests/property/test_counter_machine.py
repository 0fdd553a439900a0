"""
Counters under any order of steps, on the real scripts in a real Redis.

Each step is done on the twin too, which counts in plain Python integers, and both must say the
same. What the machine itself remembers then shows that no limit was passed. Money is counted in
steps of 2^53 + 1, which a double cannot hold.
"""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from fixtures.counter_stores import (
    BASE_MS,
    EXACT,
    FLIGHT,
    RATE,
    ROLLING,
    ROLLING_SPEND,
    SPEND,
    WINDOW,
    CounterStore,
    open_live,
    open_twin,
)
from fixtures.live_store import CUSTOMER, event_of, hold_id_of
from fixtures.redis_fixture import ask_redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sidecar.domain.counters import IN_FLIGHT, MONEY, Counter, CounterKind, Rate
from sidecar.domain.usage import TokenUsage
from sidecar.services.ports import CaptureStatus, PlaceHold, PlaceOutcome, PlaceStatus

UNITS = 24
COUNTERS = (
    replace(WINDOW, limit=UNITS),
    replace(ROLLING, limit=UNITS),
    replace(RATE, limit=3, rate=Rate(per_ms=1_000, burst=UNITS // 2)),
    replace(FLIGHT, limit=3),
    replace(SPEND, limit=UNITS * EXACT),
    replace(ROLLING_SPEND, limit=UNITS * EXACT),
)
SPAN_MS = 10_000
some = st.lists(
    st.sampled_from(COUNTERS), min_size=1, max_size=2, unique_by=lambda counter: counter.name
)
units = st.integers(0, UNITS // 2)
hardness = st.lists(st.booleans(), min_size=6, max_size=6)
waits = st.one_of(
    st.integers(0, 3_000), st.sampled_from([1, 500, 1_999, 2_000, 8_000, 12_000, 86_400_000])
)


@dataclass(slots=True)
class Admitted:
    """One admission: what it took of each counter, later what was used of it."""

    at_ms: int
    took: dict[str, int]


class CounterMachine(RuleBasedStateMachine):
    socket: Path

    def __init__(self) -> None:
        super().__init__()
        ask_redis(self.socket, b"FLUSHALL")
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        granted = 10_000
        url = f"unix://{self.socket}"
        self.live = self.run(self.stack.enter_async_context(open_live(url, granted)))
        self.twin = self.run(self.stack.enter_async_context(open_twin(granted)))
        self.tight = True
        self.focus: list[Counter] = []
        self.rates = 0
        self.number = 0
        self.open: dict[int, tuple[PlaceHold, int]] = {}
        self.estimated: dict[int, tuple[PlaceHold, int]] = {}
        self.admitted: dict[int, Admitted] = {}

    def run(self, step):
        return self.runner.run(step)

    def teardown(self) -> None:
        for number in list(self.open):
            self.end(number)
        self.nothing_is_left_but_what_captures_counted()
        self.run(self.stack.aclose())
        self.runner.close()

    @initialize(tight=st.booleans(), focus=some)
    def choose(self, focus: list[Counter], *, tight: bool) -> None:
        """
        Which counters this run is about, and whether it is tight.

        Then all takes are hard and no capture exceeds its hold, so that limits must hold.
        """
        self.tight, self.focus = tight, focus

    def quantity_of(self, counter_or_measure: str, count: int) -> int:
        if counter_or_measure == MONEY:
            return count * EXACT - count % 3
        return min(count, 1) if counter_or_measure == IN_FLIGHT else count

    def take(self, store: CounterStore, counter: Counter, count: int, *, hard: bool):
        if counter.kind is CounterKind.RATE and self.rates:
            counter = replace(counter, limit=4, rate=Rate(per_ms=700, burst=UNITS // 2))
        return store.take(
            counter, self.quantity_of(counter.measure, count), hard=hard or self.tight
        )

    def both(self, step) -> tuple[object, object]:
        return self.run(step(self.live)), self.run(step(self.twin))

    def place_both(self, takes, count: int, **changes: object) -> tuple[PlaceHold, PlaceOutcome]:
        """Place on both; they must say the same, and a denial must leave no trace."""
        self.number += 1
        wanted = [self.take(self.live, counter, count, hard=hard) for counter, hard in takes]
        hold = self.live.hold(self.number, *wanted, **changes)
        before = self.run(self.live.live.dump())
        real = self.run(self.live.balances.place_hold(hold))
        theirs = replace(hold, customer=self.twin.facts)
        expected = self.run(self.twin.balances.place_hold(theirs))
        assert replace(real, epoch=1, seq=0) == replace(expected, seq=0)
        if real.status is PlaceStatus.DENIED:
            assert self.run(self.live.live.dump()) == before
        return hold, real

    def end(self, number: int) -> None:
        self.both(lambda store: store.release(number))
        del self.open[number]
        if number in self.admitted:
            self.admitted[number].took = dict.fromkeys(self.admitted[number].took, 0)

    @rule(
        count=units,
        amount=st.sampled_from([0, 10, 4_000]),
        without=st.sampled_from([None, None, *COUNTERS]),
        hard=hardness,
        short=st.booleans(),
    )
    def place(
        self, count: int, amount: int, without: Counter | None, hard: list[bool], *, short: bool
    ) -> None:
        counters = [counter for counter in self.focus if counter is not without]
        takes = list(zip(counters, hard, strict=False))
        ttl_ms = 1 if short else 600_000
        hold, outcome = self.place_both(takes, count, amount=amount, ttl_ms=ttl_ms)
        if outcome.status is not PlaceStatus.PLACED:
            assert outcome.status is PlaceStatus.DENIED
            return
        self.remember(hold, count)
        again = self.run(self.live.balances.place_hold(hold))
        assert again.status is PlaceStatus.REPEATED
        assert again.numbers.used == outcome.numbers.used
        soft = {take.name for take in hold.counters if not take.hard}
        assert again.numbers.over == outcome.numbers.over & soft

    def remember(self, hold: PlaceHold, count: int) -> None:
        self.open[self.number] = (hold, count)
        took = {take.name: take.quantity for take in hold.counters}
        self.admitted[self.number] = Admitted(self.live.now_ms, took)

    @rule(which=st.integers(0, 1))
    def take_all_that_is_left(self, which: int) -> None:
        counter = self.focus[which % len(self.focus)]
        used = self.run(self.live.used(counter))[0]
        limit = counter.rate.burst if counter.rate else counter.limit
        count = max(0, limit - used) // (EXACT if counter.measure == MONEY else 1)
        hold, outcome = self.place_both([(counter, True)], count)
        if outcome.status is PlaceStatus.PLACED:
            self.remember(hold, count)

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 1), milliseconds=waits)
    def wait_then_exchange_the_oldest_hold(self, which: int, milliseconds: int) -> None:
        """What was taken long ago and comes back unused must not be had a second time."""
        self.wait(milliseconds)
        self.take_all_that_is_left(which)
        self.end(min(self.open))
        self.take_all_that_is_left(which)

    @rule(count=units)
    def probe(self, count: int) -> None:
        takes = [(counter, True) for counter in self.focus]
        _, outcome = self.place_both(takes, count, probe=True)
        assert outcome.status is PlaceStatus.DENIED

    @rule(which=st.integers(0, 1), count=units)
    def wait_as_long_as_a_denial_says(self, which: int, count: int) -> None:
        counter = self.focus[which % len(self.focus)]
        _, refused = self.place_both([(counter, True)], count)
        if refused.status is PlaceStatus.PLACED:
            self.both(lambda store: store.release(self.number))
            return
        retry_at = refused.numbers.retry_at_ms.get(counter.name)
        if retry_at is None:
            assert counter.kind is CounterKind.IN_FLIGHT
            return
        self.both(lambda store: store.at(retry_at - 1))
        _, again = self.place_both([(counter, True)], count)
        assert again.status is PlaceStatus.DENIED
        self.both(lambda store: store.at(retry_at))
        hold, admitted = self.place_both([(counter, True)], count)
        assert admitted.status is PlaceStatus.PLACED
        self.remember(hold, count)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), count=units, estimated=st.booleans())
    def capture(self, data: st.DataObject, count: int, *, estimated: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.open)))
        hold, held = self.open.pop(number)
        count = min(count, held) if self.tight else count
        outcome = self.book(number, hold, count, estimated=estimated)
        assert outcome is CaptureStatus.CAPTURED
        if estimated:
            self.estimated[number] = (hold, count)

    @precondition(lambda self: self.estimated)
    @rule(data=st.data(), count=units)
    def correct(self, data: st.DataObject, count: int) -> None:
        number = data.draw(st.sampled_from(sorted(self.estimated)))
        hold, held = self.estimated.pop(number)
        count = min(count, held) if self.tight else count
        outcome = self.book(number, hold, count, estimated=False)
        assert outcome in (CaptureStatus.CORRECTED, CaptureStatus.DUPLICATE)

    def book(self, number: int, hold: PlaceHold, count: int, *, estimated: bool) -> CaptureStatus:
        lines = tuple(
            replace(
                line,
                quantity=0 if line.meter == IN_FLIGHT else self.quantity_of(line.meter, count),
            )
            for line in hold.terms.quota_lines
        )
        # The estimate says so by its tokens too: both stores take it for other usage.
        usage = TokenUsage(input=count, output=int(estimated))
        event = event_of(hold, 0, usage=usage, estimated=estimated)
        outcomes = self.both(lambda store: store.balances.capture_hold(event, lines, prepaid=True))
        # The twin counts its decisions from another start.
        real, expected = (replace(outcome, epoch=0, seq=0) for outcome in outcomes)
        assert real == expected
        used = {line.field: line.quantity for line in lines}
        for take in hold.counters:
            # Rates are not corrected: what a first capture said of them stands.
            corrects = outcomes[0].status is CaptureStatus.CORRECTED
            if not (corrects and take.counter.kind is CounterKind.RATE):
                self.admitted[number].took[take.name] = used[take.field]
        return outcomes[0].status

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.end(data.draw(st.sampled_from(sorted(self.open))))

    @rule()
    def sweep(self) -> None:
        """End what has expired, and drop what nobody came back to."""
        shard = self.live.live.keyspace.shard_of(CUSTOMER)
        due = self.run(self.live.balances.due_holds(shard, 1_000))
        expected = self.run(self.twin.balances.due_holds(shard, 1_000))
        assert sorted(due) == sorted(expected)
        for number in [n for n in self.open if (CUSTOMER, hold_id_of(n)) in due]:
            self.both(lambda store, number=number: store.orphan(number))
            del self.open[number]
            self.admitted[number].took = dict.fromkeys(self.admitted[number].took, 0)
        self.run(self.live.balances.prune_counters(shard, 1_000))

    @rule(milliseconds=waits)
    def wait(self, milliseconds: int) -> None:
        self.both(lambda store: store.wait(milliseconds))

    @precondition(lambda self: not self.tight)
    @rule()
    def change_the_rate(self) -> None:
        self.rates = 1 - self.rates

    @invariant()
    def no_span_of_a_rolling_window_holds_more_than_its_limit(self) -> None:
        if not self.tight:
            return
        for counter in COUNTERS[1], COUNTERS[5]:
            taken = [(a.at_ms, a.took.get(counter.name, 0)) for a in self.admitted.values()]
            for start, _ in taken:
                span = [q for at, q in taken if start <= at < start + SPAN_MS]
                assert sum(span) <= counter.limit

    @invariant()
    def no_span_holds_more_than_the_burst_and_what_the_rate_gave(self) -> None:
        if not self.tight:
            return
        counter = COUNTERS[2]
        taken = [(a.at_ms, a.took.get(counter.name, 0)) for a in self.admitted.values()]
        for first in range(len(taken)):
            total = 0
            for at, quantity in taken[first:]:
                total += quantity
                allowed = counter.rate.burst * counter.rate.per_ms
                allowed += counter.limit * (at - taken[first][0])
                assert total * counter.rate.per_ms <= allowed

    @invariant()
    def holds_in_flight_are_the_open_holds(self) -> None:
        fields = self.run(self.live.live.fields())
        flying = [
            sum(
                take.quantity
                for take in hold.counters
                if take.counter.kind is CounterKind.IN_FLIGHT
            )
            for hold, _ in self.open.values()
        ]
        assert int(fields.get(b"f:flight", b"0")) == sum(flying)
        assert (b"f:flight" in fields) is any(flying)

    @invariant()
    def a_rolling_sum_is_that_of_its_slices(self) -> None:
        fields = self.run(self.live.live.fields())
        for counter in COUNTERS[1], COUNTERS[5]:
            prefix = f"v:{counter.name}:".encode()
            slices = {n.removeprefix(prefix): v for n, v in fields.items() if n.startswith(prefix)}
            assert int(fields.get(f"s:{counter.name}".encode(), b"0")) == sum(
                map(int, slices.values())
            )
            index = fields.get(f"i:{counter.name}".encode(), b"").split(b",")[1:]
            assert [entry.partition(b"=")[0] for entry in index] == sorted(slices, key=int)

    def nothing_is_left_but_what_captures_counted(self) -> None:
        fields = self.run(self.live.live.fields())
        for name, value in fields.items():
            if name[:2] in (b"q:", b"v:"):
                assert int(value) == int(fields.get(b"u:" + name[2:], b"0"))
        assert b"f:flight" not in fields


def test_no_order_of_steps_breaks_a_counter(redis_socket: Path) -> None:
    CounterMachine.socket = redis_socket
    assert BASE_MS % SPAN_MS == 0
    run_state_machine_as_test(
        CounterMachine,
        settings=settings(
            max_examples=100,
            stateful_step_count=40,
            deadline=None,
            print_blob=True,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
