"""Blocks of credit on the real stores: usage that is early, the owner's death, and the ledger."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from fixtures.blocks import block_of, blocks_of, placed_from
from fixtures.live_store import CUSTOMER, LiveStore
from fixtures.postgres_fixture import postgres_pool
from fixtures.use_cases import ANYONE
from integration.test_orphans_live import UNIT_NANO, UNITS, deploy

from sidecar import telemetry
from sidecar.domain.holds import HoldTerms, make_hold_id
from sidecar.services.allotment_ports import Registered
from sidecar.services.hold_terms import TOLD_SECONDS
from sidecar.services.ports import PlaceStatus

__all__ = ["deploy", "postgres_pool"]
AMOUNT = UNITS * UNIT_NANO


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[LiveStore]:
    store = await LiveStore.open(redis_url)
    yield store
    await store.connection.aclose()


async def block_and_hold(deployment, *, ttl_ms: int = 60_000):
    """A block of two holds' worth, and a hold from it as a check of this policy would have it."""
    store = deployment.store
    real = await deployment.check(1, UNITS)
    assert isinstance(real, HoldTerms)
    assert await store.balances.release_hold(CUSTOMER, real.hold_id)
    facts = await store.facts()
    block = block_of(facts, ttl_ms=ttl_ms)
    block = replace(block, terms=replace(block.terms, price_version=real.price_version))
    allotted = await blocks_of(store).allot(block, 2 * AMOUNT, ())
    assert allotted.outcome.status is PlaceStatus.PLACED
    _, told = placed_from(block, facts, 2, AMOUNT)
    terms = replace(
        real,
        hold_id=told.terms.hold_id,
        block_id=block.terms.block_id,
        decided_at_ms=allotted.outcome.instant_ms,
        expires_at_ms=allotted.outcome.instant_ms + 60_000,
    )
    return block, terms, replace(told, terms=replace(terms, block_id=""))


@pytest.mark.parametrize("batch", [True, False])
async def test_usage_before_its_hold_is_captured_from_the_block(deploy, batch):
    deployment = await deploy("release", granted=3 * AMOUNT, ttl_ms=60_000)
    block, terms, told = await block_and_hold(deployment)
    # All that is left beside the block is held: without the block nothing would cover it.
    assert isinstance(await deployment.check(3, UNITS), HoldTerms)
    report = deployment.report(terms, UNITS)
    if batch:
        (result,) = await deployment.metering.capture_all([report], ANYONE)
    else:
        result = await deployment.metering.capture(report, ANYONE)
    assert (result.outcome.value, result.amount_nano) == ("captured", AMOUNT)
    again = await deployment.metering.capture(report, ANYONE)
    assert again.outcome.value == "duplicate"
    words = await blocks_of(deployment.store).register(block.terms, 1, [told], ends=False)
    assert list(words) == [Registered.KNOWN]
    assert await deployment.store.numbers() == (3 * AMOUNT, AMOUNT, 2 * AMOUNT, 0)
    ledger = await deployment.ledger()
    assert abs(ledger["revenue"]) == AMOUNT
    assert sum(ledger.values()) == 0


async def test_what_a_dead_owner_leaves_is_told_and_given_back_and_charged_to_nobody(deploy):
    """Though the plan charges orphans: no usage is about a block."""
    deployment = await deploy("capture", granted=3 * AMOUNT, ttl_ms=60_000)
    before = telemetry.ORPHANS.labels("allotment")._value.get()
    block, _, _ = await block_and_hold(deployment, ttl_ms=1)
    await deployment.store.wait_due(block.terms.block_id)
    assert await deployment.sweeper.sweep_once() == 1
    assert telemetry.ORPHANS.labels("allotment")._value.get() == before + 1
    assert await deployment.store.numbers() == (3 * AMOUNT, 0, 0, 3 * AMOUNT)
    ledger = await deployment.ledger()
    assert "revenue" not in ledger
    assert await deployment.events() == [("orphan", 0, "orphaned")]


async def test_usage_after_its_block_has_ended_is_late_and_told_so(deploy):
    deployment = await deploy("release", granted=3 * AMOUNT, ttl_ms=60_000)
    block, terms, _ = await block_and_hold(deployment, ttl_ms=1)
    await deployment.store.wait_due(block.terms.block_id)
    await deployment.sweeper.sweep_once()
    result = await deployment.metering.capture(deployment.report(terms, UNITS), ANYONE)
    assert (result.outcome.value, result.amount_nano) == ("late", AMOUNT)


async def test_usage_that_knows_the_id_alone_waits_for_the_hold_to_be_told_of(deploy):
    deployment = await deploy("release", granted=3 * AMOUNT, ttl_ms=60_000)
    block, terms, told = await block_and_hold(deployment)
    hold_id = make_hold_id(int(time.time()), bytes(16))
    told = replace(told, terms=replace(told.terms, hold_id=hold_id))
    report = replace(deployment.report(terms, UNITS), hold_token="", hold_id=hold_id)
    early = asyncio.create_task(deployment.metering.capture(report, ANYONE))
    await asyncio.sleep(TOLD_SECONDS / 4)
    await blocks_of(deployment.store).register(block.terms, 1, [told], ends=False)
    assert (await early).outcome.value == "captured"
    unknown = replace(report, hold_id=hold_id[:8] + "f" * 32)
    assert (await deployment.metering.capture(unknown, ANYONE)).outcome.value == "quarantined"
