"""Orphans, and amounts that no double holds, on the real stores: script, stream and ledger."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fixtures.live_store import CUSTOMER, LiveStore, SystemClock, event_of, hold_id_of, hold_of
from fixtures.memory_log import MemoryDecisionLog
from fixtures.use_cases import ANYONE

from sidecar.domain.decisions import Allow, Deny, DenyReason
from sidecar.domain.holds import HoldState, HoldTerms, make_hold_id
from sidecar.domain.orphans import OrphanCount
from sidecar.domain.requests import AccessRequest
from sidecar.domain.usage import TokenUsage, UsageReport
from sidecar.inbound.extraction.request_body import read_request_facts
from sidecar.outbound.keyed_hashes import KeyedDigests, KeyRing, SignedHoldTokens
from sidecar.outbound.policy_files.holder import PolicyHolder
from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.outbound.postgres.ledger import PostgresLedger
from sidecar.outbound.postgres.orphan_counts import PostgresOrphanCounts
from sidecar.outbound.postgres.pool import Pool
from sidecar.outbound.redis.quarantine import RedisQuarantine
from sidecar.services.accounts import AccountService
from sidecar.services.check import CheckService
from sidecar.services.control_ports import Customer, Grant
from sidecar.services.credits import CreditService
from sidecar.services.metering import MeteringService
from sidecar.services.orphans import OrphanSettlement
from sidecar.services.settlement import SettlementWorker
from sidecar.services.sweeping import Sweeper

EXACT = 9_007_199_254_740_993
"""One more than a double can count to: 321 units at 28,059.810762433."""
UNITS = 321
UNIT_NANO = EXACT // UNITS
POLICY = """
identity: [{header: {customer: x-customer}}]
estimates:
  - match: {routes: ['^/job$']}
    from: header
    headers: {input: x-most}
    trusted: true
    default: {input: 1, output: 0}
meters: [{name: units, match: {routes: ['^/job$'], status: [200]}, value: usage.input}]
plans:
  - name: prepaid
    billing: prepaid
    currency: USD
    prices: [{meter: units, model: per_unit, amount: "28059.810762433"}]
    orphans: SETTLE
"""


class Deployment:
    """The services on real stores, settled by hand."""

    def __init__(self, store: LiveStore, pool: Pool, policies: PolicyHolder, ttl_ms: int) -> None:
        ring = KeyRing([("k1", b"a-secret-key-of-these-tests-only")])
        clock = SystemClock()
        self.store, self.pool, self.policies = store, pool, policies
        self.tokens = SignedHoldTokens(ring)
        ids = iter(range(1_000))
        self.accounts = AccountService(
            accounts=PostgresAccounts(pool),
            live=store.accounts,
            policies=policies,
            digests=KeyedDigests(ring),
            clock=clock,
            new_id=lambda prefix: f"{prefix}_{next(ids)}",
            new_secret=lambda: "unused",
        )
        self.credit = CreditService(
            accounts=PostgresAccounts(pool), live=store.accounts, policies=policies, clock=clock
        )
        self.checks = CheckService(
            policies=policies,
            directory=store.directory,
            balances=store.balances,
            tokens=self.tokens,
            digests=KeyedDigests(ring),
            clock=clock,
            read_facts=read_request_facts,
            hold_ttl_ms=ttl_ms,
            decision_log=MemoryDecisionLog(),
        )
        self.metering = MeteringService(
            balances=store.balances,
            directory=store.directory,
            rate_cards=store.cards,
            tokens=self.tokens,
            digests=KeyedDigests(ring),
            policies=policies,
            quarantine=RedisQuarantine(store.connection, store.keyspace),
            hold_ttl_ms=1,
        )
        shards = range(store.keyspace.shards)
        counts = PostgresOrphanCounts(pool)
        self.sweeper = Sweeper(
            balances=store.balances,
            metering=self.metering,
            shards=shards,
            interval_seconds=1,
            orphans=OrphanSettlement(policies=policies, counts=counts, clock=clock),
        )
        self.worker = SettlementWorker(
            store.stream,
            PostgresLedger(pool),
            store.cards,
            clock,
            owner="test",
            shards=shards,
            batch_max=100,
            lease_seconds=60,
        )

    async def check(self, number: int, most: int) -> HoldTerms | Deny:
        now = datetime.now(UTC)
        decision = await self.checks.check(
            AccessRequest(
                edge="test",
                gateway_id="gateway-1",
                hold_id=make_hold_id(int(now.timestamp()), number.to_bytes(16, "big")),
                method="POST",
                path="/job",
                headers={"x-customer": (CUSTOMER,), "x-most": (str(most),)},
                received_at=now,
                deadline=now + timedelta(seconds=60),
            )
        )
        if isinstance(decision, Deny):
            return decision
        assert isinstance(decision, Allow)
        assert decision.hold is not None
        return self.tokens.read(decision.hold.token)

    def report(self, terms: HoldTerms, used: int | None) -> UsageReport:
        return UsageReport(
            edge="test",
            gateway_id="gateway-1",
            received_at=datetime.now(UTC),
            usage=TokenUsage(input=used, output=None if used is None else 0),
            hold_token=self.tokens.sign(terms),
            status=200,
        )

    async def ledger(self) -> dict[str, int]:
        """What each account of the customer's ledger came to, once all is settled."""
        await self.worker.settle_once()
        rows = await self.pool.fetch(
            "SELECT account, sum(amount_nano)::bigint AS sum FROM ledger_entries "
            "WHERE customer_id = $1 GROUP BY account",
            CUSTOMER,
        )
        return {row["account"]: row["sum"] for row in rows}

    async def events(self) -> list[tuple[str, int, str]]:
        rows = await self.pool.fetch(
            "SELECT kind, amount_nano, estimate_reason FROM usage_events "
            "WHERE customer_id = $1 ORDER BY kind",
            CUSTOMER,
        )
        return [(row["kind"], row["amount_nano"], row["estimate_reason"]) for row in rows]


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[LiveStore]:
    store = await LiveStore.open(redis_url)
    yield store
    await store.connection.aclose()


@pytest.fixture
def deploy(store: LiveStore, postgres_pool: Pool, tmp_path: Path):
    async def make(settle: str, *, granted: int, ttl_ms: int = 1) -> Deployment:
        (tmp_path / "policy.yaml").write_text(POLICY.replace("SETTLE", settle))
        policies = PolicyHolder(tmp_path)
        await policies.load_initial()
        for card in policies.current().all_cards:
            await store.cards.publish(card)
        deployment = Deployment(store, postgres_pool, policies, ttl_ms)
        await deployment.accounts.create_customer(
            Customer(customer_id=CUSTOMER, plan="prepaid", currency="USD")
        )
        await deployment.credit.create_grant(
            Grant(grant_id="grant-1", customer_id=CUSTOMER, amount_nano=granted, currency="USD")
        )
        return deployment

    return make


async def orphaned(deployment: Deployment, number: int, *, served: bool) -> HoldTerms:
    """A hold of all that the customer has, expired."""
    terms = await deployment.check(number, UNITS)
    assert isinstance(terms, HoldTerms)
    if served:
        assert await deployment.metering.keep_alive(deployment.report(terms, None), ANYONE)
    await deployment.store.wait_due(terms.hold_id)
    return terms


async def test_an_amount_beyond_doubles_is_held_captured_and_posted_to_the_nano(deploy):
    deployment = await deploy("release", granted=EXACT + UNIT_NANO - 1, ttl_ms=60_000)
    store = deployment.store
    terms = await deployment.check(1, UNITS)
    assert isinstance(terms, HoldTerms)
    assert terms.amount_nano == EXACT
    assert await store.numbers() == (EXACT + UNIT_NANO - 1, 0, EXACT, UNIT_NANO - 1)
    refused = await deployment.check(2, 1)
    assert isinstance(refused, Deny)
    assert refused.reason is DenyReason.NO_AVAILABLE_CREDITS
    result = await deployment.metering.capture(deployment.report(terms, UNITS), ANYONE)
    assert (result.outcome.value, result.amount_nano) == ("captured", EXACT)
    assert await store.numbers() == (EXACT + UNIT_NANO - 1, EXACT, 0, UNIT_NANO - 1)
    ledger = await deployment.ledger()
    assert abs(ledger["revenue"]) == EXACT
    assert sum(ledger.values()) == 0
    assert abs(ledger["customer_credit"]) == UNIT_NANO - 1
    assert await deployment.events() == [("capture", EXACT, "")]


async def test_a_charged_orphan_is_corrected_by_its_usage_in_the_ledger_too(deploy):
    deployment = await deploy("capture", granted=EXACT)
    store = deployment.store
    terms = await orphaned(deployment, 1, served=True)
    assert await deployment.sweeper.sweep_once() == 1
    assert await store.numbers() == (EXACT, EXACT, 0, 0)
    ledger = await deployment.ledger()
    assert abs(ledger["revenue"]) == EXACT
    assert await deployment.events() == [("capture", EXACT, "orphaned")]
    result = await deployment.metering.capture(deployment.report(terms, UNITS - 1), ANYONE)
    assert result.outcome.value == "captured"
    assert await store.numbers() == (EXACT, EXACT - UNIT_NANO, 0, UNIT_NANO)
    ledger = await deployment.ledger()
    assert abs(ledger["revenue"]) == EXACT - UNIT_NANO
    # Its grant was used up, so what comes back is credit that no grant holds.
    assert ledger["customer_credit"] + ledger["customer_overage"] == UNIT_NANO
    assert await deployment.events() == [
        ("capture", EXACT, "orphaned"),
        ("correction:1", -UNIT_NANO, ""),
    ]
    assert await deployment.sweeper.sweep_once() == 0


@pytest.mark.parametrize(("settle", "served"), [("release", True), ("capture", False)])
async def test_an_orphan_that_is_not_charged_costs_nothing_until_its_usage_comes(
    deploy, settle, served
):
    deployment = await deploy(settle, granted=EXACT)
    terms = await orphaned(deployment, 1, served=served)
    assert await deployment.sweeper.sweep_once() == 1
    assert await deployment.store.numbers() == (EXACT, 0, 0, EXACT)
    await deployment.ledger()
    assert await deployment.events() == [("orphan", 0, "orphaned")]
    late = await deployment.metering.capture(deployment.report(terms, 2), ANYONE)
    assert (late.outcome.value, late.amount_nano) == ("late", 2 * UNIT_NANO)
    assert abs((await deployment.ledger())["revenue"]) == 2 * UNIT_NANO


async def test_orphans_are_counted_until_their_usage_comes(deploy, postgres_pool):
    deployment = await deploy("{settle: capture, proof: none}", granted=10 * EXACT)
    since = datetime.now(UTC) - timedelta(hours=1)
    counts = PostgresOrphanCounts(postgres_pool)
    assert await counts.count_orphans(CUSTOMER, since) == OrphanCount()
    terms = [await orphaned(deployment, number, served=False) for number in range(3)]
    await deployment.sweeper.sweep_once()
    answered = await deployment.check(7, 1)
    await deployment.metering.capture(deployment.report(answered, 1), ANYONE)
    await deployment.ledger()
    assert await counts.count_orphans(CUSTOMER, since) == OrphanCount(orphans=3, holds=4)
    await deployment.metering.capture(deployment.report(terms[0], 5), ANYONE)
    await deployment.ledger()
    assert await counts.count_orphans(CUSTOMER, since) == OrphanCount(orphans=2, holds=4)
    later = datetime.now(UTC) + timedelta(seconds=1)
    assert await counts.count_orphans(CUSTOMER, later) == OrphanCount()
    assert await counts.count_orphans("cus_other", since) == OrphanCount()


@pytest.mark.parametrize("end", ["capture", "release", "orphan"])
async def test_the_proof_of_a_hold_goes_with_it(store, end):
    facts = await store.add_customer(granted=100)
    hold = hold_of(facts, 1, 10, ttl_ms=1)
    await store.balances.place_hold(hold)
    before = await store.balances.read_hold(CUSTOMER, hold_id_of(1))
    await store.balances.extend_hold(CUSTOMER, hold_id_of(1), 2)
    stored = await store.balances.read_hold(CUSTOMER, hold_id_of(1))
    assert (before.served, stored.served, stored.state) == (False, True, HoldState.OPEN)
    await store.wait_due(hold_id_of(1))
    assert (await store.balances.read_hold(CUSTOMER, hold_id_of(1))).due
    match end:
        case "capture":
            await store.balances.capture_hold(event_of(hold, 4), (), prepaid=True)
        case "release":
            assert await store.balances.release_hold(CUSTOMER, hold_id_of(1))
        case _:
            await store.expire(hold_id_of(1))
    assert not [name for name in await store.fields() if hold_id_of(1).encode() in name]
    ended = await store.balances.read_hold(CUSTOMER, hold_id_of(1))
    assert (ended.due, ended.served, ended.interrupted) == (False, False, False)


async def test_a_hold_that_is_unknown_gets_no_proof(store):
    await store.add_customer(granted=100)
    assert not await store.balances.extend_hold(CUSTOMER, hold_id_of(9), 1_000)
    assert not [name for name in await store.fields() if name.startswith(b"p:")]
