"""Credit for payments: given once, taken back when the money goes, in any order of webhooks."""

import itertools
import random
from dataclasses import replace

import pytest
from fixtures.fake_provider import AWAY
from fixtures.inbox_world import InboxWorld

from sidecar.domain.errors import CreditSpent
from sidecar.domain.grants import WithdrawalKind
from sidecar.domain.standing import InvoiceState
from sidecar.services.control_ports import Withdrawal
from sidecar.services.payments import CUSTOMER_KEY, TOP_UP_KEY

TEN = 10_000_000_000
MARKED = {TOP_UP_KEY: ""}


@pytest.fixture
async def world() -> InboxWorld:
    world = InboxWorld()
    await world.customer()
    return world


def granted(world: InboxWorld) -> int:
    return world.cases.state.accounts["cus_1"].granted


async def available(world: InboxWorld) -> int:
    return (await world.cases.credits.read_balance("cus_1")).available_nano


async def test_a_payment_for_credit_gives_it_once(world):
    world.provider.pay("pi_1", metadata=MARKED)
    for _ in range(3):
        world.provider.pay("pi_1")
    await world.deliver(0)
    await world.deliver(1, 2, 3)
    assert (granted(world), await available(world)) == (TEN, TEN)
    assert set(world.cases.record.grants) == {("cus_1", "top:stripe:pi_1")}


async def test_tax_is_not_credit(world):
    world.provider.pay("pi_1", metadata=MARKED, amount_minor=1_190, credit_minor=1_000)
    world.provider.refund("pi_1", "re_1", 595)
    await world.deliver()
    assert await available(world) == TEN // 2


async def test_the_reference_of_a_payment_is_that_of_its_metadata(world):
    """The same reference over the API, or by an automatic top-up, is the same grant."""
    await world.cases.credits.top_up("cus_1", amount_nano=TEN, currency="USD", reference="auto_1")
    world.provider.pay("pi_1", metadata={TOP_UP_KEY: "auto_1"})
    await world.deliver()
    assert granted(world) == TEN


async def test_two_payments_of_one_link_are_two_grants(world):
    """A payment link has one reference for everybody who pays through it."""
    for name in ("pi_1", "pi_2"):
        world.provider.pay(name, metadata={TOP_UP_KEY: "link_1"})
    await world.deliver()
    await world.deliver()
    assert granted(world) == 2 * TEN


@pytest.mark.parametrize("changes", [{"metadata": {}}, {"paid": False}, {"credit_minor": 0}])
async def test_what_buys_no_credit_gives_none(world, changes):
    world.provider.pay("pi_1", **({"metadata": MARKED} | changes))
    await world.deliver()
    assert granted(world) == 0
    assert world.parked() == {}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"provider_customer_id": "cus_of_somebody"}, "unknown_customer"),
        ({"provider_customer_id": ""}, "unknown_customer"),
        ({"metadata": MARKED | {CUSTOMER_KEY: "cus_2"}}, "customer_differs"),
        ({"currency": "EUR"}, "other_currency"),
        ({"livemode": True}, "mode_mismatch"),
    ],
)
async def test_a_payment_that_does_not_fit_is_put_aside_and_kept(world, changes, reason):
    world.provider.pay("pi_1", **({"metadata": MARKED} | changes))
    await world.deliver()
    assert world.parked() == {"stripe:payment:pi_1": reason}
    assert granted(world) == 0


async def test_a_guests_payment_names_its_customer(world):
    metadata = MARKED | {CUSTOMER_KEY: "cus_1"}
    world.provider.pay("pi_1", provider_customer_id="", metadata=metadata)
    await world.deliver()
    assert granted(world) == TEN


async def test_an_invoice_for_credit_gives_it_through_its_payment_or_by_itself(world):
    world.provider.bill("in_1", None, metadata=MARKED, payment_id="pi_1")
    world.provider.pay("pi_1", invoice_id="in_1", metadata=MARKED)
    world.provider.move("in_1", InvoiceState.PAID)
    await world.deliver(2)
    assert granted(world) == TEN
    world.provider.bill("in_2", None, metadata=MARKED, amount_paid_minor=1_000)
    world.provider.move("in_2", InvoiceState.PAID)
    await world.deliver(3, 4)
    await world.deliver(1)
    assert granted(world) == 2 * TEN
    assert ("cus_1", "top:stripe:in_2") in world.cases.record.grants


async def test_a_refund_takes_back_what_is_free_and_what_is_spent(world):
    world.provider.pay("pi_1", metadata=MARKED)
    await world.deliver()
    world.provider.refund("pi_1", "re_1", 400)
    await world.deliver(1)
    assert await available(world) == 6 * TEN // 10
    hold = await world.cases.credits.list_live_grants("cus_1")
    assert hold[0].free_nano == 6 * TEN // 10
    await world.deliver(0, 1)
    assert await available(world) == 6 * TEN // 10


async def test_a_refund_that_waits_takes_nothing_and_one_that_failed_gives_it_back(world):
    world.provider.pay("pi_1", metadata=MARKED)
    world.provider.refund("pi_1", "re_1", 400, status="pending")
    await world.deliver()
    assert await available(world) == TEN
    world.provider.refund("pi_1", "re_1", 400)
    await world.deliver(2)
    assert await available(world) == 6 * TEN // 10
    world.provider.refund("pi_1", "re_1", 400, status="failed")
    for _ in range(2):
        await world.deliver(3)
    assert await available(world) == TEN


@pytest.mark.parametrize("first", [400, 800, 1_000])
async def test_money_that_came_back_and_goes_again_takes_the_credit_again(world, first):
    """A refund that failed gave a grant of its own; the next one takes of both."""
    world.provider.pay("pi_1", metadata=MARKED)
    world.provider.refund("pi_1", "re_1", first)
    await world.deliver()
    world.provider.refund("pi_1", "re_1", first, status="failed")
    await world.deliver()
    assert await available(world) == TEN
    world.provider.refund("pi_1", "re_2", 600)
    for _ in range(3):
        await world.deliver()
    assert await available(world) == 4 * TEN // 10
    world.provider.refund("pi_1", "re_2", 600, status="failed")
    world.provider.dispute("pi_1", "dp_1", 1_000)
    for _ in range(3):
        await world.deliver()
    assert await available(world) == 0
    assert world.parked() == {}


async def test_a_refund_that_failed_before_its_taking_was_finished_takes_nothing(world):
    """Whoever takes it dies after it is intended; others would finish that, later."""
    world.provider.pay("pi_1", metadata=MARKED)
    await world.deliver()
    await world.cases.record.create_withdrawal(
        Withdrawal(
            withdrawal_id="stripe:re_1",
            customer_id="cus_1",
            grant_id="top:stripe:pi_1",
            kind=WithdrawalKind.REFUND,
            amount_nano=4 * TEN // 10,
            reason="refund at the provider",
        )
    )
    world.provider.refund("pi_1", "re_1", 400, status="failed")
    await world.deliver()
    await world.cases.pending.apply_withdrawals()
    assert await available(world) == TEN


async def test_a_dispute_takes_the_credit_and_winning_it_gives_it_back(world):
    world.provider.pay("pi_1", metadata=MARKED)
    world.provider.dispute("pi_1", "dp_1", 1_000)
    await world.deliver()
    assert await available(world) == 0
    assert world.standing() == "good"  # Without credit nothing passes anyway.
    world.provider.dispute("pi_1", "dp_1", 1_000, status="won")
    for _ in range(2):
        await world.deliver(2)
    assert await available(world) == TEN


async def test_a_dispute_that_was_won_before_we_heard_of_it_changes_nothing(world):
    world.provider.pay("pi_1", metadata=MARKED)
    world.provider.dispute("pi_1", "dp_1", 1_000, status="won")
    await world.deliver()
    assert (granted(world), await available(world)) == (TEN, TEN)


async def test_more_taken_than_was_paid_is_shown_to_people(world):
    world.provider.pay("pi_1", metadata=MARKED)
    world.provider.refund("pi_1", "re_1", 1_000)
    world.provider.dispute("pi_1", "dp_1", 1_000)
    await world.deliver()
    assert await available(world) == 0
    assert world.parked() == {"stripe:payment:pi_1": "dispute_beyond_credit"}


async def test_no_order_of_webhooks_and_no_failure_changes_what_is_left():
    """Every order of five events, with a read or the live store failing in between."""
    rng = random.Random(7)
    for order in itertools.permutations(range(5)):
        world = InboxWorld()
        await world.customer()
        world.provider.pay("pi_1", metadata=MARKED, paid=False)
        world.provider.pay("pi_1", paid=True)
        world.provider.refund("pi_1", "re_1", 100)
        world.provider.refund("pi_1", "re_2", 200)
        world.provider.dispute("pi_1", "dp_1", 300)
        for place in order:
            world.provider.failures = [AWAY] * rng.randrange(2)
            await world.inbox.receive(world.provider.sent[place])
            await world.worker.work_once()
        for _ in range(4):
            world.clock.advance(120)
            await world.work()
        assert await available(world) == 4 * TEN // 10, order
        assert world.parked() == {}
        assert len(world.inbox.done) == 5


async def test_a_dispute_of_an_amount_that_was_never_credited_is_no_loss_of_the_rest(world):
    world.provider.pay("pi_1", metadata=MARKED)
    payment = world.provider.payments["pi_1"]
    world.provider.payments["pi_1"] = replace(payment, amount_minor=2_000)
    world.provider.dispute("pi_1", "dp_1", 1_000)
    await world.deliver()
    assert await available(world) == TEN // 2


def names(world: InboxWorld) -> dict[str, str]:
    """Withdrawals on record by id, with what came of each."""
    found = world.cases.record.withdrawals.values()
    return {one.withdrawal_id: one.state.value for one in found}


async def test_a_refund_of_what_is_partly_spent_leaves_a_deficit_once(world):
    world.provider.pay("pi_1", metadata=MARKED)
    await world.deliver()
    world.cases.state.accounts["cus_1"].used = 7 * TEN // 10
    world.provider.refund("pi_1", "re_1", 1_000)
    for _ in range(3):
        await world.deliver(1)
    assert world.parked() == {}
    assert await available(world) == -7 * TEN // 10
    assert names(world) == {"stripe:re_1": "refused", "stripe:re_1:spent": "applied"}


async def test_a_death_between_the_refusal_and_the_reversal_is_made_up_for(world):
    world.provider.pay("pi_1", metadata=MARKED)
    await world.deliver()
    account = world.cases.state.accounts["cus_1"]
    account.used = 7 * TEN // 10
    refund = Withdrawal(
        withdrawal_id="stripe:re_1",
        customer_id="cus_1",
        grant_id="top:stripe:pi_1",
        kind=WithdrawalKind.REFUND,
        amount_nano=TEN,
        reason="refund at the provider",
    )
    with pytest.raises(CreditSpent):
        await world.cases.withdrawals.withdraw(refund)
    world.provider.refund("pi_1", "re_1", 1_000)
    await world.deliver(1)
    assert world.parked() == {}
    assert await available(world) == -7 * TEN // 10


async def test_a_refund_of_credit_that_was_voided_is_shown_to_people_and_takes_no_more(world):
    world.provider.pay("pi_1", metadata=MARKED)
    world.provider.pay("pi_2", metadata=MARKED)
    await world.deliver()
    void = Withdrawal(
        withdrawal_id="by-hand",
        customer_id="cus_1",
        grant_id="top:stripe:pi_1",
        kind=WithdrawalKind.VOID,
        amount_nano=None,
        reason="a mistake",
    )
    await world.cases.withdrawals.withdraw(void)
    world.provider.refund("pi_1", "re_1", 1_000)
    for _ in range(2):
        await world.deliver(2)
    assert world.parked() == {"stripe:payment:pi_1": "refund_refused"}
    assert await available(world) == TEN
    assert names(world).get("stripe:re_1:spent") is None


async def test_a_refund_under_the_name_of_another_withdrawal_is_shown_to_people(world):
    world.provider.pay("pi_1", metadata=MARKED)
    await world.deliver()
    other = Withdrawal(
        withdrawal_id="stripe:re_1",
        customer_id="cus_1",
        grant_id="top:stripe:pi_1",
        kind=WithdrawalKind.REFUND,
        amount_nano=TEN // 10,
        reason="by hand",
    )
    await world.cases.withdrawals.withdraw(other)
    world.provider.refund("pi_1", "re_1", 400)
    world.provider.refund("pi_1", "re_2", 200)  # What goes wrong before keeps it from nothing.
    await world.deliver(1, 2)
    assert world.parked() == {"stripe:payment:pi_1": "refund_refused"}
    assert names(world) == {"stripe:re_1": "applied", "stripe:re_2": "applied"}
    assert await available(world) == 7 * TEN // 10
