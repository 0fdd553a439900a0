"""Orphans: who pays for a request whose usage never came, and when that is too many."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import pytest
from fixtures.http_edges import make_policy
from fixtures.use_cases import ANYONE, AWAY, Grown, UseCases
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from sidecar.domain.errors import StoreUnavailable
from sidecar.domain.meters import Aggregation
from sidecar.domain.orphans import (
    SHARE_HOLDS_MIN,
    OrphanCount,
    OrphanFate,
    OrphanRule,
    OrphanSettling,
)
from sidecar.domain.policy import Policy
from sidecar.domain.pricing import Package, PriceLine
from sidecar.domain.usage import OnMissing, UsageEvent
from sidecar.outbound.policy_files import load_policy
from sidecar.services.orphans import CUSTOMERS_MAX, OrphanSettlement
from sidecar.services.sweeping import Sweeper

CAPTURE = OrphanRule(settle=OrphanSettling.CAPTURE)
UNPROVEN_TOO = replace(CAPTURE, needs_proof=False)
TTL_SECONDS = 120


class Counts:
    """What the ledger would say; raises while it is away."""

    def __init__(self, orphans: int = 0, holds: int = 0) -> None:
        self.count = OrphanCount(orphans=orphans, holds=holds)
        self.away = False
        self.asked: list[tuple[str, datetime]] = []

    async def count_orphans(self, customer_id: str, since: datetime) -> OrphanCount:
        self.asked.append((customer_id, since))
        if self.away:
            raise StoreUnavailable("postgres: no answer")
        return self.count


class World:
    """A sweep over the use cases, with one rule for the prepaid plan's orphans."""

    def __init__(self, rule: OrphanRule | None, counts: Counts | None = None, **changes: object):
        policy = replace(make_policy(), orphans={} if rule is None else {"prepaid": rule})
        self.cases = UseCases(replace(policy, **changes))
        self.counts = counts or Counts()
        self.settlement = OrphanSettlement(
            policies=self.cases.policies, counts=self.counts, clock=self.cases.clock
        )
        self.sweeper = Sweeper(
            balances=self.cases.balances,
            metering=self.cases.metering,
            shards=(0,),
            interval_seconds=60.0,
            orphans=self.settlement,
        )

    async def orphan(self, number: int = 1, *, served: bool):
        """A hold that has expired."""
        terms = await self.cases.hold(number)
        if served:
            assert await self.cases.metering.keep_alive(self.cases.report(terms), ANYONE)
        self.cases.clock.advance(TTL_SECONDS)
        return terms

    @property
    def stream(self) -> Sequence[tuple[str, UsageEvent, int]]:
        return self.cases.state.stream

    @property
    def money(self) -> tuple[int, int]:
        return (self.cases.account.used, self.cases.account.held)


@pytest.mark.parametrize(
    ("rule", "served", "fate"),
    [
        (None, True, "released"),
        (CAPTURE, True, "captured"),
        (CAPTURE, False, "unproven"),
        (UNPROVEN_TOO, False, "captured"),
    ],
)
async def test_an_orphan_is_settled_as_its_plan_says(rule, served, fate):
    world = World(rule)
    await world.cases.customer()
    terms = await world.orphan(served=served)
    grown = {one: Grown("sidecar_orphans_total", outcome=one) for one in OrphanFate}
    assert [await world.sweeper.sweep_once(), await world.sweeper.sweep_once()] == [1, 0]
    charged = terms.amount_nano if fate == "captured" else 0
    assert world.money == (charged, 0)
    assert {one.value: found.by for one, found in grown.items() if found.by} == {fate: 1}


async def test_the_charge_is_the_estimate_and_says_so():
    world = World(CAPTURE)
    await world.cases.customer()
    terms = await world.orphan(served=True)
    await world.sweeper.sweep_once()
    ((kind, event, amount),) = world.stream
    assert (kind, amount, event.amount_nano) == ("capture", terms.amount_nano, terms.amount_nano)
    assert (event.estimated, event.estimate_reason, event.edge) == (True, "orphaned", "sweep")
    assert {line.meter: line.quantity for line in event.lines} == dict(terms.estimate)
    assert (event.status, event.usage.missing) == (None, True)


@pytest.mark.parametrize("tokens", [0, 7, 100, 5_000])
async def test_usage_that_comes_after_all_is_charged_as_it_was(tokens):
    world = World(CAPTURE)
    await world.cases.customer()
    terms = await world.orphan(served=True)
    await world.sweeper.sweep_once()
    result = await world.cases.metering.capture(world.cases.report(terms, tokens), ANYONE)
    assert result.outcome.value == "captured"
    assert world.money == (tokens * 1_000, 0)
    assert [kind for kind, _, _ in world.stream] == ["capture", "correction:1"]
    assert sum(amount for _, _, amount in world.stream) == tokens * 1_000


async def test_a_report_without_counts_adds_nothing_to_a_charged_orphan():
    world = World(CAPTURE)
    await world.cases.customer()
    terms = await world.orphan(served=True)
    await world.sweeper.sweep_once()
    again = await world.cases.metering.capture(world.cases.report(terms, None), ANYONE)
    assert (again.outcome.value, world.money) == ("duplicate", (terms.amount_nano, 0))


async def test_usage_after_a_released_orphan_is_charged_whole():
    world = World(None)
    await world.cases.customer()
    terms = await world.orphan(served=True)
    await world.sweeper.sweep_once()
    late = await world.cases.metering.capture(world.cases.report(terms, 7), ANYONE)
    assert (late.outcome.value, world.money) == ("late", (7_000, 0))


def packaged() -> dict[str, object]:
    policy = make_policy()
    line = PriceLine(meter="input-tokens", price=Package(amount_nano=90_000, per=10))
    card = replace(policy.cards["prepaid"], lines=(line,))
    return {"cards": {**policy.cards, "prepaid": card}}


async def test_a_charge_that_died_half_way_is_finished_once():
    world = World(CAPTURE, **packaged())
    await world.cases.customer()
    terms = await world.orphan(served=True)
    world.cases.balances.failures["capture"] = [AWAY]
    assert await world.sweeper.sweep_once() == 0
    assert world.cases.account.held == terms.amount_nano
    assert await world.sweeper.sweep_once() == 1
    world.cases.clock.advance(60)
    assert await world.sweeper.sweep_once() == 0
    assert world.money == (terms.amount_nano, 0)
    assert [kind for kind, _, _ in world.stream] == ["capture"]
    assert sum(world.cases.account.totals.values()) == terms.estimate["input-tokens"]


async def test_a_sign_of_life_in_the_last_moment_leaves_the_hold_alone():
    world = World(CAPTURE)
    await world.cases.customer()
    terms = await world.orphan(served=True)
    due = world.cases.balances.due_holds

    async def overtaken(shard: int, limit: int):
        found = await due(shard, limit)
        await world.cases.metering.keep_alive(world.cases.report(terms), ANYONE)
        return found

    world.cases.balances.due_holds = overtaken
    expired = Grown("sidecar_holds_total", transition="expired")
    await world.sweeper.sweep_once()
    assert (world.money, expired.by) == ((0, terms.amount_nano), 0)


async def test_what_cannot_be_priced_is_released_and_stays_visible():
    world = World(CAPTURE)
    await world.cases.customer()
    await world.orphan(served=True)
    world.cases.cards.cards = {}
    released = Grown("sidecar_orphans_total", outcome="released")
    with capture_logs() as logs:
        assert await world.sweeper.sweep_once() == 1
    assert (world.money, released.by) == ((0, 0), 1)
    assert [one["event"] for one in logs] == ["orphan_not_charged"]


@pytest.mark.parametrize(
    ("on_missing", "aggregation", "charged"),
    [
        (OnMissing.CAPTURE_ESTIMATE, Aggregation.SUM, True),
        (OnMissing.BYTES, Aggregation.SUM, True),
        (OnMissing.ZERO, Aggregation.SUM, False),
    ],
)
async def test_a_meter_for_which_nothing_is_zero_stays_free(on_missing, aggregation, charged):
    policy = make_policy()
    meters = tuple(
        replace(one, meter=replace(one.meter, on_missing=on_missing, aggregation=aggregation))
        for one in policy.meters
    )
    cards = {
        name: replace(card, meters={one.meter.name: one.meter for one in meters})
        for name, card in policy.cards.items()
    }
    world = World(CAPTURE, meters=meters, cards=cards)
    await world.cases.customer()
    terms = await world.orphan(served=True)
    await world.sweeper.sweep_once()
    assert world.money == (terms.amount_nano if charged else 0, 0)


@pytest.mark.parametrize(
    ("count", "exceeded"),
    [
        (OrphanCount(orphans=100, holds=10_000), False),
        (OrphanCount(orphans=101, holds=10_000), True),
        (OrphanCount(orphans=19, holds=19), False),
        (OrphanCount(orphans=2, holds=20), False),
        (OrphanCount(orphans=3, holds=20), True),
    ],
)
async def test_a_customer_with_too_many_orphans_is_charged_and_told_once(count, exceeded):
    world = World(None, Counts(count.orphans, count.holds))
    await world.cases.customer()
    alarms = Grown("sidecar_orphan_alarms_total")
    with capture_logs() as logs:
        for number in range(2):
            terms = await world.orphan(number, served=True)
            await world.sweeper.sweep_once()
    assert world.money == ((2 * terms.amount_nano if exceeded else 0), 0)
    assert alarms.by == exceeded
    told = [one for one in logs if one["event"] == "orphans_exceeded"]
    assert [(one["customer_id"], one["orphans"]) for one in told] == (
        [("cus_1", count.orphans)] if exceeded else []
    )


async def test_a_customer_that_does_better_is_released_again():
    world = World(None, Counts(500, 500))
    await world.cases.customer()
    terms = await world.orphan(1, served=True)
    await world.sweeper.sweep_once()
    world.counts.count = OrphanCount()
    await world.orphan(2, served=True)
    await world.sweeper.sweep_once()
    assert world.money == (terms.amount_nano, 0)


async def test_the_last_count_stands_while_the_ledger_is_away():
    world = World(None, Counts(500, 500))
    await world.cases.customer()
    first = await world.orphan(1, served=True)
    await world.sweeper.sweep_once()
    world.counts.away = True
    failed = Grown("sidecar_worker_failures_total", worker="orphans")
    await world.orphan(2, served=True)
    await world.sweeper.sweep_once()
    assert world.money == (2 * first.amount_nano, 0)
    assert failed.by == 1


async def test_the_ledger_is_asked_once_for_many_orphans_of_the_last_hour():
    world = World(None)
    await world.cases.customer()
    for number in range(5):
        await world.cases.hold(number)
    world.cases.clock.advance(TTL_SECONDS)
    assert await world.sweeper.sweep_once() == 5
    ((customer_id, since),) = world.counts.asked
    assert (customer_id, (world.cases.clock.now() - since).total_seconds()) == ("cus_1", 3_600)


async def test_what_is_remembered_is_bounded():
    world = World(None)
    await world.cases.customer()
    terms = await world.cases.hold()
    stored = await world.cases.balances.read_hold("cus_1", terms.hold_id)
    for number in range(CUSTOMERS_MAX + 5):
        one = replace(stored, terms=replace(terms, customer_id=f"cus_{number}"))
        await world.settlement.fate(one)
    assert len(world.settlement._known) == CUSTOMERS_MAX
    assert f"cus_{CUSTOMERS_MAX + 4}" in world.settlement._known


RULES = st.builds(
    OrphanRule,
    settle=st.sampled_from(OrphanSettling),
    needs_proof=st.booleans(),
    count_max=st.integers(0, 200),
    share_percent=st.integers(1, 100),
)


@given(RULES, st.booleans(), st.integers(0, 300), st.integers(0, 300))
def test_nobody_is_charged_without_the_proof_that_is_asked_for(rule, served, orphans, others):
    count = OrphanCount(orphans=orphans, holds=orphans + others)
    exceeded = rule.is_exceeded(count)
    fate = rule.fate(served=served, exceeded=exceeded)
    if fate is OrphanFate.CAPTURED:
        assert served or not rule.needs_proof
        assert exceeded or rule.settle is OrphanSettling.CAPTURE
    if rule.settle is OrphanSettling.CAPTURE:
        assert fate is not OrphanFate.RELEASED
    if orphans <= rule.count_max and count.holds < SHARE_HOLDS_MIN:
        assert not exceeded


def test_plans_say_how_orphans_are_settled(tmp_path):
    policy = _loaded(
        tmp_path,
        a="orphans: capture",
        b='orphans: {settle: capture, proof: none, count: 5, share: "50%"}',
        c="features: [x]",
        d="orphans: {count: 0}",
    )
    assert policy.orphans == {
        "a": CAPTURE,
        "b": OrphanRule(
            settle=OrphanSettling.CAPTURE, needs_proof=False, count_max=5, share_percent=50
        ),
        "d": OrphanRule(count_max=0),
    }
    assert policy.orphans_of("c") == policy.orphans_of("gone") == OrphanRule()


def _loaded(folder, **plans: str) -> Policy:
    lines = "\n".join(
        f"  - {{name: {name}, billing: postpaid, currency: USD, prices: [], {more}}}"
        for name, more in plans.items()
    )
    (folder / "plans.yaml").write_text(f"plans:\n{lines}\n")
    return load_policy(folder).policy
