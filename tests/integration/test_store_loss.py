"""A live store that loses its data: what is noticed, what comes back, what is charged once."""

import asyncio
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from fixtures.counter_stores import FLIGHT, RATE
from fixtures.http_edges import PlainDigests
from fixtures.live_store import event_of
from fixtures.losing_redis import losing_redis
from fixtures.recovering import (
    LAST_HOUR,
    POLICY,
    SHARDS,
    TOKENS,
    TTL_MS,
    Recovering,
    recovering,
    usage_of,
)
from fixtures.stack import free_port
from fixtures.stream_records import until
from fixtures.use_cases import Grown

from sidecar.domain.counters import Rate
from sidecar.domain.customers import NOBODY
from sidecar.domain.errors import Conflict, InvariantViolated, StoreUnavailable
from sidecar.domain.grants import GrantKind, WithdrawalKind
from sidecar.domain.holds import Bound, make_hold_id
from sidecar.domain.pricing import OnChange, RateCard
from sidecar.domain.standing import Standing, StandingFact
from sidecar.domain.usage import TokenUsage, UsageReport
from sidecar.outbound.redis.granting import grant_lines
from sidecar.services.control_ports import Grant, Withdrawal, WithdrawalState
from sidecar.services.hold_terms import MeterPrincipal
from sidecar.services.metering import UsageOutcome
from sidecar.services.ports import CaptureStatus, PlaceOutcome, PlaceStatus, RatingDemand
from sidecar.services.rating import total_key

ADA, BOB = "cus_ada", "cus_bob"
ANYONE = MeterPrincipal(name="gateway")


@pytest.fixture
def redis():
    with losing_redis() as redis:
        yield redis


@pytest.fixture
async def world(redis, postgres_pool):
    redis.start()
    async with recovering(redis.url, postgres_pool) as world:
        yield world


def takes(quantity: int):
    now = datetime.now(UTC)
    return tuple(counter.take(NOBODY, quantity, now, hard=True) for counter in (TOKENS, LAST_HOUR))


def sign_of_life(world: Recovering, hold) -> UsageReport:
    """What a gateway says of an open stream."""
    return UsageReport(
        edge="otlp",
        gateway_id="gateway-1",
        received_at=datetime.now(UTC),
        usage=TokenUsage(),
        hold_token=world.tokens.sign(hold.terms),
    )


async def lose(world: Recovering, redis) -> None:
    redis.wipe()
    assert await world.refused(ADA, 999)


async def test_a_restart_with_its_append_only_file_loses_nothing(world, redis):
    await world.customer(ADA, 1_000)
    await world.spend(ADA, 1, 100)
    losses = Grown("sidecar_store_losses_total", kind="older")
    redis.stop()
    redis.start()
    await world.reconnect()
    await world.spend(ADA, 2, 50)
    assert await world.recover() == 0
    assert losses.by == 0
    assert await world.store.numbers(ADA) == (1_000, 150, 0, 850)
    await world.assert_equal(ADA)


async def test_a_store_that_is_new_is_opened_once(world, postgres_pool):
    assert await world.recover() == 0
    epochs = {found.epoch for found in await world.live.look()}
    assert epochs == {1}
    async with recovering(world.url, postgres_pool, owner="other") as other:
        assert await other.recover() == 0
        assert {found.epoch for found in await other.live.look()} == epochs


async def test_a_store_of_an_older_version_keeps_its_epoch(world, postgres_pool):
    await world.customer(ADA, 1_000)
    await world.settle()
    await postgres_pool.execute("UPDATE shards SET epoch = 0, settled_epoch = 0")
    for found in await world.live.look():
        key = world.store.keyspace.shard(found.shard)
        await world.store.connection.command("HSET", key, "epoch", 1_700_000_000_000)
    assert await world.recover() == 0
    epochs = await postgres_pool.fetch("SELECT DISTINCT epoch FROM shards")
    assert [row["epoch"] for row in epochs] == [1_700_000_000_000]
    assert await world.store.numbers(ADA) == (1_000, 0, 0, 1_000)


async def test_a_wiped_store_refuses_then_says_what_the_ledger_says(world, redis):
    await world.customer(ADA, 1_000, key="sk_ada")
    await world.customer(BOB, 500)
    await world.record.put_standing(
        BOB, StandingFact(standing=Standing.DELINQUENT, overdue_nano=7, disputed=True)
    )
    await world.spend(ADA, 1, 100)
    await world.spend(BOB, 2, 600 - 100)
    await world.settle()
    before = {name: (await world.store.facts(name)).revision for name in (ADA, BOB)}
    lost = Grown("sidecar_store_losses_total", kind="absent")
    await lose(world, redis)
    assert lost.by >= 1
    assert await world.recover() == 4
    assert await world.store.numbers(ADA) == (1_000, 100, 0, 900)
    assert await world.store.numbers(BOB) == (500, 500, 0, 0)
    fields = await world.store.fields(BOB)
    assert (fields[b"standing"], fields[b"due_nano"], fields[b"due_disputed"]) == (
        b"delinquent",
        b"7",
        b"1",
    )
    (secret_hash,) = PlainDigests().credential_hashes("sk_ada")
    world.store.directory.drop_all()
    facts = await world.store.directory.find_credential([secret_hash])
    assert facts is not None
    assert (facts.customer_id, facts.labels) == (ADA, {"region": "eu"})
    assert facts.revision > before[ADA]
    await world.spend(ADA, 3, 10)
    await world.assert_equal(ADA, BOB)
    assert await world.recover() == 0


async def test_nobody_is_unknown_to_a_store_that_lost_everybody(world, redis):
    await world.customer(ADA, 1_000, key="sk_ada")
    (secret_hash,) = PlainDigests().credential_hashes("sk_ada")
    redis.wipe()
    with pytest.raises(StoreUnavailable):
        await world.store.directory.find_credential([secret_hash])
    with pytest.raises(StoreUnavailable):
        await world.store.directory.read_customer(ADA)
    await world.settle()
    await world.recover()
    assert await world.store.directory.find_credential([secret_hash]) is not None


async def test_a_repeated_event_is_a_duplicate_after_a_loss(world, redis):
    await world.customer(ADA, 1_000)
    hold = await world.place(ADA, 1, 100)
    event = usage_of(hold, 60)
    assert await world.capture_event(event, hold, 60) is CaptureStatus.CAPTURED
    estimated = await world.place(ADA, 2, 100)
    guess = usage_of(estimated, 90, estimated=True)
    assert await world.capture_event(guess, estimated, 90) is CaptureStatus.CAPTURED
    await world.settle()
    await lose(world, redis)
    await world.recover()
    assert await world.capture_event(event, hold, 60) is CaptureStatus.DUPLICATE
    measured = usage_of(estimated, 40)
    assert await world.capture_event(measured, estimated, 40) is CaptureStatus.CORRECTED
    assert await world.store.numbers(ADA) == (1_000, 100, 0, 900)
    await world.assert_equal(ADA)


async def test_usage_that_was_lost_unsettled_is_charged_by_a_claim(world, redis):
    await world.customer(ADA, 1_000)
    await world.settle()
    hold = await world.place(ADA, 1, 100, counters=takes(100))
    event = usage_of(hold, 60)
    assert await world.capture_event(event, hold, 60) is CaptureStatus.CAPTURED
    await lose(world, redis)
    await world.recover()
    charged = Grown("sidecar_claims_total", outcome="charged")
    for _ in range(3):
        assert await world.capture_event(event, hold, 60) is CaptureStatus.CLAIMED
    assert await world.store.numbers(ADA) == (1_000, 0, 0, 1_000)
    await world.settle()
    assert charged.by == 1
    assert await world.capture_event(event, hold, 60) is CaptureStatus.DUPLICATE
    assert await world.store.numbers(ADA) == (1_000, 60, 0, 940)
    fields = await world.store.fields(ADA)
    assert fields[hold.counters[0].field.encode()] == b"60"
    await world.assert_equal(ADA)


async def test_a_claim_that_waits_on_a_lost_shard_keeps_nobody_from_making_it_anew(world, redis):
    await world.customer(ADA, 1_000)
    await world.settle()
    hold = await world.place(ADA, 1, 100)
    await lose(world, redis)
    await world.recover()
    assert await world.capture(hold, 60) is CaptureStatus.CLAIMED
    found = (await world.live.look())[world.store.keyspace.shard_of(ADA)]
    await world.live.report(found.shard, found.epoch)
    assert await world.recover() == SHARDS
    for _ in range(2):
        await world.assert_equal(ADA)
    assert await world.capture(hold, 60) is CaptureStatus.DUPLICATE
    assert await world.store.numbers(ADA) == (1_000, 60, 0, 940)


async def test_a_grant_that_was_lost_and_expired_meanwhile_is_given_and_expires(world, redis):
    await world.customer(ADA, 1_000)
    ends = datetime.now(UTC) + timedelta(milliseconds=200)
    grant = Grant(
        grant_id="short", customer_id=ADA, amount_nano=70, currency="USD", expires_at=ends
    )
    stored = await world.record.create_grant(grant)
    await world.store.accounts.apply_grant(stored)
    await world.record.note_applied(stored)
    await lose(world, redis)
    await asyncio.sleep((ends - datetime.now(UTC)).total_seconds() + 0.01)
    await world.recover()
    pending = await world.record.pending_grants(limit=10)
    for one in pending:
        await world.store.accounts.apply_grant(one)
    await world.assert_equal(ADA)
    balance = await world.store.balance(ADA)
    assert (balance.granted_nano, balance.expired_nano) == (1_070, 70)
    assert await world.record.pending_grants(limit=10) == []


async def test_a_claim_of_what_was_charged_charges_nothing(world, redis):
    """As after 48 hours: the event is in the ledger, its marker is gone."""
    await world.customer(ADA, 1_000)
    hold = await world.spend(ADA, 1, 60)
    await world.settle()
    await lose(world, redis)
    await world.recover()
    shard = world.store.keyspace.shard_of(ADA)
    await world.store.connection.command(
        "DEL", world.store.keyspace.done(shard, hold.terms.hold_id)
    )
    repeated = Grown("sidecar_claims_total", outcome="repeated")
    assert await world.capture(hold, 60) is CaptureStatus.CLAIMED
    await world.settle()
    assert repeated.by >= 1
    assert await world.store.numbers(ADA) == (1_000, 60, 0, 940)
    await world.assert_equal(ADA)


async def test_an_id_older_than_the_dedupe_horizon_is_claimed_without_a_loss(world):
    await world.customer(ADA, 1_000)
    old = int((datetime.now(UTC) - timedelta(hours=49)).timestamp())
    hold = await world.hold(ADA, 1, 100)
    hold = replace(hold, terms=replace(hold.terms, hold_id=make_hold_id(old, b"\1" * 16)))
    assert await world.capture(hold, 30) is CaptureStatus.CLAIMED
    await world.settle()
    await world.assert_equal(ADA)
    assert await world.store.numbers(ADA) == (1_000, 30, 0, 970)


@pytest.mark.parametrize("crash_after", ["find", "answer", "capture"])
async def test_a_crash_between_a_claims_steps_charges_once(world, redis, crash_after):
    await world.customer(ADA, 1_000)
    await world.settle()
    hold = await world.place(ADA, 1, 100)
    await lose(world, redis)
    await world.recover()
    assert await world.capture(hold, 60) is CaptureStatus.CLAIMED
    claims = world.settlement._claims
    if crash_after == "find":
        claims._holds, real = Crashing(), claims._holds
    elif crash_after == "answer":
        claims._metering, real = Crashing(), claims._metering
    else:
        claims._metering, real = CrashingLater(claims._metering), claims._metering
    with pytest.raises(StoreUnavailable):
        await world.settle()
    if crash_after == "find":
        claims._holds = real
    else:
        claims._metering = real
    await world.assert_equal(ADA)
    assert await world.store.numbers(ADA) == (1_000, 60, 0, 940)


class Crashing:
    """Ends before it does anything."""

    async def answer(self, *_):
        raise StoreUnavailable("crash")

    async def finish_claim(self, *_):
        raise StoreUnavailable("crash")


class CrashingLater:
    """Ends after it has happened."""

    def __init__(self, real) -> None:
        self._real = real

    async def finish_claim(self, *arguments):
        await self._real.finish_claim(*arguments)
        raise StoreUnavailable("crash")


async def test_windows_count_on_where_they_were(world, redis):
    await world.customer(ADA, 10_000)
    for number in (1, 2):
        hold = await world.place(ADA, number, 100, counters=takes(100))
        assert await world.capture(hold, 70) is CaptureStatus.CAPTURED
    guess = await world.place(ADA, 3, 100, counters=takes(100))
    assert await world.capture(guess, 90, estimated=True) is CaptureStatus.CAPTURED
    assert await world.capture(guess, 50) is CaptureStatus.CORRECTED
    counted = counters_of(await world.store.fields(ADA))
    assert counted[b"q:tokens"] == 190
    assert counted[b"s:hour"] == 190
    await world.settle()
    await lose(world, redis)
    await world.recover()
    fields = await world.store.fields(ADA)
    assert counters_of(fields) == counted
    shard = world.store.keyspace.shard_of(ADA)
    members = await world.store.connection.command(
        "ZRANGE", world.store.keyspace.windows(shard), 0, -1
    )
    assert set(members) == {f"{ADA}\nq:tokens".encode(), f"{ADA}\nv:hour".encode()}
    hold = await world.place(ADA, 4, 100, counters=takes(100))
    assert await world.capture(hold, 10) is CaptureStatus.CAPTURED
    assert counters_of(await world.store.fields(ADA))[b"q:tokens"] == 200


async def test_rates_are_full_after_a_loss_and_drain_from_there(world, redis):
    """Whoever takes a burst before a loss gets no second one by it."""
    rate = replace(RATE, limit=6, rate=Rate(per_ms=60_000, burst=3))

    async def take(customer: str, number: int, quantity: int) -> PlaceOutcome:
        counter = rate.take(NOBODY, quantity, datetime.now(UTC), hard=True)
        hold = await world.hold(customer, number, 1, counters=(counter,))
        return await world.store.balances.place_hold(hold)

    await world.customer(ADA, 1_000)
    assert (await take(ADA, 1, 3)).status is PlaceStatus.PLACED
    await world.settle()
    await lose(world, redis)
    await world.recover()
    world.facts.clear()
    lost = int((await world.store.fields(ADA))[b"lost"])
    refused = await take(ADA, 2, 1)
    assert refused.status is PlaceStatus.DENIED
    assert list(refused.numbers.retry_at_ms.values()) == [lost + 10_000]
    # Whoever came after it is not concerned.
    await world.customer(BOB, 1_000)
    assert (await take(BOB, 3, 3)).status is PlaceStatus.PLACED
    # Half a minute later three have drained.
    key = world.store.keyspace.customer(ADA)
    await world.store.connection.command("HSET", key, "lost", lost - 30_000)
    assert (await take(ADA, 4, 3)).status is PlaceStatus.PLACED
    assert (await take(ADA, 5, 1)).status is PlaceStatus.DENIED


async def test_a_hold_that_is_put_back_is_in_flight_again(world, redis):
    flight = replace(FLIGHT, limit=1)
    await world.customer(ADA, 1_000)

    def one():
        return (flight.take(NOBODY, 1, datetime.now(UTC), hard=True),)

    hold = await world.place(ADA, 1, 10, counters=one())
    await world.settle()
    await lose(world, redis)
    await world.recover()
    world.facts.clear()
    report = sign_of_life(world, hold)
    assert await world.metering.keep_alive(report, ANYONE)
    other = await world.hold(ADA, 2, 10, counters=one())
    assert (await world.store.balances.place_hold(other)).status is PlaceStatus.DENIED
    assert await world.capture(hold, 10) is CaptureStatus.CAPTURED
    assert (await world.store.balances.place_hold(other)).status is PlaceStatus.PLACED


def counters_of(fields: dict[bytes, bytes]) -> dict[bytes, object]:
    """What windows count; the starts, which the clock chose, cut off."""
    found: dict[bytes, object] = {}
    for name, value in fields.items():
        kind, _, rest = name.partition(b":")
        if kind in (b"q", b"v", b"u"):
            key = kind + b":" + rest.rpartition(b":")[0]
            found[key] = found.get(key, 0) + int(value)
        elif kind == b"s":
            found[name] = int(value)
        elif kind in (b"w", b"i"):
            found[name] = value
    return found


async def test_running_totals_of_prices_go_on(world, redis):
    await world.customer(ADA, 10_000)
    hold = await world.place(ADA, 1, 100)
    event = usage_of(hold, 0)
    total = await reserve(world, event, 13)
    assert total == 0
    lines = (replace(event.lines[0], meter="input", quantity=13, amount_nano=14),)
    assert (
        await world.capture_event(replace(event, lines=lines), hold, 14) is CaptureStatus.CAPTURED
    )
    await world.settle()
    await lose(world, redis)
    await world.recover()
    later = await world.place(ADA, 2, 100)
    assert await reserve(world, usage_of(later, 0), 1) == 13


@pytest.mark.parametrize("measured", [3, 36])
@pytest.mark.parametrize("forgotten", [False, True])
async def test_what_corrects_an_estimate_of_before_the_loss_moves_the_total_by_the_difference(
    world, redis, measured, forgotten
):
    """Whether the store was told of the estimate at once, or claims it first."""
    await world.customer(ADA, 10_000)
    first, second = await world.place(ADA, 1, 100), await world.place(ADA, 2, 100)
    assert await world.metering.charge_orphan(first.terms) is CaptureStatus.CAPTURED
    await report(world, second, 13)
    await world.settle()
    await lose(world, redis)
    await world.recover()
    if forgotten:
        done = world.store.keyspace.done(world.store.keyspace.shard_of(ADA), first.terms.hold_id)
        await world.store.connection.command("HDEL", done, first.terms.hold_id)
    for _ in range(2):
        await report(world, first, measured)
        await world.settle()
    third = await world.place(ADA, 3, 100)
    await report(world, third, 1)
    await world.assert_equal(ADA)
    _, used, *_ = await world.store.numbers(ADA)
    assert used == world.card.lines[1].price.cumulative(measured + 13 + 1)
    (total,) = [n for f, n in (await world.store.fields(ADA)).items() if f.startswith(b"t:")]
    assert int(total) == measured + 13 + 1


async def report(world, hold, tokens: int) -> None:
    """A response of so many input tokens and no output."""
    await world.metering.capture(
        UsageReport(
            edge="otlp",
            gateway_id="gateway-1",
            received_at=datetime.now(UTC),
            usage=TokenUsage(input=tokens, output=0),
            hold_token=world.tokens.sign(hold.terms),
            status=200,
        ),
        ANYONE,
    )


async def test_totals_of_last_month_go_on_for_usage_that_is_late(world, redis):
    await world.customer(ADA, 10_000)
    first = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    last_month = (first - timedelta(days=20)).replace(day=2)
    hold = await world.place(ADA, 1, 100)
    event = replace(usage_of(hold, 0), occurred_at=last_month)
    assert await reserve(world, event, 13) == 0
    lines = (replace(event.lines[0], meter="input", quantity=13, amount_nano=14),)
    assert (
        await world.capture_event(replace(event, lines=lines), hold, 14) is CaptureStatus.CAPTURED
    )
    await world.settle()
    await lose(world, redis)
    await world.recover()
    later = await world.place(ADA, 2, 100)
    assert await reserve(world, replace(usage_of(later, 0), occurred_at=last_month), 1) == 13
    assert await reserve(world, usage_of(await world.place(ADA, 3, 100), 0), 1) == 0


async def test_a_total_that_two_cards_carry_is_made_anew_from_the_usage_of_both(
    redis, postgres_pool
):
    redis.start()
    first = replace(POLICY.cards["prepaid"], on_change=OnChange.CARRY)
    # The line for input stands at another place, and goes on all the same.
    second = replace(first, lines=first.lines[1:])
    policy = replace(POLICY, cards={"prepaid": first, "later": second})
    async with recovering(redis.url, postgres_pool, policy) as world:
        await world.customer(ADA, 10_000)
        for number, (card, index) in enumerate(((first, 1), (second, 0)), 1):
            hold = await world.place(ADA, number, 100)
            event = replace(usage_of(hold, 0), price_version=card.version)
            assert await reserve(world, event, 13, card, index) == 13 * (number - 1)
            lines = (replace(event.lines[0], meter="input", quantity=13, amount_nano=14),)
            event = replace(event, lines=lines)
            assert await world.capture_event(event, hold, 14) is CaptureStatus.CAPTURED
        await world.settle()
        await lose(world, redis)
        await world.recover()
        later = await world.place(ADA, 3, 100)
        assert await reserve(world, usage_of(later, 0), 1, second, 0) == 26


async def reserve(
    world: Recovering, event, quantity: int, card: RateCard | None = None, line: int = 1
) -> int:
    key = f"t:{total_key(card or world.card, line, event.occurred_at)}"
    demands = [RatingDemand(key=key, quantity=quantity)]
    reserved = await world.store.balances.reserve_totals(
        event.customer_id, event.hold_id, event, demands
    )
    return reserved.steps[0].before


async def test_a_sign_of_life_puts_a_lost_hold_back(world, redis):
    await world.customer(ADA, 1_000)
    hold = await world.place(ADA, 1, 900, counters=takes(100))
    report = sign_of_life(world, hold)
    await world.settle()
    await lose(world, redis)
    await world.recover()
    await world.spend(ADA, 2, 300)
    for _ in range(2):
        assert await world.metering.keep_alive(report, ANYONE)
    assert await world.store.numbers(ADA) == (1_000, 300, 900, -200)
    fields = await world.store.fields(ADA)
    assert fields[hold.counters[0].field.encode()] == b"100"
    assert await world.capture(hold, 900) is CaptureStatus.CAPTURED
    assert not await world.metering.keep_alive(report, ANYONE)
    assert await world.store.numbers(ADA) == (1_000, 1_200, 0, -200)
    await world.assert_equal(ADA)


async def test_what_a_hold_that_was_put_back_lacks_is_no_proven_overspend(world, redis):
    await world.customer(ADA, 1_000)
    hold = await world.place(ADA, 1, 900)
    terms = replace(hold.terms, bound=Bound.PROVEN, estimate={"output": 900})
    report = UsageReport(
        edge="otlp",
        gateway_id="gateway-1",
        received_at=datetime.now(UTC),
        usage=TokenUsage(output=900),
        hold_token=world.tokens.sign(terms),
    )
    await world.settle()
    await lose(world, redis)
    await world.recover()
    await world.spend(ADA, 2, 300)
    proven = Grown("sidecar_overspend_nano_total", bound="proven")
    lost = Grown("sidecar_overspend_nano_total", bound="store_failure")
    assert await world.metering.keep_alive(report, ANYONE)
    result = await world.metering.capture(report, ANYONE)
    assert (result.outcome, result.amount_nano) == (UsageOutcome.CAPTURED, 900)
    assert (proven.by, lost.by) == (0, 200)


async def test_a_hold_that_is_put_back_pins_grants_of_its_meters_again(world, redis):
    await world.customer(ADA, 1_000)
    scoped = Grant(
        grant_id="scoped",
        customer_id=ADA,
        amount_nano=70,
        currency="USD",
        priority=1,
        meters=("output",),
    )
    stored = await world.record.create_grant(scoped)
    await world.store.accounts.apply_grant(stored)
    await world.record.note_applied(stored)
    hold = await world.hold(ADA, 1, 900)
    hold = replace(hold, parts={"output": 900}, terms=replace(hold.terms, estimate={"output": 900}))
    await world.store.balances.place_hold(hold)
    pinned = await book_of(world)
    report = sign_of_life(world, hold)
    await world.settle()
    await lose(world, redis)
    await world.recover()
    assert await book_of(world) != pinned
    assert await world.metering.keep_alive(report, ANYONE)
    assert await book_of(world) == pinned


async def book_of(world: Recovering) -> bytes:
    """What the store has of the grants, but for the milliseconds in which they were applied."""
    return re.sub(rb"\b\d{13}\b", b"", (await world.store.fields(ADA))[b"grants"])


async def test_a_hold_that_ended_is_not_put_back(world, redis):
    await world.customer(ADA, 1_000)
    captured = await world.spend(ADA, 1, 100)
    await world.settle()
    released = await world.place(ADA, 2, 100)
    await world.store.balances.release_hold(ADA, released.terms.hold_id)
    assert not await world.store.balances.restore_hold(
        released.terms, TTL_MS, prepaid=True, parts={}
    )
    await lose(world, redis)
    await world.recover()
    assert not await world.store.balances.restore_hold(
        captured.terms, TTL_MS, prepaid=True, parts={}
    )
    fresh = await world.hold(ADA, 3, 10)
    later = int(datetime.now(UTC).timestamp()) + 5
    unplaced = replace(fresh.terms, hold_id=make_hold_id(later, b"\2" * 16))
    assert not await world.store.balances.restore_hold(unplaced, TTL_MS, prepaid=True, parts={})


async def test_a_replica_that_lags_is_noticed_and_made_anew(redis, postgres_pool):
    port = free_port()
    redis.start("first", None, "--port", str(port))
    async with recovering(redis.url, postgres_pool) as world:
        await world.customer(ADA, 1_000)
        await world.spend(ADA, 1, 100)
        await world.settle()
        replica = redis.start_replica(port)
        redis.cut_off(replica)
        settled = await world.spend(ADA, 2, 200)
        await world.settle()
        unsettled = await world.place(ADA, 3, 300)
        assert await world.capture(unsettled, 300) is CaptureStatus.CAPTURED
        redis.replace(replica)
        await world.reconnect()
        older = Grown("sidecar_store_losses_total", kind="older")
        assert await world.refused(ADA, 4)
        assert older.by == 1
        # Refused until it is made anew, however far its numbers get.
        async with recovering(redis.url, postgres_pool, owner="unaware") as other:
            for number in range(10, 20):
                await other.spend(ADA, number, 1)
        assert await world.refused(ADA, 5)
        assert await world.recover() == SHARDS
        assert await world.capture(settled, 200) is CaptureStatus.DUPLICATE
        assert await world.capture(unsettled, 300) is CaptureStatus.CLAIMED
        await world.assert_equal(ADA)
        assert await world.store.numbers(ADA) == (1_000, 610, 0, 390)


async def test_a_store_that_lacks_one_write_is_noticed_by_the_next_one(world):
    """Whose number is that of the lost one."""
    await world.customer(ADA, 1_000)
    keys, connection = world.store.keyspace, world.store.connection
    shard = keys.shard(keys.shard_of(ADA))
    (before,) = await connection.command("HMGET", shard, "seq")
    await world.place(ADA, 1, 100)
    await connection.command("HSET", shard, "seq", before)
    lacking = await world.store.dump()
    assert await world.refused(ADA, 2)
    # Nothing was decided there: others, who know nothing of it, would have believed it.
    assert await world.store.dump() == lacking
    assert await world.refused(ADA, 3)


async def test_a_fresh_process_sees_by_the_ledger_that_a_store_went_back(redis, postgres_pool):
    port = free_port()
    redis.start("first", None, "--port", str(port))
    async with recovering(redis.url, postgres_pool) as world:
        await world.customer(ADA, 1_000)
        replica = redis.start_replica(port)
        redis.cut_off(replica)
        await world.spend(ADA, 1, 100)
        await world.settle()
        redis.replace(replica)
    async with recovering(redis.url, postgres_pool) as fresh:
        assert await fresh.recover() == SHARDS
        assert await fresh.store.numbers(ADA) == (1_000, 100, 0, 900)


async def test_a_loss_that_one_process_saw_is_told_to_who_rebuilds(world):
    await world.customer(ADA, 1_000)
    await world.settle()
    shard = world.store.keyspace.shard_of(ADA)
    await world.live.report(shard, 1)
    assert await world.recover() == SHARDS
    assert (await world.live.look())[shard].epoch == 2
    assert await world.recover() == 0


async def test_a_batch_that_was_read_before_a_rebuild_cannot_commit_after_it(world, postgres_pool):
    await world.customer(ADA, 1_000)
    await world.spend(ADA, 1, 100)
    shard = world.store.keyspace.shard_of(ADA)
    gate, read = asyncio.Event(), asyncio.Event()
    real = world.settlement._ledger

    class Waiting:
        def __getattr__(self, name):
            return getattr(real, name)

        async def settle(self, *arguments):
            read.set()
            await gate.wait()
            return await real.settle(*arguments)

    world.settlement._ledger = Waiting()
    settling = asyncio.create_task(world.settlement.settle_shard(shard))
    await read.wait()
    async with recovering(world.url, postgres_pool, owner="worker") as other:
        other.settlement._owner = "other"
        await postgres_pool.execute(
            "UPDATE shards SET lease_until = now() WHERE lease_owner IS NOT NULL"
        )
        assert await other.rebuilder.rebuild([shard], force=True) == 1
        gate.set()
        assert await settling == 0
        await other.assert_equal(ADA)
        assert await other.store.numbers(ADA) == (1_000, 100, 0, 900)


@pytest.mark.parametrize("step", ["clear", "fill", "remember", "open"])
async def test_a_rebuild_that_dies_is_repeated_from_the_start(world, redis, step):
    await world.customer(ADA, 1_000)
    hold = await world.spend(ADA, 1, 100)
    await world.settle()
    await lose(world, redis)
    real = getattr(world.live, step)

    async def die(*arguments, **options):
        await real(*arguments, **options)
        raise InvariantViolated("died")

    setattr(world.live, step, die)
    with pytest.raises(InvariantViolated):
        await world.rebuilder.look_once()
    setattr(world.live, step, real)
    if step != "open":
        assert await world.refused(ADA, 2)
    assert await world.recover() >= 1
    assert await world.capture(hold, 100) is CaptureStatus.DUPLICATE
    await world.spend(ADA, 3, 10)
    await world.assert_equal(ADA)


async def test_grants_come_back_with_what_is_left_and_go_on(world, redis, postgres_pool):
    """Partly spent, scoped, promotional, expiring, begun later, withdrawn in part, in deficit."""
    await world.customer(ADA, 100)
    now = datetime.now(UTC)
    grants = [
        Grant(
            grant_id="promo",
            customer_id=ADA,
            amount_nano=50,
            currency="USD",
            kind=GrantKind.PROMOTIONAL,
            priority=10,
            expires_at=now + timedelta(days=9),
        ),
        Grant(
            grant_id="scoped", customer_id=ADA, amount_nano=70, currency="USD", meters=("input",)
        ),
        Grant(
            grant_id="later",
            customer_id=ADA,
            amount_nano=30,
            currency="USD",
            effective_at=now + timedelta(days=3),
        ),
    ]
    for grant in grants:
        await world.store.accounts.apply_grant(await world.record.create_grant(grant))
        await world.record.note_applied(grant)
    await world.spend(ADA, 1, 60)
    taken = await take_back(world, "w1", WithdrawalKind.REFUND, 20)
    await world.settle()
    before = await book(world)
    await lose(world, redis)
    await world.recover()
    assert await book(world) == before
    for grant in grants:
        await world.store.accounts.apply_grant(grant)
    assert await world.store.accounts.apply_withdrawal(taken) == 20
    assert await book(world) == before
    await world.spend(ADA, 2, 70)
    await world.assert_equal(ADA)
    left = await postgres_pool.fetchval(
        "SELECT remaining_nano FROM grants WHERE grant_id = 'g_cus_ada'"
    )
    assert left == 0


async def book(world: Recovering) -> dict[bytes, bytes]:
    """Balances, grants and seal; instants of beginnings, which the record rounds, left out."""
    fields = await world.store.fields(ADA)
    names = (b"granted", b"used", b"held", b"avail", b"voided", b"expired", b"deficit", b"uncov")
    found = {name: fields.get(name, b"0") for name in names}
    lines = grant_lines(fields[b"grants"].decode())
    found[b"grants"] = [replace(line, effective_ms=0) for line in lines]
    return found


@pytest.mark.parametrize("amount", [None, 70])
async def test_a_grant_that_was_voided_before_it_began_never_comes(world, redis, amount):
    await world.customer(ADA, 100)
    later = Grant(
        grant_id="later",
        customer_id=ADA,
        amount_nano=70,
        currency="USD",
        effective_at=datetime.now(UTC) + timedelta(days=3),
    )
    await world.store.accounts.apply_grant(await world.record.create_grant(later))
    await world.record.note_applied(later)
    void = await take_back(world, "w1", WithdrawalKind.VOID, amount, grant_id="later")
    assert void.withdrawn_nano == 0
    await world.settle()
    await lose(world, redis)
    await world.recover()
    # Whoever repeats the grant, or takes back of it again, brings it to the live store first.
    await world.store.accounts.apply_grant(later)
    left = [one.grant_id for one in await world.store.accounts.list_live_grants(ADA)]
    assert left == ["g_cus_ada"]


async def test_what_was_taken_back_of_a_grant_stays_taken(world, redis):
    await world.customer(ADA, 100)
    await world.spend(ADA, 1, 50)
    await take_back(world, "w1", WithdrawalKind.REFUND, 20)
    await world.settle()
    taken = b"y:g_cus_ada"
    before = (await world.store.fields(ADA))[taken]
    await lose(world, redis)
    await world.recover()
    assert (await world.store.fields(ADA))[taken] == before
    with pytest.raises(Conflict, match=r"0\.00000008 that is not taken back yet"):
        await take_back(world, "w2", WithdrawalKind.DISPUTE, 81)
    await take_back(world, "w3", WithdrawalKind.DISPUTE, 80)
    await world.assert_equal(ADA)


async def take_back(
    world: Recovering,
    name: str,
    kind: WithdrawalKind,
    amount: int | None,
    grant_id: str = "g_cus_ada",
) -> Withdrawal:
    """Recorded, applied and noted, as the service does it."""
    intent = await world.record.create_withdrawal(
        Withdrawal(
            withdrawal_id=name, customer_id=ADA, grant_id=grant_id, kind=kind, amount_nano=amount
        )
    )
    nano = await world.store.accounts.apply_withdrawal(intent)
    return await world.record.finish_withdrawal(
        intent, state=WithdrawalState.APPLIED, withdrawn_nano=nano
    )


async def test_a_withdrawal_that_was_lost_unsettled_is_applied_once_more(world, redis):
    await world.customer(ADA, 100)
    await world.settle()
    await take_back(world, "w1", WithdrawalKind.VOID, 40)
    await lose(world, redis)
    await world.recover()
    assert await world.store.numbers(ADA) == (100, 0, 0, 100)
    (pending,) = await world.record.pending_withdrawals(limit=10)
    assert await world.store.accounts.apply_withdrawal(pending) == 40
    await world.assert_equal(ADA)
    assert await world.store.numbers(ADA) == (100, 0, 0, 60)


async def test_two_rebuilds_at_once_leave_one_state(world, redis, postgres_pool):
    for number in range(50):
        await world.customer(f"cus_{number}", 1_000)
    await world.customer(ADA, 500)
    await world.spend(ADA, 1, 100)
    await world.settle()
    await lose(world, redis)
    async with recovering(redis.url, postgres_pool, owner="other") as other:
        await asyncio.gather(
            world.rebuilder.look_once(), other.rebuilder.look_once(), return_exceptions=True
        )
        await world.recover()
        assert {found.epoch for found in await world.live.look()} <= {2, 3}
        await world.assert_equal(ADA, *(f"cus_{number}" for number in range(50)))


async def test_manual_only_tells(world, redis):
    world.rebuilder._automatic = False
    await world.customer(ADA, 1_000)
    await world.settle()
    await lose(world, redis)
    assert await world.recover() == 0
    assert await world.refused(ADA, 1)
    assert await world.rebuilder.rebuild(None, force=False) == 4
    assert not await world.refused(ADA, 2)


async def test_traffic_during_a_loss_fails_closed_and_goes_on(world, redis):
    """Nothing passes on an empty store; what passed and was settled is charged once."""
    await world.customer(ADA, 1_000_000)
    await world.settle()
    stop = asyncio.Event()
    passed = {"before": 0, "after": 0}
    refused = 0
    lost = asyncio.Event()
    numbers = iter(range(1, 100_000))

    async def call() -> None:
        nonlocal refused
        while not stop.is_set():
            try:
                hold = await world.hold(ADA, next(numbers), 10)
                await world.store.balances.place_hold(hold)
                await world.capture(hold, 7)
                passed["after" if lost.is_set() else "before"] += 1
            except StoreUnavailable:
                refused += 1
                await asyncio.sleep(0.001)

    callers = [asyncio.create_task(call()) for _ in range(8)]
    settler = asyncio.create_task(world.settlement.run(stop))
    try:
        async with asyncio.timeout(60):
            await until(lambda: passed["before"] >= 50)
            redis.wipe()
            lost.set()
            await until(lambda: refused)
            assert await world.recover() == 4
            after = passed["after"]
            await until(lambda: passed["after"] >= after + 50)
    finally:
        stop.set()
        await asyncio.gather(*callers, settler)
    assert refused > 0
    await world.assert_equal(ADA)
    used = (await world.store.balance(ADA)).used_nano
    assert used % 7 == 0
    assert used <= 7 * (passed["before"] + passed["after"] + 8)
    assert used >= 7 * passed["after"] - 7 * 8


async def test_events_of_the_ledger_say_the_same_as_when_they_came(world, redis):
    """A repeat is told by quantities, model, status and tokens, also those of nothing."""
    await world.customer(ADA, 1_000)
    hold = await world.place(ADA, 1, 100)
    event = replace(event_of(hold, 30), status=201, model="gpt-4o")
    event = replace(
        event,
        lines=(*event.lines, replace(event.lines[0], meter="input", quantity=0, amount_nano=0)),
    )
    assert await world.capture_event(event, hold, 30) is CaptureStatus.CAPTURED
    await world.settle()
    await lose(world, redis)
    await world.recover()
    assert await world.capture_event(event, hold, 30) is CaptureStatus.DUPLICATE
    other = replace(event, model="other")
    assert await world.capture_event(other, hold, 30) is CaptureStatus.CONFLICT
