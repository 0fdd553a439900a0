"""Counters in memory, of each kind."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.counter_model import CounterModel, Slot, counted
from sidecar.domain.counters import Counter, CounterKind, Rate
from sidecar.domain.customers import CustomerFacts
from sidecar.domain.periods import CalendarUnit, CalendarWindow, from_epoch_ms, to_epoch_ms
from sidecar.domain.windows import RollingWindow

CUSTOMER = CustomerFacts(customer_id="cus_1", plan="pro", currency="USD", revision=1)
START = datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC)
START_MS = to_epoch_ms(START)
DAY = Counter(
    name="day",
    kind=CounterKind.WINDOW,
    measure="input",
    limit=10,
    window=CalendarWindow(unit=CalendarUnit.DAY),
)
LAST = Counter(
    name="last",
    kind=CounterKind.ROLLING,
    measure="input",
    limit=10,
    window=RollingWindow(seconds=60, slices=6),
)
PACE = Counter(
    name="pace",
    kind=CounterKind.RATE,
    measure="@requests",
    limit=3,
    rate=Rate(per_ms=1_000, burst=4),
)
OPEN = Counter(name="open", kind=CounterKind.IN_FLIGHT, measure="@in_flight", limit=2)


def slot(counter: Counter, quantity: int = 1, at_ms: int = START_MS) -> Slot:
    return Slot.of_take(counter.take(CUSTOMER, quantity, from_epoch_ms(at_ms), hard=True))


def test_a_slot_is_the_same_by_its_take_and_by_its_field():
    for counter in (DAY, LAST, PACE, OPEN):
        planned = slot(counter, 3)
        rate = counter.rate or Rate(per_ms=0, burst=0)
        by_field = Slot.of_field(
            planned.field,
            measure=counter.measure,
            quantity=3,
            limit=counter.limit,
            hard=True,
            kept_ms=planned.leaves_ms - planned.start_ms,
            per_ms=rate.per_ms,
            burst=rate.burst,
        )
        assert by_field == planned


def test_a_window_starts_from_zero():
    model = CounterModel()
    model.take(slot(DAY, 10), START_MS)
    assert model.exceeds(slot(DAY), START_MS)
    assert model.retry_at_ms(slot(DAY), START_MS, 1) == START_MS + 1_000
    midnight = START_MS + 1_000
    assert not model.exceeds(slot(DAY, 10, midnight), midnight)
    model.adjust(slot(DAY, 10), -4, midnight)
    assert model.used(slot(DAY), START_MS) == 6


def test_a_slice_leaves_a_rolling_window_as_a_whole():
    model = CounterModel()
    model.take(slot(LAST, 4), START_MS)
    later = START_MS + 30_000
    model.take(slot(LAST, 6, later), later)
    leaves = slot(LAST).leaves_ms
    assert model.exceeds(slot(LAST, 1, later), later)
    assert model.retry_at_ms(slot(LAST, 4, later), later, 4) == leaves
    assert model.used(slot(LAST, 1, leaves - 1), leaves - 1) == 10
    assert model.used(slot(LAST, 1, leaves), leaves) == 6
    assert model.retry_at_ms(slot(LAST, 11, later), later, 11) is None


def test_a_rate_drains_evenly_and_says_when_there_is_room():
    model = CounterModel()
    for _ in range(4):
        assert not model.exceeds(slot(PACE), START_MS)
        model.take(slot(PACE), START_MS)
    assert model.exceeds(slot(PACE), START_MS)
    assert model.retry_at_ms(slot(PACE), START_MS, 1) == START_MS + 334
    assert model.exceeds(slot(PACE), START_MS + 333)
    assert not model.exceeds(slot(PACE), START_MS + 334)
    assert model.used(slot(PACE), START_MS + 2_000) == 0


def test_another_length_of_a_rate_carries_over_whole_units_rounded_up():
    model = CounterModel()
    model.take(slot(PACE, 2), START_MS)
    longer = slot(PACE)._replace(per_ms=60_000)
    assert model.used(longer, START_MS + 100) == 2


def test_in_flight_counts_what_is_open():
    model = CounterModel()
    model.take(slot(OPEN), START_MS)
    model.take(slot(OPEN), START_MS)
    assert model.exceeds(slot(OPEN), START_MS)
    assert model.retry_at_ms(slot(OPEN), START_MS, 1) is None
    model.adjust(slot(OPEN), -1, START_MS)
    assert not model.exceeds(slot(OPEN), START_MS)


def test_what_usage_counts_depends_on_the_measure():
    words = {"amount_nano": 7, "tokens": 5, "meters": {"input": 3}}
    assert counted(slot(DAY, 9), **words) == 3
    assert counted(slot(PACE, 1), **words) == 1
    assert counted(slot(OPEN, 1), **words) == 0
    assert counted(slot(DAY)._replace(measure="@money"), **words) == 7
    assert counted(slot(DAY)._replace(measure="@tokens"), **words) == 5
    assert counted(slot(DAY, 9)._replace(measure="@tokens"), **words | {"tokens": None}) == 9


@given(st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 5)), max_size=40))
def test_no_span_admits_more_than_its_limit(steps: list[tuple[int, int]]):
    """A rolling window never admits more in its seconds; a rate never more than it refills."""
    rolling, rate, at_ms = CounterModel(), CounterModel(), START_MS
    taken: list[tuple[int, int]] = []
    paced: list[tuple[int, int]] = []
    for pause_ms, quantity in steps:
        at_ms += pause_ms
        last, pace = slot(LAST, quantity, at_ms), slot(PACE, quantity, at_ms)
        if not rolling.exceeds(last, at_ms):
            rolling.take(last, at_ms)
            taken.append((at_ms, quantity))
        if not rate.exceeds(pace, at_ms):
            rate.take(pace, at_ms)
            paced.append((at_ms, quantity))
    span = timedelta(seconds=60) // timedelta(milliseconds=1)
    for begin, _ in taken:
        assert sum(q for at, q in taken if begin <= at < begin + span) <= LAST.limit
    for begin, _ in paced:
        for end, _ in paced:
            inside = sum(q for at, q in paced if begin <= at <= end)
            assert begin > end or inside <= 4 + (end - begin) * 3 / 1_000 + 1e-9
