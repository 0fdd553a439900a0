"""SIGKILL at each step of handling webhooks: nothing lost, nothing twice, on real stores."""

import os
import random
import signal
import sys
from datetime import timedelta

import pytest
from fixtures.fake_provider import CUSTOMER, FakeProvider
from fixtures.fake_stripe import FakeStripe, serving
from fixtures.forks import Forks
from fixtures.inbox_process import live
from fixtures.live_store import LiveStore
from fixtures.memory_store import MemoryClock

from sidecar.app.parts import SystemClock
from sidecar.domain.standing import InvoiceState, Standing
from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.outbound.postgres.inbox import PostgresInbox
from sidecar.services.control_ports import Customer
from sidecar.services.payments import TOP_UP_KEY

KILLS = int(os.environ.get("SIDECAR_WEBHOOK_KILLS", "10"))
"""How many of the steps are killed at; all of them if there are no more."""
LIFE_SECONDS_MAX = 120.0
DAY = timedelta(days=1)
MINOR_NANO = 10_000_000

pytestmark = pytest.mark.timeout(900 + 60 * KILLS)


async def work_off(forks: Forks, where: tuple[str, str, str], last: int) -> int | None:
    """A worker process that dies at a step; how many steps it took, None if it died."""
    process = forks.start(live, *where, last)
    if not await process.has_ended(LIFE_SECONDS_MAX):
        process.kill()
        raise AssertionError("it did not end")
    answer = process.take_answer()
    process.close()
    if process.exit_code == -signal.SIGKILL:
        return None
    assert process.exit_code == 0
    assert isinstance(answer, int)
    return answer


class Life:
    """One customer's invoice, subscription and top-up, with everything that a worker does."""

    def __init__(self, number: int, provider: FakeProvider) -> None:
        self.customer_id = f"cus_{number}"
        self.stripe_id = f"{CUSTOMER}_{number}"
        now = provider.clock.now()
        mine = {"provider_customer_id": self.stripe_id}
        before = len(provider.sent)
        provider.bill(f"in_{number}", now - 9 * DAY, **mine)
        provider.bill(f"in_{number}_paid", now - 9 * DAY, **mine)
        provider.move(f"in_{number}_paid", InvoiceState.PAID)
        provider.subscribe(f"sub_{number}", "active", "price_pro", **mine)
        provider.pay(f"pi_{number}", metadata={TOP_UP_KEY: ""}, **mine)
        provider.refund(f"pi_{number}", f"re_{number}", 300)
        self.events = provider.sent[before:]

    async def begin(self, accounts: PostgresAccounts, store: LiveStore, inbox: PostgresInbox):
        customer = Customer(
            customer_id=self.customer_id,
            plan="prepaid",
            currency="USD",
            stripe_customer_id=self.stripe_id,
        )
        await accounts.create_customer(customer)
        await store.accounts.put_customer(customer)
        for event in self.events:
            await inbox.receive(event)

    async def check(self, accounts: PostgresAccounts, store: LiveStore, pool) -> None:
        """What must be true in the end, whatever died on the way."""
        balance = await store.accounts.read_balance(self.customer_id)
        assert balance.granted_nano == 1_000 * MINOR_NANO
        assert balance.available_nano == 700 * MINOR_NANO
        numbers = await store.connection.command(
            "HMGET", store.keyspace.customer(self.customer_id), "standing", "due_nano", "plan"
        )
        assert numbers == [b"delinquent", str(500 * MINOR_NANO).encode(), b"postpaid"]
        recorded = await accounts.read_standing(self.customer_id)
        assert recorded.standing is Standing.DELINQUENT
        grants = await accounts.list_grants(self.customer_id, after="", limit=10)
        taken = await accounts.list_withdrawals(self.customer_id, after="", limit=10)
        assert (len(grants), len(taken)) == (1, 1)
        look = await pool.fetchrow(
            "SELECT look_at, shown, plan_shown FROM standing_looks WHERE customer_id = $1",
            self.customer_id,
        )
        assert tuple(look) == (None, True, True)


async def test_a_worker_that_is_killed_at_any_step_loses_nothing_and_does_nothing_twice(
    postgres_pool, postgres_dsn, redis_url
):
    seed = int(os.environ.get("SIDECAR_SIM_SEED", "0")) or random.SystemRandom().randrange(2**32)
    provider = FakeProvider(MemoryClock(SystemClock().now()))
    accounts, inbox = PostgresAccounts(postgres_pool), PostgresInbox(postgres_pool)
    store = await LiveStore.open(redis_url)
    forks = Forks("fixtures.inbox_process")
    async with serving(FakeStripe(provider)) as stripe_url:
        where = (postgres_dsn, redis_url, stripe_url)

        async def begin(number: int) -> Life:
            life = Life(number, provider)
            await life.begin(accounts, store, inbox)
            return life

        whole = await begin(0)
        steps = await work_off(forks, where, 0)
        assert steps is not None
        await whole.check(accounts, store, postgres_pool)
        assert steps > 40
        chosen = random.Random(seed).sample(range(1, steps + 1), min(KILLS, steps))
        for number, last in enumerate(chosen, start=1):
            life = await begin(number)
            assert await work_off(forks, where, last) is None, (seed, last)
            await postgres_pool.execute(  # The leases of whoever died run out.
                "UPDATE inbox_objects SET lease_until = '-infinity'"
            )
            await postgres_pool.execute(
                "UPDATE standing_looks SET look_at = '-infinity' WHERE look_at IS NOT NULL"
            )
            assert await work_off(forks, where, 0) is not None
            try:
                await life.check(accounts, store, postgres_pool)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, killed at step {last}") from error
        sys.stdout.write(f"seed {seed}: {len(chosen)} kills at {steps} steps, 0 lost, 0 twice\n")
        assert await postgres_pool.fetchval("SELECT count(*) FROM inbox WHERE done_at IS NULL") == 0
        assert await inbox.count() == {}
    await store.connection.aclose()
