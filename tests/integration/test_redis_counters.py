"""What counters leave in a real Redis: fields, captured usage, clean-up, damage, cost."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from fixtures.counter_stores import (
    BASE_MS,
    DAY_MS,
    EXACT,
    FLIGHT,
    RATE,
    ROLLING,
    SPEND,
    WINDOW,
    CounterStore,
    open_live,
)
from fixtures.live_store import CUSTOMER, event_of

from sidecar.domain.counters import COUNTERS_MAX, Level, Rate
from sidecar.domain.errors import InvalidInput
from sidecar.domain.money import AMOUNT_NANO_MAX
from sidecar.domain.usage import QUANTITY_MAX
from sidecar.domain.windows import FixedWindow, RollingWindow
from sidecar.outbound.redis.errors import StoreDamaged
from sidecar.services.ports import CaptureStatus, PlaceStatus
from sidecar.services.sweeping import Sweeper

EVERY_KIND = (WINDOW, ROLLING, RATE, FLIGHT)


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[CounterStore]:
    async with open_live(redis_url, granted=1_000) as store:
        yield store


async def counters_of(store: CounterStore) -> dict[str, str]:
    """The customer's fields that are counters or belong to them."""
    fields = await store.live.fields()
    return {
        name.decode(): value.decode()
        for name, value in fields.items()
        if name[1:2] == b":" and name[:1] in b"qvuwislf"
    }


async def command(store: CounterStore, *words: object) -> object:
    return await store.live.connection.command(*words)


def shard_of(store: CounterStore) -> int:
    return store.live.keyspace.shard_of(CUSTOMER)


async def touched(store: CounterStore) -> set[bytes]:
    key = store.live.keyspace.touched(shard_of(store))
    return set(await command(store, "SMEMBERS", key))


async def test_a_denial_of_every_kind_changes_no_key_at_all(store):
    takes = [store.take(counter, 2) for counter in EVERY_KIND]
    await store.place(1, *takes)
    # Slices that have left would be dropped now; a denial does not even do that.
    await store.wait(13_000)
    await store.take_one(2, FLIGHT, 0)
    before = await store.live.dump()
    for refusing in EVERY_KIND:
        takes = [store.take(c, 99 if c is refusing else 1, hard=c is refusing) for c in EVERY_KIND]
        outcome = await store.place(3, *takes, amount=1)
        assert outcome.status is PlaceStatus.DENIED
        assert refusing.name in outcome.numbers.over
    await store.probe(*(store.take(counter, 1) for counter in EVERY_KIND))
    assert await store.live.dump() == before


async def test_the_fields_of_every_kind(store):
    await store.place(1, *(store.take(counter, 2) for counter in EVERY_KIND))
    await store.wait(2_000)
    await store.place(2, store.take(ROLLING, 3))
    await store.release(2)
    first, second = BASE_MS, BASE_MS + 2_000
    assert await counters_of(store) == {
        f"q:window:{first}": "2",
        "w:window": f"{first}={first + 10_000}",
        f"v:rolling:{first}": "2",
        f"v:rolling:{second}": "0",
        "i:rolling": f",{first}={first + 12_000},{second}={second + 12_000}",
        "s:rolling": "2",
        "l:rate": f"2000 {first} 7 1000",
        "f:flight": "2",
    }
    await store.release(1)
    assert "f:flight" not in await counters_of(store)


async def test_what_captures_counted_stands_apart_from_open_holds(store):
    holds = [store.hold(n, *(store.take(c, 9) for c in (WINDOW, ROLLING, RATE))) for n in (1, 2)]
    for hold in holds:
        await store.balances.place_hold(hold)
    await store.capture(holds[0], 4, estimated=True)
    fields = await counters_of(store)
    assert fields[f"q:window:{BASE_MS}"] == fields[f"v:rolling:{BASE_MS}"] == "13"
    assert fields[f"u:window:{BASE_MS}"] == fields[f"u:rolling:{BASE_MS}"] == "4"
    assert fields["s:rolling"] == "13"
    await store.capture(holds[0], 6)
    fields = await counters_of(store)
    assert fields[f"q:window:{BASE_MS}"] == fields["s:rolling"] == "15"
    assert fields[f"u:window:{BASE_MS}"] == fields[f"u:rolling:{BASE_MS}"] == "6"
    await store.release(2)
    fields = await counters_of(store)
    assert fields[f"q:window:{BASE_MS}"] == fields[f"u:window:{BASE_MS}"] == "6"
    assert await touched(store) == {
        f"{CUSTOMER}\n{field}:{BASE_MS}".encode() for field in ("q:window", "v:rolling")
    }


async def test_a_hold_alone_touches_nothing_and_the_touched_are_bounded(store):
    hold = store.hold(1, store.take(WINDOW, 9))
    await store.balances.place_hold(hold)
    assert await touched(store) == set()
    key = store.live.keyspace.touched(shard_of(store))
    for start in range(0, 100_001, 20_000):
        members = [f"m{n}" for n in range(start, min(start + 20_000, 100_001))]
        await command(store, "SADD", key, *members)
    await store.capture(hold, 4)
    assert await command(store, "SCARD", key) == 100_002
    assert await command(store, "SISMEMBER", key, "*") == 1
    assert (await counters_of(store))[f"u:window:{BASE_MS}"] == "4"


async def test_a_corrected_capture_of_a_slice_that_left_moves_nothing(store):
    hold = store.hold(1, store.take(ROLLING, 9))
    await store.balances.place_hold(hold)
    await store.capture(hold, 9, estimated=True)
    await store.wait(12_000)
    await store.take_one(2, ROLLING, 1)
    assert (await store.capture(hold, 5)).status is CaptureStatus.CORRECTED
    assert await counters_of(store) == {
        f"v:rolling:{BASE_MS + 12_000}": "1",
        "i:rolling": f",{BASE_MS + 12_000}={BASE_MS + 24_000}",
        "s:rolling": "1",
    }


async def test_a_rolling_window_keeps_no_more_fields_than_it_has_slices(store):
    for number in range(40):
        await store.take_one(number, ROLLING, 1)
        await store.wait(2_000)
    fields = await counters_of(store)
    assert len([name for name in fields if name.startswith("v:")]) == 6
    assert fields["s:rolling"] == "6"


async def test_a_rolling_window_that_is_cut_anew_keeps_what_it_counted(store):
    await store.take_one(1, ROLLING, 10)
    wide = replace(ROLLING, window=RollingWindow(seconds=60, slices=1))
    await store.wait(4_000)
    await store.take_one(2, ROLLING, 20)
    # The slice of a minute begins where the first slice of two seconds did.
    await store.take_one(3, wide, 5)
    fields = await counters_of(store)
    assert (
        fields["i:rolling"]
        == f",{BASE_MS + 4_000}={BASE_MS + 16_000},{BASE_MS}={BASE_MS + 120_000}"
    )
    assert fields["s:rolling"] == "35"
    await store.at(BASE_MS + 16_000)
    assert await store.used(wide) == [15]
    await store.at(BASE_MS + 120_000)
    assert await store.used(wide) == [0]


async def test_ten_thousand_slices_that_left_are_dropped_by_one_place(store):
    """More than one window has: as if it had been cut anew time and again."""
    slices = [BASE_MS - 10_000 + n for n in range(10_000)]
    await store.live.set_field("i:rolling", "".join(f",{s}={BASE_MS + 1}" for s in slices))
    await store.live.set_field("s:rolling", "10000")
    customer = store.live.keyspace.customer(CUSTOMER)
    words = [word for start in slices for word in (f"v:rolling:{start}", 1)]
    await command(store, "HSET", customer, *words)
    refused = await store.take_one(1, ROLLING, 50)
    assert refused.numbers.retry_at_ms == {"rolling": BASE_MS + 1}
    await store.wait(1)
    placed = await store.take_one(2, ROLLING, 50)
    assert placed.numbers.used == {"rolling": 50}
    fields = await counters_of(store)
    assert set(fields) == {f"v:rolling:{BASE_MS}", "i:rolling", "s:rolling"}


async def test_counters_of_callers_who_never_return_are_dropped(store):
    kinds = tuple(replace(counter, level=Level.USER) for counter in EVERY_KIND)
    for number in range(30):
        facts = replace(store.facts, user_id=f"user:{number}")
        await store.place(number, *(store.take(c, 1, facts=facts) for c in kinds))
        await store.release(number)
    assert len(await counters_of(store)) == 30 * 6
    key = store.live.keyspace.windows(shard_of(store))
    assert await command(store, "ZCARD", key) == 90
    assert await store.balances.prune_counters(shard_of(store), 100) == 0
    await store.at(BASE_MS + 12_000)
    assert await store.balances.prune_counters(shard_of(store), 100) == 30
    assert {name[0] for name in await counters_of(store)} == {"q", "w", "l"}
    # Two days later, in bounded batches.
    await store.at(BASE_MS + 2 * DAY_MS + 60_000)
    batches = [await store.balances.prune_counters(shard_of(store), 25) for _ in range(4)]
    assert batches == [25, 25, 10, 0]
    assert await counters_of(store) == {}
    assert await command(store, "EXISTS", key) == 0


async def test_counters_in_use_are_kept_and_looked_at_again(store):
    takes = (WINDOW, ROLLING, RATE)
    for number in range(4):
        await store.place(number, *(store.take(counter, 1) for counter in takes))
        await store.wait(DAY_MS)
        await store.balances.prune_counters(shard_of(store), 100)
    await store.place(9, *(store.take(counter, 1) for counter in takes))
    await store.balances.prune_counters(shard_of(store), 100)
    assert await store.used(*takes) == [1, 1, 1]
    fields = await counters_of(store)
    days = [BASE_MS + day * DAY_MS for day in range(5)]
    assert {name for name in fields if name[0] in "qv"} == {
        f"v:rolling:{days[4]}",
        *(f"q:window:{day}" for day in days[2:]),
    }
    key = store.live.keyspace.windows(shard_of(store))
    flat = await command(store, "ZRANGE", key, 0, -1, "WITHSCORES")
    assert {member.partition(b"\n")[2] for member in flat[::2]} == {
        b"q:window",
        b"v:rolling",
        b"l:rate",
    }
    await store.wait(3 * DAY_MS)
    while await store.balances.prune_counters(shard_of(store), 100):
        pass
    assert await counters_of(store) == {}


async def test_windows_are_dropped_one_by_one_as_their_time_comes(store):
    for number in range(2):
        await store.take_one(number, WINDOW, 1)
        await store.wait(DAY_MS)
    ends = [BASE_MS + day * DAY_MS + 10_000 for day in range(2)]
    key, shard = store.live.keyspace.windows(shard_of(store)), shard_of(store)
    for day, end in enumerate(ends):
        await store.at(end + 2 * DAY_MS - 1)
        assert await store.balances.prune_counters(shard, 10) == 0
        await store.at(end + 2 * DAY_MS)
        assert f"q:window:{BASE_MS + day * DAY_MS}" in await counters_of(store)
        assert await store.balances.prune_counters(shard, 10) == 1
        assert f"q:window:{BASE_MS + day * DAY_MS}" not in await counters_of(store)
        if day == 0:
            flat = await command(store, "ZRANGE", key, 0, -1, "WITHSCORES")
            expected = [f"{CUSTOMER}\nq:window", str(ends[1] + 2 * DAY_MS)]
            assert flat == [text.encode() for text in expected]
    assert await counters_of(store) == {}
    assert await command(store, "EXISTS", key) == 0


async def test_what_was_pruned_by_an_instant_is_gone_for_all_later_decisions(store):
    keys, shard = store.live.keyspace, shard_of(store)
    await command(store, "HSET", keys.shard(shard), "clock", 5)
    await command(store, "ZADD", keys.windows(shard), 1, f"{CUSTOMER}\nq:window")
    assert await store.balances.prune_counters(shard, 10) == 1
    clock = int(await command(store, "HGET", keys.shard(shard), "clock"))
    assert BASE_MS - 3 * DAY_MS < clock < BASE_MS


async def test_the_sweep_goes_past_counters_that_nobody_can_read(store):
    await store.place(1, *(store.take(counter, 1) for counter in (WINDOW, ROLLING, RATE)))
    await store.live.set_field("l:rate", "rubbish")
    await store.live.set_field("i:rolling", "rubbish")
    key = store.live.keyspace.windows(shard_of(store))
    await command(store, "ZADD", key, 1, "cus_nobody\nq:window", 2, f"{CUSTOMER}\nx:what")
    await store.at(BASE_MS + 3 * DAY_MS)
    assert await store.balances.prune_counters(shard_of(store), 10) == 5
    assert await store.balances.prune_counters(shard_of(store), 10) == 0
    assert await command(store, "ZCARD", key) == 2
    await command(store, "SET", store.live.keyspace.customer("cus_other"), "x")
    assert (await counters_of(store))["l:rate"] == "rubbish"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("q:window:{base}", "many"),
        ("v:rolling:{base}", "1.5"),
        ("s:rolling", "many"),
        ("s:rolling", "9223372036854775807"),
        ("i:rolling", "rubbish"),
        ("i:rolling", "1=2"),
        ("l:rate", "rubbish"),
        ("l:rate", "1 2 3"),
        ("l:rate", "99999999999999999999 1 7 1000"),
        ("l:rate", "-1 1 7 1000"),
        ("l:rate", "1 1 7 0"),
        ("f:flight", "nan"),
        ("due_since", "yesterday"),
        ("due_nano", "1e9"),
    ],
)
async def test_a_damaged_counter_refuses_the_hold_and_changes_nothing(store, field, value):
    await store.live.set_field(field.format(base=BASE_MS), value)
    before = await store.live.dump()
    outcome = await store.place(1, *(store.take(counter, 1) for counter in EVERY_KIND))
    assert outcome.status is PlaceStatus.OUT_OF_BOUNDS
    assert await store.live.dump() == before


@pytest.mark.parametrize(
    "field", ["q:window:{base}", "u:window:{base}", "v:rolling:{base}", "s:rolling", "l:rate"]
)
async def test_a_damaged_counter_books_nothing_and_ends_nothing(store, field):
    hold = store.hold(1, *(store.take(counter, 1) for counter in EVERY_KIND), ttl_ms=1)
    await store.balances.place_hold(hold)
    await store.live.set_field(field.format(base=BASE_MS), "many")
    before = await store.live.dump()
    assert (await store.capture(hold, 1)).status is CaptureStatus.OUT_OF_BOUNDS
    bare = await store.balances.capture_hold(event_of(hold, 0), (), prepaid=True)
    assert bare.status is CaptureStatus.OUT_OF_BOUNDS
    with pytest.raises(StoreDamaged):
        await store.release(1)
    assert await store.live.dump() == before


async def test_keys_of_another_type_stop_a_place_before_its_first_write(store):
    keys, shard = store.live.keyspace, shard_of(store)
    hold = store.hold(1, store.take(WINDOW, 1))
    await command(store, "SET", keys.windows(shard), "x")
    await command(store, "SET", keys.touched(shard), "x")
    before = await store.live.dump()
    with pytest.raises(StoreDamaged):
        await store.balances.place_hold(hold)
    with pytest.raises(StoreDamaged):
        await store.capture(hold, 1)
    await command(store, "DEL", keys.windows(shard))
    del before[keys.windows(shard).encode()]
    with pytest.raises(StoreDamaged):
        await store.capture(hold, 1)
    assert await store.live.dump() == before


async def test_a_counter_never_leaves_its_bounds(store):
    wide = replace(SPEND, limit=AMOUNT_NANO_MAX)
    await store.take_one(1, wide, AMOUNT_NANO_MAX - EXACT)
    over = await store.take_one(2, wide, EXACT + 1, hard=False)
    assert over.status is PlaceStatus.OUT_OF_BOUNDS
    hold = store.hold(3, store.take(wide, 0))
    await store.balances.place_hold(hold)
    lines = tuple(replace(line, quantity=EXACT + 1) for line in hold.terms.quota_lines)
    refused = await store.balances.capture_hold(event_of(hold, 0), lines, prepaid=True)
    assert refused.status is CaptureStatus.OUT_OF_BOUNDS
    assert (await store.take_one(4, wide, EXACT)).status is PlaceStatus.PLACED


@pytest.mark.parametrize(
    "counter",
    [
        replace(RATE, rate=Rate(per_ms=2**40, burst=2**10 + 1)),
        replace(RATE, rate=Rate(per_ms=0, burst=1)),
        replace(RATE, rate=Rate(per_ms=1, burst=-1)),
        replace(RATE, rate=None),
        replace(RATE, limit=2**50 + 1),
        replace(RATE, limit=-1),
        replace(WINDOW, limit=AMOUNT_NANO_MAX + 1),
    ],
)
async def test_a_counter_that_a_script_could_not_count_exactly_is_refused(store, counter):
    with pytest.raises(InvalidInput):
        await store.take_one(1, counter, 1)


async def test_the_largest_rates_are_exact(store):
    fast = replace(RATE, limit=2**50, rate=Rate(per_ms=1, burst=2**50))
    assert (await store.take_one(1, fast, 2**49)).status is PlaceStatus.PLACED
    assert (await store.take_one(2, fast, 2**49 + 1)).numbers.used == {"rate": 2**49}
    slow = replace(RATE, name="slow", limit=1, rate=Rate(per_ms=2**50, burst=1))
    await store.take_one(3, slow, 1)
    refused = await store.take_one(4, slow, 1)
    assert refused.numbers.retry_at_ms == {"slow": BASE_MS + 2**50}
    hold = store.hold(5, store.take(replace(fast, name="huge"), 1))
    await store.balances.place_hold(hold)
    await store.capture(hold, QUANTITY_MAX)
    assert (await store.take_one(6, fast, 2**49)).status is PlaceStatus.PLACED


async def test_a_check_takes_sixteen_counters_each_once(store):
    takes = [store.take(replace(WINDOW, name=f"w{n}"), 1) for n in range(COUNTERS_MAX + 1)]
    assert (await store.place(1, *takes[:COUNTERS_MAX])).status is PlaceStatus.PLACED
    with pytest.raises(InvalidInput, match="16"):
        await store.place(2, *takes)
    with pytest.raises(InvalidInput, match="same counter"):
        await store.place(3, takes[0], takes[0])
    with pytest.raises(InvalidInput, match="line break"):
        await store.place(4, store.take(replace(WINDOW, name="a\nb"), 1))
    with pytest.raises(InvalidInput, match="another kind"):
        await store.place(5, replace(takes[0], field="l:w0"))


async def calls_of_a_place(store: CounterStore, number: int) -> dict[str, int]:
    """How often each command runs within one place."""
    await command(store, "CONFIG", "RESETSTAT")
    placed = await store.place(number, *(store.take(c, 0) for c in EVERY_KIND), amount=1)
    assert placed.status is PlaceStatus.PLACED
    raw = (await command(store, "INFO", "commandstats")).decode()
    lines = (line.partition(":") for line in raw.splitlines() if line.startswith("cmdstat_"))
    return {
        name.removeprefix("cmdstat_"): int(rest.partition("calls=")[2].partition(",")[0])
        for name, _, rest in lines
    }


async def test_a_place_does_as_much_work_for_many_open_holds_as_for_one(store):
    await store.place(1, *(store.take(counter, 0) for counter in EVERY_KIND))
    few = await calls_of_a_place(store, 2)
    for number in range(3, 300):
        await store.place(number, *(store.take(c, 0) for c in EVERY_KIND), amount=1)
    many = await calls_of_a_place(store, 300)
    ignored = {"config|resetstat", "config", "info"}
    assert {k: v for k, v in few.items() if k not in ignored} == {
        k: v for k, v in many.items() if k not in ignored
    }
    assert sum(many.values()) < 40
    assert not {"keys", "hgetall", "scan", "hscan", "zrange"} & set(many)


async def test_windows_longer_than_any_hold_are_cleaned_with_what_was_captured(store):
    long = replace(WINDOW, window=FixedWindow(seconds=86_400))
    hold = store.hold(1, store.take(long, 5))
    await store.balances.place_hold(hold)
    await store.capture(hold, 5)
    await store.wait(3 * DAY_MS)
    await store.take_one(2, long, 1)
    assert set(await counters_of(store)) == {f"q:window:{BASE_MS + 3 * DAY_MS}", "w:window"}


async def test_the_sweep_drops_counters_on_each_of_its_shards(store):
    await store.take_one(1, ROLLING, 1)
    await store.release(1)
    await store.wait(12_000)
    keyspace = store.live.keyspace
    sweeper = Sweeper(
        balances=store.balances,
        metering=None,
        shards=range(keyspace.shards),
        interval_seconds=1.0,
    )
    assert await sweeper.sweep_once() == 0
    assert await counters_of(store) == {}
