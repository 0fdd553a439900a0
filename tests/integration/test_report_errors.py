"""Asynchronous errors reopen rows; people list them and send them again once."""

import pytest
from fixtures.stripe_reports import (
    API_KEY,
    METER,
    PastClock,
    add_customers,
    counted,
    settle,
)

from sidecar.domain.errors import Conflict, NotFound
from sidecar.outbound.postgres.outbox import PostgresOutbox
from sidecar.outbound.postgres.report_rows import PostgresSettlements
from sidecar.outbound.stripe.reporter import StripeMeterReporter
from sidecar.services.control_ports import ReportAttempt, ReportResult, ReportState, ReportVerdict
from sidecar.services.reporting import Reporter
from sidecar.services.settlements import SettlementService
from sidecar.standins.stripe import StripeStandin


@pytest.fixture
async def standin():
    standin = StripeStandin()
    yield standin
    assert list(standin.bugs) == []


@pytest.fixture
async def reporter(postgres_pool, standin):
    await add_customers(postgres_pool, "ab")
    async with standin.serving() as url:
        provider = StripeMeterReporter(API_KEY, base_url=url, timeout_seconds=2.0)
        yield Reporter(PostgresOutbox(postgres_pool), provider, PastClock(), owner="worker")
        await provider.close()


@pytest.fixture
def service(postgres_pool) -> SettlementService:
    return SettlementService(PostgresSettlements(postgres_pool))


async def note_all(service, standin) -> int:
    """Tell the service of every error so far, as the webhooks would: by the HTTP key."""
    return sum(
        [await service.take_error(report.http_key, report.code) for report in standin.error_reports]
    )


async def failed(service, **options):
    return await service.list(customer_id="", state=ReportState.FAILED, after=0, limit=50)


async def test_a_report_for_an_unknown_customer_is_kept_and_sent_again_once_mended(
    standin, reporter, service, postgres_pool
):
    standin.add_meter(METER)
    await settle(postgres_pool, 1, 42)
    assert await reporter.report_once(force=True) == 1
    assert counted(standin) == 0
    assert await note_all(service, standin) == 1
    (row,) = await failed(service)
    assert (row.error_code, row.uncounted) == ("meter_event_customer_not_found", True)
    standin.add_customer("cus_stripe_a")
    await service.retry(row.number)
    assert await reporter.report_once() == 1
    assert counted(standin) == 42
    assert standin.meter_events[-1].identifier == f"{row.identifier}:r1"
    # The error of the first name, told again, is not of the row any more.
    assert await note_all(service, standin) == 0
    assert await failed(service) == []


async def test_a_mapping_that_was_mended_is_what_the_retry_goes_to(
    standin, reporter, service, postgres_pool
):
    standin.add_meter(METER)
    await settle(postgres_pool, 1, 7)
    await reporter.report_once(force=True)
    await note_all(service, standin)
    standin.add_customer("cus_right")
    await postgres_pool.execute(
        "UPDATE customers SET stripe_customer_id = 'cus_right' WHERE customer_id = 'cus_a'"
    )
    (row,) = await failed(service)
    await service.retry(row.number)
    await reporter.report_once()
    assert standin.meter_totals() == {("cus_right", METER): 7}


async def test_an_archived_meter_keeps_the_row_until_it_is_brought_back(
    standin, reporter, service, postgres_pool
):
    standin.add_customer("cus_stripe_a")
    await settle(postgres_pool, 1, 5)
    await reporter.report_once(force=True)
    assert await note_all(service, standin) == 1
    (row,) = await failed(service)
    assert row.error_code == "no_meter"
    standin.add_meter(METER)
    await service.retry(row.number)
    await service.retry(row.number)
    await reporter.report_once()
    assert counted(standin) == 5


async def test_an_error_beats_a_delivery_that_is_noted_later(
    standin, reporter, service, postgres_pool
):
    """The webhook may be faster than the worker that sent the event."""
    standin.add_meter(METER)
    outbox = PostgresOutbox(postgres_pool)
    await settle(postgres_pool, 1, 5)
    await outbox.seal(opened_before=PastClock().now().replace(year=2100), limit=10)
    (row,) = await outbox.claim("worker", limit=1, lease_seconds=30)
    assert await service.take_error(f"{row.identifier}:0", "meter_event_customer_not_found")
    attempt = ReportAttempt(verdict=ReportVerdict.DELIVERED)
    await outbox.finish([ReportResult(row=row, attempt=attempt, retry_at=PastClock().now())])
    assert [one.state for one in await failed(service)] == [ReportState.FAILED]
    # Nor does it finish the row's next name.
    await service.retry((await failed(service))[0].number)
    await outbox.finish([ReportResult(row=row, attempt=attempt, retry_at=PastClock().now())])
    assert await postgres_pool.fetchval("SELECT state FROM report_windows") == "pending"


async def test_only_what_is_known_not_to_be_counted_is_sent_again(
    standin, reporter, service, postgres_pool
):
    standin.add_meter(METER)
    standin.add_customer("cus_stripe_a")
    await settle(postgres_pool, 1, 5)
    await reporter.report_once(force=True)
    number = await postgres_pool.fetchval("SELECT row_id FROM report_windows")
    with pytest.raises(Conflict, match="only failed ones"):
        await service.retry(number)
    await postgres_pool.execute("UPDATE report_windows SET state = 'failed'")
    with pytest.raises(Conflict, match="may have been counted"):
        await service.retry(number)
    with pytest.raises(NotFound):
        await service.retry(number + 1)


async def test_a_refusal_counts_as_uncounted_only_at_the_first_attempt(
    standin, reporter, service, postgres_pool
):
    standin.add_meter(METER)
    standin.add_customer("cus_stripe_a")
    outbox = PostgresOutbox(postgres_pool)
    for number, customer in ((1, "a"), (2, "b")):
        await settle(postgres_pool, number, 10**15, customer=customer)
    await outbox.seal(opened_before=PastClock().now().replace(year=2100), limit=10)
    await postgres_pool.execute(
        "UPDATE report_windows SET attempts = 1, tries = 1, first_attempt_at = now()"
        " WHERE customer_id = 'cus_b'"
    )
    await reporter.report_once()
    rows = {row.customer_id: row for row in await failed(service)}
    assert rows["cus_a"].uncounted
    assert not rows["cus_b"].uncounted
    assert rows["cus_a"].error_code == "meter_event_value_too_many_digits"


@pytest.mark.parametrize("text", ["", "sc1:abc", "other", "sc1:" + "0" * 64 + ":r0", "x" * 500])
async def test_a_foreign_identifier_is_counted_and_changes_nothing(service, text):
    assert not await service.take_error(text, "no_meter")


async def test_who_is_marked_as_a_test_is_never_reported(standin, reporter, postgres_pool, service):
    standin.add_meter(METER)
    standin.add_customer("cus_stripe_t")
    await add_customers(postgres_pool, "t", labels={"test": "true"})
    await settle(postgres_pool, 1, 5, customer="t")
    assert await reporter.report_once(force=True) == 0
    assert await postgres_pool.fetchval("SELECT count(*) FROM report_windows") == 0


async def test_who_is_marked_as_a_test_later_is_not_reported_either(
    standin, reporter, postgres_pool, service
):
    standin.add_meter(METER)
    standin.add_customer("cus_stripe_a")
    await settle(postgres_pool, 1, 5)
    await postgres_pool.execute('UPDATE customers SET labels = \'{"test": "true"}\'')
    assert await reporter.report_once(force=True) == 0
    (row,) = await failed(service)
    assert row.error_code == "test_customer"
    assert standin.meter_events == ()


async def test_a_page_of_settlements_goes_on_after_its_last_number(
    reporter, postgres_pool, service
):
    for number, customer in enumerate("abab"):
        await settle(postgres_pool, number, 5, customer=customer)
        await PostgresOutbox(postgres_pool).seal(
            opened_before=PastClock().now().replace(year=2100), limit=10
        )
    first = await service.list(customer_id="", state=None, after=0, limit=3)
    rest = await service.list(customer_id="", state=None, after=first[-1].number, limit=3)
    assert [row.customer_id for row in (*first, *rest)] == ["cus_a", "cus_b"] * 2
    mine = await service.list(customer_id="cus_b", state=ReportState.PENDING, after=0, limit=9)
    assert len(mine) == 2


async def test_what_credit_paid_opens_no_window_whatever_else_is_in_the_batch(
    standin, reporter, postgres_pool
):
    """One batch, one rate card, one meter: only what was not prepaid reaches the provider."""
    standin.add_meter(METER)
    standin.add_customer("cus_stripe_a")
    await settle(postgres_pool, 1, 5, prepaid=True, overage_nano=2_500)
    await settle(postgres_pool, 2, 7)
    assert await reporter.report_once(force=True) == 1
    assert counted(standin) == 7
