"""From a webhook to what it changes: fetched once, written once, put aside for people."""

import random
from datetime import timedelta

import pytest
from fixtures.fake_provider import AWAY, CUSTOMER
from fixtures.inbox_world import ATTEMPTS_MAX, InboxWorld
from fixtures.use_cases import Grown

from sidecar.domain.errors import ProviderRefused, StoreUnavailable
from sidecar.domain.standing import InvoiceState, Standing, StandingFact
from sidecar.services.control_ports import Customer
from sidecar.services.inbox_ports import InboxState, ObjectKind, ObjectRef, Receipt
from sidecar.services.provider_objects import MeterError

DAY = timedelta(days=1)
INVOICE = ObjectRef(provider="stripe", kind=ObjectKind.INVOICE, object_id="in_1")


@pytest.fixture
async def world() -> InboxWorld:
    world = InboxWorld()
    await world.customer()
    return world


async def test_an_overdue_invoice_bites_after_its_grace_and_is_cleared_by_payment(world):
    world.provider.bill("in_1", world.clock.now() + DAY)
    await world.deliver()
    assert world.standing() == "good"
    await world.pass_time(days=1)  # No webhook says so: it is our clock.
    assert world.standing() == "grace"
    await world.pass_time(days=3)
    assert world.standing() == "delinquent"
    fact = world.cases.state.accounts["cus_1"].standing
    assert (fact.overdue_nano, fact.overdue_since) == (5_000_000_000, world.clock.now() - 3 * DAY)
    world.provider.move("in_1", InvoiceState.PAID)
    await world.deliver(1)
    assert world.standing() == "good"


async def test_all_events_of_an_object_are_one_read(world):
    for _ in range(5):
        world.provider.bill("in_1", None)
    for event in world.provider.sent:
        assert await world.inbox.receive(event) is Receipt.STORED
        assert await world.inbox.receive(event) is Receipt.DUPLICATE
    await world.work()
    assert world.provider.reads == 1
    assert len(world.inbox.done) == 5
    assert world.row(INVOICE).state is InboxState.IDLE


async def test_an_event_that_comes_while_its_object_is_fetched_is_fetched_for(world):
    world.provider.bill("in_1", world.clock.now() - 9 * DAY)
    await world.inbox.receive(world.provider.sent[0])
    (claim,) = await world.inbox.claim("slow", limit=5, lease_seconds=60)
    handled = await world.handlers.handle(claim)
    world.provider.move("in_1", InvoiceState.PAID)
    await world.inbox.receive(world.provider.sent[1])
    assert await world.inbox.finish(claim, handled) == ["cus_1"]
    assert world.row(INVOICE).state is InboxState.PENDING
    await world.work()
    assert world.standing() == "good"
    assert world.inbox.done == {"evt_1", "evt_2"}


async def test_whoever_lost_the_lease_overwrites_nothing(world):
    world.provider.bill("in_1", world.clock.now() - 9 * DAY)
    await world.inbox.receive(world.provider.sent[0])
    (claim,) = await world.inbox.claim("slow", limit=5, lease_seconds=60)
    stale = await world.handlers.handle(claim)
    world.provider.move("in_1", InvoiceState.PAID)
    world.clock.advance(61)
    await world.work()
    assert world.standing() == "good"
    assert await world.inbox.finish(claim, stale) is None
    await world.inbox.fail(claim, reason="late", retry_in_seconds=None)
    assert world.row(INVOICE).state is InboxState.IDLE
    assert world.standing() == "good"


@pytest.mark.parametrize(
    ("error", "reason"),
    [(AWAY, "no_answer"), (ProviderRefused(403, "", "rak_invoice_read"), "refused_403")],
)
async def test_what_cannot_be_fetched_is_tried_again_and_parked_in_the_end(world, error, reason):
    parked = Grown("sidecar_inbox_total", kind="invoice", outcome="parked")
    world.provider.bill("in_1", world.clock.now() - 9 * DAY)
    world.provider.failures = [error] * ATTEMPTS_MAX
    await world.deliver()
    waits = []
    while world.row(INVOICE).state is InboxState.PENDING:
        wait = (world.row(INVOICE).retry_at - world.clock.now()).total_seconds()
        waits.append(wait)
        world.clock.advance(wait)
        await world.work()
    assert waits == [2, 4, 8]
    assert world.parked() == {INVOICE.key: reason}
    assert parked.by == 1
    assert world.inbox.done == set()  # Nothing is lost: the event is still open.
    await world.inbox.retry(INVOICE.key)
    await world.work()
    assert world.standing() == "delinquent"
    assert world.inbox.done == {"evt_1"}


async def test_the_next_event_tries_a_parked_object_again(world):
    world.provider.failures = [ProviderRefused(400, "", "")] * ATTEMPTS_MAX
    world.provider.bill("in_1", world.clock.now() - 9 * DAY)
    await world.deliver()
    for _ in range(ATTEMPTS_MAX):
        world.clock.advance(10)
        await world.work()
    assert world.parked()
    world.provider.bill("in_1", world.clock.now() - 9 * DAY)
    await world.deliver(1)
    assert world.standing() == "delinquent"
    assert world.inbox.done == {"evt_1", "evt_2"}


async def test_one_objects_trouble_keeps_no_other_waiting(world):
    world.provider.bill("in_1", None)
    world.provider.bill("in_2", world.clock.now() - 9 * DAY)
    world.provider.failures = [AWAY]
    await world.deliver()
    assert world.row(INVOICE).reason == "no_answer"
    assert world.standing() == "delinquent"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"provider_customer_id": "cus_of_somebody"}, "unknown_customer"),
        ({"provider_customer_id": ""}, "unknown_customer"),
        ({"currency": "EUR"}, "other_currency"),
        ({"livemode": True}, "mode_mismatch"),
    ],
)
async def test_an_invoice_that_does_not_fit_is_put_aside_with_its_reason(world, changes, reason):
    world.provider.bill("in_1", world.clock.now() - 9 * DAY, **changes)
    await world.deliver()
    assert world.parked() == {INVOICE.key: reason}
    if reason != "mode_mismatch":
        assert world.inbox.invoices["in_1"][1].reason == reason
    # Another currency is owed all the same, and test money owes nothing.
    assert world.standing() == ("delinquent" if reason == "other_currency" else "good")


async def test_a_stripe_customer_of_two_of_ours_is_nobodys(world):
    await world.cases.accounts.create_customer(
        Customer(customer_id="cus_2", plan="prepaid", currency="USD", stripe_customer_id=CUSTOMER)
    )
    world.provider.bill("in_1", world.clock.now() - 9 * DAY)
    await world.deliver()
    assert world.parked() == {INVOICE.key: "ambiguous_customer"}


async def test_a_draft_that_is_gone_owes_nothing(world):
    world.provider.bill("in_1", world.clock.now() - 9 * DAY)
    await world.deliver()
    assert world.standing() == "delinquent"
    del world.provider.invoices["in_1"]
    world.provider.sent.append(world.provider.sent[0])
    await world.inbox.want([INVOICE])
    await world.work()
    assert world.standing() == "good"


async def test_an_operators_word_wins_and_its_end_brings_the_invoices_back(world):
    world.provider.bill("in_1", world.clock.now() - 9 * DAY)
    await world.deliver()
    until = world.clock.now() + DAY
    await world.cases.standings.put(
        "cus_1", StandingFact(standing=Standing.GOOD, reason="they called", until=until)
    )
    assert world.standing() == "good"
    world.provider.bill("in_2", world.clock.now() - 9 * DAY)
    await world.deliver(1)
    assert world.standing() == "good"
    view = await world.cases.standings.read("cus_1")
    assert (view.set_at(world.clock.now()).until, view.derived.standing) == (until, "delinquent")
    await world.pass_time(days=1)
    assert world.standing() == "delinquent"


async def test_an_override_that_is_worse_never_ends_in_something_better_than_invoices(world):
    world.provider.bill("in_1", world.clock.now() - DAY)
    await world.deliver()
    assert world.standing() == "grace"
    await world.cases.standings.put(
        "cus_1", StandingFact(standing=Standing.DELINQUENT, until=world.clock.now() + DAY)
    )
    world.clock.instant += DAY  # Nobody looks: the live store alone.
    assert world.standing() == "delinquent"
    await world.timer.look_once()
    assert world.standing() == "grace"


async def test_a_subscription_gives_its_plan_and_its_end_takes_it(world):
    world.provider.subscribe("sub_1", "active", "price_pro")
    await world.deliver()
    assert world.cases.record.customers["cus_1"].plan == "postpaid"
    assert world.cases.state.accounts["cus_1"].customer.plan == "postpaid"
    world.provider.subscribe("sub_1", "canceled", "price_pro")
    await world.deliver(1)
    assert world.cases.state.accounts["cus_1"].customer.plan == "prepaid"


async def test_the_end_of_an_old_subscription_does_not_take_the_new_ones_plan(world):
    world.provider.subscribe("sub_1", "active", "price_pre")
    world.provider.subscribe("sub_1", "canceled", "price_pre")
    world.provider.subscribe("sub_2", "active", "price_pro")
    await world.deliver(2, 0, 1)
    assert world.cases.state.accounts["cus_1"].customer.plan == "postpaid"


async def test_a_plan_that_was_set_by_hand_stays_until_subscriptions_say_another(world):
    world.provider.subscribe("sub_1", "active", "price_pro")
    await world.deliver()
    customer = world.cases.record.customers["cus_1"]
    await world.cases.accounts.update_customer(
        Customer(
            customer_id="cus_1",
            plan="prepaid",
            currency="USD",
            stripe_customer_id=customer.stripe_customer_id,
        )
    )
    world.provider.bill("in_1", None)
    await world.deliver(1)
    assert world.cases.record.customers["cus_1"].plan == "prepaid"


@pytest.mark.parametrize(
    ("prices", "reason"),
    [(("price_x",), "unknown_price"), (("price_pro", "price_pre"), "several_plans")],
)
async def test_a_subscription_that_names_no_plan_is_put_aside(world, prices, reason):
    world.provider.subscribe("sub_1", "active", *prices)
    await world.deliver()
    assert world.parked() == {"stripe:subscription:sub_1": reason}
    assert world.cases.record.customers["cus_1"].plan == "prepaid"
    assert world.inbox.subscriptions["sub_1"][1].reason == reason


async def test_an_unpaid_subscription_is_delinquent_until_it_is_not(world):
    for status, standing in (
        ("unpaid", "delinquent"),
        ("past_due", "good"),
        ("unpaid", "delinquent"),
    ):
        world.provider.subscribe("sub_1", status, "price_pro")
        await world.deliver(len(world.provider.sent) - 1)
        assert world.standing() == standing


async def test_a_dispute_of_an_invoice_is_delinquent_until_it_is_won(world):
    world.provider.bill("in_1", None)
    world.provider.move("in_1", InvoiceState.PAID)
    world.provider.pay("pi_1", invoice_id="in_1")
    world.provider.dispute("pi_1", "dp_1", 500)
    await world.deliver(3)  # The only one that comes: the invoice is fetched because of it.
    assert world.standing() == "delinquent"
    assert world.cases.state.accounts["cus_1"].standing.disputed
    world.provider.dispute("pi_1", "dp_1", 500, status="won")
    await world.deliver(4)
    assert world.standing() == "good"
    world.provider.dispute("pi_1", "dp_2", 500, status="lost")
    await world.deliver(5)
    assert world.standing() == "delinquent"


async def test_rejected_meter_events_are_told_to_whoever_reported_them(world):
    world.provider.reject("evt_x", MeterError(identifier="tl1:a", code="no_meter", detail=""))
    await world.deliver()
    assert world.reports.noted == [("tl1:a", "no_meter")]


async def test_events_of_the_other_mode_are_put_aside_unread(world):
    world.provider.livemode = True
    world.provider.bill("in_1", world.clock.now() - 9 * DAY)
    await world.deliver()
    assert (world.parked(), world.provider.reads) == ({INVOICE.key: "mode_mismatch"}, 0)


async def test_a_live_store_that_is_away_is_told_later(world):
    world.provider.bill("in_1", world.clock.now() - 9 * DAY)
    world.cases.state.away = True
    await world.deliver()
    assert world.row(INVOICE).state is InboxState.IDLE
    world.cases.state.away = False
    assert world.standing() == "good"
    await world.pass_time(seconds=31)
    assert world.standing() == "delinquent"


async def test_a_record_that_is_away_ends_no_worker(world):
    failed = Grown("sidecar_worker_failures_total", worker="standing")

    async def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("away")

    world.provider.bill("in_1", world.clock.now())
    await world.deliver()
    world.inbox.looks["cus_1"].look_at = world.clock.now()
    world.inbox.evaluate = away
    assert await world.timer.look_once() == 1
    assert failed.by == 1


async def test_a_sweep_finds_what_no_webhook_told(world):
    for number in range(1, 8):
        world.provider.bill(f"in_{number}", world.clock.now() - 9 * DAY)
    await world.deliver(0, 1, 2)
    for number in range(1, 8):
        world.provider.move(f"in_{number}", InvoiceState.PAID)
    world.provider.bill("in_8", world.clock.now() - 9 * DAY)
    world.provider.sent_at = [at - timedelta(days=60) for at in world.provider.sent_at]
    wanted = await world.sweep.sweep_once()
    await world.work()
    # Three that are open here and not there, and one that is open there only.
    assert wanted == 4
    assert world.inbox.invoices["in_8"][1].state is InvoiceState.OPEN
    assert {world.inbox.invoices[f"in_{n}"][1].state for n in (1, 2, 3)} == {InvoiceState.PAID}
    assert world.standing() == "delinquent"
    assert await world.sweep.sweep_once() is None
    world.clock.instant += DAY
    reads = world.provider.reads
    assert await world.sweep.sweep_once() == 0
    assert world.provider.reads - reads == 2  # Events, and one page of open invoices.


async def test_a_sweep_reads_no_more_than_its_budget_and_goes_on_later():
    world = InboxWorld(reads_max=2)
    await world.customer()
    for number in range(20):
        world.provider.bill(f"in_{number:02}", world.clock.now() - 9 * DAY)
    rounds = 0
    while len(world.inbox.invoices) < 20:
        before = world.provider.reads
        assert await world.sweep.sweep_once() is not None
        assert world.provider.reads - before <= 2
        await world.work()
        world.clock.advance(3_600)
        rounds += 1
        assert rounds < 30
    assert rounds > 3


async def test_a_sweep_tries_again_what_a_new_customer_may_have_mended():
    world = InboxWorld()
    world.provider.bill("in_1", world.clock.now() - 9 * DAY)
    await world.deliver()
    assert world.parked() == {INVOICE.key: "unknown_customer"}
    await world.customer()
    await world.sweep.sweep_once()
    await world.work()
    assert (world.parked(), world.standing()) == ({}, "delinquent")


@pytest.mark.parametrize("seed", range(6))
async def test_no_round_of_a_sweep_costs_more_than_its_budget_and_all_is_found(seed):
    """Whatever each object takes at most, lists included; and what is known costs nothing."""
    rng = random.Random(seed)
    world = InboxWorld(reads_max=rng.randint(8, 25))
    world.provider.costs = {ObjectKind.INVOICE: rng.randint(1, 7), ObjectKind.PAYMENT: 6}
    await world.customer()
    for number in range(12):
        world.provider.bill(f"in_{number:02}", world.clock.now() - 9 * DAY)
        world.provider.pay(f"pi_{number:02}", invoice_id=f"in_{number:02}")
        world.provider.subscribe(f"sub_{number:02}", "active", "price_pro")
    await world.deliver(*rng.sample(range(36), 9))
    for number in range(0, 12, 2):
        world.provider.move(f"in_{number:02}", InvoiceState.PAID)

    for _ in range(200):
        reads, before = world.provider.reads, set(pending(world))
        found = await world.sweep.sweep_once()
        asked = set(pending(world)) - before
        cost = sum(world.provider.costs.get(ref.kind, 1) for ref in asked)
        assert world.provider.reads - reads + cost <= world.reads_max
        await world.work()
        if found == 0 and world.inbox.sweeps["stripe"][0].part == "":
            break
        world.clock.advance(3_600)
    else:
        raise AssertionError("it did not come to an end")
    states = {name: record.state for name, (_, record) in world.inbox.invoices.items()}
    assert states == {name: one.state for name, one in world.provider.invoices.items()}
    assert len(world.inbox.payments) == len(world.inbox.subscriptions) == 12


def pending(world: InboxWorld) -> list[ObjectRef]:
    return [
        one.shown.ref
        for one in world.inbox.objects.values()
        if one.shown.state is InboxState.PENDING
    ]
