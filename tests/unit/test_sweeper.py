"""The sweep: each expired hold ends once, and no bad one keeps the others from ending."""

import asyncio
from dataclasses import replace

import pytest
from fixtures.http_edges import make_policy
from fixtures.stream_records import until
from fixtures.use_cases import ANYONE, AWAY, Grown, UseCases

from sidecar.domain.errors import InvalidInput, StoreUnavailable
from sidecar.domain.policy import Policy
from sidecar.domain.pricing import Package, PriceLine
from sidecar.services.sweeping import Sweeper

PACKAGE = Package(amount_nano=90_000, per=10)


def sweeper(cases: UseCases, **changes: object) -> Sweeper:
    parts = {
        "balances": cases.balances,
        "metering": cases.metering,
        "shards": (0,),
        "interval_seconds": 60.0,
    }
    return Sweeper(**(parts | changes))


def packaged() -> Policy:
    policy = make_policy()
    line = PriceLine(meter="input-tokens", price=PACKAGE)
    card = replace(policy.cards["prepaid"], lines=(line,))
    return replace(policy, cards={**policy.cards, "prepaid": card})


async def interrupted(cases: UseCases) -> str:
    """A hold whose capture died between reserving its interval and booking it."""
    terms = await cases.hold()
    cases.balances.failures["capture"] = [AWAY]
    with pytest.raises(StoreUnavailable):
        await cases.metering.capture(cases.report(terms), ANYONE)
    cases.clock.advance(121)
    return terms.hold_id


async def test_an_expired_hold_is_given_back_once_and_counted():
    cases = UseCases()
    await cases.customer()
    await cases.hold(1)
    cases.clock.advance(60)
    await cases.hold(2)
    cases.clock.advance(61)
    expired = Grown("sidecar_holds_total", transition="expired")
    sweep = sweeper(cases)
    assert [await sweep.sweep_once(), await sweep.sweep_once()] == [1, 0]
    assert (cases.account.held, expired.by) == (100_000, 1)


async def test_an_interrupted_capture_is_finished_and_not_orphaned():
    cases = UseCases(packaged())
    await cases.customer()
    await interrupted(cases)
    captured = Grown("sidecar_holds_total", transition="captured")
    expired = Grown("sidecar_holds_total", transition="expired")
    await sweeper(cases).sweep_once()
    assert [(kind, amount) for kind, _, amount in cases.state.stream] == [("capture", 90_000)]
    assert (cases.account.used, cases.account.held) == (90_000, 0)
    assert (captured.by, expired.by) == (1, 0)
    assert sum(cases.account.totals.values()) == 7


async def test_the_sender_that_comes_back_after_the_sweep_is_a_duplicate():
    cases = UseCases(packaged())
    await cases.customer()
    terms = await cases.hold()
    report = cases.report(terms)
    cases.balances.failures["capture"] = [AWAY]
    with pytest.raises(StoreUnavailable):
        await cases.metering.capture(report, ANYONE)
    cases.clock.advance(121)
    await sweeper(cases).sweep_once()
    assert (await cases.metering.capture(report, ANYONE)).outcome.value == "duplicate"
    assert cases.account.used == 90_000


async def test_a_capture_that_was_finished_meanwhile_is_not_counted_again():
    cases = UseCases(packaged())
    await cases.customer()
    hold_id = await interrupted(cases)
    orphan = cases.balances.orphan_hold

    async def overtaken(customer_id: str, due: str):
        event = await orphan(customer_id, due)
        terms = (await cases.balances.read_hold(customer_id, due)).terms
        await cases.metering.finish(event, terms)
        return event

    cases.balances.orphan_hold = overtaken
    captured = Grown("sidecar_holds_total", transition="captured")
    assert await sweeper(cases).sweep_once() == 1
    assert (captured.by, cases.account.used) == (1, 90_000)
    assert hold_id in cases.account.ended


async def test_a_lost_rate_card_leaves_the_capture_to_be_finished_later():
    cases = UseCases(packaged())
    await cases.customer()
    await interrupted(cases)
    cards, cases.cards.cards = cases.cards.cards, {}
    assert await sweeper(cases).sweep_once() == 0
    cases.cards.cards = cards
    cases.clock.advance(60)
    assert await sweeper(cases).sweep_once() == 1
    assert cases.account.used == 90_000


@pytest.mark.parametrize(
    "error", [InvalidInput("a usage event is malformed"), StoreUnavailable("a damaged record")]
)
async def test_one_bad_hold_keeps_no_other_from_ending(error: Exception):
    cases = UseCases()
    await cases.customer()
    for number in range(3):
        await cases.hold(number)
    cases.clock.advance(121)
    cases.balances.failures["orphan"] = [error]
    failed = Grown("sidecar_worker_failures_total", worker="sweep")
    sweep = sweeper(cases)
    assert [await sweep.sweep_once(), await sweep.sweep_once()] == [2, 1]
    assert (cases.account.held, failed.by) == (0, 1)


async def test_a_hold_whose_capture_cannot_be_booked_is_told_and_left():
    cases = UseCases(packaged())
    await cases.customer()
    await interrupted(cases)
    cases.account.used = 4 * 10**18
    captured = Grown("sidecar_holds_total", transition="captured")
    failed = Grown("sidecar_worker_failures_total", worker="sweep")
    assert await sweeper(cases).sweep_once() == 0
    assert (captured.by, failed.by) == (0, 1)


async def test_a_hold_that_cannot_be_read_is_told_and_left():
    cases = UseCases(packaged())
    await cases.customer()
    await interrupted(cases)

    async def unreadable(*_: str) -> None:
        return None

    cases.balances.read_hold = unreadable
    failed = Grown("sidecar_worker_failures_total", worker="sweep")
    assert await sweeper(cases).sweep_once() == 0
    assert failed.by == 1


async def test_a_store_that_goes_away_ends_the_round_at_once():
    cases = UseCases()
    await cases.customer()
    for number in range(5):
        await cases.hold(number)
    cases.clock.advance(121)
    cases.balances.failures["orphan"] = [AWAY] * 5
    cases.balances.failures["ping"] = [AWAY]
    with pytest.raises(StoreUnavailable):
        await sweeper(cases).sweep_once()
    assert cases.balances.calls.count("orphan") == 1


async def test_a_round_ends_at_most_a_batch_of_each_shard():
    cases = UseCases()
    await cases.customer()
    for number in range(5):
        await cases.hold(number)
    cases.clock.advance(121)
    assert await sweeper(cases, batch_max=2).sweep_once() == 2
    assert await sweeper(cases, batch_max=2, shards=(0, 1)).sweep_once() == 3


async def test_the_worker_outlives_a_store_that_is_away_and_stops_when_told():
    cases = UseCases()
    await cases.customer()
    await cases.hold()
    cases.clock.advance(121)
    cases.state.away = True
    stop = asyncio.Event()
    failed = Grown("sidecar_worker_failures_total", worker="sweep")
    work = asyncio.create_task(sweeper(cases, interval_seconds=0.001).run(stop))
    await until(lambda: failed.by >= 2)
    cases.state.away = False
    await until(lambda: cases.account.held == 0)
    stop.set()
    async with asyncio.timeout(10):
        await work


async def test_a_shard_that_is_away_takes_no_other_shards_turn():
    cases = UseCases()
    asked: list[int] = []

    class OneAway(type(cases.balances)):
        async def due_holds(self, shard, limit):
            asked.append(shard)
            if shard == 1:
                raise AWAY
            return await super().due_holds(shard, limit)

    balances = OneAway(cases.state)
    sweep = sweeper(cases, balances=balances, shards=(0, 1, 2, 3))
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await sweep.sweep_once()
    assert asked == [0, 1, 2, 3, 0, 1]
