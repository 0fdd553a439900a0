"""The place script alone: what it costs in Redis, by open holds and by grants of the customer."""

from statistics import median

import pytest
from bench.deployment import Redis
from bench.results import Results, Row
from fixtures.live_store import LiveStore, hold_id_of, hold_of

from sidecar.domain.counters import Counter, CounterKind, Rate
from sidecar.domain.customers import NOBODY, CustomerFacts
from sidecar.domain.periods import CalendarUnit, CalendarWindow
from sidecar.services.control_ports import Grant
from sidecar.services.ports import PlaceStatus

pytestmark = pytest.mark.asyncio(loop_scope="session")

PLACES = 300
RUNS = 9
OPEN = (10, 10_000)
GRANTS = (1, 4, 64)
GRANT_NANO = 10**15
LIMIT = 10**12


def counters(store: LiveStore) -> tuple:
    """Four of them: two windows, a rate, and what is in flight."""
    month = CalendarWindow(unit=CalendarUnit.MONTH)
    day = CalendarWindow(unit=CalendarUnit.DAY)
    rate = Rate(per_ms=1_000, burst=10**6)
    window, level = CounterKind.WINDOW, CounterKind.RATE
    made = (
        Counter(name="month", kind=window, measure="total", limit=LIMIT, window=month),
        Counter(name="day", kind=window, measure="total", limit=LIMIT, window=day),
        Counter(name="rate", kind=level, measure="requests", limit=10**6, rate=rate),
        Counter(name="flight", kind=CounterKind.IN_FLIGHT, measure="requests", limit=LIMIT),
    )
    now = store.clock.now()
    return tuple(counter.take(NOBODY, 1, now, hard=True) for counter in made)


async def place_many(store: LiveStore, facts: CustomerFacts, first: int, count: int) -> None:
    takes = counters(store)
    for number in range(first, first + count):
        outcome = await store.balances.place_hold(hold_of(facts, number, 1_000, counters=takes))
        assert outcome.status is PlaceStatus.PLACED


async def place_us(store: LiveStore, redis: Redis, facts: CustomerFacts, first: int) -> float:
    """Microseconds of one place inside the server; what was placed is given back."""
    before = (await redis.info("commandstats"))["cmdstat_evalsha"]
    await place_many(store, facts, first, PLACES)
    after = (await redis.info("commandstats"))["cmdstat_evalsha"]
    for number in range(first, first + PLACES):
        await store.balances.release_hold(facts.customer_id, hold_id_of(number))
    return (_usec(after) - _usec(before)) / PLACES


def _usec(stat: str) -> int:
    return int(dict(part.split("=") for part in stat.split(","))["usec"])


@pytest.mark.parametrize("grants", GRANTS)
async def test_a_place_costs_the_same_however_many_holds_are_open(
    grants: int, redis_of_test: str, results: Results
):
    """The runs of both take turns, so that what else the machine does falls on both."""
    store, redis = await LiveStore.open(redis_of_test), Redis(redis_of_test)
    try:
        facts, first = {}, 0
        for count in OPEN:
            facts[count] = await open_customer(store, f"cus_{count}", grants)
            await place_many(store, facts[count], first, count)
            first += count
        spent: dict[int, list[float]] = {count: [] for count in OPEN}
        for _ in range(RUNS):
            for count in OPEN:
                spent[count].append(await place_us(store, redis, facts[count], first))
                first += PLACES
        few = median(spent[OPEN[0]])
        for count, runs in spent.items():
            row = Row(
                what="place script",
                setting=f"4 counters, {grants} grants, {count} open holds",
                runs=RUNS,
                per_second=1e6 / median(runs),
                low=1e6 / max(runs),
                high=1e6 / min(runs),
                cpu_us=0.0,
                redis_us=median(runs),
                note=f"{median(runs) / few:.2f} of {OPEN[0]} open holds",
            )
            results.add(row)
    finally:
        await store.connection.aclose()
        await redis.connection.aclose()


async def open_customer(store: LiveStore, name: str, grants: int) -> CustomerFacts:
    facts = await store.add_customer(customer_id=name)
    for number in range(grants):
        grant = Grant(
            grant_id=f"01-grant-of-the-bench-{number:02d}",
            customer_id=name,
            amount_nano=GRANT_NANO,
            currency="USD",
        )
        await store.accounts.apply_grant(grant)
    return facts
