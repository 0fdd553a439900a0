"""Customers come to Stripe once, whatever fails and whoever is killed between two steps."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from fixtures.http_edges import FixedPolicies, make_policy
from fixtures.stripe_reports import (
    API_KEY,
    FAULTS,
    METER,
    PastClock,
    RealClock,
    UnboundedReads,
    hours_ago,
    seed,
    settle,
)

from sidecar.domain.errors import ProviderFailed, StoreUnavailable
from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.outbound.postgres.outbox import PostgresOutbox
from sidecar.outbound.postgres.provider_customers import PostgresProviderCustomers
from sidecar.outbound.stripe.client import StripeConnection
from sidecar.outbound.stripe.customers import BY_ID, StripeAccounts
from sidecar.outbound.stripe.reporter import StripeMeterReporter
from sidecar.services.control_ports import Customer
from sidecar.services.onboarding import KEYS_REMEMBERED, Onboarding, ProviderAccount
from sidecar.services.reporting import Reporter
from sidecar.standins.stripe import StripeStandin
from sidecar.standins.stripe_faults import Fault, Faults

COMPANY = "customer.metadata.company_id"
STATES = "SELECT customer_id, state, reason FROM provider_customers ORDER BY customer_id"
DUE = "UPDATE provider_customers SET next_attempt_at = now() WHERE next_attempt_at IS NOT NULL"


@pytest.fixture
async def standin():
    standin = StripeStandin(faults=Faults(timeout_seconds=2.0, paths=None))
    yield standin
    assert list(standin.bugs) == []


@pytest.fixture
async def connection(standin):
    async with standin.serving() as url:
        connection = StripeConnection(API_KEY, base_url=url, timeout_seconds=1.0)
        connection.url = url
        yield connection
        await connection.close()


async def add(pool, *names: str, plan: str = "postpaid", **changes) -> None:
    for name in names:
        await PostgresAccounts(pool).create_customer(
            Customer(customer_id=name, plan=plan, currency="USD", **changes)
        )


def make(pool, connection, *, field=BY_ID, creates=True, subscribes=False, accounts=None, **more):
    accounts = accounts or StripeAccounts(
        connection, UnboundedReads(), field=field, pages_max=more.pop("pages_max", 10)
    )
    return Onboarding(
        PostgresProviderCustomers(pool),
        accounts,
        FixedPolicies(make_policy()),
        RealClock(),
        creates=creates,
        subscribes=subscribes,
    )


async def listed(connection):
    found = await connection.client.v1.customers.list_async({"limit": 100})
    return found.data


async def mapped(pool) -> dict[str, str]:
    rows = await pool.fetch("SELECT customer_id, stripe_customer_id FROM customers")
    return {row["customer_id"]: row["stripe_customer_id"] for row in rows}


async def reasons(pool) -> dict[str, tuple[str, str]]:
    return {row["customer_id"]: (row["state"], row["reason"]) for row in await pool.fetch(STATES)}


async def test_customers_are_made_once_and_put_on_record(postgres_pool, connection):
    await add(postgres_pool, "cus_1", "cus_2")
    await add(postgres_pool, "cus_own", stripe_customer_id="cus_stripe_own")
    await add(postgres_pool, "cus_test", labels={"test": "true"})
    onboarding = make(postgres_pool, connection)
    assert await onboarding.run_once() == 2
    assert await onboarding.run_once() == 0
    found = {
        item.metadata.to_dict()["sidecar_customer"]: item.id for item in await listed(connection)
    }
    assert set(found) == {"cus_1", "cus_2"}
    assert await mapped(postgres_pool) == found | {"cus_own": "cus_stripe_own", "cus_test": None}


class Dying:
    """Does what it is told to at the provider, then dies before anybody hears of it."""

    def __init__(self, accounts: StripeAccounts, error: Exception) -> None:
        self._accounts = accounts
        self._error = error
        self.livemode = accounts.livemode

    def __getattr__(self, name):
        return getattr(self._accounts, name)

    async def create(self, newcomer):
        await self._accounts.create(newcomer)
        raise self._error


def forget_keys(standin: StripeStandin) -> None:
    """As Stripe does after a day."""
    standin.settings = replace(standin.settings, idempotency_window=timedelta(0))
    standin._keys._settings = standin.settings


class KilledError(BaseException):
    pass


@pytest.mark.parametrize("hours", [0, 25])
async def test_a_worker_that_dies_after_the_provider_made_it_makes_no_second(
    postgres_pool, connection, standin, hours
):
    """After a day Stripe has forgotten the key, so the customer is looked for."""
    await add(postgres_pool, "cus_1")
    accounts = StripeAccounts(connection, UnboundedReads(), field=BY_ID, pages_max=10)
    with pytest.raises(KilledError):
        await make(postgres_pool, connection, accounts=Dying(accounts, KilledError())).run_once()
    await postgres_pool.execute(DUE)
    if hours:
        forget_keys(standin)
        await postgres_pool.execute(
            "UPDATE provider_customers SET first_attempt_at = now() - interval '25 hours'"
        )
    assert await make(postgres_pool, connection).run_once() == 1
    (only,) = await listed(connection)
    assert await mapped(postgres_pool) == {"cus_1": only.id}


@pytest.mark.parametrize("error", [ProviderFailed("500"), StoreUnavailable("no answer")])
async def test_an_attempt_whose_answer_is_lost_makes_no_second(postgres_pool, connection, error):
    await add(postgres_pool, "cus_1")
    accounts = StripeAccounts(connection, UnboundedReads(), field=BY_ID, pages_max=10)
    await make(postgres_pool, connection, accounts=Dying(accounts, error)).run_once()
    assert (await reasons(postgres_pool))["cus_1"][0] == "waiting"
    await postgres_pool.execute(DUE)
    await make(postgres_pool, connection).run_once()
    (only,) = await listed(connection)
    assert await mapped(postgres_pool) == {"cus_1": only.id}


async def test_thirty_per_cent_of_faults_make_each_customer_once(
    postgres_pool, connection, standin
):
    number = seed()
    names = [f"cus_{index}" for index in range(25)]
    await add(postgres_pool, *names)
    standin.faults = Faults(seed=number, timeout_seconds=0.05, probabilities=FAULTS, paths=None)
    onboarding = make(postgres_pool, connection)
    for _ in range(40):
        await postgres_pool.execute(DUE)
        await onboarding.run_once()
        if all((await mapped(postgres_pool)).values()):
            break
    standin.faults.stop()
    found = {
        item.metadata.to_dict()["sidecar_customer"]: item.id for item in await listed(connection)
    }
    assert len(await listed(connection)) == len(names), f"seed {number}"
    assert await mapped(postgres_pool) == found, f"seed {number}"


async def test_who_was_erased_is_not_made_again(postgres_pool, connection):
    await add(postgres_pool, "cus_1", "cus_2", stripe_customer_id=None)
    onboarding = make(postgres_pool, connection)
    await PostgresAccounts(postgres_pool).erase_customer("cus_2")
    await onboarding.run_once()
    await PostgresAccounts(postgres_pool).erase_customer("cus_1")
    await onboarding.run_once()
    assert await mapped(postgres_pool) == {"cus_1": None, "cus_2": None}
    assert len(await listed(connection)) == 1


async def test_a_customer_who_is_there_by_its_id_is_mapped_and_others_wait(
    postgres_pool, connection, standin
):
    standin.add_customer("cus_there")
    await add(postgres_pool, "cus_there", "cus_absent")
    onboarding = make(postgres_pool, connection, creates=False)
    await onboarding.run_once()
    assert await mapped(postgres_pool) == {"cus_there": "cus_there", "cus_absent": None}
    state, reason = (await reasons(postgres_pool))["cus_absent"]
    assert (state, reason) == ("waiting", "the provider has no such customer")
    standin.add_customer("cus_absent")
    await postgres_pool.execute(DUE)
    await onboarding.run_once()
    assert (await mapped(postgres_pool))["cus_absent"] == "cus_absent"


async def company(connection, *names: str) -> list[str]:
    made = [
        await connection.client.v1.customers.create_async({"metadata": {"company_id": name}})
        for name in names
    ]
    return [item.id for item in made]


async def test_a_metadata_field_maps_and_two_of_one_name_are_refused(postgres_pool, connection):
    (one, _, _) = await company(connection, "acme", "twin", "twin")
    await add(postgres_pool, "acme", "twin")
    await make(postgres_pool, connection, field=COMPANY, creates=False).run_once()
    assert await mapped(postgres_pool) == {"acme": one, "twin": None}
    state, reason = (await reasons(postgres_pool))["twin"]
    assert state == "refused"
    assert reason.startswith("ambiguous: 2 accounts")


async def test_nobody_is_mapped_from_a_list_that_was_cut_off(postgres_pool, connection):
    """A second one of the same name may stand behind the cut."""
    await company(connection, *(f"c{index}" for index in range(100)), "acme")
    await add(postgres_pool, "acme")
    cut = make(postgres_pool, connection, field=COMPANY, creates=False, pages_max=1)
    await cut.run_once()
    assert await mapped(postgres_pool) == {"acme": None}
    assert "longer than 1 pages" in (await reasons(postgres_pool))["acme"][1]
    await postgres_pool.execute(DUE)
    await make(postgres_pool, connection, field=COMPANY, creates=False, pages_max=2).run_once()
    assert (await mapped(postgres_pool))["acme"] is not None


class Answering:
    """Answers one account that cannot be the customer's."""

    livemode = True

    def __init__(self, account) -> None:
        self._account = account

    async def find_mapped(self, customer_ids):
        return {name: [self._account] for name in customer_ids}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"livemode": False, "currency": None}, "a test account under a live key"),
        ({"livemode": True, "currency": "EUR"}, "the account is in EUR, the customer in USD"),
    ],
)
async def test_an_account_that_cannot_be_the_customers_is_refused(
    postgres_pool, connection, changes, reason
):
    await add(postgres_pool, "cus_1")
    account = ProviderAccount(account_id="cus_x", **changes)
    await make(postgres_pool, connection, accounts=Answering(account), creates=False).run_once()
    assert await reasons(postgres_pool) == {"cus_1": ("refused", reason)}
    assert await mapped(postgres_pool) == {"cus_1": None}


async def test_a_key_without_the_scope_waits_and_names_it(postgres_pool, standin):
    key = "rk_test_limited"
    standin.add_restricted_key(key, "rak_customer_read")
    await add(postgres_pool, "cus_1")
    async with standin.serving() as url:
        connection = StripeConnection(key, base_url=url)
        await make(postgres_pool, connection).run_once()
        await connection.close()
    state, reason = (await reasons(postgres_pool))["cus_1"]
    assert (state, reason) == ("waiting", "the key may not: rak_customer_write")


async def test_usage_before_the_account_is_there_waits_and_is_reported_once(
    postgres_pool, connection, standin
):
    standin.add_meter(METER)
    await add(postgres_pool, "cus_a", plan="plan")
    await settle(postgres_pool, 1, 42, at=hours_ago(2), accounts_come=True)
    provider = StripeMeterReporter(API_KEY, base_url=connection.url, timeout_seconds=1.0)
    reporter = Reporter(PostgresOutbox(postgres_pool), provider, PastClock(), owner="w")
    assert await reporter.report_once(force=True) == 0
    await make(postgres_pool, connection).run_once()
    await settle(postgres_pool, 2, 8, at=hours_ago(2), accounts_come=True)
    assert await reporter.report_once(force=True) == 2
    await provider.close()
    account = (await mapped(postgres_pool))["cus_a"]
    assert standin.meter_totals() == {(account, METER): 50}


class Subscribing:
    """Prices and subscriptions in memory, beside real accounts; loses answers on demand."""

    def __init__(self, accounts: StripeAccounts) -> None:
        self._accounts = accounts
        self.livemode = accounts.livemode
        self.prices: list[str] = []
        self.made: dict[str, str] = {}
        self.failures: list[Exception] = []

    def __getattr__(self, name):
        return getattr(self._accounts, name)

    async def find_prices(self, plan, currency):
        assert (plan, currency) == ("postpaid", "USD")
        return self.prices

    async def find_subscription(self, newcomer):
        return self.made.get(newcomer.key)

    async def subscribe(self, newcomer, prices):
        assert newcomer.key not in self.made, "a second subscription"
        self.made[newcomer.key] = f"sub_{newcomer.customer_id}"
        if self.failures:
            raise self.failures.pop()
        return self.made[newcomer.key]


async def test_a_postpaid_customer_is_subscribed_once_there_are_prices(postgres_pool, connection):
    await add(postgres_pool, "cus_1")
    await add(postgres_pool, "cus_2", plan="prepaid")
    real = StripeAccounts(connection, UnboundedReads(), field=BY_ID, pages_max=10)
    accounts = Subscribing(real)
    onboarding = make(postgres_pool, connection, accounts=accounts, subscribes=True)
    await onboarding.run_once()
    found = await reasons(postgres_pool)
    assert found["cus_2"] == ("done", "")
    assert found["cus_1"][0] == "subscribing"
    assert "catalog apply" in found["cus_1"][1]
    accounts.prices = ["price_1"]
    accounts.failures = [ProviderFailed("500")]
    for _ in range(3):
        await postgres_pool.execute(DUE)
        await onboarding.run_once()
    assert (await reasons(postgres_pool))["cus_1"][0] == "done"
    assert len(accounts.made) == 1
    row = await postgres_pool.fetchrow(
        "SELECT subscription_id FROM provider_customers WHERE customer_id = 'cus_1'"
    )
    assert row["subscription_id"] == "sub_cus_1"


async def test_subscriptions_go_to_the_plans_own_prices_in_the_customers_currency(
    postgres_pool, connection, standin
):
    v1 = connection.client.v1
    meter = standin.add_meter(METER)
    product = await v1.products.create_async({"name": "API"})

    async def price(currency: str, plan: str) -> str:
        made = await v1.prices.create_async(
            {
                "product": product.id,
                "currency": currency,
                "unit_amount_decimal": "0.05",
                "recurring": {"interval": "month", "usage_type": "metered", "meter": meter},
                "metadata": {"sidecar_plan": plan},
            }
        )
        return str(made.id)

    wanted = await price("usd", "postpaid")
    await price("eur", "postpaid")
    await price("usd", "other")
    await add(postgres_pool, "cus_1")
    onboarding = make(postgres_pool, connection, subscribes=True)
    standin.faults.add(Fault.NONE, Fault.NONE, Fault.ERROR_AFTER_COMMIT)
    for _ in range(4):
        await postgres_pool.execute(DUE)
        await onboarding.run_once()
    (made,) = (await v1.subscriptions.list_async({"status": "all"})).data
    assert made.customer == (await mapped(postgres_pool))["cus_1"]
    items = await v1.subscription_items.list_async({"subscription": made.id})
    assert [item.price.id for item in items.data] == [wanted]
    assert (await reasons(postgres_pool))["cus_1"][0] == "done"


async def test_two_workers_make_nobody_twice(postgres_pool, connection):
    await add(postgres_pool, *(f"cus_{index}" for index in range(30)))
    workers = [make(postgres_pool, connection) for _ in range(4)]
    counts = await asyncio.gather(*(worker.run_once() for worker in workers))
    assert sum(counts) == 30
    assert len(await listed(connection)) == 30


def test_the_key_is_believed_for_less_than_stripe_remembers_it():
    assert timedelta(hours=24) > KEYS_REMEMBERED
