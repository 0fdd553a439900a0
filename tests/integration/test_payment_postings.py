"""Payments in the ledger: what a provider says was paid, once, in whatever order it says so."""

import asyncio
import random
from collections import Counter
from dataclasses import replace

import pytest
from fixtures.fake_provider import CUSTOMER
from fixtures.inbox_world import PLANS
from fixtures.ledger_parts import verify
from fixtures.stream_records import REPORTED, usage_record
from fixtures.stripe_world import KEY, stripe_world
from fixtures.use_cases import FixedPolicies, make_policy

from sidecar.app.parts import SystemClock
from sidecar.domain.errors import InvariantViolated
from sidecar.domain.payment_postings import payment_posting
from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.outbound.postgres.fetched import PostgresFetched
from sidecar.outbound.postgres.inbox import PostgresInbox
from sidecar.outbound.postgres.ledger import PostgresLedger
from sidecar.outbound.postgres.payment_posting import post_payments
from sidecar.outbound.postgres.queries import query
from sidecar.outbound.stripe.client import StripeConnection
from sidecar.outbound.stripe.objects import StripeObjects
from sidecar.services.control_ports import Customer
from sidecar.services.inbox_handlers import ObjectHandlers
from sidecar.services.inbox_ports import Handled, ObjectKind, ObjectRef
from sidecar.services.payments import PaymentHandler
from sidecar.services.stripe_events import read_event

CENT = 10_000_000
USED = 3_000 * CENT
ACCOUNTS = ("customer_receivable", "clearing", "tax", "revenue")


class Books:
    """One postpaid customer, the stand-in and our ledger."""

    def __init__(self, pool, stripe, connection) -> None:
        self.pool, self.stripe = pool, stripe
        self.v1 = stripe.v1
        self.dice = random.Random(7)
        self.told = 0
        clock = SystemClock()
        fetched = PostgresFetched(pool)
        self.inbox = PostgresInbox(pool, shard_of=lambda _: 0)
        self.handlers = ObjectHandlers(
            StripeObjects(connection),
            fetched,
            PaymentHandler(fetched, None, None, clock),
            FixedPolicies(make_policy()),
            plans=PLANS,
            report_errors=None,
            clock=clock,
        )

    async def customer(self, customer_id: str, **known) -> None:
        await PostgresAccounts(self.pool).create_customer(
            Customer(customer_id=customer_id, plan="postpaid", currency="USD", **known)
        )

    async def use(self, nano: int) -> None:
        ledger = PostgresLedger(self.pool)
        lease = await ledger.claim_shard(0, "settler", 300)
        record = usage_record(
            1, customer_id="cus_1", quantities={"input-tokens": nano // CENT}, unit_nano=CENT
        )
        await ledger.settle(lease, [record], REPORTED)

    async def bill(self, **params) -> str:
        """A subscription's first invoice, of 10.00, finalized."""
        price = await self.v1.prices.create_async(
            {
                "currency": "usd",
                "product_data": {"name": "Fee"},
                "unit_amount": 1_000,
                "recurring": {"interval": "month"},
                "lookup_key": "price_pro",
            }
        )
        made = await self.v1.subscriptions.create_async(
            {"customer": CUSTOMER, "items": [{"price": price.id}], **params}
        )
        invoice = await self.v1.invoices.retrieve_async(str(made.latest_invoice))
        if invoice.status == "draft":
            await self.v1.invoices.finalize_invoice_async(invoice.id)
        return str(invoice.id)

    async def bill_apart(self, **metadata: str) -> str:
        """An invoice of no subscription, charged at once."""
        await self.v1.invoice_items.create_async(
            {"customer": CUSTOMER, "amount": 1_000, "currency": "usd"}
        )
        made = await self.v1.invoices.create_async(
            {
                "customer": CUSTOMER,
                "pending_invoice_items_behavior": "include",
                "collection_method": "charge_automatically",
                "metadata": metadata,
            }
        )
        await self.v1.invoices.finalize_invoice_async(made.id)
        return str(made.id)

    async def hear(self) -> None:
        """The events since the last time, shuffled, some twice, while workers race."""
        fresh = list(self.stripe.standin.snapshot_events)[self.told :]
        self.told += len(fresh)
        events = [one for one in map(read_event, fresh) if one is not None]
        events += [replace(one, event_id=f"{one.event_id}.again") for one in events[::2]]
        self.dice.shuffle(events)
        for event in events:
            await self.inbox.receive(event)
            if self.dice.random() < 0.4:
                await self.work()
        await asyncio.gather(*(self.work() for _ in range(3)))
        assert await self.inbox.count() == {}

    async def work(self) -> None:
        while claims := await self.inbox.claim("w", limit=2, lease_seconds=60):
            for claim in claims:
                await self.inbox.finish(claim, await self.handlers.handle(claim))

    async def balances(self, customer_id: str = "cus_1") -> dict[str, int]:
        """In cents, what is not zero."""
        row = await self.pool.fetchrow(
            "SELECT * FROM account_balances WHERE customer_id = $1", customer_id
        )
        return {
            name: int(row[f"{name}_nano"]) // CENT
            for name in ACCOUNTS
            if row is not None and row[f"{name}_nano"]
        }

    async def kinds(self) -> Counter[str]:
        return Counter(
            row["kind"] for row in await self.pool.fetch("SELECT kind FROM ledger_transactions")
        )

    async def check(self) -> None:
        """The chain holds, and every sum is that of its entries."""
        assert (await verify(self.pool)).intact
        assert await self.pool.fetch(query("unsummed_balances"), 10) == []
        before = await self.pool.fetch("SELECT * FROM account_balances ORDER BY customer_id")
        for row in before:
            await self.pool.execute(query("resum_balances"), row["customer_id"])
        after = await self.pool.fetch("SELECT * FROM account_balances ORDER BY customer_id")
        assert [dict(row) | {"updated_at": 0} for row in after] == [
            dict(row) | {"updated_at": 0} for row in before
        ]


@pytest.fixture
async def books(postgres_pool):
    async with stripe_world() as stripe:
        connection = StripeConnection(KEY, base_url=stripe.url)
        made = Books(postgres_pool, stripe, connection)
        await made.customer("cus_1", stripe_customer_id=CUSTOMER)
        await made.use(USED)
        stripe.standin.add_customer(CUSTOMER, card="pm_card_visa")
        try:
            yield made
            await made.check()
        finally:
            await connection.close()


async def intent_of(books: Books, invoice_id: str):
    links = await books.v1.invoice_payments.list_async({"invoice": invoice_id})
    return await books.v1.payment_intents.retrieve_async(links.data[0].payment.payment_intent)


async def test_a_charge_of_an_invoice_its_refund_and_its_dispute(books):
    name = await books.bill(collection_method="charge_automatically")
    await books.hear()
    assert await books.balances() == {
        "customer_receivable": -2_000,
        "clearing": -1_000,
        "revenue": 3_000,
    }
    intent = await intent_of(books, name)
    refund = await books.v1.refunds.create_async({"payment_intent": intent.id, "amount": 300})
    await books.hear()
    assert (await books.balances())["clearing"] == -700
    dispute = books.stripe.standin.open_dispute(intent.latest_charge, amount=500)
    await books.hear()
    assert await books.balances() == {
        "customer_receivable": -2_800,
        "clearing": -200,
        "revenue": 3_000,
    }
    books.stripe.standin.close_dispute(dispute["id"], won=True)
    books.stripe.standin.fail_refund(refund.id)
    await books.hear()
    assert (await books.balances())["customer_receivable"] == -2_000
    found = await books.kinds()
    assert found["payment_return"] == 2
    ids = await books.pool.fetch(
        "SELECT transaction_id FROM ledger_transactions WHERE kind ~ 'pay'"
    )
    assert all(row["transaction_id"].startswith(f"payment:stripe:{name}:pi_") for row in ids)


async def test_what_is_paid_outside_of_stripe_after_it_was_given_up(books):
    name = await books.bill(collection_method="send_invoice", days_until_due=1)
    await books.hear()
    assert await books.balances() == {"customer_receivable": -3_000, "revenue": 3_000}
    await books.v1.invoices.mark_uncollectible_async(name)
    await books.hear()
    assert await books.balances() == {"customer_receivable": -2_000, "revenue": 2_000}
    await books.v1.invoices.pay_async(name, {"paid_out_of_band": True})
    await books.hear()
    assert await books.balances() == {
        "customer_receivable": -2_000,
        "clearing": -1_000,
        "revenue": 3_000,
    }
    assert await books.kinds() == {"usage": 1, "write_off": 2, "payment": 1}


async def test_a_voided_invoice_is_not_owed(books):
    name = await books.bill(collection_method="send_invoice", days_until_due=1)
    await books.v1.invoices.void_invoice_async(name)
    await books.hear()
    assert await books.balances() == {"customer_receivable": -2_000, "revenue": 2_000}


async def test_only_what_bills_usage_is_on_our_books(books):
    await books.bill_apart()
    await books.hear()
    assert await books.balances() == {"customer_receivable": -3_000, "revenue": 3_000}
    await books.bill_apart(sidecar_invoice="inv_1", sidecar_reference="sc-1")
    await books.hear()
    assert (await books.balances())["clearing"] == -1_000
    # Who gives up an invoice that was made of ours has not said that ours is not owed.
    await books.v1.invoice_items.create_async(
        {"customer": CUSTOMER, "amount": 1_000, "currency": "usd"}
    )
    given_up = await books.v1.invoices.create_async(
        {
            "customer": CUSTOMER,
            "pending_invoice_items_behavior": "include",
            "collection_method": "send_invoice",
            "days_until_due": 1,
            "metadata": {"sidecar_invoice": "inv_2"},
        }
    )
    await books.v1.invoices.finalize_invoice_async(given_up.id)
    await books.v1.invoices.void_invoice_async(given_up.id)
    await books.hear()
    assert await books.kinds() == {"usage": 1, "payment": 1}


async def test_a_payment_moves_with_the_providers_customer(books):
    name = await books.bill(collection_method="charge_automatically")
    await books.hear()
    await books.pool.execute("UPDATE customers SET stripe_customer_id = NULL")
    await books.customer("cus_2", stripe_customer_id=CUSTOMER)
    intent = await intent_of(books, name)
    await books.inbox.want(
        [ObjectRef(provider="stripe", kind=ObjectKind.PAYMENT, object_id=intent.id)]
    )
    await books.work()
    assert await books.balances() == {"customer_receivable": -3_000, "revenue": 3_000}
    assert await books.balances("cus_2") == {"customer_receivable": 1_000, "clearing": -1_000}


async def test_tax_of_a_payment_is_apart_and_goes_back_with_it(books):
    def posting(gross: int, net: int) -> Handled:
        return Handled(
            postings=(
                payment_posting(
                    customer_id="cus_1",
                    provider="stripe",
                    invoice_id="in_9",
                    payment_id="pi_9",
                    currency="USD",
                    gross_minor=gross,
                    net_minor=net,
                ),
            )
        )

    ref = ObjectRef(provider="stripe", kind=ObjectKind.PAYMENT, object_id="pi_9")
    for gross, net in ((1_190, 1_000), (1_190, 1_000), (595, 500), (0, 0), (1_190, 1_000)):
        await books.inbox.want([ref])
        (claim,) = await books.inbox.claim("w", limit=1, lease_seconds=60)
        assert await books.inbox.finish(claim, posting(gross, net)) is not None
        expected = {
            "customer_receivable": -3_000 + net,
            "clearing": -gross,
            "tax": gross - net,
            "revenue": 3_000,
        }
        assert await books.balances() == {k: v for k, v in expected.items() if v}
    assert await books.kinds() == {"usage": 1, "payment": 2, "payment_return": 2}
    # A process that knows no shards posts nothing, and says so.
    await books.inbox.want([ref])
    (claim,) = await books.inbox.claim("w", limit=1, lease_seconds=0)
    with pytest.raises(InvariantViolated, match="no shards"):
        await PostgresInbox(books.pool).finish(claim, posting(1, 1))
    (late,) = await books.inbox.claim("w", limit=1, lease_seconds=60)
    assert late.fence > claim.fence
    assert await books.inbox.finish(claim, posting(1, 1)) is None
    assert (await books.balances())["clearing"] == -1_190


async def test_a_payment_of_an_invoice_in_another_currency_is_shown_to_people(books):
    await books.pool.execute("UPDATE customers SET currency = 'EUR'")
    await books.bill(collection_method="charge_automatically")
    for event in map(read_event, list(books.stripe.standin.snapshot_events)):
        await books.inbox.receive(event)
    await books.work()
    found = await books.inbox.list(state=None, after="", limit=100)
    reasons = {one.ref.kind.value: one.reason for one in found if one.reason}
    assert reasons == dict.fromkeys(("invoice", "payment", "subscription"), "other_currency")
    assert await books.kinds() == {"usage": 1}


async def test_two_who_hold_the_same_payment_post_it_once(books):
    """A lease that ended while its holder was slow: both want the same to stand there."""
    wanted = payment_posting(
        customer_id="cus_1",
        provider="stripe",
        invoice_id="in_9",
        payment_id="pi_9",
        currency="USD",
        gross_minor=500,
        net_minor=500,
    )

    async def post(*, kept: bool) -> None:
        async with books.pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            await post_payments(connection, lambda _: 0, [wanted])
            await asyncio.sleep(0.05)
            await (transaction.commit() if kept else transaction.rollback())

    await asyncio.gather(*(post(kept=kept) for kept in (False, True, True, False, True)))
    assert await books.kinds() == {"usage": 1, "payment": 1}
    assert (await books.balances())["clearing"] == -500
