"""Notices about bills and payments on a real Postgres: with the fact, or not at all."""

import asyncio
import json
from datetime import UTC, datetime

import pytest
from fixtures.collecting_parts import NANO, RULES, CollectingWorld
from fixtures.invoice_parts import DECEMBER, LATER, NOVEMBER, Invoicing, Rater
from fixtures.stripe_inbox import billed, joined

from sidecar.domain.billing_notices import payment_failed
from sidecar.domain.minor_units import STRIPE
from sidecar.outbound.paystack.client import PaystackClient
from sidecar.outbound.paystack.collector import PaystackCollector
from sidecar.outbound.postgres.inbox import PostgresInbox
from sidecar.services.inbox_ports import Handled, ObjectKind, ObjectRef, ReceivedEvent
from sidecar.standins.paystack import SECRET, PaystackStandin
from sidecar.standins.paystack_transactions import Card

USED = {"input-tokens": 10, "output-tokens": 4}
INVOICE = ObjectRef(provider=STRIPE, kind=ObjectKind.INVOICE, object_id="in_1")


async def told(pool) -> list[tuple[str, str, dict[str, str], dict[str, str]]]:
    rows = await pool.fetch(
        "SELECT kind, customer_id, facts::text, amounts::text FROM notices"
        " ORDER BY kind, customer_id, fact_key"
    )
    return [
        (row["kind"], row["customer_id"], json.loads(row["facts"]), json.loads(row["amounts"]))
        for row in rows
    ]


async def test_closing_an_invoice_tells_it_once_whoever_closes(postgres_pool):
    invoicing = Invoicing(postgres_pool)
    await invoicing.add_customer()
    rater = Rater(invoicing.cards[0])
    await invoicing.settle(*(rater.capture(n, USED, NOVEMBER) for n in (1, 2)))
    await invoicing.settle(rater.capture(3, USED, DECEMBER))
    invoicing.clock.instant = LATER
    await asyncio.gather(*(invoicing.worker().run_once() for _ in range(3)))
    await invoicing.round_at(LATER)
    first, second = await invoicing.invoices()
    found = await told(postgres_pool)
    assert [kind for kind, *_ in found] == ["invoice.closed"] * 2
    by_number = {facts["number"]: (facts, amounts) for _, _, facts, amounts in found}
    for invoice in (first, second):
        facts, amounts = by_number[invoice.number_text]
        assert facts["invoice"] == invoice.invoice_id
        assert facts["period_end"] == invoice.period.end.isoformat()
        assert amounts == {"total": str(invoice.total_nano), "due": str(invoice.due_nano)}
        assert invoice.due_nano > 0


async def test_a_notice_of_the_inbox_stands_with_what_was_fetched_or_not_at_all(postgres_pool):
    inbox = PostgresInbox(postgres_pool)
    for name, kind in (("evt_1", "invoice.updated"), ("evt_2", "invoice.payment_failed")):
        await inbox.receive(
            ReceivedEvent(provider=STRIPE, event_id=name, event_type=kind, ref=INVOICE)
        )
    notice = payment_failed(
        customer_id="cus_1",
        provider=STRIPE,
        invoice_id="in_1",
        attempt=1,
        currency="USD",
        due_nano=None,
        at=datetime(2026, 11, 28, tzinfo=UTC),
    )
    (lost,) = await inbox.claim("one", limit=1, lease_seconds=0)
    assert lost.types == {"invoice.updated", "invoice.payment_failed"}
    (held,) = await inbox.claim("two", limit=1, lease_seconds=60)
    assert await inbox.finish(lost, Handled(notices=(notice,))) is None
    assert await told(postgres_pool) == []
    assert await inbox.finish(held, Handled(notices=(notice,))) == []
    assert [kind for kind, *_ in await told(postgres_pool)] == ["payment.failed"]
    # What comes later is its own news: the events that are done say nothing any more.
    await inbox.want([INVOICE])
    (again,) = await inbox.claim("one", limit=1, lease_seconds=60)
    assert again.types == frozenset()


async def test_a_charge_that_fails_at_the_stand_in_is_told():
    async with joined(card="pm_card_chargeCustomerFail") as world:
        await billed(world, collection_method="charge_automatically")
        await world.hear()
        assert world.stripe.told("invoice.payment_failed") == ["invoice.payment_failed"]
        (notice,) = world.inbox.inbox.notices.values()
        assert (notice.kind.value, notice.facts["attempt"]) == ("payment.failed", "1")
        assert notice.amounts == {"due": 10 * NANO}
        await world.hear()
        assert len(world.inbox.inbox.notices) == 1


@pytest.fixture
async def collecting(postgres_pool):
    standin = PaystackStandin()
    async with standin.serving() as url:
        client = PaystackClient(SECRET, base_url=url, timeout_seconds=0.5)
        yield standin, CollectingWorld(postgres_pool, PaystackCollector(client))
        await client.close()
    assert list(standin.bugs) == []


async def test_each_attempt_that_paystack_refuses_is_told_once(collecting, postgres_pool):
    standin, world = collecting
    standin.add_card("AUTH_cus_a", "cus_a@example.com", Card.FAILS)
    await world.customer("cus_a", authorization_code="AUTH_cus_a")
    world.invoices.close("inv_1", "cus_a")
    await world.until_quiet()
    found = await told(postgres_pool)
    assert [kind for kind, *_ in found] == ["payment.failed"] * RULES.attempts_max
    attempts = {facts["attempt"] for _, _, facts, _ in found}
    assert attempts == {str(n) for n in range(1, RULES.attempts_max + 1)}
    assert {facts["invoice"] for _, _, facts, _ in found} == {"inv_1"}
