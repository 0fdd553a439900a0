"""Collecting on a real Postgres, through the Paystack stand-in: each invoice is paid once."""

from datetime import timedelta

import pytest
from fixtures.collecting_parts import RULES, CollectingWorld

from sidecar.domain.collecting import CollectState
from sidecar.domain.errors import Conflict, NotFound
from sidecar.outbound.paystack.client import PaystackClient
from sidecar.outbound.paystack.collector import PaystackCollector
from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.services.collecting_ports import Try
from sidecar.services.provider_customers import CollectionService
from sidecar.standins.paystack import SECRET, PaystackStandin
from sidecar.standins.paystack_transactions import Card
from sidecar.standins.stripe_faults import Fault, Faults


@pytest.fixture
async def standin():
    standin = PaystackStandin()
    yield standin
    assert list(standin.bugs) == []


@pytest.fixture
async def world(standin, postgres_pool):
    async with standin.serving() as url:
        client = PaystackClient(SECRET, base_url=url, timeout_seconds=0.5)
        yield CollectingWorld(postgres_pool, PaystackCollector(client))
        await client.close()


async def carded(world, standin, name: str = "cus_a", card: Card = Card.SUCCEEDS) -> None:
    standin.add_card(f"AUTH_{name}", f"{name}@example.com", card)
    await world.customer(name, authorization_code=f"AUTH_{name}")


async def test_a_saved_card_pays_once_and_the_collection_says_how(world, standin):
    await carded(world, standin)
    world.invoices.close("inv_1", "cus_a")
    for _ in range(3):
        await world.worker().collect_once()
    assert standin.taken() == {"inv_1": [500]}
    found, attempts = await CollectionService(world.record).read("inv_1")
    assert (found.state, found.amount_minor, found.tries) == (CollectState.PAID, 500, 1)
    assert [(one.outcome, one.reference) for one in attempts] == [("paid", found.reference)]
    assert set(standin.transactions.charges) == {found.reference}


async def test_a_declined_card_gets_a_new_reference_until_none_is_left(world, standin):
    await carded(world, standin, card=Card.FAILS)
    world.invoices.close("inv_1", "cus_a")
    await world.until_quiet()
    assert (await world.state("inv_1"), standin.taken()) == ("failed", {})
    service = CollectionService(world.record)
    _, attempts = await service.read("inv_1")
    assert [one.outcome for one in attempts] == ["failed"] * RULES.attempts_max
    assert len(standin.transactions.charges) == RULES.attempts_max
    standin.add_card("AUTH_cus_a", "cus_a@example.com", Card.SUCCEEDS)
    assert (await service.retry("inv_1")).state is CollectState.UNKNOWN
    await world.until_quiet()
    assert standin.taken() == {"inv_1": [500]}
    with pytest.raises(Conflict, match="is paid"):
        await service.retry("inv_1")
    with pytest.raises(NotFound):
        await service.retry("inv_x")


async def test_between_two_attempts_lies_the_stated_time(world, standin):
    await carded(world, standin, card=Card.FAILS)
    world.invoices.close("inv_1", "cus_a")
    rules = RULES.__class__(attempt_every=timedelta(days=3))
    for _ in range(3):
        await world.worker(rules=rules).collect_once()
    found = await world.record.read("inv_1")
    assert (found.state, found.attempt, found.tries) == (CollectState.DEMANDED, 2, 0)
    assert len(standin.transactions.charges) == 1


async def test_a_payment_that_waits_is_asked_about_and_news_of_it_is_looked_at(world, standin):
    await carded(world, standin, card=Card.PENDS)
    world.invoices.close("inv_1", "cus_a")
    rules = RULES.__class__(look_every=timedelta(days=1))
    await world.worker(rules=rules).collect_once()
    found = await world.record.read("inv_1")
    assert found.state is CollectState.SENT
    assert await world.worker(rules=rules).collect_once() == 0
    standin.transactions.settle(found.reference, "success")
    service = CollectionService(world.record)
    assert await service.hear("paystack", found.reference) == "sent"
    assert await service.hear("paystack", "another") is None
    await world.worker(rules=rules).collect_once()
    assert (await world.state("inv_1"), standin.taken()) == ("paid", {"inv_1": [500]})
    assert len(standin.transactions.charges) == 1


async def test_news_during_the_work_is_not_lost(world):
    await world.customer("cus_a")
    world.invoices.close("inv_1", "cus_a")
    collector = world.collector

    class Interrupted:
        capabilities = collector.capabilities
        verify = staticmethod(collector.verify)

        async def collect(self, demand, note):
            answer = await collector.collect(demand, note)
            assert await CollectionService(world.record).hear("paystack", demand.reference)
            return answer

    rules = RULES.__class__(look_every=timedelta(days=1))
    await world.worker(rules=rules, collector=Interrupted()).collect_once()
    assert await world.worker(rules=rules).collect_once() == 1


async def test_news_of_an_attempt_that_is_over_is_an_alarm(world, standin):
    await carded(world, standin, card=Card.FAILS)
    world.invoices.close("inv_1", "cus_a")
    await world.worker().collect_once()
    (first,) = standin.transactions.charges
    assert await CollectionService(world.record).hear("paystack", first) == "stale"


async def test_a_payment_request_is_drafted_noted_finalized_and_paid_once(world, standin):
    await world.customer("cus_a")
    world.invoices.close("inv_1", "cus_a")
    await world.worker().collect_once()
    (request,) = standin.requests.requests.values()
    assert (request.status, request.amount, standin.live_requests()) == (
        "pending",
        500,
        {"inv_1": 1},
    )
    assert [item["name"] for item in request.line_items] == ["input-tokens"]
    found = await world.record.read("inv_1")
    assert (found.state, found.provider_reference) == (CollectState.SENT, request.code)
    standin.requests.pay(request.code)
    assert await CollectionService(world.record).hear("paystack", request.code) == "sent"
    await world.worker().collect_once()
    assert (await world.state("inv_1"), standin.taken()) == ("paid", {"inv_1": [500]})


async def test_a_draft_that_arrives_late_stays_a_draft(world, standin):
    await world.customer("cus_a")
    world.invoices.close("inv_1", "cus_a")
    standin.faults.add(Fault.NONE, Fault.DROP_AFTER_COMMIT)  # The customer, then the draft.
    await world.worker().collect_once()
    assert await world.state("inv_1") == "unknown"
    await world.worker().collect_once()
    assert (len(standin.requests.requests), standin.live_requests()) == (1, {"inv_1": 1})


async def test_of_two_drafts_the_oldest_counts_and_the_other_is_archived(world, standin):
    await world.customer("cus_a")
    world.invoices.close("inv_1", "cus_a")
    standin.faults.add(Fault.NONE, Fault.DROP_AFTER_COMMIT)
    await world.worker().collect_once()
    (first,) = standin.requests.requests.values()
    copy = {"customer": first.customer, "currency": "NGN", "amount": 500, "draft": True}
    standin.requests.create(copy | {"description": first.description})
    standin.requests.create(copy | {"description": "Invoice inv_9 [another]"})
    await world.worker().collect_once()
    assert [(one.status, one.archived) for one in standin.requests.requests.values()] == [
        ("pending", False),
        ("draft", True),
        ("draft", False),
    ]


async def test_a_worker_that_lost_its_lease_makes_nothing_live(world, standin):
    await world.customer("cus_a")
    world.invoices.close("inv_1", "cus_a")
    collector = world.collector

    class Slow:
        """Between the draft and its note, another worker gets the invoice and finishes."""

        capabilities = collector.capabilities
        verify = staticmethod(collector.verify)

        async def collect(self, demand, note):
            async def late(name):
                await world.pool.execute("UPDATE collections SET lease_until = now()")
                await world.worker().collect_once()
                await note(name)

            return await collector.collect(demand, late)

    await world.worker(collector=Slow()).collect_once()
    assert standin.live_requests() == {"inv_1": 1}
    found = await world.record.read("inv_1")
    assert found.state is CollectState.SENT
    await world.worker().collect_once()
    assert standin.live_requests() == {"inv_1": 1}


async def test_an_older_claim_can_write_nothing(world):
    await world.customer("cus_a")
    world.invoices.close("inv_1", "cus_a")
    await world.worker()._adopt()
    (old,) = await world.record.claim(["paystack"], limit=9, lease=timedelta(0))
    (new,) = await world.record.claim(["paystack"], limit=9, lease=timedelta(seconds=60))
    trying = Try(amount_minor=1, way=new.way)
    with pytest.raises(Conflict):
        await world.record.note_try(old, trying)
    tried = await world.record.note_try(new, trying)
    with pytest.raises(Conflict):
        await world.record.note_provider_reference(old, "PRQ_old")
    await world.record.note_provider_reference(tried, "PRQ_new")
    await world.record.note_provider_reference(tried, "PRQ_new")
    with pytest.raises(Conflict):
        await world.record.note_provider_reference(tried, "PRQ_other")
    assert await world.record.claim(["paystack"], limit=9, lease=timedelta(0)) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"currency": "EUR"}, "takes no amounts in 'EUR'"),
        ({"currency": "KES"}, "takes no KES by invoice"),
        ({"metered_by": "stripe"}, "would be paid twice"),
        ({"due_nano": 1}, "smallest unit"),
    ],
)
async def test_what_cannot_be_collected_is_kept_with_its_reason_and_not_sent(
    world, standin, changes, words
):
    await world.customer("cus_a")
    world.invoices.close("inv_1", "cus_a", **changes)
    await world.worker().collect_once()
    found = await world.record.read("inv_1")
    assert (found.state, found.tries) == (CollectState.FAILED, 0)
    assert words in found.detail
    assert list(standin.requests_log) == []


async def test_an_invoice_that_is_void_before_it_was_sent_is_withdrawn(world, standin):
    await world.customer("cus_a")
    world.invoices.close("inv_1", "cus_a")
    await world.worker()._adopt()
    world.invoices.void("inv_1")
    await world.worker().collect_once()
    assert (await world.state("inv_1"), list(standin.requests_log)) == ("withdrawn", [])


async def test_a_refusal_is_for_people_and_their_retry_uses_the_same_reference(world, standin):
    await carded(world, standin, card=Card.INACTIVE)
    world.invoices.close("inv_1", "cus_a")
    await world.until_quiet()
    before = await world.record.read("inv_1")
    assert before.state is CollectState.FAILED
    assert "does not exist or has been deactivated" in before.detail
    standin.add_card("AUTH_cus_a", "cus_a@example.com", Card.SUCCEEDS)
    await CollectionService(world.record).retry("inv_1")
    await world.until_quiet()
    assert standin.taken() == {"inv_1": [500]}
    assert set(standin.transactions.charges) == {before.reference}


async def test_the_way_of_an_attempt_stays_when_the_customer_saves_a_card(world, standin):
    await world.customer("cus_a")
    world.invoices.close("inv_1", "cus_a")
    await world.worker().collect_once()
    await carded(world, standin)
    await world.worker().collect_once()
    assert (standin.live_requests(), standin.transactions.charges) == ({"inv_1": 1}, {})


async def test_erasing_a_customer_forgets_card_and_address_and_what_was_sent_is_asked_about(
    world, standin
):
    await carded(world, standin, card=Card.PENDS)
    world.invoices.close("inv_1", "cus_a")
    await world.worker().collect_once()
    await PostgresAccounts(world.pool).erase_customer("cus_a")
    assert await world.customers.list("cus_a") == []
    (reference,) = standin.transactions.charges
    standin.transactions.settle(reference, "success")
    await world.worker().collect_once()
    assert await world.state("inv_1") == "paid"


async def test_an_unclear_answer_is_counted_and_looked_at_later_each_time(world, standin):
    await carded(world, standin)
    world.invoices.close("inv_1", "cus_a")
    standin.faults = Faults(probabilities={Fault.DROP_BEFORE_COMMIT: 1.0}, paths=None)
    for _ in range(3):
        await world.worker().collect_once()
    found = await world.record.read("inv_1")
    assert (found.state, found.unclear, found.tries) == (CollectState.UNKNOWN, 3, 1)
    standin.faults.stop()
    await world.until_quiet()
    assert standin.taken() == {"inv_1": [500]}
