"""Notices about bills and payments through the inbox: by events that say so, once each."""

from datetime import timedelta

import pytest
from fixtures.inbox_world import InboxWorld

from sidecar.domain.notices import NoticeKind
from sidecar.domain.standing import InvoiceState

DAY = timedelta(days=1)


@pytest.fixture
async def world():
    made = InboxWorld()
    await made.customer()
    return made


def told(world: InboxWorld) -> list[tuple[str, str, str]]:
    return sorted(
        (one.kind.value, one.customer_id, one.facts.get("attempt") or one.facts["dispute"])
        for one in world.inbox.notices.values()
    )


async def fail(world: InboxWorld, name: str, attempts: int) -> None:
    """The provider tried once more in vain and says so, twice over."""
    invoice = world.provider.invoices[name]
    world.provider.fail(name, attempts)
    assert world.provider.invoices[name] != invoice
    place = len(world.provider.sent) - 1
    await world.deliver(place)
    await world.deliver(place)


async def test_each_failed_attempt_is_told_once_with_what_is_left(world):
    world.provider.bill("in_1", world.clock.now() + DAY)
    await world.deliver()
    assert told(world) == []
    await fail(world, "in_1", 1)
    await fail(world, "in_1", 2)
    assert told(world) == [("payment.failed", "cus_1", "1"), ("payment.failed", "cus_1", "2")]
    (first, _) = world.inbox.notices.values()
    assert first.amounts == {"due": 5_000_000_000}
    assert dict(first.facts) == {
        "provider": "stripe",
        "invoice": "in_1",
        "currency": "USD",
        "attempt": "1",
    }


async def test_attempts_that_no_event_calls_failed_are_not_told(world):
    """A bank debit is on its way: the invoice is open and has been tried."""
    world.provider.bill("in_1", world.clock.now() + DAY, attempts=1)
    await world.deliver()
    assert told(world) == []


async def test_what_is_paid_by_the_time_it_is_read_is_not_told(world):
    world.provider.bill("in_1", world.clock.now() + DAY)
    await world.deliver()
    world.provider.fail("in_1", 1)
    world.provider.move("in_1", InvoiceState.PAID)
    await world.deliver()
    assert told(world) == []


async def test_an_invoice_of_nobody_of_ours_is_not_told(world):
    world.provider.bill("in_1", world.clock.now() + DAY, provider_customer_id="cus_stranger")
    world.provider.fail("in_1", 1)
    await world.deliver()
    assert told(world) == []


async def test_a_dispute_is_told_once_to_operators_and_the_next_one_again(world):
    world.provider.bill("in_1", None)
    world.provider.pay("pi_1", invoice_id="in_1")
    await world.deliver()
    world.provider.dispute("pi_1", "du_1", 1_000)
    await world.deliver()
    await world.deliver()
    world.provider.dispute("pi_1", "du_1", 1_000, status="won")
    world.provider.dispute("pi_1", "du_2", 1_000)
    await world.deliver(len(world.provider.sent) - 1)
    assert told(world) == [
        ("dispute.opened", "cus_1", "du_1"),
        ("dispute.opened", "cus_1", "du_2"),
    ]
    assert {one.kind for one in world.inbox.notices.values()} == {NoticeKind.DISPUTE_OPENED}
    assert {one.facts["invoice"] for one in world.inbox.notices.values()} == {"in_1"}
