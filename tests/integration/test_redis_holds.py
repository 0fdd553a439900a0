"""Placing, releasing, extending and orphaning holds, on the real scripts in a real Redis."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from fixtures.live_store import (
    CUSTOMER,
    LiveStore,
    event_of,
    hold_id_of,
    hold_of,
    quota_take,
)

from sidecar.domain.errors import InvalidInput, StoreUnavailable
from sidecar.domain.money import AMOUNT_NANO_MAX
from sidecar.domain.standing import Standing, StandingFact
from sidecar.outbound.redis.balances import RedisBalances
from sidecar.outbound.redis.errors import StoreDamaged
from sidecar.services.control_ports import Credential, Customer
from sidecar.services.ports import CaptureStatus, PlaceStatus

EXACT = 9_007_199_254_740_993
"""2^53 + 1: the first whole number that a double cannot hold."""


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[LiveStore]:
    store = await LiveStore.open(redis_url)
    yield store
    await store.connection.aclose()


async def test_a_hold_moves_its_amount_from_available_to_held(store):
    facts = await store.add_customer(granted=100)
    outcome = await store.place(facts, 1, 30)
    assert outcome.status is PlaceStatus.PLACED
    assert outcome.expires_at_ms == outcome.instant_ms + 60_000
    assert outcome.numbers.available_nano == 70
    assert outcome.numbers.instant_ms == outcome.instant_ms
    assert not outcome.numbers.denied
    assert await store.numbers() == (100, 0, 30, 70)


async def test_amounts_beyond_a_double_stay_exact_in_every_step(store):
    facts = await store.add_customer(granted=3 * EXACT)
    hold = hold_of(facts, 1, EXACT)
    placed = await store.balances.place_hold(hold)
    assert placed.numbers.available_nano == 2 * EXACT
    assert (await store.place(facts, 2, EXACT + 2)).numbers.available_nano == EXACT - 2
    assert (await store.place(facts, 3, EXACT - 1)).status is PlaceStatus.DENIED
    assert await store.balances.release_hold(CUSTOMER, hold_id_of(2))
    captured = await store.balances.capture_hold(
        event_of(hold, 2 * EXACT + 3, placed), (), prepaid=True
    )
    assert captured.held_nano == EXACT
    assert captured.overspent_nano == 0
    assert captured.available_nano == EXACT - 3
    late = await store.balances.capture_hold(
        event_of(hold_of(facts, 4, 0), EXACT), (), prepaid=True
    )
    assert late.overspent_nano == 3
    assert await store.numbers() == (3 * EXACT, 3 * EXACT + 3, 0, -3)
    amounts = [record.amount_nano for record in await store.records()]
    assert amounts == [3 * EXACT, 2 * EXACT + 3, EXACT]


async def test_a_hold_one_nano_above_the_credit_is_denied_where_doubles_are_equal(store):
    facts = await store.add_customer(granted=EXACT - 1)
    assert float(EXACT) == float(EXACT - 1)
    assert (await store.place(facts, 1, EXACT)).status is PlaceStatus.DENIED
    assert (await store.place(facts, 2, EXACT - 1)).status is PlaceStatus.PLACED


async def test_200_places_at_once_on_credit_for_20_give_exactly_20(store):
    facts = await store.add_customer(granted=20 * 7 + 6)
    outcomes = await asyncio.gather(*(store.place(facts, n, 7) for n in range(200)))
    statuses = [outcome.status for outcome in outcomes]
    assert statuses.count(PlaceStatus.PLACED) == 20
    assert statuses.count(PlaceStatus.DENIED) == 180
    assert await store.numbers() == (146, 0, 140, 6)


async def test_a_repeat_returns_the_first_instants_and_takes_nothing_more(store):
    facts = await store.add_customer(granted=100)
    hold = hold_of(facts, 1, 30, counters=(quota_take(5, 50),))
    first = await store.balances.place_hold(hold)
    await asyncio.sleep(0.005)
    again = await store.balances.place_hold(hold)
    assert again.status is PlaceStatus.REPEATED
    assert (again.instant_ms, again.expires_at_ms) == (first.instant_ms, first.expires_at_ms)
    assert again.numbers == first.numbers
    assert again.numbers.used == {"tokens": 5}
    assert await store.numbers() == (100, 0, 30, 70)


@pytest.mark.parametrize(
    ("amount", "fingerprint"), [(30, "GET /other 30"), (31, "POST /ai/chat 30")]
)
async def test_an_open_id_for_another_request_is_no_repeat(store, amount, fingerprint):
    facts = await store.add_customer(granted=100)
    await store.place(facts, 1, 30)
    outcome = await store.place(facts, 1, amount, fingerprint=fingerprint)
    assert outcome.status is PlaceStatus.MISMATCH
    assert outcome.numbers is None
    assert await store.numbers() == (100, 0, 30, 70)


async def test_an_open_id_of_another_customer_on_the_shard_is_no_repeat(redis_url):
    store = await LiveStore.open(redis_url, shards=1)
    facts = await store.add_customer(granted=100)
    other = await store.add_customer(granted=100, customer_id="cus_bob")
    await store.place(facts, 1, 30)
    assert (await store.place(other, 1, 30)).status is PlaceStatus.MISMATCH
    assert await store.balances.release_hold("cus_bob", hold_id_of(1)) is False
    captured = await store.balances.capture_hold(
        event_of(hold_of(facts, 1, 30), 5), (), prepaid=True
    )
    assert captured.status is CaptureStatus.CAPTURED
    await store.connection.aclose()


async def test_an_id_that_ended_is_never_placed_again(store):
    facts = await store.add_customer(granted=100)
    for number in (1, 2, 3):
        await store.place(facts, number, 10, ttl_ms=1 if number == 3 else 60_000)
    await store.balances.release_hold(CUSTOMER, hold_id_of(1))
    await store.balances.capture_hold(event_of(hold_of(facts, 2, 10), 4), (), prepaid=True)
    await store.expire(hold_id_of(3))
    for number in (1, 2, 3):
        assert (await store.place(facts, number, 10)).status is PlaceStatus.CLOSED


async def test_a_release_that_overtakes_its_place_wins(store):
    facts = await store.add_customer(granted=100)
    assert await store.balances.release_hold(CUSTOMER, hold_id_of(1)) is False
    assert (await store.place(facts, 1, 30)).status is PlaceStatus.CLOSED
    assert await store.numbers() == (100, 0, 0, 100)
    assert await store.balances.read_hold(CUSTOMER, hold_id_of(1)) is None
    assert await store.balances.find_hold(hold_id_of(1)) == CUSTOMER


async def test_a_hold_is_given_back_by_who_was_told_of_it_last(store):
    """An Envoy repeats a check at another worker, whose answer counts then."""
    first, second = (
        RedisBalances(store.connection, store.keyspace, store.clock, teller=name)
        for name in ("first", "second")
    )
    facts = await store.add_customer(granted=100)
    hold = hold_of(facts, 1, 30)
    assert (await first.place_hold(hold)).status is PlaceStatus.PLACED
    assert (await second.place_hold(hold)).status is PlaceStatus.REPEATED
    assert await first.release_hold(CUSTOMER, hold_id_of(1)) is False
    assert await store.numbers() == (100, 0, 30, 70)
    assert (await first.place_hold(hold)).status is PlaceStatus.REPEATED
    assert await second.release_hold(CUSTOMER, hold_id_of(1)) is False
    assert await first.release_hold(CUSTOMER, hold_id_of(1)) is True
    assert await store.numbers() == (100, 0, 0, 100)
    # Nothing is left of it, and what was asked once is given back by whoever placed it.
    assert (
        await store.connection.command(
            "HEXISTS", store.keyspace.customer(CUSTOMER), f"o:{hold_id_of(1)}"
        )
        == 0
    )
    assert (await first.place_hold(hold_of(facts, 2, 30))).status is PlaceStatus.PLACED
    assert await first.release_hold(CUSTOMER, hold_id_of(2)) is True
    # Somebody who looks after all of them is no process that tells gateways.
    assert (await first.place_hold(hold_of(facts, 3, 30))).status is PlaceStatus.PLACED
    assert (await second.place_hold(hold_of(facts, 3, 30))).status is PlaceStatus.REPEATED
    assert await store.balances.release_hold(CUSTOMER, hold_id_of(3)) is True


async def test_a_release_gives_everything_back_once(store):
    facts = await store.add_customer(granted=100)
    take = quota_take(5, 50)
    await store.place(facts, 1, 30, counters=(take,))
    assert await store.balances.release_hold(CUSTOMER, hold_id_of(1)) is True
    assert await store.balances.release_hold(CUSTOMER, hold_id_of(1)) is False
    assert await store.numbers() == (100, 0, 0, 100)
    assert (await store.fields())[take.line.field.encode()] == b"0"
    assert [record.kind for record in await store.records()] == ["grant"]


async def test_a_denied_request_changes_nothing_at_all(store):
    facts = await store.add_customer(granted=100)
    await store.place(facts, 1, 90, counters=(quota_take(5, 50),))
    await store.accounts.put_standing(CUSTOMER, StandingFact(standing=Standing.DELINQUENT))
    before = await store.dump()
    quotas = (quota_take(46, 50), quota_take(1, 0, name="fresh"), quota_take(1, 9, name="wide"))
    outcome = await store.place(facts, 2, 11, counters=quotas)
    assert outcome.status is PlaceStatus.DENIED
    assert outcome.numbers.failed_credit
    assert outcome.numbers.denied
    assert outcome.numbers.over == {"tokens", "fresh"}
    assert outcome.numbers.used == {"tokens": 5, "fresh": 0, "wide": 0}
    assert outcome.numbers.available_nano == 10
    assert outcome.numbers.standing is Standing.DELINQUENT
    assert await store.dump() == before


async def test_a_quota_admits_up_to_its_limit_and_not_one_more(store):
    facts = await store.add_customer(granted=100)
    assert (await store.place(facts, 1, 1, counters=(quota_take(30, 50),))).numbers.used == {
        "tokens": 30
    }
    assert (await store.place(facts, 2, 1, counters=(quota_take(21, 50),))).numbers.over
    assert (await store.place(facts, 3, 1, counters=(quota_take(20, 50),))).numbers.used == {
        "tokens": 50
    }


async def test_a_soft_quota_admits_beyond_its_limit(store):
    facts = await store.add_customer(granted=100)
    outcome = await store.place(facts, 1, 1, counters=(quota_take(60, 50, hard=False),))
    assert outcome.status is PlaceStatus.PLACED
    assert outcome.numbers.used == {"tokens": 60}


@pytest.mark.parametrize("shift_ms", [-40 * 86_400_000, 40 * 86_400_000])
async def test_a_window_that_is_not_the_instants_is_planned_anew(store, shift_ms):
    facts = await store.add_customer(granted=100)
    take = quota_take(5, 50)
    moved = replace(take, start_ms=take.start_ms + shift_ms, end_ms=take.end_ms + shift_ms)
    outcome = await store.place(facts, 1, 1, counters=(moved,))
    assert outcome.status is PlaceStatus.WINDOW_MOVED
    assert abs(outcome.instant_ms - datetime.now(UTC).timestamp() * 1_000) < 3_600_000
    assert await store.numbers() == (100, 0, 0, 100)


async def test_old_windows_are_cleaned_away_when_a_new_one_starts(store):
    facts = await store.add_customer(granted=100)
    take = quota_take(5, 50)
    start = take.start_ms
    old, recent = start - 90 * 86_400_000, start - 30 * 86_400_000
    await store.set_field(f"q:tokens:{old}", "7")
    await store.set_field(f"q:tokens:{recent}", "8")
    now_ms = int(datetime.now(UTC).timestamp() * 1_000)
    # The recent one ended an hour ago: a late capture may still want it.
    await store.set_field("w:tokens", f"{old}={recent},{recent}={now_ms - 3_600_000}")
    await store.place(facts, 1, 1, counters=(take,))
    fields = await store.fields()
    assert f"q:tokens:{old}".encode() not in fields
    assert fields[f"q:tokens:{recent}".encode()] == b"8"
    windows = f"{recent}={now_ms - 3_600_000},{start}={take.end_ms}"
    assert fields[b"w:tokens"] == windows.encode()


async def test_a_past_deadline_places_nothing_by_the_stores_clock(store):
    facts = await store.add_customer(granted=100)
    past = datetime.now(UTC) - timedelta(seconds=5)
    # The process's clock is far behind, so that only the store can notice.
    store.balances._clock = type("Slow", (), {"now": lambda _: past - timedelta(hours=1)})()
    outcome = await store.place(facts, 1, 30, deadline=past)
    assert outcome.status is PlaceStatus.TOO_LATE
    assert await store.numbers() == (100, 0, 0, 100)


async def test_a_deadline_that_has_passed_is_not_even_asked(store):
    facts = await store.add_customer(granted=100)
    calls = store.connection.calls
    with pytest.raises(StoreUnavailable, match="deadline"):
        await store.place(facts, 1, 30, deadline=datetime.now(UTC) - timedelta(seconds=1))
    assert store.connection.calls == calls


async def test_what_changed_since_the_facts_were_read_is_noticed(store):
    facts = await store.add_customer(granted=100)
    stranger = replace(facts, customer_id="cus_nobody")
    assert (await store.place(stranger, 1, 1)).status is PlaceStatus.NO_CUSTOMER
    await store.accounts.put_customer(Customer(customer_id=CUSTOMER, plan="free", currency="USD"))
    assert (await store.place(facts, 2, 1)).status is PlaceStatus.STALE_FACTS
    assert (await store.place(await store.facts(), 3, 1)).status is PlaceStatus.PLACED


async def test_a_credential_is_checked_by_the_same_call(store):
    facts = await store.add_customer(granted=100)
    credential = Credential(credential_id="crd_1", customer_id=CUSTOMER, secret_hash="ab")
    bearer = replace(facts, credential_id="crd_1", generation=1)
    assert (await store.place(bearer, 1, 1)).status is PlaceStatus.UNKNOWN_CREDENTIAL
    await store.accounts.put_credential(credential)
    assert (await store.place(bearer, 2, 1)).status is PlaceStatus.PLACED
    await store.accounts.put_credential(replace(credential, revoked_at=datetime.now(UTC)))
    assert (await store.place(bearer, 3, 1)).status is PlaceStatus.UNKNOWN_CREDENTIAL


async def test_a_standing_counts_until_its_end(store):
    facts = await store.add_customer(granted=100)
    now = datetime.now(UTC)
    owing = StandingFact(standing=Standing.DELINQUENT, until=now + timedelta(hours=1))
    await store.accounts.put_standing(CUSTOMER, owing)
    denied = await store.place(facts, 1, 1)
    assert denied.status is PlaceStatus.DENIED
    assert denied.numbers.standing is Standing.DELINQUENT
    outcome = await store.place(facts, 2, 1, invoices=())
    assert outcome.status is PlaceStatus.PLACED
    assert outcome.numbers.standing is Standing.DELINQUENT
    over = StandingFact(standing=Standing.DELINQUENT, until=now - timedelta(hours=1))
    await store.accounts.put_standing(CUSTOMER, over)
    assert (await store.place(facts, 3, 1)).numbers.standing is Standing.GOOD


async def test_without_required_credit_a_hold_may_go_below_zero(store):
    facts = await store.add_customer()
    outcome = await store.place(facts, 1, 5, credit_required=False)
    assert outcome.status is PlaceStatus.PLACED
    assert outcome.numbers.available_nano == -5


async def test_the_largest_amounts_are_refused_rather_than_wrapped(store):
    facts = await store.add_customer(granted=AMOUNT_NANO_MAX)
    loose = {"credit_required": False}
    assert (await store.place(facts, 1, AMOUNT_NANO_MAX, **loose)).status is PlaceStatus.PLACED
    assert (await store.place(facts, 2, 1, **loose)).status is PlaceStatus.OUT_OF_BOUNDS
    assert await store.numbers() == (AMOUNT_NANO_MAX, 0, AMOUNT_NANO_MAX, 0)
    with pytest.raises(InvalidInput):
        await store.place(facts, 3, AMOUNT_NANO_MAX + 1, **loose)
    with pytest.raises(InvalidInput, match="largest balance"):
        await store.grant(1, "grant-2")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("avail", "12abc"),
        ("avail", ""),
        ("avail", "007"),
        ("avail", "1.5"),
        ("avail", "9223372036854775807"),
        ("held", "-9223372036854775808"),
        ("held", "nan"),
        ("standing", "furious"),
        ("standing_until", "tomorrow"),
        ("quota", "many"),
        ("quota", "9223372036854775807"),
    ],
)
async def test_a_damaged_field_refuses_the_hold_and_changes_nothing(store, name, value):
    facts = await store.add_customer(granted=100)
    take = quota_take(5, 50)
    await store.set_field(take.line.field if name == "quota" else name, value)
    before = await store.dump()
    outcome = await store.place(facts, 1, 1, counters=(take,))
    assert outcome.status is PlaceStatus.OUT_OF_BOUNDS
    assert await store.dump() == before


async def test_a_damaged_hold_is_never_repeated_nor_booked(store):
    facts = await store.add_customer(granted=100)
    hold = hold_of(facts, 1, 30, ttl_ms=1)
    await store.balances.place_hold(hold)
    await store.set_field(f"h:{hold_id_of(1)}", "rubbish")
    assert (await store.balances.place_hold(hold)).status is PlaceStatus.MISMATCH
    assert await store.balances.read_hold(CUSTOMER, hold_id_of(1)) is None
    captured = await store.balances.capture_hold(event_of(hold, 3), (), prepaid=True)
    assert captured.status is CaptureStatus.OUT_OF_BOUNDS
    with pytest.raises(StoreDamaged):
        await store.balances.release_hold(CUSTOMER, hold_id_of(1))
    await store.wait_due(hold_id_of(1))
    with pytest.raises(StoreDamaged):
        await store.balances.orphan_hold(CUSTOMER, hold_id_of(1))
    # It stands aside, so that the sweep reaches the holds behind it.
    shard = store.keyspace.shard_of(CUSTOMER)
    assert await store.balances.due_holds(shard, 10) == []
    assert await store.numbers() == (100, 0, 30, 70)


async def test_a_key_of_another_type_is_told_and_nothing_is_half_written(store):
    facts = await store.add_customer(granted=100)
    shard = store.keyspace.shard_of(CUSTOMER)
    keys = store.keyspace
    for key in (keys.expiry(shard), keys.open(shard), keys.done(shard, hold_id_of(1))):
        await store.connection.command("SET", key, "x")
        before = await store.dump()
        with pytest.raises(StoreDamaged):
            await store.place(facts, 1, 1)
        with pytest.raises(StoreDamaged):
            await store.balances.capture_hold(event_of(hold_of(facts, 1, 1), 1), (), prepaid=True)
        assert await store.dump() == before
        await store.connection.command("DEL", key)
    await store.connection.command("DEL", keys.usage(shard))
    await store.connection.command("SET", keys.usage(shard), "x")
    before = await store.dump()
    with pytest.raises(StoreDamaged):
        await store.place(facts, 1, 1)
    with pytest.raises(StoreDamaged):
        await store.balances.capture_hold(event_of(hold_of(facts, 1, 1), 1), (), prepaid=True)
    with pytest.raises(StoreDamaged):
        await store.grant(5, "grant-2")
    assert await store.dump() == before
