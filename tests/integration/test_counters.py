"""Counters of every kind: the same scenarios on the in-memory twin and on the real scripts."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from fixtures.counter_stores import (
    BASE_MS,
    CALLS,
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

from sidecar.domain.counters import Counter, Level, Rate
from sidecar.domain.windows import RollingWindow
from sidecar.services.ports import CaptureStatus, PlaceStatus

EVERY_KIND = (WINDOW, ROLLING, RATE, FLIGHT)
LIMITS = {WINDOW.name: 50, ROLLING.name: 50, RATE.name: 20, FLIGHT.name: 2}


@pytest.fixture(params=["twin", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[CounterStore]:
    if request.param == "twin":
        async with open_twin(granted=1_000) as store:
            yield store
    else:
        async with open_live(request.getfixturevalue("redis_url"), granted=1_000) as store:
            yield store


def named(counter: Counter) -> str:
    return counter.name


@pytest.mark.parametrize("counter", EVERY_KIND, ids=named)
async def test_a_counter_admits_up_to_its_limit_and_not_one_more(store, counter):
    limit = LIMITS[counter.name]
    placed = await store.take_one(1, counter, limit - 1)
    assert placed.status is PlaceStatus.PLACED
    assert placed.numbers.used == {counter.name: limit - 1}
    refused = await store.take_one(2, counter, 2)
    assert refused.status is PlaceStatus.DENIED
    assert refused.numbers.denied
    assert refused.numbers.over == {counter.name}
    assert refused.numbers.used == {counter.name: limit - 1}
    last = await store.take_one(3, counter, 1)
    assert last.status is PlaceStatus.PLACED
    assert last.numbers.used == {counter.name: limit}
    assert last.numbers.over == set()


@pytest.mark.parametrize("counter", [WINDOW, ROLLING, RATE], ids=named)
async def test_waiting_until_the_instant_it_says_helps_and_a_millisecond_less_does_not(
    store, counter
):
    for number, quantity in enumerate((5, 9, 6)):
        await store.wait(700)
        assert (await store.take_one(number, counter, quantity)).status is PlaceStatus.PLACED
    wanted = LIMITS[counter.name] - 3
    refused = await store.take_one(10, counter, wanted)
    retry_at = refused.numbers.retry_at_ms[counter.name]
    await store.at(retry_at - 1)
    again = await store.take_one(11, counter, wanted)
    assert again.status is PlaceStatus.DENIED
    assert again.numbers.retry_at_ms == {counter.name: retry_at}
    await store.at(retry_at)
    assert (await store.take_one(12, counter, wanted)).status is PlaceStatus.PLACED


@pytest.mark.parametrize("counter", EVERY_KIND, ids=named)
async def test_what_would_never_fit_is_not_told_to_wait(store, counter):
    refused = await store.take_one(1, counter, LIMITS[counter.name] + 1)
    assert refused.numbers.over == {counter.name}
    assert refused.numbers.retry_at_ms == {}
    huge = await store.take_one(2, counter, 10**15)
    assert huge.numbers.over == {counter.name}
    assert huge.numbers.retry_at_ms == {}


async def test_holds_in_flight_have_no_instant_to_wait_for(store):
    await store.take_one(1, FLIGHT, 1)
    await store.take_one(2, FLIGHT, 1)
    refused = await store.take_one(3, FLIGHT, 1)
    assert refused.numbers.over == {"flight"}
    assert refused.numbers.retry_at_ms == {}


async def test_all_or_nothing_over_every_counter_and_the_credit(store):
    for refusing in EVERY_KIND:
        takes = [
            store.take(counter, LIMITS[counter.name] + 1 if counter is refusing else 1)
            for counter in EVERY_KIND
        ]
        outcome = await store.place(1, *takes, amount=10)
        assert outcome.status is PlaceStatus.DENIED
        assert outcome.numbers.over == {refusing.name}
    poor = await store.place(2, *(store.take(c, 1) for c in EVERY_KIND), amount=1_001)
    assert poor.status is PlaceStatus.DENIED
    assert poor.numbers.failed_credit
    assert poor.numbers.over == set()
    assert await store.used(*EVERY_KIND) == [0, 0, 0, 0]
    placed = await store.place(3, *(store.take(c, 2) for c in EVERY_KIND), amount=1_000)
    assert placed.status is PlaceStatus.PLACED
    assert placed.numbers.used == dict.fromkeys(LIMITS, 2)
    assert placed.numbers.available_nano == 0


@pytest.mark.parametrize("counter", [WINDOW, ROLLING, FLIGHT], ids=named)
async def test_a_soft_counter_admits_beyond_its_limit_and_says_so(store, counter):
    limit = LIMITS[counter.name]
    first = await store.take_one(1, counter, limit, hard=False)
    assert first.numbers.over == set()
    beyond = await store.take_one(2, counter, 1, hard=False)
    assert beyond.status is PlaceStatus.PLACED
    assert beyond.numbers.over == {counter.name}
    assert beyond.numbers.used == {counter.name: limit + 1}
    assert not beyond.numbers.denied


async def test_a_soft_rate_counts_as_if_it_were_enforced(store):
    await store.take_one(1, RATE, 20)
    hold = store.hold(2, store.take(RATE, 5, hard=False))
    beyond = await store.balances.place_hold(hold)
    assert beyond.status is PlaceStatus.PLACED
    assert beyond.numbers.over == {"rate"}
    assert beyond.numbers.used == {"rate": 20}
    assert beyond.numbers.retry_at_ms == {"rate": BASE_MS + 715}
    again = await store.balances.place_hold(hold)
    assert (again.status, again.numbers.over) == (PlaceStatus.REPEATED, {"rate"})
    # What it did not take, its capture neither gives back nor adds.
    await store.capture(hold, 9)
    assert await store.used(RATE) == [20]


async def test_a_window_counts_anew_and_settles_in_the_window_that_was_taken(store):
    hold = store.hold(1, store.take(WINDOW, 40))
    await store.balances.place_hold(hold)
    await store.wait(10_000)
    assert (await store.take_one(2, WINDOW, 50)).status is PlaceStatus.PLACED
    await store.capture(hold, 3)
    assert await store.used(WINDOW) == [50]
    await store.at(BASE_MS + 20_000)
    assert await store.used(WINDOW) == [0]


async def test_a_rolling_window_forgets_slice_by_slice(store):
    used = []
    for number in range(8):
        await store.take_one(number, ROLLING, 5)
        used += await store.used(ROLLING)
        await store.wait(2_000)
    # The current slice and five before it are counted.
    assert used == [5, 10, 15, 20, 25, 30, 30, 30]


async def test_a_wait_for_many_slices_is_right_to_the_millisecond(store):
    fine = replace(ROLLING, limit=130, window=RollingWindow(seconds=100, slices=200))
    for number in range(130):
        await store.take_one(number, fine, 1)
        await store.wait(500)
    for quantity in (1, 49, 50, 51, 100, 130):
        refused = await store.take_one(200, fine, quantity)
        # The slice that was taken as the last of so many leaves a hundred seconds after its end.
        leaves = BASE_MS + 500 * quantity + 100_000
        assert refused.numbers.retry_at_ms == {"rolling": leaves}


async def test_a_rolling_window_settles_in_the_slice_that_was_taken(store):
    hold, other = (store.hold(n, store.take(ROLLING, 10)) for n in (1, 2))
    await store.balances.place_hold(hold)
    await store.balances.place_hold(other)
    await store.wait(6_000)
    assert (await store.take_one(3, ROLLING, 31)).status is PlaceStatus.DENIED
    await store.capture(hold, 9)
    assert (await store.take_one(4, ROLLING, 31)).status is PlaceStatus.PLACED
    # The slice leaves with what is counted in it; later captures find it gone.
    await store.at(BASE_MS + 12_000)
    assert await store.used(ROLLING) == [31]
    await store.take_one(5, ROLLING, 1)
    await store.capture(other, 50)
    assert await store.used(ROLLING) == [32]


async def test_a_capture_gives_a_rate_back_what_time_has_not(store):
    hold = store.hold(1, store.take(RATE, 20))
    await store.balances.place_hold(hold)
    await store.wait(1_000)
    # 13 of 20 are left after a second; had it taken 4 from the start, none would be: of the 16
    # that were too much, 7 have drained.
    assert await store.used(RATE) == [13]
    await store.capture(hold, 4)
    assert await store.used(RATE) == [4]


async def test_a_capture_beyond_its_hold_takes_the_rest_of_the_rate(store):
    hold = store.hold(1, store.take(RATE, 2))
    await store.balances.place_hold(hold)
    await store.capture(hold, 55)
    assert await store.used(RATE) == [55]
    assert (await store.take_one(2, RATE, 0)).status is PlaceStatus.DENIED
    await store.wait(5_000)
    assert (await store.take_one(3, RATE, 1)).status is PlaceStatus.DENIED
    assert (await store.take_one(4, RATE, 0)).status is PlaceStatus.PLACED


async def test_a_capture_far_beyond_its_rate_is_waited_for_and_breaks_nothing(store):
    hold = store.hold(1, store.take(RATE, 2))
    await store.balances.place_hold(hold)
    await store.capture(hold, 10**15)
    refused = await store.take_one(2, RATE, 1)
    assert refused.status is PlaceStatus.DENIED
    assert refused.numbers.used == {"rate": -(-(2**52) // 1_000)}
    assert refused.numbers.retry_at_ms["rate"] > BASE_MS + 10**14


async def test_a_capture_of_a_hold_that_ended_and_a_correction_leave_rates_alone(store):
    ended, estimated = (store.hold(n, store.take(RATE, 5)) for n in (1, 2))
    await store.balances.place_hold(ended)
    await store.release(1)
    await store.balances.place_hold(estimated)
    assert (await store.capture(ended, 9)).status is CaptureStatus.LATE
    await store.capture(estimated, 5, estimated=True)
    assert (await store.capture(estimated, 1)).status is CaptureStatus.CORRECTED
    assert await store.used(RATE) == [5]


async def test_a_rate_that_the_policy_changes_keeps_what_was_taken(store):
    await store.take_one(1, RATE, 12)
    per_minute = replace(RATE, limit=60, rate=Rate(per_ms=60_000, burst=30))

    async def rates() -> list[int]:
        return [*await store.used(RATE), *await store.used(per_minute)]

    await store.wait(1_000)
    # One each second drains, since the level was written.
    assert await rates() == [5, 11]
    placed = await store.take_one(2, per_minute, 10)
    assert placed.numbers.used == {"rate": 21}
    await store.wait(500)
    assert await rates() == [18, 21]
    # 20.5 are written; under the old rate again that is 21.
    await store.take_one(3, per_minute, 0)
    assert await rates() == [21, 21]
    slower = replace(RATE, limit=1)
    refused = await store.take_one(4, slower, 1)
    assert refused.numbers.retry_at_ms == {"rate": BASE_MS + 3_500}
    await store.at(BASE_MS + 3_499)
    assert (await store.take_one(5, slower, 1)).status is PlaceStatus.DENIED
    await store.at(BASE_MS + 3_500)
    assert (await store.take_one(6, slower, 1)).status is PlaceStatus.PLACED


@pytest.mark.parametrize("how", ["capture", "release", "orphan"])
async def test_every_end_of_a_hold_gives_back_its_place_in_flight(store, how):
    holds = [store.hold(n, store.take(FLIGHT, 1), ttl_ms=1) for n in (1, 2)]
    for hold in holds:
        await store.balances.place_hold(hold)
    assert (await store.take_one(3, FLIGHT, 1)).status is PlaceStatus.DENIED
    await store.wait(1)
    match how:
        case "capture":
            await store.capture(holds[0], 7)
            # Neither a repeat nor a correction gives it back once more.
            await store.capture(holds[0], 7)
        case "release":
            await store.release(1)
            await store.release(1)
        case "orphan":
            await store.orphan(1)
            await store.orphan(1)
    assert await store.used(FLIGHT) == [1]
    assert (await store.take_one(4, FLIGHT, 1)).status is PlaceStatus.PLACED
    assert (await store.take_one(5, FLIGHT, 1)).status is PlaceStatus.DENIED


@pytest.mark.parametrize("how", ["release", "orphan"])
async def test_a_hold_without_usage_leaves_no_trace_in_any_counter(store, how):
    takes = [store.take(counter, 2) for counter in EVERY_KIND]
    await store.place(1, *takes, ttl_ms=1)
    await store.wait(1)
    await (store.release(1) if how == "release" else store.orphan(1))
    assert await store.used(*EVERY_KIND) == [0, 0, 0, 0]


@pytest.mark.parametrize("counter", [SPEND, ROLLING_SPEND], ids=named)
async def test_money_beyond_a_double_is_counted_to_the_nano(store, counter):
    assert float(EXACT) == float(EXACT - 1)
    hold = store.hold(1, store.take(counter, EXACT))
    await store.balances.place_hold(hold)
    await store.wait(2_000)
    await store.take_one(2, counter, EXACT - 1)
    assert await store.used(counter) == [2 * EXACT - 1]
    refused = await store.take_one(3, counter, EXACT + 2)
    assert refused.numbers.over == {counter.name}
    assert (await store.take_one(4, counter, EXACT + 1)).status is PlaceStatus.PLACED
    assert await store.used(counter) == [3 * EXACT]
    await store.capture(hold, EXACT - 2)
    assert await store.used(counter) == [3 * EXACT - 2]
    assert (await store.take_one(5, counter, 3)).status is PlaceStatus.DENIED


async def test_a_rolling_windows_wait_is_right_where_doubles_are_equal(store):
    await store.take_one(1, ROLLING_SPEND, EXACT)
    await store.wait(2_000)
    await store.take_one(2, ROLLING_SPEND, 2 * EXACT)
    # Of the whole limit the first slice is one nano too little.
    refused = await store.take_one(3, ROLLING_SPEND, EXACT + 1)
    assert refused.numbers.retry_at_ms == {"rolling-spend": BASE_MS + 14_000}
    refused = await store.take_one(4, ROLLING_SPEND, EXACT)
    assert refused.numbers.retry_at_ms == {"rolling-spend": BASE_MS + 12_000}


async def test_a_probe_tells_all_and_takes_nothing(store):
    await store.take_one(1, WINDOW, 45)
    takes = [store.take(WINDOW, 6, hard=False), store.take(FLIGHT, 1), store.take(RATE, 2)]
    probe = store.hold(2, *takes, amount=2_000, probe=True)
    for _ in range(2):
        outcome = await store.balances.place_hold(probe)
        assert outcome.status is PlaceStatus.DENIED
        assert outcome.numbers.denied
        assert outcome.numbers.over == {"window"}
        assert outcome.numbers.failed_credit
        assert outcome.numbers.used == {"window": 45, "flight": 0, "rate": 0}
        assert outcome.numbers.retry_at_ms == {"window": BASE_MS + 10_000}
    assert (await store.place(2, *takes[1:])).status is PlaceStatus.PLACED
    again = await store.place(2, *takes[1:], probe=True)
    assert again.status is PlaceStatus.REPEATED


async def test_a_repeat_says_what_the_first_time_said(store):
    await store.take_one(1, WINDOW, 50)
    takes = [
        store.take(WINDOW, 1, hard=False),
        store.take(FLIGHT, 2),
        store.take(RATE, 20),
        store.take(ROLLING, 50),
    ]
    hold = store.hold(2, *takes)
    first = await store.balances.place_hold(hold)
    again = await store.balances.place_hold(hold)
    assert again.status is PlaceStatus.REPEATED
    assert again.numbers.used == first.numbers.used
    assert again.numbers.over == first.numbers.over == {"window"}
    assert (again.epoch, again.seq) == (first.epoch, first.seq)


async def test_a_repeat_does_not_turn_against_a_hold_that_did_fit(store):
    takes = [store.take(WINDOW, 50), store.take(FLIGHT, 2), store.take(RATE, 20)]
    hold = store.hold(1, *takes)
    await store.balances.place_hold(hold)
    await store.place(2, *(replace(take, hard=False) for take in takes))
    again = await store.balances.place_hold(hold)
    assert again.status is PlaceStatus.REPEATED
    assert again.numbers.used == {"window": 100, "flight": 4, "rate": 20}
    assert again.numbers.over == set()
    assert again.numbers.retry_at_ms == {}


async def test_a_rolling_window_that_is_cut_finer_lets_old_slices_stay_their_time(store):
    wide = replace(ROLLING, window=RollingWindow(seconds=60, slices=1))
    await store.take_one(1, wide, 20)
    await store.wait(4_000)
    await store.take_one(2, ROLLING, 10)
    assert await store.used(ROLLING) == [30]
    refused = await store.take_one(3, ROLLING, 30)
    assert refused.numbers.retry_at_ms == {"rolling": BASE_MS + 16_000}
    await store.at(BASE_MS + 16_000)
    assert await store.used(ROLLING) == [20]
    await store.at(BASE_MS + 120_000)
    assert await store.used(ROLLING) == [0]


async def test_the_decisions_of_a_shard_are_numbered(store):
    first = await store.take_one(1, WINDOW, 1)
    second = await store.take_one(2, WINDOW, 1)
    denied = await store.take_one(3, WINDOW, 50)
    third = await store.take_one(4, WINDOW, 1)
    assert first.epoch == second.epoch == denied.epoch == third.epoch > 0
    assert first.seq < second.seq == denied.seq < third.seq


@pytest.mark.parametrize("counter", [WINDOW, ROLLING], ids=named)
async def test_a_window_that_is_not_the_instants_is_planned_anew(store, counter):
    take = store.take(counter, 1)
    await store.at(take.end_ms)
    outcome = await store.place(1, take)
    assert outcome.status is PlaceStatus.WINDOW_MOVED
    assert outcome.instant_ms == take.end_ms


@pytest.mark.parametrize("counter", EVERY_KIND, ids=named)
async def test_nobody_can_choose_a_name_that_moves_anothers_counter(store, counter):
    """User ids come from tokens; a start in one must not lead into another's counter."""
    scoped = replace(counter, level=Level.USER)
    start = store.take(ROLLING, 1).start_ms
    users = ("bob", f"bob:{start}", f"bob:{start}:{start}", "a=b", ":", "bob:", "@user=bob", "☃")
    for number, user in enumerate(users):
        facts = replace(store.facts, user_id=user)
        take = store.take(scoped, number % 2 + 1, facts=facts)
        placed = await store.place(number, take)
        assert placed.status is PlaceStatus.PLACED
        assert placed.numbers.used == {take.name: number % 2 + 1}
        assert user in take.name


async def test_requests_are_counted_whether_or_not_they_used_anything(store):
    hold = store.hold(1, store.take(CALLS, 1))
    await store.balances.place_hold(hold)
    await store.capture(hold, 1)
    assert await store.used(CALLS) == [1]
