"""Payments for credit through Stripe: each asked for once, each answer clear or asked again."""

import random
from dataclasses import replace
from datetime import timedelta

import pytest
from fixtures.stripe_reports import API_KEY, FAULTS, hours_ago, seed

from sidecar.domain.errors import InvalidInput, ProviderRefused, StoreUnavailable
from sidecar.domain.top_ups import TopUpAttempt
from sidecar.outbound.stripe.client import StripeConnection
from sidecar.outbound.stripe.top_ups import StripePaymentPages, StripeTopUps
from sidecar.services.top_up_sessions import PageRequest
from sidecar.standins.stripe import StripeStandin
from sidecar.standins.stripe_faults import Fault, Faults

INTENTS = "/v1/payment_intents"
PAYER = "cus_stripe_a"


@pytest.fixture
async def standin():
    standin = StripeStandin(faults=Faults(timeout_seconds=2.0, paths=frozenset({INTENTS})))
    standin.add_customer(PAYER, card="pm_card_visa")
    yield standin
    assert list(standin.bugs) == []


@pytest.fixture
async def connection(standin):
    async with standin.serving() as url:
        connection = StripeConnection(API_KEY, base_url=url, timeout_seconds=1.0)
        yield connection
        await connection.close()


@pytest.fixture
def top_ups(connection) -> StripeTopUps:
    async def find(customer_id: str) -> str | None:
        return PAYER if customer_id == "cus_a" else None

    return StripeTopUps(connection, find)


def attempt(number: int = 1, **changes) -> TopUpAttempt:
    base = TopUpAttempt(
        customer_id="cus_a",
        number=number,
        amount_nano=20_000_000_000,
        currency="USD",
        asked_at=hours_ago(0),
        tries=1,
    )
    return replace(base, **changes)


async def payments(connection):
    page = await connection.client.v1.payment_intents.list_async({"limit": 100})
    return [(item.status, item.amount) for item in page.data]


async def ask_until_clear(top_ups, one: TopUpAttempt, tries: int = 40):
    for number in range(1, tries):
        try:
            return await top_ups.ask(replace(one, tries=number))
        except StoreUnavailable:
            continue
    raise AssertionError("no clear answer")


async def test_a_saved_card_is_charged_under_the_attempts_reference(top_ups, connection):
    answer = await top_ups.ask(attempt())
    assert answer.paid
    (payment,) = (await connection.client.v1.payment_intents.list_async()).data
    assert (payment.id, payment.amount, payment.currency) == (answer.reference, 2_000, "usd")
    assert payment.metadata.to_dict() == {
        "sidecar_top_up": attempt().reference,
        "sidecar_customer": "cus_a",
    }


@pytest.mark.parametrize(
    "fault",
    [
        Fault.DROP_BEFORE_COMMIT,
        Fault.DROP_AFTER_COMMIT,
        Fault.TRUNCATE_AFTER_COMMIT,
        Fault.ERROR_BEFORE_COMMIT,
        Fault.ERROR_AFTER_COMMIT,
        Fault.RATE_LIMIT,
    ],
)
async def test_every_fault_ends_in_one_payment(standin, top_ups, connection, fault):
    standin.faults.add(fault)
    assert (await ask_until_clear(top_ups, attempt())).paid
    assert await payments(connection) == [("succeeded", 2_000)]


async def test_an_attempt_that_is_asked_again_after_a_day_is_looked_for_first(
    standin, top_ups, connection
):
    """Stripe forgets the key after a day; then it would take the money again."""
    old = attempt(asked_at=hours_ago(1))
    paid = await top_ups.ask(old)
    standin.settings = replace(standin.settings, idempotency_window=timedelta(0))
    standin._keys._settings = standin.settings
    again = await top_ups.ask(replace(old, tries=2))
    assert again == paid
    assert await payments(connection) == [("succeeded", 2_000)]


async def test_thirty_per_cent_of_faults_take_each_payment_once(standin, top_ups, connection):
    number = seed()
    standin.faults = Faults(
        seed=number, timeout_seconds=0.05, probabilities=FAULTS, paths=frozenset({INTENTS})
    )
    dice = random.Random(number)
    amounts = [dice.randint(50, 100_000) for _ in range(20)]
    for index, amount in enumerate(amounts):
        one = attempt(index + 1, amount_nano=amount * 10_000_000)
        assert (await ask_until_clear(top_ups, one)).paid
    standin.faults.stop()
    taken = await payments(connection)
    assert sorted(amount for _, amount in taken) == sorted(amounts), f"seed {number}"


@pytest.mark.parametrize("card", ["pm_card_visa_chargeDeclined", "pm_card_authenticationRequired"])
async def test_a_card_that_refuses_is_a_decline_each_time(standin, top_ups, connection, card):
    standin.set_card(PAYER, card)
    first = await top_ups.ask(attempt())
    assert not first.paid
    assert not (await top_ups.ask(attempt(tries=2))).paid
    assert [status for status, _ in await payments(connection)] == ["requires_payment_method"]


async def test_who_has_no_card_or_no_account_declines_without_a_payment(
    standin, connection, top_ups
):
    standin.add_customer("cus_stripe_b")

    async def find(customer_id: str) -> str | None:
        return "cus_stripe_b"

    bare = StripeTopUps(connection, find)
    assert not (await bare.ask(attempt())).paid
    assert not (await top_ups.ask(attempt(customer_id="cus_unknown"))).paid
    assert await payments(connection) == []


async def test_a_key_that_may_not_charge_is_asked_again_later(standin):
    key = "rk_test_no_charges"
    standin.add_restricted_key(key, "rak_customer_read", "rak_payment_method_read")

    async def find(customer_id: str) -> str | None:
        return PAYER

    async with standin.serving() as url:
        connection = StripeConnection(key, base_url=url)
        with pytest.raises(StoreUnavailable, match="rak_payment_intent_write"):
            await StripeTopUps(connection, find).ask(attempt())
        await connection.close()


def test_what_is_asked_for_can_be_paid_to_the_last_part(top_ups):
    assert top_ups.payable_nano(1_234_567_891, "USD") == 1_240_000_000
    assert top_ups.payable_nano(1_000_000_001, "JPY") == 2_000_000_000
    assert top_ups.payable_nano(1_000_000_000, "USD") == 1_000_000_000
    with pytest.raises(InvalidInput):
        top_ups.payable_nano(1, "credits")


def page(**changes) -> PageRequest:
    base = PageRequest(
        customer_id="cus_a",
        provider_customer_id=PAYER,
        amount_minor=2_500,
        currency="USD",
        reference="tus_1",
        success_url="https://example.test/done",
        cancel_url="https://example.test/no",
        save_card=True,
    )
    return replace(base, **changes)


async def test_a_page_is_one_page_under_one_reference_and_its_payment_names_it(standin, connection):
    pages = StripePaymentPages(connection)
    first = await pages.open(page())
    assert await pages.open(page()) == first
    standin.complete_checkout(first.page_id)
    (payment,) = (await connection.client.v1.payment_intents.list_async()).data
    assert payment.metadata.to_dict()["sidecar_top_up"] == "tus_1"
    assert (payment.status, payment.amount) == ("succeeded", 2_500)


async def test_a_customer_without_an_account_can_pay_too(standin, connection):
    made = await StripePaymentPages(connection).open(page(provider_customer_id=None))
    standin.complete_checkout(made.page_id)
    (payment,) = (await connection.client.v1.payment_intents.list_async()).data
    assert payment.metadata.to_dict()["sidecar_customer"] == "cus_a"


async def test_a_page_that_stripe_refuses_is_a_refusal(connection):
    with pytest.raises(ProviderRefused):
        await StripePaymentPages(connection).open(page(provider_customer_id="cus_gone"))
