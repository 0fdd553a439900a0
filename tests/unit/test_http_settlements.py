"""What the admin API says about reports, and the pages on which credit is paid for."""

from dataclasses import replace
from decimal import Decimal

import pytest
from fixtures.http_edges import ADMIN_TOKEN, World, calling
from fixtures.memory_settlements import settlement
from fixtures.stream_records import NOW

from sidecar.domain.errors import ProviderRefused
from sidecar.services.control_ports import ReportState
from sidecar.services.report_ports import Outcome, Reconciliation

PAGE = {
    "amount": "25.00",
    "currency": "USD",
    "success_url": "https://example.test/done?x=1",
    "cancel_url": "https://example.test/no",
}
PATH = "/api/v1/customers/cus_1/top_up_sessions"


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def call(world):
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        yield call


async def test_settlements_are_listed_by_page_and_state(world, call):
    world.settlements.add(
        *(settlement(number) for number in range(1, 6)),
        settlement(6, state=ReportState.OPEN, identifier=None, customer_id="cus_2"),
    )
    first = await call("GET", "/api/v1/settlements?limit=4")
    assert [item["number"] for item in first.body["items"]] == [1, 2, 3, 4]
    rest = await call("GET", f"/api/v1/settlements?after={first.body['next']}")
    assert [item["number"] for item in rest.body["items"]] == [5, 6]
    assert rest.body["next"] is None
    opened = await call("GET", "/api/v1/settlements?state=open&customer_id=cus_2")
    assert opened.body["items"][0]["identifier"] is None
    assert (await call("GET", "/api/v1/settlements?state=lost")).status == 400


async def test_a_failed_settlement_is_sent_again_and_others_are_not(world, call):
    world.settlements.add(settlement(1), settlement(2, uncounted=False))
    world.settlements.add(settlement(3, state=ReportState.SENT))
    again = await call("POST", "/api/v1/settlements/1/retry")
    assert (again.status, again.body["state"]) == (200, "pending")
    assert (await call("POST", "/api/v1/settlements/1/retry")).status == 200
    refused = await call("POST", "/api/v1/settlements/2/retry")
    assert refused.status == 409
    assert "may have been counted" in refused.body["detail"]
    assert (await call("POST", "/api/v1/settlements/3/retry")).status == 409
    assert (await call("POST", "/api/v1/settlements/4/retry")).status == 404
    assert (await call("GET", "/api/v1/settlements/2")).body["uncounted"] is False


@pytest.mark.parametrize("number", ["x", "-1", "9" * 60, "1.5"])
async def test_what_is_no_number_is_refused(call, number):
    assert (await call("GET", f"/api/v1/settlements/{number}")).status == 400


async def test_comparisons_are_listed(world, call):
    one = Reconciliation(
        customer_id="cus_1",
        meter="input-tokens",
        period_start=NOW,
        period_end=NOW.replace(hour=12),
        outcome=Outcome.UNEXPLAINED,
        expected=5,
        found=Decimal("1E+1"),
        read_at=NOW,
    )
    world.reconciliations.kept = [one, replace(one, outcome=Outcome.SAME, found=None)]
    answer = await call("GET", "/api/v1/settlement-reconciliations?outcome=unexplained")
    assert [item["found"] for item in answer.body["items"]] == ["10"]
    both = await call("GET", "/api/v1/settlement-reconciliations?limit=1")
    assert both.body["more"] is True


async def test_a_page_names_the_payment_so_that_its_credit_comes_once(world, call):
    await world.customer("cus_1")
    first = await call("POST", PATH, json=PAGE, headers={"idempotency-key": "k1"})
    assert first.status == 201
    assert first.body["url"] == "https://pay.test/p"
    assert first.body["amount_nano"] == 25_000_000_000
    again = await call("POST", PATH, json=PAGE, headers={"idempotency-key": "k1"})
    assert again.body["reference"] == first.body["reference"]
    other = await call("POST", PATH, json=PAGE)
    assert other.body["reference"] != first.body["reference"]
    (asked, _) = world.pages.asked
    assert (asked.amount_minor, asked.currency) == (2_500, "USD")


async def test_pages_that_cannot_be_are_refused_before_anybody_is_asked(world, call):
    await world.customer("cus_1")
    await world.customer("cus_2")
    patch = {"labels": {"test": "true"}}
    assert (await call("PATCH", "/api/v1/customers/cus_2", json=patch)).status == 200
    for path, body, status in (
        (PATH, PAGE | {"amount": "0.001"}, 400),
        (PATH, PAGE | {"amount": "0"}, 400),
        (PATH, PAGE | {"currency": "EUR"}, 409),
        (PATH, PAGE | {"success_url": "javascript:alert(1)"}, 400),
        (PATH, PAGE | {"success_url": "https://example.test/\nx"}, 400),
        (PATH.replace("cus_1", "cus_2"), PAGE, 409),
        (PATH.replace("cus_1", "cus_9"), PAGE, 404),
    ):
        assert (await call("POST", path, json=body)).status == status, body
    assert world.pages.asked == []


async def test_what_the_provider_refuses_is_told_in_its_words(world, call):
    await world.customer("cus_1")
    world.pages.refusal = ProviderRefused(400, "amount_too_small", "must be at least $0.50")
    answer = await call("POST", PATH, json=PAGE)
    assert answer.status == 409
    assert "amount_too_small" in answer.body["detail"]
