"""Invoices that a provider collects decide standing, on a real Postgres and the stand-in."""

from dataclasses import replace
from datetime import timedelta

import pytest
from fixtures.collecting_parts import NANO, RULES, CollectingWorld
from fixtures.inbox_world import PLANS
from fixtures.memory_accounts import MemoryLiveAccounts
from fixtures.memory_store import MemoryClock, MemoryState
from fixtures.use_cases import FixedPolicies, make_policy

from sidecar.app.parts import SystemClock
from sidecar.domain.errors import Conflict
from sidecar.domain.standing import StandingTerms
from sidecar.outbound.paystack.client import PaystackClient
from sidecar.outbound.paystack.collector import PaystackCollector
from sidecar.outbound.paystack.webhooks import PaystackWebhooks
from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.outbound.postgres.collections import PostgresCollections
from sidecar.outbound.postgres.fetched import PostgresFetched
from sidecar.outbound.postgres.inbox import PostgresInbox
from sidecar.outbound.postgres.invoice_reading import PostgresInvoiceRecord
from sidecar.outbound.postgres.standings import PostgresStandings
from sidecar.services.inbox import InboxWorker
from sidecar.services.inbox_news import NewsHandlers
from sidecar.services.inbox_ports import KnownCustomer, ObjectKind, ObjectRef
from sidecar.services.invoicing_ports import CreditNote
from sidecar.services.provider_customers import CollectionService
from sidecar.services.standing import StandingService, StandingTimer
from sidecar.standins.paystack import SECRET, PaystackStandin
from sidecar.standins.paystack_transactions import Card
from sidecar.standins.stripe_faults import Fault, Faults

DAY = timedelta(days=1)
GRACE = timedelta(days=3)
INVOICE = """
INSERT INTO invoices (customer_id, invoice_id, currency, sequence, period_start, period_end, state,
    provider, number, total_nano, due_nano, due_minor, closed_at)
VALUES ('cus_a', 'inv_1', 'NGN', 0, now() - interval '2 days', now() - interval '1 day', 'closed',
    'paystack', 1, $1::bigint, $1::bigint, $1::bigint / 10000000, now())
"""


class DebtWorld(CollectingWorld):
    """Collecting, the inbox and standing, with a clock for standing that can be moved."""

    def __init__(self, pool, collector, standin) -> None:
        super().__init__(pool, collector)
        self.standin = standin
        self.clock = MemoryClock(SystemClock().now())
        self.memory = MemoryState(self.clock)
        self.live = MemoryLiveAccounts(self.memory)
        record = PostgresStandings(pool)
        self.standings = StandingService(
            record=record,
            accounts=PostgresAccounts(pool),
            live=self.live,
            policies=FixedPolicies(make_policy()),
            clock=self.clock,
            terms=StandingTerms(grace=GRACE),
            plans=PLANS,
        )
        self.timer = StandingTimer(record, self.standings, self.clock, interval_seconds=0.01)
        self.service = CollectionService(self.record)
        self.inbox = PostgresInbox(pool, shard_of=lambda _: 0)
        self.inbox_worker = InboxWorker(
            self.inbox,
            {"paystack": NewsHandlers(self.service)},
            self.standings,
            owner="one",
            concurrency_max=4,
            attempts_max=4,
            interval_seconds=0.01,
            retention_days=30,
        )

    async def customer(self, customer_id: str, **known) -> None:
        await super().customer(customer_id, **known)
        accounts = PostgresAccounts(self.pool)
        await self.live.put_customer(await accounts.read_customer(customer_id))

    async def card(self, card: Card) -> None:
        self.standin.add_card("AUTH_cus_a", "cus_a@example.com", card)
        await self.customer("cus_a", authorization_code="AUTH_cus_a")

    async def closed(self) -> None:
        """An invoice of 5.00 in the record, and for the collecting worker."""
        await self.pool.execute(INVOICE, 5 * NANO)
        self.invoices.close("inv_1", "cus_a")

    async def standing(self, after: timedelta) -> str:
        """So long after the invoice was first asked for."""
        first = await self.pool.fetchval("SELECT min(sent_at) FROM collection_attempts")
        self.clock.instant = first + after
        await self.timer.look_once()
        return (await self.standings.read("cus_a")).fact.standing.value

    async def hear(self) -> None:
        """What the stand-in has sent, through verifier and inbox."""
        verifier = PaystackWebhooks(SECRET)
        hooks = list(self.standin.hooks.waiting)
        self.standin.hooks.waiting.clear()
        for hook in hooks:
            headers = {"x-paystack-signature": hook.signature}
            verifier.verify(headers, hook.body, self.clock.now())
            await self.inbox.receive(verifier.parse(hook.body))
        while await self.inbox_worker.work_once():
            pass

    async def parked(self) -> dict[str, str]:
        found = await self.inbox.list(state=None, after="", limit=100)
        return {one.ref.key: one.reason for one in found}


@pytest.fixture
async def world(postgres_pool):
    standin = PaystackStandin()
    async with standin.serving() as url:
        client = PaystackClient(SECRET, base_url=url, timeout_seconds=0.5)
        yield DebtWorld(postgres_pool, PaystackCollector(client), standin)
        await client.close()
    assert list(standin.bugs) == []


async def test_a_failed_collection_is_owed_overdue_and_delinquent_until_it_is_paid(world):
    await world.card(Card.FAILS)
    await world.closed()
    await world.until_quiet()
    assert await world.state("inv_1") == "failed"
    found = [await world.standing(age) for age in (13 * DAY, 14 * DAY, 17 * DAY)]
    assert found == ["good", "grace", "delinquent"]
    world.standin.add_card("AUTH_cus_a", "cus_a@example.com", Card.SUCCEEDS)
    await world.service.retry("inv_1")
    await world.until_quiet()
    assert await world.state("inv_1") == "paid"
    assert await world.standing(17 * DAY) == "good"


async def test_what_waits_for_the_customer_is_overdue_and_news_of_its_payment_ends_it(world):
    rules = RULES.__class__(look_every=DAY)
    await world.customer("cus_a")
    await world.closed()
    await world.worker(rules=rules).collect_once()
    assert await world.standing(20 * DAY) == "delinquent"
    (request,) = world.standin.requests.requests.values()
    world.standin.requests.pay(request.code)
    await world.hear()
    assert await world.standing(20 * DAY) == "delinquent"  # News alone is not believed.
    await world.worker(rules=rules).collect_once()
    assert await world.standing(20 * DAY) == "good"
    assert await world.parked() == {f"paystack:payment:{request.code}": ""}


def note(**changes) -> CreditNote:
    fields = {"credit_note_id": "n", "customer_id": "cus_a", "invoice_id": "inv_1"}
    return CreditNote(**fields | {"amount_nano": 0, "reason": "Ada asked"} | changes)


@pytest.mark.parametrize(
    ("void", "amount", "expected"), [(True, 0, "good"), (False, 5, "good"), (False, 4, "grace")]
)
async def test_what_credit_notes_take_is_not_owed_any_more(world, void, amount, expected):
    await world.card(Card.FAILS)
    await world.closed()
    await world.until_quiet()
    assert await world.standing(15 * DAY) == "grace"
    notes = PostgresInvoiceRecord(world.pool)
    await notes.create_credit_note(note(void=void, amount_nano=amount * NANO))
    assert await world.standing(15 * DAY) == expected
    view = await world.standings.read("cus_a")
    assert view.fact.overdue_nano == (None if expected == "good" else NANO)


async def test_erasing_a_customer_clears_what_credit_notes_say(world):
    await world.customer("cus_a")
    await world.closed()
    notes = PostgresInvoiceRecord(world.pool)
    made = await notes.create_credit_note(note(amount_nano=NANO))
    assert made.reason == "Ada asked"
    await PostgresAccounts(world.pool).erase_customer("cus_a")
    (left,) = await notes.list_credit_notes("inv_1", 10)
    assert left == replace(made, reason="")
    assert await notes.create_credit_note(note(amount_nano=NANO)) == left
    with pytest.raises(Conflict):
        await notes.create_credit_note(note(amount_nano=2 * NANO))


async def test_what_nobody_was_asked_for_is_no_debt(world):
    await world.customer("cus_a")
    world.invoices.close("inv_1", "cus_a", metered_by="stripe")
    await world.until_quiet()
    assert await world.state("inv_1") == "failed"
    assert await world.pool.fetchval("SELECT count(*) FROM provider_invoices") == 0


async def test_while_the_provider_never_answers_nothing_is_due(world):
    await world.card(Card.SUCCEEDS)
    await world.closed()
    world.standin.faults = Faults(probabilities={Fault.DROP_BEFORE_COMMIT: 1.0}, paths=None)
    for _ in range(2):
        await world.worker().collect_once()
    assert (await world.state("inv_1"), await world.standing(99 * DAY)) == ("unknown", "good")
    world.standin.faults.stop()
    world.standin.add_card("AUTH_cus_a", "cus_a@example.com", Card.FAILS)
    await world.until_quiet()
    assert await world.standing(15 * DAY) == "grace"


async def test_the_first_due_date_stays_and_the_row_follows_the_collection(world):
    await world.card(Card.FAILS)
    await world.closed()
    first = world.worker(
        record=PostgresCollections(world.pool, due_after=DAY, shard_of=lambda _: 0)
    )
    await first.collect_once()
    await world.until_quiet()
    row = await world.pool.fetchrow(
        "SELECT i.*, i.due_at - a.sent_at AS due_after FROM provider_invoices i"
        " JOIN collection_attempts a USING (customer_id, invoice_id) WHERE a.attempt = 1"
    )
    assert (row["state"], row["amount_due_minor"], row["amount_nano"]) == ("open", 500, 5 * NANO)
    assert (row["attempts"], row["due_after"]) == (RULES.attempts_max, DAY)


async def test_news_of_a_reference_that_nothing_was_sent_under_is_kept_with_its_reason(world):
    world.standin.hooks.emit("charge.success", {"reference": "sc-none-1"})
    await world.hear()
    assert await world.parked() == {"paystack:payment:sc-none-1": "unknown_reference"}


async def test_news_waits_for_a_process_that_collects_there(world):
    ref = ObjectRef(provider="stripe", kind=ObjectKind.PAYMENT, object_id="pi_1")
    await world.inbox.want([ref])
    assert await world.inbox_worker.work_once() == 0
    assert len(await world.inbox.claim("other", limit=1, lease_seconds=60)) == 1


async def test_our_customer_behind_a_providers_is_found_by_what_payers_say(world):
    await world.customer("cus_a", provider_customer_id="CUS_1")
    await world.customer("cus_b")
    fetched = PostgresFetched(world.pool)
    known = [KnownCustomer(customer_id="cus_a", currency="NGN")]
    assert await fetched.find_customers("paystack", "CUS_1") == known
    for provider, name in (("paystack", "CUS_2"), ("webhook", "CUS_1"), ("paystack", "")):
        assert await fetched.find_customers(provider, name) == []
