"""What billing cannot use is kept with a reason, an alarm is raised, and nothing else moves."""

from datetime import timedelta

import pytest
from fixtures.fake_provider import AWAY
from fixtures.inbox_world import ATTEMPTS_MAX, InboxWorld

from sidecar import telemetry
from sidecar.domain.errors import ProviderRefused, StoreUnavailable
from sidecar.services.payments import TOP_UP_KEY
from sidecar.services.stripe_events import parse_event

OVERDUE = timedelta(days=9)


@pytest.fixture
async def world() -> InboxWorld:
    world = InboxWorld()
    await world.customer()
    return world


def parked(kind: str) -> float:
    labels = {"kind": kind, "outcome": "parked"}
    return telemetry.REGISTRY.get_sample_value("sidecar_inbox_total", labels) or 0.0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"currency": "EUR"}, "other_currency"),
        ({"provider_customer_id": "cus_of_somebody"}, "unknown_customer"),
        ({"livemode": True}, "mode_mismatch"),
    ],
)
async def test_an_invoice_that_does_not_fit_is_kept_and_an_alarm(world, capsys, changes, reason):
    before = parked("invoice")
    world.provider.bill("in_1", world.clock.now() - OVERDUE, **changes)
    await world.deliver()
    assert world.parked() == {"stripe:invoice:in_1": reason}
    assert parked("invoice") == before + 1
    alarms = [
        line for line in capsys.readouterr().out.splitlines() if "inbox_object_parked" in line
    ]
    assert len(alarms) == 1
    assert "error" in alarms[0]
    assert reason in alarms[0]


async def test_a_payment_in_another_currency_gives_nothing_and_is_kept(world, capsys):
    before = parked("payment")
    world.provider.pay("pi_1", metadata={TOP_UP_KEY: ""}, currency="EUR")
    await world.deliver()
    assert world.cases.state.accounts["cus_1"].granted == 0
    assert world.parked() == {"stripe:payment:pi_1": "other_currency"}
    assert parked("payment") == before + 1
    assert "inbox_object_parked" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        # An answer that is no JSON, or lacks what it must have, is none: see StripeObjects.
        (StoreUnavailable("Stripe's answer cannot be read"), "no_answer"),
        (AWAY, "no_answer"),
        (ProviderRefused(403, "", "no"), "refused_403"),
    ],
)
async def test_a_provider_that_answers_nonsense_costs_no_event(world, capsys, failure, reason):
    """The object waits longer each time, is kept for people in the end, and can be tried again."""
    world.provider.bill("in_1", world.clock.now() - OVERDUE)
    world.provider.failures = [failure] * ATTEMPTS_MAX
    await world.deliver()
    for _ in range(ATTEMPTS_MAX):
        world.clock.advance(7_200)
        await world.work()
    assert world.parked() == {"stripe:invoice:in_1": reason}
    assert "inbox_object_parked" in capsys.readouterr().out
    assert world.standing() == "good"
    await world.inbox.receive(world.provider.sent[0])
    world.provider.move("in_1", world.provider.invoices["in_1"].state)
    await world.deliver()
    assert world.parked() == {}
    assert world.standing() == "delinquent"


@pytest.mark.parametrize("body", [b"<html>", b"", b"[1]", b'{"type": "invoice.paid"}', b"\xff"])
async def test_a_signed_body_that_is_no_event_is_kept_and_an_alarm(world, body):
    event = parse_event(body)
    assert event.ref is not None
    for _ in range(2):
        await world.inbox.receive(event)
    await world.work()
    assert list(world.parked()) == [event.ref.key]
    assert len(world.inbox.objects) == 1
