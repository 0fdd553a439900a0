"""Meter events as the official SDK sees them: counted once, replayed, refused, lost on the way."""

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import aiohttp
import pytest
import stripe

from sidecar.standins.stripe import StripeStandin
from sidecar.standins.stripe_faults import Fault, Faults
from sidecar.standins.stripe_settings import MovableClock, StripeSettings

KEY = "sk_test_standin"
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
NOON_SECONDS = int(NOON.timestamp())
TOTAL = ("cus_1", "tokens")


@pytest.fixture(autouse=True)
def without_telemetry(monkeypatch):
    monkeypatch.setattr(stripe, "enable_telemetry", False)


@asynccontextmanager
async def connected(url, key=KEY, timeout_seconds=20):
    http = stripe.AIOHTTPClient(timeout=timeout_seconds)
    addresses = {"api": url, "connect": url, "files": url, "meter_events": url}
    try:
        yield stripe.StripeClient(
            key, base_addresses=addresses, http_client=http, max_network_retries=0
        )
    finally:
        await http.close_async()


@asynccontextmanager
async def running(*script, bugs=0, timeout_seconds=20, settings=None, **options):
    """A stand-in with one customer and one meter, and a client of it."""
    clock = MovableClock(now=NOON)
    standin = StripeStandin(clock=clock, faults=Faults(script=script, **options), settings=settings)
    standin.add_customer("cus_1")
    standin.add_meter("tokens")
    standin.clock = clock
    async with standin.serving() as url, connected(url, timeout_seconds=timeout_seconds) as client:
        yield standin, client
    assert len(standin.bugs) == bugs, standin.bugs


async def until(condition):
    while not condition():  # noqa: ASYNC110 - The server under test sets no event for us.
        await asyncio.sleep(0.01)


def send(client, identifier, key=None, value="25", customer="cus_1"):
    return client.v1.billing.meter_events.create_async(
        {
            "event_name": "tokens",
            "identifier": identifier,
            "timestamp": NOON_SECONDS,
            "payload": {"stripe_customer_id": customer, "value": value},
        },
        {"idempotency_key": key or f"{identifier}:0"},
    )


async def test_a_meter_event_counts():
    async with running() as (standin, client):
        event = await send(client, "id-1")
        assert event.to_dict() == {
            "object": "billing.meter_event",
            "created": NOON_SECONDS,
            "event_name": "tokens",
            "identifier": "id-1",
            "livemode": False,
            "payload": {"stripe_customer_id": "cus_1", "value": "25"},
            "timestamp": NOON_SECONDS,
        }
        assert standin.meter_totals() == {TOTAL: Decimal(25)}
        assert standin.values() == {"tokens": Decimal(25)}
        assert standin.meter_event_count == 1
        assert list(standin.requests_log) == [("POST", "/v1/billing/meter_events", 200)]


async def test_a_duplicate_identifier_is_a_400_that_is_not_to_be_retried():
    async with running() as (standin, client):
        await send(client, "id-1")
        with pytest.raises(stripe.InvalidRequestError) as caught:
            await send(client, "id-1", "id-1:1")
        assert caught.value.http_status == 400
        assert caught.value.user_message == "An event already exists with identifier id-1."
        assert caught.value.code is None
        assert caught.value.headers["stripe-should-retry"] == "false"
        assert standin.values() == {"tokens": Decimal(25)}


async def test_the_same_http_key_replays_the_first_answer():
    async with running() as (standin, client):
        first = await send(client, "id-1")
        again = await send(client, "id-1")
        assert again.to_dict() == first.to_dict()
        assert again.last_response.headers["idempotent-replayed"] == "true"
        assert again.last_response.headers["original-request"] == first.last_response.request_id
        assert standin.meter_event_count == 1


async def test_the_same_http_key_with_another_body_is_an_idempotency_error():
    async with running() as (standin, client):
        await send(client, "id-1", "key")
        with pytest.raises(stripe.IdempotencyError) as caught:
            await send(client, "id-2", "key")
        assert caught.value.http_status == 400
        with pytest.raises(stripe.IdempotencyError):
            await client.v1.customers.create_async({}, {"idempotency_key": "key"})
        assert standin.meter_event_count == 1


@pytest.mark.parametrize(
    ("fault", "counted_by_first"), [("ERROR_BEFORE_COMMIT", 0), ("ERROR_AFTER_COMMIT", 1)]
)
async def test_a_saved_500_is_replayed_until_the_http_key_is_rotated(fault, counted_by_first):
    async with running(Fault[fault]) as (standin, client):
        for _ in range(3):
            with pytest.raises(stripe.APIError) as caught:
                await send(client, "id-1", "id-1:0")
            assert caught.value.http_status == 500
        assert standin.meter_event_count == counted_by_first
        if counted_by_first:
            with pytest.raises(stripe.InvalidRequestError, match="already exists"):
                await send(client, "id-1", "id-1:1")
        else:
            await send(client, "id-1", "id-1:1")
        assert standin.values() == {"tokens": Decimal(25)}


@pytest.mark.parametrize("fault", [Fault.ERROR_BEFORE_COMMIT, Fault.ERROR_AFTER_COMMIT])
async def test_a_500_that_is_not_saved_runs_again_under_the_same_key(fault):
    settings = StripeSettings(save_server_errors=False)
    async with running(fault, settings=settings) as (standin, client):
        with pytest.raises(stripe.APIError):
            await send(client, "id-1")
        if fault is Fault.ERROR_AFTER_COMMIT:
            with pytest.raises(stripe.InvalidRequestError, match="already exists"):
                await send(client, "id-1")
        else:
            await send(client, "id-1")
        assert standin.values() == {"tokens": Decimal(25)}


async def test_a_connection_dropped_before_the_commit_leaves_nothing():
    async with running(Fault.DROP_BEFORE_COMMIT) as (standin, client):
        with pytest.raises(stripe.APIConnectionError):
            await send(client, "id-1")
        assert standin.meter_event_count == 0
        await send(client, "id-1")
        assert standin.meter_event_count == 1
        assert [record.status for record in standin.requests_log] == [0, 200]


async def test_a_connection_dropped_after_the_commit_makes_the_retry_a_replay_or_a_duplicate():
    async with running(Fault.DROP_AFTER_COMMIT) as (standin, client):
        with pytest.raises(stripe.APIConnectionError):
            await send(client, "id-1", "id-1:0")
        assert standin.meter_event_count == 1
        replayed = await send(client, "id-1", "id-1:0")
        assert replayed.last_response.headers["idempotent-replayed"] == "true"
        with pytest.raises(stripe.InvalidRequestError, match="already exists"):
            await send(client, "id-1", "id-1:1")
        assert standin.values() == {"tokens": Decimal(25)}


async def test_half_an_answer_reaches_the_caller_as_a_bare_aiohttp_error():
    async with running(Fault.TRUNCATE_AFTER_COMMIT) as (standin, client):
        with pytest.raises(aiohttp.ClientPayloadError):
            await send(client, "id-1")
        assert standin.meter_event_count == 1


@pytest.mark.parametrize(
    ("fault", "counted"), [("TIMEOUT_BEFORE_COMMIT", 0), ("TIMEOUT_AFTER_COMMIT", 1)]
)
async def test_a_request_without_answer_times_out_at_the_client(fault, counted):
    async with running(Fault[fault], timeout_seconds=0.3) as (standin, client):
        with pytest.raises(stripe.APIConnectionError):
            await send(client, "id-1")
        assert standin.meter_event_count == counted


async def test_a_slow_request_commits_after_its_client_has_gone():
    async with running(Fault.LATENCY, timeout_seconds=0.2, latency_seconds=0.6) as (
        standin,
        client,
    ):
        with pytest.raises(stripe.APIConnectionError):
            await send(client, "id-1")
        await until(lambda: standin.meter_event_count == 1)
        assert standin.values() == {"tokens": Decimal(25)}


async def test_one_call_at_a_time_per_customer_and_meter():
    async with running(Fault.LATENCY, latency_seconds=1.0) as (standin, client):
        standin.add_customer("cus_2")
        first = asyncio.create_task(send(client, "id-1"))
        await until(lambda: Fault.LATENCY in standin.faults.drawn)
        with pytest.raises(stripe.RateLimitError) as caught:
            await send(client, "id-2")
        # The SDK leaves `code` of a 429 empty; the body has it.
        assert (caught.value.http_status, caught.value.error.code) == (429, "lock_timeout")
        assert "stripe-rate-limited-reason" not in caught.value.headers
        # Nor has the SDK a class for 409: only the status tells it from a 5xx.
        with pytest.raises(stripe.APIError) as in_use:
            await send(client, "id-1")
        assert (in_use.value.http_status, in_use.value.error.code) == (
            409,
            "idempotency_key_in_use",
        )
        await send(client, "id-3", customer="cus_2")
        await first
        await send(client, "id-2")  # A 429 is not saved: the same key runs.
        assert standin.meter_totals() == {TOTAL: Decimal(50), ("cus_2", "tokens"): Decimal(25)}


async def test_a_rate_limit_has_a_reason_and_leaves_nothing():
    async with running(Fault.RATE_LIMIT) as (standin, client):
        with pytest.raises(stripe.RateLimitError) as caught:
            await send(client, "id-1")
        assert caught.value.headers["stripe-rate-limited-reason"] == "global-rate"
        await send(client, "id-1")
        assert standin.meter_event_count == 1


async def test_an_unknown_customer_is_accepted_and_reported_later():
    async with running() as (standin, client):
        await send(client, "id-1", "id-1:0", customer="cus_unknown")
        [report] = standin.error_reports
        assert (report.code, report.http_key) == ("meter_event_customer_not_found", "id-1:0")
        assert (standin.meter_event_count, standin.values()) == (0, {})


async def test_the_same_identifier_counts_twice_25_hours_later():
    async with running() as (standin, client):
        await send(client, "id-1")
        standin.clock.advance(timedelta(hours=25))
        await send(client, "id-1")
        assert standin.values() == {"tokens": Decimal(50)}


async def test_faults_from_a_seed_lose_and_double_nothing_under_the_protocol():
    chances = dict.fromkeys(
        (
            Fault.DROP_BEFORE_COMMIT,
            Fault.DROP_AFTER_COMMIT,
            Fault.ERROR_BEFORE_COMMIT,
            Fault.ERROR_AFTER_COMMIT,
            Fault.RATE_LIMIT,
        ),
        0.1,
    )
    async with running(probabilities=chances, seed=3) as (standin, client):
        for number in range(100):
            generation = 0
            while True:
                try:
                    await send(client, f"id-{number}", f"id-{number}:{generation}", str(number))
                except (stripe.APIConnectionError, stripe.RateLimitError):
                    continue
                except stripe.InvalidRequestError as error:
                    assert "already exists" in error.user_message  # noqa: PT017 - Delivered.
                except stripe.APIError:
                    generation += 1
                    continue
                break
        assert standin.faults.drawn[Fault.NONE] < sum(standin.faults.drawn.values())
        assert standin.values() == {"tokens": Decimal(sum(range(100)))}
        assert standin.meter_event_count == 100


async def test_an_event_can_be_cancelled():
    async with running() as (standin, client):
        await send(client, "id-1")
        adjustment = await client.v1.billing.meter_event_adjustments.create_async(
            {"event_name": "tokens", "type": "cancel", "cancel": {"identifier": "id-1"}}
        )
        assert adjustment.status == "pending"
        assert (standin.meter_event_count, standin.values()) == (0, {})


async def test_a_request_outside_the_description_names_its_parameter():
    async with running() as (standin, client):
        with pytest.raises(stripe.InvalidRequestError) as caught:
            await send(client, "x" * 101)
        assert (caught.value.http_status, caught.value.param) == (400, "identifier")
        assert standin.meter_event_count == 0


@pytest.mark.parametrize("key", ["pk_test_standin", "sk_live", "nonsense"])
async def test_a_key_of_the_wrong_shape_is_a_401_that_does_not_repeat_it(key):
    async with running() as (standin, _):
        await standin.stop()
        async with connected(await standin.start(), key) as stranger:
            with pytest.raises(stripe.AuthenticationError) as caught:
                await send(stranger, "id-1")
        assert key not in caught.value.user_message
        assert standin.meter_event_count == 0


async def test_what_the_stand_in_has_not_is_an_honest_501():
    async with running() as (_, client):
        calls = [
            client.v1.billing.credit_grants.list_async(),
            client.v2.billing.meter_event_session.create_async(),
            client.v1.customers.create_async({"test_clock": "clock_1"}),
            client.v1.customers.retrieve_async("cus_1", {"expand": ["tax"]}),
        ]
        for call in calls:
            with pytest.raises(stripe.APIError, match="does not model") as caught:
                await call
            assert caught.value.http_status == 501


async def test_a_full_stand_in_answers_500_and_says_so():
    settings = StripeSettings(meter_events_max=1)
    async with running(settings=settings, bugs=1) as (standin, client):
        await send(client, "id-1")
        with pytest.raises(stripe.APIError, match="meter_events_max") as caught:
            await send(client, "id-2")
        assert caught.value.http_status == 500
        assert standin.meter_event_count == 1


async def test_a_response_that_does_not_fit_is_a_500_that_says_why():
    async with running(bugs=1) as (standin, client):
        customer = await client.v1.customers.create_async({})
        standin.account.customers.room.items[customer.id]["email"] = 5
        with pytest.raises(stripe.APIError, match=r"customer\.retrieve 200 at 'email'"):
            await client.v1.customers.retrieve_async(customer.id)


async def test_state_survives_a_restart_of_the_server():
    async with running() as (standin, client):
        await send(client, "id-1")
        await standin.stop()
        async with connected(await standin.start()) as again:
            with pytest.raises(stripe.InvalidRequestError, match="already exists"):
                await send(again, "id-1", "id-1:1")
