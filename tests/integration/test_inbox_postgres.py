"""Inbox and standings of record on Postgres, held to what the in-memory twin does; and races."""

import asyncio
import os
import random
from dataclasses import replace
from datetime import timedelta

import pytest
from fixtures.fake_provider import FakeProvider
from fixtures.inbox_deployment import InboxDeployment, clear
from fixtures.ledger_parts import verify
from fixtures.webhook_shuffles import expected, live

from sidecar.domain.errors import NotFound
from sidecar.domain.minor_units import STRIPE
from sidecar.domain.standing import InvoiceState, Standing, StandingFact
from sidecar.services.inbox_ports import (
    Handled,
    InboxState,
    KnownCustomer,
    ObjectKind,
    ObjectRef,
    PaymentRecord,
    Receipt,
    ReceivedEvent,
)
from sidecar.services.paid_invoices import invoice_postings, payment_postings
from sidecar.services.payments import TOP_UP_KEY

DAY = timedelta(days=1)
INVOICE = ObjectRef(provider=STRIPE, kind=ObjectKind.INVOICE, object_id="in_1")
SHUFFLES = int(os.environ.get("SIDECAR_WEBHOOK_SHUFFLES_POSTGRES", "20"))


@pytest.fixture
async def deployment(postgres_pool) -> InboxDeployment:
    deployment = InboxDeployment(postgres_pool)
    await deployment.customer()
    return deployment


async def test_an_event_is_stored_once_by_any_number_of_senders(deployment):
    deployment.provider.bill("in_1", None)
    event = deployment.provider.sent[0]
    receipts = await asyncio.gather(*(deployment.inbox.receive(event) for _ in range(8)))
    assert sorted(receipts) == [Receipt.DUPLICATE] * 7 + [Receipt.STORED]
    (found,) = await deployment.inbox.list(state=None, after="", limit=5)
    assert (found.ref, found.events, found.state) == (INVOICE, 1, InboxState.PENDING)
    silent = ReceivedEvent(provider=STRIPE, event_id="evt_x", event_type="customer.updated")
    assert await deployment.inbox.receive(silent) is Receipt.IGNORED
    assert await deployment.inbox.receive(silent) is Receipt.DUPLICATE


async def test_an_object_is_with_one_worker_at_a_time(deployment):
    for number in range(6):
        deployment.provider.bill(f"in_{number}", None)
    await asyncio.gather(*(deployment.inbox.receive(one) for one in deployment.provider.sent))
    claims = await asyncio.gather(
        *(deployment.inbox.claim(f"w{n}", limit=2, lease_seconds=60) for n in range(5))
    )
    refs = [claim.ref for batch in claims for claim in batch]
    assert len(refs) == len(set(refs)) == 6
    fences = [claim.fence for batch in claims for claim in batch]
    assert len(set(fences)) == 6


async def test_a_fence_refuses_whoever_was_overtaken(deployment):
    deployment.provider.bill("in_1", deployment.clock.now() - 9 * DAY)
    await deployment.inbox.receive(deployment.provider.sent[0])
    (slow,) = await deployment.inbox.claim("slow", limit=1, lease_seconds=60)
    stale = await deployment.handlers.handle(slow)
    deployment.provider.move("in_1", InvoiceState.PAID)
    await deployment.forget_leases()
    await deployment.work()
    assert await deployment.inbox.finish(slow, stale) is None
    await deployment.inbox.fail(slow, reason="late", retry_in_seconds=None)
    (found,) = await deployment.inbox.list(state=None, after="", limit=5)
    assert found.state is InboxState.IDLE
    rows = await deployment.fetched.read_invoices(STRIPE, ["in_1"])
    assert rows["in_1"].state is InvoiceState.PAID


async def test_an_event_during_the_fetch_leaves_the_object_wanted(deployment):
    deployment.provider.bill("in_1", None)
    deployment.provider.bill("in_1", None)
    await deployment.inbox.receive(deployment.provider.sent[0])
    (claim,) = await deployment.inbox.claim("one", limit=1, lease_seconds=60)
    handled = await deployment.handlers.handle(claim)
    await deployment.inbox.receive(deployment.provider.sent[1])
    assert await deployment.inbox.finish(claim, handled) == ["cus_1"]
    open_events = await deployment.pool.fetch("SELECT event_id FROM inbox WHERE done_at IS NULL")
    assert [row["event_id"] for row in open_events] == ["evt_2"]
    assert await deployment.inbox.count() == {InboxState.PENDING: 1}


async def test_parked_objects_are_listed_and_tried_again(deployment):
    deployment.provider.bill("in_1", None, provider_customer_id="cus_of_somebody")
    await deployment.inbox.receive(deployment.provider.sent[0])
    await deployment.work()
    (found,) = await deployment.inbox.list(state=InboxState.PARKED, after="", limit=5)
    assert (found.reason, found.handled_at is not None) == ("unknown_customer", True)
    assert await deployment.inbox.list(state=InboxState.PENDING, after="", limit=5) == []
    assert await deployment.inbox.list(state=None, after=INVOICE.key, limit=5) == []
    again = await deployment.inbox.retry(INVOICE.key)
    assert (again.state, again.reason) == (InboxState.PENDING, "")
    assert await deployment.inbox.retry("stripe:invoice:in_x") is None
    await deployment.pool.execute("UPDATE customers SET stripe_customer_id = 'cus_of_somebody'")
    await deployment.work()
    rows = await deployment.fetched.read_invoices(STRIPE, ["in_1"])
    assert rows["in_1"].customer_id == "cus_1"  # It moved from nobody to its customer.
    assert await deployment.pool.fetchval("SELECT count(*) FROM provider_invoices") == 1


async def test_old_events_are_forgotten_and_a_fence_still_grows(deployment):
    deployment.provider.bill("in_1", None)
    await deployment.inbox.receive(deployment.provider.sent[0])
    await deployment.work()
    for statement in (
        "UPDATE inbox SET done_at = now() - interval '40 days'",
        "UPDATE inbox_objects SET handled_at = now() - interval '40 days'",
    ):
        await deployment.pool.execute(statement)
    assert await deployment.inbox.forget(older_than_days=41, limit=10) == 0
    assert await deployment.inbox.forget(older_than_days=35, limit=10) == 2
    deployment.provider.move("in_1", InvoiceState.VOID)
    await deployment.inbox.receive(deployment.provider.sent[1])
    await deployment.work()
    rows = await deployment.fetched.read_invoices(STRIPE, ["in_1"])
    assert rows["in_1"].state is InvoiceState.VOID


async def test_what_is_fetched_and_the_events_are_one_transaction(deployment):
    deployment.provider.bill("in_1", None)
    await deployment.inbox.receive(deployment.provider.sent[0])
    (claim,) = await deployment.inbox.claim("one", limit=1, lease_seconds=60)
    handled = await deployment.handlers.handle(claim)
    broken = replace(handled.invoice, amount_nano=-1)
    with pytest.raises(Exception, match="refuses the values"):
        await deployment.inbox.finish(claim, replace(handled, invoice=broken))
    assert await deployment.pool.fetchval("SELECT count(*) FROM inbox WHERE done_at IS NULL") == 1
    assert await deployment.inbox.finish(claim, Handled()) == []


async def test_a_payment_and_its_invoice_do_not_wait_for_each_other_in_a_circle(deployment):
    """Both mark the customer, and a payment wants its invoice, which may be at work."""
    payment = ObjectRef(provider=STRIPE, kind=ObjectKind.PAYMENT, object_id="pi_1")
    deployment.provider.bill("in_1", None)
    await deployment.inbox.receive(deployment.provider.sent[0])
    await deployment.inbox.want([payment])
    claims = await deployment.inbox.claim("one", limit=2, lease_seconds=60)
    claim = next(one for one in claims if one.ref == payment)
    record = PaymentRecord(
        provider=STRIPE,
        payment_id="pi_1",
        customer_id="cus_1",
        invoice_id="in_1",
        reference="",
        currency="USD",
        amount_minor=100,
        refunded_minor=0,
        disputed=False,
    )
    async with deployment.pool.acquire() as connection, connection.transaction():
        # As the invoice does: itself first, then its customer.
        await connection.execute(
            "SELECT FROM inbox_objects WHERE object_key = $1 FOR UPDATE", INVOICE.key
        )
        finishing = asyncio.create_task(
            deployment.inbox.finish(claim, Handled(payment=record, follow=(INVOICE,)))
        )
        async with asyncio.timeout(20):
            while not await deployment.pool.fetchval(  # noqa: ASYNC110  No event tells it.
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE wait_event_type = 'Lock' AND datname = current_database()"
            ):
                await asyncio.sleep(0.01)
        await connection.execute("INSERT INTO standing_looks (customer_id) VALUES ('cus_1')")
    assert await finishing == ["cus_1"]


async def test_overrides_and_invoices_are_kept_apart(deployment):
    deployment.provider.bill("in_1", deployment.clock.now() - 9 * DAY)
    await deployment.inbox.receive(deployment.provider.sent[0])
    await deployment.work()
    assert deployment.standing() == "delinquent"
    until = deployment.clock.now() + DAY
    word = StandingFact(standing=Standing.GOOD, reason="they called", until=until)
    await deployment.standings.put("cus_1", word)
    view = await deployment.standings.read("cus_1")
    assert (view.override, view.derived.standing) == (word, Standing.DELINQUENT)
    assert deployment.standing() == "good"
    await deployment.accounts.erase_customer("cus_1")
    assert (await deployment.standings.read("cus_1")).override.reason == ""
    deployment.clock.instant = until
    await deployment.timer.look_once()
    assert deployment.standing() == "delinquent"
    await deployment.standings.put("cus_1", word)
    await deployment.standings.clear("cus_1")
    assert (await deployment.standings.read("cus_1")).override is None
    with pytest.raises(NotFound):
        await deployment.standings.put("cus_x", word)


async def test_a_look_that_dies_is_taken_up_by_the_timer(deployment):
    deployment.provider.bill("in_1", deployment.clock.now() - 9 * DAY)
    await deployment.inbox.receive(deployment.provider.sent[0])
    deployment.state.away = True
    await deployment.work()
    deployment.state.away = False
    assert deployment.standing() == "good"
    deployment.clock.instant += timedelta(seconds=31)
    assert await deployment.timer.look_once() == 1
    assert deployment.standing() == "delinquent"
    assert await deployment.timer.look_once() == 0


async def test_looks_at_once_end_with_what_is_on_record(deployment):
    """Invoices, overrides and looks race; the last word of the record is what the store has."""
    rng = random.Random(5)

    async def change(number: int) -> None:
        await asyncio.sleep(rng.random() / 50)
        fact = StandingFact(standing=rng.choice(list(Standing)), reason=f"n{number}")
        await deployment.standings.put("cus_1", fact if rng.random() < 0.7 else None)

    async def look() -> None:
        await asyncio.sleep(rng.random() / 50)
        await deployment.standings.look("cus_1")

    deployment.provider.bill("in_1", deployment.clock.now() - DAY)
    await deployment.inbox.receive(deployment.provider.sent[0])
    for _ in range(5):
        await asyncio.gather(
            deployment.work(), *(change(n) for n in range(6)), *(look() for _ in range(6))
        )
        deployment.clock.instant += timedelta(seconds=31)
        await deployment.timer.look_once()
        stored = await deployment.accounts.read_standing("cus_1")
        assert deployment.state.accounts["cus_1"].standing == stored
        view = await deployment.standings.read("cus_1")
        assert view.derived.standing is Standing.GRACE
        assert stored.standing is (view.override or view.derived).standing


async def test_two_payments_with_one_reference_have_two_names(deployment):
    async def name(payment: str) -> str:
        return await deployment.fetched.name_payment(
            STRIPE, payment, customer_id="cus_1", reference="link_1"
        )

    names = await asyncio.gather(*(name(f"pi_{n % 3}") for n in range(9)))
    assert len(set(names)) == 3
    assert "link_1" in names
    assert [await name(f"pi_{n % 3}") for n in range(9)] == names


async def test_a_top_up_and_its_refund_are_in_the_ledgers_intents_once(deployment):
    deployment.provider.pay("pi_1", metadata={TOP_UP_KEY: ""})
    deployment.provider.refund("pi_1", "re_1", 400)
    for event in deployment.provider.sent * 2:
        await deployment.inbox.receive(event)
        await deployment.work()
    grants = await deployment.accounts.list_grants("cus_1", after="", limit=5)
    assert [one.grant_id for one in grants] == ["top:stripe:pi_1"]
    taken = await deployment.accounts.list_withdrawals("cus_1", after="", limit=5)
    assert [(one.withdrawal_id, one.withdrawn_nano) for one in taken] == [
        ("stripe:re_1", 4_000_000_000)
    ]


async def test_one_process_sweeps_at_a_time(deployment):
    for number in range(5):
        deployment.provider.bill(f"in_{number}", deployment.clock.now() - 9 * DAY)
    found = await asyncio.gather(*(deployment.new_sweep().sweep_once() for _ in range(4)))
    assert sum(one is not None for one in found) == 1
    await deployment.work()
    assert deployment.standing() == "delinquent"


async def posted(pool, provider: FakeProvider) -> None:
    """What stands in the ledger is what the provider says at the end, and nothing else."""
    us = KnownCustomer(customer_id="cus_1", currency="USD")
    wanted = [
        *(
            one
            for found in provider.invoices.values()
            for one in invoice_postings(found, us, STRIPE)
        ),
        *(
            one
            for found in provider.payments.values()
            for one in payment_postings(found, us, STRIPE)
        ),
    ]
    rows = await pool.fetch("SELECT * FROM payment_postings WHERE gross_nano <> 0")
    assert {
        (row["invoice_id"], row["payment_id"], row["kind"]): row["net_nano"] for row in rows
    } == {one.place[1:]: one.net_nano for one in wanted if one.gross_nano}
    owed = await pool.fetchval("SELECT sum(customer_receivable_nano) FROM account_balances")
    assert (owed or 0) == sum(one.net_nano for one in wanted)
    assert (await verify(pool)).intact


async def test_shuffled_repeated_and_lost_webhooks_end_right_on_postgres(postgres_pool):
    seed = int(os.environ.get("SIDECAR_SIM_SEED", "0")) or random.SystemRandom().randrange(2**32)
    for number in range(SHUFFLES):
        await clear(postgres_pool)
        deployment = InboxDeployment(postgres_pool)
        await deployment.customer()
        rng = random.Random(f"{seed}:{number}")
        life = live(rng, deployment.provider, deployment.clock.now())
        other = deployment.new_worker("two")
        for event in life.told:
            await deployment.inbox.receive(event)
            if rng.random() < 0.4:
                await asyncio.gather(deployment.worker.work_once(), other.work_once())
            elif rng.random() < 0.3:
                await deployment.inbox.claim("dead", limit=2, lease_seconds=60)
        await deployment.forget_leases()
        await deployment.work()
        await deployment.new_sweep().sweep_once()
        await deployment.work()
        await posted(postgres_pool, deployment.provider)
        for _ in range(3):
            right = expected(deployment.provider, deployment.clock.now())
            assert deployment.standing() == right, (seed, number)
            deployment.clock.instant += 2 * DAY
            await deployment.timer.look_once()
