"""A worker that stood still beyond its lease, at any step, and then goes on: nothing changes."""

import asyncio
from typing import Any

import pytest
from fixtures.inbox_deployment import InboxDeployment, clear
from fixtures.stepped_ports import SteppedPort
from fixtures.use_cases import Grown

from sidecar.domain.errors import LeaseLost
from sidecar.domain.minor_units import STRIPE
from sidecar.outbound.postgres.queries import query
from sidecar.services.control_ports import Grant
from sidecar.services.inbox_ports import ObjectKind, ObjectRef
from sidecar.services.payments import TOP_UP_KEY

PAYMENT = ObjectRef(provider=STRIPE, kind=ObjectKind.PAYMENT, object_id="pi_1")
TEN = 10_000_000_000
STEPS_MAX = 60


class Standstill:
    """Calls of a worker's ports, of which one does not begin before it is let go."""

    def __init__(self, place: int) -> None:
        self.calls = 0
        self._place = place
        self.reached, self.go = asyncio.Event(), asyncio.Event()

    def reach(self, port: Any) -> Any:
        return SteppedPort(port, self.pass_by)

    async def pass_by(self) -> None:
        self.calls += 1
        if self.calls == self._place:
            self.reached.set()
            await self.go.wait()


def open_dispute(world: InboxDeployment) -> None:
    world.provider.dispute("pi_1", "dp_1", 400)


def won_dispute(world: InboxDeployment) -> None:
    world.provider.dispute("pi_1", "dp_1", 400, status="won")


def refund(world: InboxDeployment) -> None:
    world.provider.refund("pi_1", "re_1", 400)


def failed_refund(world: InboxDeployment) -> None:
    world.provider.refund("pi_1", "re_1", 400, status="failed")


def failed_refund_and_dispute(world: InboxDeployment) -> None:
    """More than is left unless the refund's part is given back first."""
    failed_refund(world)
    world.provider.dispute("pi_1", "dp_1", 1_000)


# What the slow worker sees, what the one that overtakes it does, and what is left of ten.
STORIES = [
    pytest.param((open_dispute, won_dispute), TEN, id="a dispute is won"),
    pytest.param((refund, failed_refund), TEN, id="a refund fails"),
    pytest.param((won_dispute, refund), TEN - 4 * TEN // 10, id="a refund after a dispute"),
    pytest.param((refund, failed_refund_and_dispute), 0, id="all is disputed after a refund"),
]


@pytest.fixture
async def deployment(postgres_pool) -> InboxDeployment:
    deployment = InboxDeployment(postgres_pool)
    await deployment.customer()
    return deployment


async def overtake(world: InboxDeployment, changes: tuple, place: int) -> int:
    """One worker stands still at a step and is overtaken; returns how many steps it had."""
    before, after = changes
    world.provider.pay("pi_1", metadata={TOP_UP_KEY: ""})
    before(world)
    await world.inbox.want([PAYMENT])
    still = Standstill(place)
    slow = asyncio.create_task(world.new_worker("slow", still.reach).work_once())
    reached = asyncio.create_task(still.reached.wait())
    await asyncio.wait((slow, reached), return_when=asyncio.FIRST_COMPLETED)
    reached.cancel()
    after(world)
    await world.inbox.want([PAYMENT])
    await world.forget_leases()
    await world.work()
    still.go.set()
    await slow
    return still.calls


async def available(world: InboxDeployment) -> int:
    """What is left once all intents of record are with the live store."""
    for grant in await world.accounts.pending_grants(limit=50):
        await world.credits.apply_grant(grant)
    return (await world.live.read_balance("cus_1")).available_nano


@pytest.mark.parametrize(("changes", "left"), STORIES)
async def test_whoever_was_overtaken_takes_and_gives_nothing_more(postgres_pool, changes, left):
    lost = Grown("sidecar_inbox_total", kind="payment", outcome="lease_lost")
    place = steps = 0  # At no place it does not stand still: that tells how many there are.
    while place <= steps:
        assert steps <= STEPS_MAX
        world = InboxDeployment(postgres_pool)
        await world.customer()
        steps = max(steps, await overtake(world, changes, place))
        assert await available(world) == left, place
        # Neither does the next look of anybody.
        await world.inbox.want([PAYMENT])
        await world.work()
        assert await available(world) == left, place
        await clear(postgres_pool)
        place += 1
    assert place > 10  # So it stood still between reading the payment and its credit, too.
    assert lost.by >= 10  # It was told so, and did not go on as if nothing had been.


async def test_a_claim_that_is_being_taken_over_writes_nothing(deployment):
    """The look at the fence and the write are one: a claim between them is waited for."""
    grant = Grant(grant_id="g_1", customer_id="cus_1", amount_nano=TEN, currency="USD")
    await deployment.inbox.want([PAYMENT])
    (slow,) = await deployment.inbox.claim("slow", limit=1, lease_seconds=60)
    await deployment.forget_leases()
    async with deployment.pool.acquire() as connection, connection.transaction():
        await connection.execute("UPDATE inbox_objects SET fence = nextval('inbox_fences')")
        write = asyncio.create_task(deployment.accounts.create_grant(grant, claim=slow))
        await asyncio.sleep(0.1)
        assert not write.done()
    with pytest.raises(LeaseLost, match="another worker has stripe:payment:pi_1"):
        await write
    assert await deployment.accounts.read_grant("cus_1", "g_1") is None


async def test_nobody_is_given_an_object_while_a_write_under_its_claim_is_open(deployment):
    await deployment.inbox.want([PAYMENT])
    (slow,) = await deployment.inbox.claim("slow", limit=1, lease_seconds=60)
    await deployment.forget_leases()
    async with deployment.pool.acquire() as connection, connection.transaction():
        await connection.fetchval(query("inbox_stands"), slow.ref.key, slow.fence)
        assert not await deployment.inbox.claim("next", limit=1, lease_seconds=60)
    (taken,) = await deployment.inbox.claim("next", limit=1, lease_seconds=60)
    assert taken.fence > slow.fence
