"""The place script alone: what it costs in Redis, by open holds and by grants of the customer."""

import asyncio
from statistics import median

import pytest
from bench.deployment import Redis
from bench.results import Results, Row
from fixtures.live_store import LiveStore, hold_id_of, hold_of

from sidecar.domain.counters import Counter, CounterKind, CounterTake, Rate
from sidecar.domain.customers import NOBODY, CustomerFacts
from sidecar.domain.periods import CalendarUnit, CalendarWindow
from sidecar.services.control_ports import Grant
from sidecar.services.ports import PlaceStatus

pytestmark = pytest.mark.asyncio(loop_scope="session")

PLACES = 300
RUNS = 9
OPEN = {1: (1, 10, 100, 1_000, 10_000, 100_000), 4: (10, 10_000), 64: (10, 10_000)}
"""Open holds of a customer, by the grants that it has."""
OPENED_AT_A_TIME = 64
TTL_MS = 3_600_000
"""Beyond the test's end: none of what is open may become due meanwhile."""
GRANT_NANO = 10**15
LIMIT = 10**12


def counters(store: LiveStore) -> tuple[CounterTake, ...]:
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


async def open_holds(store: LiveStore, facts: CustomerFacts, first: int, count: int) -> None:
    """As many as are to be open while others are measured."""
    numbers = iter(range(first, first + count))

    async def place_some() -> None:
        # Each takes the next number there is.
        for number in numbers:
            await place(store, facts, number, counters(store))

    await asyncio.gather(*(place_some() for _ in range(OPENED_AT_A_TIME)))


async def open_now(store: LiveStore, facts: CustomerFacts) -> int:
    """Holds in the customer's hash."""
    fields = await store.fields(facts.customer_id)
    return sum(name.startswith(b"h:") for name in fields)


async def place(
    store: LiveStore, facts: CustomerFacts, number: int, takes: tuple[CounterTake, ...]
) -> None:
    hold = hold_of(facts, number, 1_000, counters=takes, ttl_ms=TTL_MS)
    assert (await store.balances.place_hold(hold)).status is PlaceStatus.PLACED


async def place_us(store: LiveStore, redis: Redis, facts: CustomerFacts, first: int) -> float:
    """Microseconds of one place inside the server; what was placed is given back."""
    takes = counters(store)
    before = (await redis.info("commandstats"))["cmdstat_evalsha"]
    for number in range(first, first + PLACES):
        await place(store, facts, number, takes)
    after = (await redis.info("commandstats"))["cmdstat_evalsha"]
    for number in range(first, first + PLACES):
        await store.balances.release_hold(facts.customer_id, hold_id_of(number))
    return (_usec(after) - _usec(before)) / PLACES


def _usec(stat: str) -> int:
    return int(dict(part.split("=") for part in stat.split(","))["usec"])


@pytest.mark.parametrize("grants", OPEN)
async def test_a_place_costs_the_same_however_many_holds_are_open(
    grants: int, redis_of_test: str, results: Results
):
    """All sizes take turns, so that what else the machine does falls on each."""
    store, redis = await LiveStore.open(redis_of_test), Redis(redis_of_test)
    try:
        facts, first, sizes = {}, 0, OPEN[grants]
        for count in sizes:
            facts[count] = await open_customer(store, f"cus_{count}", grants)
            await open_holds(store, facts[count], first, count)
            first += count
        spent: dict[int, list[float]] = {count: [] for count in sizes}
        for round_ in range(RUNS):
            for count in sizes if round_ % 2 else reversed(sizes):
                spent[count].append(await place_us(store, redis, facts[count], first))
                first += PLACES
        for count, runs in spent.items():
            # Nothing of what was opened has gone meanwhile.
            assert await open_now(store, facts[count]) == count
            ratio = median(many / few for few, many in zip(spent[sizes[0]], runs, strict=True))
            row = Row(
                what="place script",
                setting=f"4 counters, {grants} grants, {count:,} open holds",
                runs=RUNS,
                per_second=1e6 / median(runs),
                low=1e6 / max(runs),
                high=1e6 / min(runs),
                cpu_us=0.0,
                redis_us=median(runs),
                note=f"{ratio:.2f} of {sizes[0]} open",
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
