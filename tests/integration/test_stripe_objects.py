"""Reads of Stripe's objects by the real SDK over real HTTP, and answers that cannot be used."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from fixtures.fake_provider import FakeProvider
from fixtures.fake_stripe import FakeStripe, serving
from fixtures.memory_store import MemoryClock

from sidecar.domain.errors import ProviderFailed, ProviderRefused, StoreUnavailable
from sidecar.domain.standing import InvoiceState
from sidecar.outbound.stripe.client import StripeConnection
from sidecar.outbound.stripe.objects import StripeObjects
from sidecar.services.payments import TOP_UP_KEY
from sidecar.services.provider_objects import MeterError

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider(MemoryClock(NOW))


@pytest.fixture
async def stripe(provider):
    """The fake, and the reads of it."""
    fake = FakeStripe(provider)
    async with serving(fake) as url:
        connection = StripeConnection("sk_test_of_tests", base_url=url)
        yield fake, StripeObjects(connection)
        await connection.close()


async def test_an_invoice_is_read_as_it_is(stripe, provider):
    _, objects = stripe
    provider.bill("in_1", NOW, metadata={"a": "b"})
    assert await objects.fetch_invoice("in_1") == provider.invoices["in_1"]
    paid = {"state": InvoiceState.PAID, "payment_id": "pi_1", "metadata": {TOP_UP_KEY: ""}}
    provider.bill("in_2", NOW, **paid)
    assert await objects.fetch_invoice("in_2") == provider.invoices["in_2"]
    assert await objects.fetch_invoice("in_x") is None
    assert objects.livemode is False


@pytest.mark.parametrize(("attempts", "due"), [(0, None), (1, 1_700_000_000)])
async def test_an_invoice_that_is_charged_by_itself_is_due_once_a_charge_has_failed(
    stripe, provider, attempts, due
):
    _, objects = stripe
    provider.bill("in_1", None, attempts=attempts)
    found = await objects.fetch_invoice("in_1")
    assert (found.due_at and int(found.due_at.timestamp())) == due


async def test_a_subscription_tells_all_names_of_its_prices(stripe, provider):
    _, objects = stripe
    provider.subscribe("sub_1", "active", "price_a", "price_b")
    found = await objects.fetch_subscription("sub_1")
    assert found.prices == ("price_a", "key_price_a", "prod_1", "price_b", "key_price_b")
    assert (found.status, found.provider_customer_id) == ("active", "cus_stripe_1")


async def test_a_payment_is_read_with_all_that_hangs_on_it(stripe, provider):
    fake, objects = stripe
    provider.pay("pi_1", metadata={TOP_UP_KEY: "ref"}, amount_minor=1_190, credit_minor=1_000)
    provider.refund("pi_1", "re_1", 100)
    provider.dispute("pi_1", "dp_1", 200)
    provider.dispute("pi_1", "dp_2", 300, status="won")
    assert await objects.fetch_payment("pi_1") == provider.payments["pi_1"]
    assert len(fake.asked) == 5
    assert await objects.fetch_payment("pi_x") is None


@pytest.mark.parametrize(
    ("status", "taken", "won"),
    [
        ("needs_response", True, False),
        ("under_review", True, False),
        ("lost", True, False),
        ("won", False, True),
        ("prevented", False, False),
        ("warning_needs_response", False, False),
        ("warning_closed", False, False),
        ("something_new", True, False),
    ],
)
async def test_money_of_a_dispute_is_gone_unless_it_is_known_not_to_be(
    stripe, provider, status, taken, won
):
    _, objects = stripe
    provider.bill("in_1", NOW)
    provider.pay("pi_1", invoice_id="in_1")
    provider.dispute("pi_1", "dp_1", 200, status=status)
    found = await objects.fetch_payment("pi_1")
    assert found.invoice_id == "in_1"
    assert [(one.taken, one.won) for one in found.disputes] == [(taken, won)]


async def test_a_report_of_errors_is_read(stripe, provider):
    _, objects = stripe
    error = MeterError(identifier="tl1:a:0", code="archived_meter", detail="it is archived")
    provider.reject("evt_1", error)
    assert await objects.fetch_meter_errors("evt_1") == [error]
    assert await objects.fetch_meter_errors("evt_x") is None


async def test_lists_are_read_page_by_page(stripe, provider):
    _, objects = stripe
    for number in range(5):
        provider.bill(f"in_{number}", NOW)
    provider.move("in_4", InvoiceState.PAID)
    first = await objects.list_open_invoices(None)
    second = await objects.list_open_invoices(first.next_cursor)
    found = [one.invoice_id for one in (*first.invoices, *second.invoices)]
    assert found == ["in_0", "in_1", "in_2", "in_3"]
    assert second.next_cursor is None
    events = await objects.list_events(None, since=NOW - timedelta(days=1))
    assert [one.event_id for one in events.events] == [f"evt_{n}" for n in range(6, 0, -1)]
    assert events.events[0].ref == provider.sent[-1].ref


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((200, b"<html>"), StoreUnavailable),
        ((200, b""), StoreUnavailable),
        ((200, b'{"id": "in_1", "object": "invoice"}'), StoreUnavailable),
        ((200, b'{"id": "in_1", "object": "invoice", "status": "new"}'), StoreUnavailable),
        ((500, b"{}"), ProviderFailed),
        ((503, b"<html>"), StoreUnavailable),
        ((429, b'{"error": {"code": "rate_limit"}}'), StoreUnavailable),
        ((401, b'{"error": {"message": "Invalid key sk_test_x"}}'), ProviderRefused),
        ((403, b'{"error": {"message": "needs rak_invoice_read"}}'), ProviderRefused),
    ],
)
async def test_an_answer_that_cannot_be_used_is_no_answer(stripe, provider, answer, error):
    fake, objects = stripe
    provider.bill("in_1", NOW)
    fake.broken = [answer]
    with pytest.raises(error) as raised:
        await objects.fetch_invoice("in_1")
    assert "sk_test" not in str(raised.value)


async def test_an_answer_with_a_field_of_another_kind_is_no_answer(stripe, provider):
    _, objects = stripe
    provider.bill("in_1", NOW)
    provider.invoices["in_1"] = replace(provider.invoices["in_1"], amount_due_minor="5")
    with pytest.raises(StoreUnavailable, match="amount_remaining"):
        await objects.fetch_invoice("in_1")
