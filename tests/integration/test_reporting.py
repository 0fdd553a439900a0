import asyncio
import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
import stripe
from fixtures.stream_records import REPORTED, until, usage_record

from sidecar import telemetry
from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.outbound.postgres.ledger import PostgresLedger
from sidecar.outbound.postgres.outbox import PostgresOutbox
from sidecar.outbound.stripe.reporter import StripeMeterReporter, classify
from sidecar.services.control_ports import Customer, ReportAttempt, ReportRow, ReportVerdict
from sidecar.services.reporting import RETRY_SECONDS_MAX, Reporter, retry_seconds
from sidecar.standins.stripe import StripeStandin
from sidecar.standins.stripe_faults import Fault, Faults
from sidecar.standins.stripe_settings import StripeSettings

CUSTOMERS = ("a", "b", "c", "d")
API_KEY = "sk_test_standin"


class PastClock:
    """Behind Postgres' own clock, so that whatever must wait is due at once."""

    def now(self) -> datetime:
        return datetime.now(UTC) - timedelta(hours=1)


class CrashError(Exception):
    pass


class CrashingProvider:
    """Sends, then dies before anybody hears of it."""

    def __init__(self, provider, crashes: int) -> None:
        self._provider = provider
        self._crashes = crashes

    async def report(self, row: ReportRow) -> ReportAttempt:
        attempt = await self._provider.report(row)
        if self._crashes:
            self._crashes -= 1
            raise CrashError
        return attempt


@pytest.fixture
async def ledger(postgres_pool):
    accounts = PostgresAccounts(postgres_pool)
    for name in CUSTOMERS:
        await accounts.create_customer(
            Customer(
                customer_id=f"cus_{name}",
                plan="plan",
                currency="USD",
                stripe_customer_id=f"cus_stripe_{name}",
            )
        )
    return PostgresLedger(postgres_pool)


@pytest.fixture
async def standin():
    standin = StripeStandin(faults=Faults(timeout_seconds=5.0))
    for name in CUSTOMERS:
        standin.add_customer(f"cus_stripe_{name}")
    for meter in ("input-tokens", "output-tokens"):
        standin.add_meter(meter)
    yield standin
    assert list(standin.bugs) == []


@pytest.fixture
async def provider(standin):
    async with standin.serving() as url:
        provider = StripeMeterReporter(API_KEY, base_url=url, timeout_seconds=1.0)
        yield provider
        await provider.close()


@pytest.fixture
def outbox(postgres_pool):
    return PostgresOutbox(postgres_pool)


@pytest.fixture
def reporter(outbox, provider):
    return make_reporter(outbox, provider)


def make_reporter(outbox, provider, **options) -> Reporter:
    return Reporter(outbox, provider, PastClock(), **({"owner": "worker"} | options))


async def settle(ledger, number: int, quantity: int, *, customer: str = "a") -> None:
    lease = await ledger.claim_shard(0, "worker", 30)
    record = usage_record(
        number,
        customer_id=f"cus_{customer}",
        at=datetime.now(UTC),
        quantities={"input-tokens": quantity},
    )
    assert await ledger.settle(lease, [record], REPORTED) == 1


def total(standin, customer: str = "a", meter: str = "input-tokens") -> Decimal:
    return standin.meter_totals().get((f"cus_stripe_{customer}", meter), Decimal(0))


async def test_a_settled_quantity_is_reported_once(standin, ledger, reporter):
    await settle(ledger, 1, 30)
    await settle(ledger, 2, 12)
    assert await reporter.report_once(force=True) == 1
    assert await reporter.report_once(force=True) == 0
    assert total(standin) == 42
    (event,) = standin.meter_events
    assert event.identifier.startswith("sc1:")


async def test_a_window_is_left_to_gather_until_report_every_has_passed(
    standin, ledger, outbox, provider
):
    class RealClock:
        def now(self) -> datetime:
            return datetime.now(UTC)

    reporter = Reporter(outbox, provider, RealClock(), owner="w", report_every=timedelta(hours=1))
    await settle(ledger, 1, 30)
    assert await reporter.report_once() == 0
    assert await reporter.report_once(force=True) == 1


@pytest.mark.parametrize(
    "case",
    [
        (Fault.DROP_BEFORE_COMMIT, ["retry", "delivered"]),
        # The same HTTP key replays the first answer.
        (Fault.DROP_AFTER_COMMIT, ["retry", "delivered"]),
        (Fault.TRUNCATE_AFTER_COMMIT, ["retry", "delivered"]),
        (Fault.TIMEOUT_BEFORE_COMMIT, ["retry", "delivered"]),
        (Fault.TIMEOUT_AFTER_COMMIT, ["retry", "delivered"]),
        (Fault.RATE_LIMIT, ["retry", "delivered"]),
        # A saved 500 would be replayed for ever under its key: the next key finds out.
        (Fault.ERROR_BEFORE_COMMIT, ["retry_rotated", "delivered"]),
        (Fault.ERROR_AFTER_COMMIT, ["retry_rotated", "duplicate"]),
    ],
)
async def test_every_fault_ends_in_one_delivery(standin, ledger, outbox, provider, case):
    fault, verdicts = case
    seen = []

    class Watched:
        async def report(self, row: ReportRow) -> ReportAttempt:
            attempt = await provider.report(row)
            seen.append(attempt.verdict.value)
            return attempt

    standin.faults.add(fault)
    await settle(ledger, 1, 42)
    reporter = make_reporter(outbox, Watched())
    assert await reporter.report_once(force=True) == 1
    assert seen == verdicts
    assert total(standin) == 42
    assert len(standin.meter_events) == 1


async def test_a_crash_between_send_and_finish_is_made_good_by_the_next_worker(
    standin, ledger, outbox, provider, postgres_pool
):
    await settle(ledger, 1, 42)
    crashing = CrashingProvider(provider, 1)
    with pytest.raises(CrashError):
        await make_reporter(outbox, crashing, lease_seconds=0).report_once(force=True)
    assert total(standin) == 42
    assert await make_reporter(outbox, provider, owner="next").report_once() == 1
    assert total(standin) == 42
    assert await postgres_pool.fetchval("SELECT state FROM report_windows") == "sent"


async def test_a_crash_whose_http_key_is_forgotten_is_answered_with_duplicate(
    standin, ledger, outbox, provider, postgres_pool
):
    await settle(ledger, 1, 42)
    with pytest.raises(CrashError):
        await make_reporter(outbox, CrashingProvider(provider, 1), lease_seconds=0).report_once(
            force=True
        )
    await postgres_pool.execute("UPDATE report_windows SET http_generation = 7")
    before = telemetry.REPORTS.labels("duplicate")._value.get()
    assert await make_reporter(outbox, provider).report_once() == 1
    assert telemetry.REPORTS.labels("duplicate")._value.get() == before + 1
    assert total(standin) == 42


async def test_other_rows_are_finished_although_one_call_dies(
    standin, ledger, outbox, provider, postgres_pool
):
    for number, customer in enumerate(CUSTOMERS):
        await settle(ledger, number, 10, customer=customer)
    with pytest.raises(CrashError):
        await make_reporter(outbox, CrashingProvider(provider, 1)).report_once(force=True)
    sent = await postgres_pool.fetchval("SELECT count(*) FROM report_windows WHERE state = 'sent'")
    assert sent == len(CUSTOMERS) - 1


async def test_an_unknown_meter_name_of_stripes_is_rejected_only_asynchronously(
    standin, ledger, provider
):
    row = report_row(event_name="no-such-meter")
    assert (await provider.report(row)).verdict is ReportVerdict.DELIVERED
    assert [report.code for report in standin.error_reports] == ["no_meter"]


async def test_what_stripe_refuses_for_good_is_rejected(provider):
    old = report_row(event_at=datetime.now(UTC) - timedelta(days=36))
    assert (await provider.report(old)).verdict is ReportVerdict.REJECTED
    long = report_row(quantity=10**15)
    assert (await provider.report(long)).verdict is ReportVerdict.REJECTED


async def test_a_refused_key_is_our_fault_and_the_row_waits(standin):
    async with standin.serving() as url:
        provider = StripeMeterReporter("not-a-key", base_url=url)
        attempt = await provider.report(report_row())
        await provider.close()
    assert attempt.verdict is ReportVerdict.RETRY
    assert "not-a-key" not in attempt.detail
    assert "not-a-key" not in repr(provider)


async def test_an_unreachable_stripe_is_a_retry():
    provider = StripeMeterReporter(API_KEY, base_url="http://127.0.0.1:1", timeout_seconds=1.0)
    assert (await provider.report(report_row())).verdict is ReportVerdict.RETRY
    await provider.close()


@pytest.mark.parametrize(
    ("status", "error", "verdict"),
    [
        (400, stripe.InvalidRequestError("bad", None), ReportVerdict.REJECTED),
        (404, stripe.InvalidRequestError("missing", None), ReportVerdict.REJECTED),
        (
            400,
            stripe.InvalidRequestError("An event already exists with identifier x.", None),
            ReportVerdict.DUPLICATE,
        ),
        (
            400,
            stripe.InvalidRequestError("x", None, code="duplicate_meter_event"),
            ReportVerdict.DUPLICATE,
        ),
        (400, stripe.IdempotencyError("other parameters"), ReportVerdict.RETRY_ROTATED),
        (409, stripe.IdempotencyError("under way"), ReportVerdict.RETRY),
        (409, stripe.APIError("lock"), ReportVerdict.RETRY),
        (429, stripe.RateLimitError("slow"), ReportVerdict.RETRY),
        (401, stripe.AuthenticationError("key"), ReportVerdict.RETRY),
        (403, stripe.PermissionError("key"), ReportVerdict.RETRY),
        (500, stripe.APIError("oops"), ReportVerdict.RETRY_ROTATED),
        (503, stripe.APIError("oops"), ReportVerdict.RETRY_ROTATED),
        (200, stripe.APIError("invalid body"), ReportVerdict.RETRY),
        (None, stripe.APIConnectionError("reset"), ReportVerdict.RETRY),
    ],
)
def test_each_answer_of_stripes_has_one_meaning(status, error, verdict):
    error.http_status = status
    assert classify(error).verdict is verdict


def test_waiting_doubles_up_to_a_cap_and_is_the_same_each_time():
    waits = [retry_seconds(report_row(attempts=attempts)) for attempts in range(1, 60)]
    assert waits == [retry_seconds(report_row(attempts=attempts)) for attempts in range(1, 60)]
    assert all(
        min(RETRY_SECONDS_MAX, 2.0**index) / 2 <= wait <= min(RETRY_SECONDS_MAX, 2.0**index)
        for index, wait in enumerate(waits)
    )
    assert retry_seconds(report_row(identifier="x")) != retry_seconds(report_row(identifier="y"))


async def test_totals_are_exact_under_faults_crashes_and_four_workers(
    standin, ledger, outbox, provider, postgres_pool
):
    seed = random.SystemRandom().randrange(10**6)
    dice = random.Random(seed)
    standin.settings = StripeSettings(latency_seconds=0.002)
    standin.faults = Faults(
        seed=seed,
        timeout_seconds=0.05,
        probabilities={
            Fault.DROP_BEFORE_COMMIT: 0.06,
            Fault.DROP_AFTER_COMMIT: 0.06,
            Fault.TRUNCATE_AFTER_COMMIT: 0.06,
            Fault.ERROR_BEFORE_COMMIT: 0.06,
            Fault.ERROR_AFTER_COMMIT: 0.06,
            Fault.RATE_LIMIT: 0.06,
        },
    )
    expected = dict.fromkeys(CUSTOMERS, 0)
    for number in range(120):
        customer, quantity = dice.choice(CUSTOMERS), dice.randint(1, 10**6)
        expected[customer] += quantity
        await settle(ledger, number, quantity, customer=customer)
        if number % 3 == 0:
            await outbox.seal(opened_before=datetime.now(UTC) + timedelta(days=1), limit=100)

    async def work(name: str) -> None:
        for _ in range(20):
            crashing = CrashingProvider(provider, int(dice.random() < 0.5))
            try:
                # A lease of 0 seconds would break the one-at-a-time rule on purpose.
                await make_reporter(outbox, crashing, owner=name, lease_seconds=1).report_once(
                    force=True
                )
            except CrashError:
                await asyncio.sleep(0.01)

    await asyncio.gather(*(work(f"worker-{number}") for number in range(4)))
    standin.faults.stop()
    states = "SELECT count(*) FROM report_windows WHERE state NOT IN ('sent')"
    while await postgres_pool.fetchval(states):
        await make_reporter(outbox, provider).report_once(force=True)
        await asyncio.sleep(0.05)
    assert {customer: total(standin, customer) for customer in CUSTOMERS} == expected, (
        f"seed {seed}"
    )
    assert standin.faults.drawn[Fault.NONE] < sum(standin.faults.drawn.values())


async def test_no_customers_meter_has_two_calls_at_a_time(standin, ledger, outbox, provider):
    standin.settings = StripeSettings(latency_seconds=0.01)
    for number in range(40):
        await settle(ledger, number, 1, customer=CUSTOMERS[number % 2])
        await outbox.seal(opened_before=datetime.now(UTC) + timedelta(days=1), limit=100)
    workers = [make_reporter(outbox, provider, owner=f"w{number}") for number in range(4)]
    await asyncio.gather(*(worker.report_once(force=True) for worker in workers))
    while await workers[0].report_once():
        pass
    assert {record.status for record in standin.requests_log} == {200}
    assert len(standin.meter_events) == 40


async def test_run_reports_until_it_is_stopped_and_outlives_an_absent_store(
    standin, ledger, outbox, provider, postgres_pool
):
    stop = asyncio.Event()
    reporter = make_reporter(outbox, provider, report_every=timedelta(hours=-2), poll_seconds=0.01)
    running = asyncio.create_task(reporter.run(stop))
    failures = telemetry.WORKER_FAILURES.labels("reporting")
    before = failures._value.get()
    async with postgres_pool.acquire() as connection:
        while failures._value.get() == before:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            await asyncio.sleep(0.001)
    await settle(ledger, 1, 7)
    await until(lambda: total(standin) == 7)
    stop.set()
    await running


def report_row(**changes) -> ReportRow:
    values = {
        "row_id": 1,
        "customer_id": "cus_a",
        "provider_customer_id": "cus_stripe_a",
        "event_name": "input-tokens",
        "quantity": 5,
        "identifier": "sc1:abc",
        "event_at": datetime.now(UTC),
        "http_generation": 0,
        "attempts": 1,
        "first_attempt_at": datetime.now(UTC),
    }
    return ReportRow(**(values | changes))
