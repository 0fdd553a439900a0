"""Comparisons with the stand-in's own sums: lost 0, double 0, and nothing blindly."""

import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from fixtures.stripe_reports import (
    API_KEY,
    FAULTS,
    METER,
    PastClock,
    RealClock,
    UnboundedReads,
    add_customers,
    counted,
    hours_ago,
    seed,
    settle,
)

from sidecar.domain.errors import StoreUnavailable
from sidecar.outbound.postgres.outbox import PostgresOutbox
from sidecar.outbound.postgres.report_rows import (
    PostgresReadBudget,
    PostgresReconciliations,
    PostgresSettlements,
)
from sidecar.outbound.stripe.client import StripeConnection
from sidecar.outbound.stripe.reporter import StripeMeterReporter
from sidecar.outbound.stripe.summaries import StripeMeterSums
from sidecar.services.report_evidence import periods
from sidecar.services.report_ports import BudgetSpent, Lane, Outcome
from sidecar.services.report_reconciling import ReconcileTimes, ReportReconciler
from sidecar.services.reporting import Reporter
from sidecar.services.settlements import SettlementService
from sidecar.standins.stripe import StripeStandin
from sidecar.standins.stripe_faults import Faults
from sidecar.standins.stripe_settings import StripeSettings

NOW_TIMES = ReconcileTimes(every_seconds=3_600, lag_seconds=0, reread_seconds=0)
FENCE = "UPDATE report_windows SET first_attempt_at = now() - interval '24 hours'"


@pytest.fixture
async def standin():
    standin = StripeStandin(faults=Faults(timeout_seconds=5.0))
    standin.add_meter(METER)
    for name in "abc":
        standin.add_customer(f"cus_stripe_{name}")
    yield standin
    assert list(standin.bugs) == []


@pytest.fixture
async def url(standin):
    async with standin.serving() as url:
        yield url


@pytest.fixture
async def connection(url):
    connection = StripeConnection(API_KEY, base_url=url, timeout_seconds=1.0)
    yield connection
    await connection.close()


@pytest.fixture
async def reporter(postgres_pool, url):
    await add_customers(postgres_pool, "abc")
    provider = StripeMeterReporter(API_KEY, base_url=url, timeout_seconds=1.0)
    yield Reporter(PostgresOutbox(postgres_pool), provider, PastClock(), owner="w", lease_seconds=0)
    await provider.close()


@pytest.fixture
def reads() -> UnboundedReads:
    return UnboundedReads()


@pytest.fixture
def reconciler(postgres_pool, connection, reads) -> ReportReconciler:
    return make(postgres_pool, connection, reads)


def make(pool, connection, reads, times=NOW_TIMES) -> ReportReconciler:
    sums = StripeMeterSums(connection, reads, RealClock())
    return ReportReconciler(PostgresReconciliations(pool), sums, RealClock(), times=times)


async def outcomes(reconciler) -> list[str]:
    return [one.outcome.value for one in await reconciler.run_once(customer_id="cus_a")]


async def states(pool) -> Counter[str]:
    return Counter(row["state"] for row in await pool.fetch("SELECT state FROM report_windows"))


async def lose(standin, identifier: str) -> None:
    """The stand-in takes an event and counts nothing, as at an asynchronous error."""
    (event,) = [one for one in standin.meter_events if one.identifier == identifier]
    event.error = "meter_event_invalid_value"


async def test_what_agrees_costs_two_reads_and_none_again(
    standin, reporter, reconciler, reads, postgres_pool
):
    await settle(postgres_pool, 1, 5, at=hours_ago(3))
    await settle(postgres_pool, 2, 6, at=hours_ago(5))
    await reporter.report_once(force=True)
    assert await outcomes(reconciler) == ["same"]
    # The list of meters, and one sum.
    assert reads.taken == 2
    assert await outcomes(reconciler) == []
    assert reads.taken == 2


async def test_an_uncertain_row_that_was_counted_is_done(
    standin, reporter, reconciler, postgres_pool
):
    await settle(postgres_pool, 1, 5, at=hours_ago(3))
    await reporter.report_once(force=True)
    await postgres_pool.execute("UPDATE report_windows SET state = 'uncertain'")
    assert await outcomes(reconciler) == ["same"]
    assert await states(postgres_pool) == {"sent": 1}
    await reporter.report_once()
    assert counted(standin) == 5


async def test_an_uncertain_row_that_was_not_counted_is_sent_again_after_two_readings(
    standin, reporter, reconciler, postgres_pool
):
    for number, quantity in enumerate((5, 7, 9)):
        await settle(postgres_pool, number, quantity, at=hours_ago(3))
        await reporter.report_once(force=True)
    lost = standin.meter_events[1]
    await lose(standin, lost.identifier)
    await postgres_pool.execute(
        "UPDATE report_windows SET state = 'uncertain' WHERE quantity IN (7, 9)"
    )
    assert await outcomes(reconciler) == ["waiting"]
    assert await states(postgres_pool) == {"sent": 1, "uncertain": 2}
    assert await outcomes(reconciler) == ["mended"]
    assert await states(postgres_pool) == {"sent": 2, "pending": 1}
    await reporter.report_once()
    assert counted(standin) == 21
    assert standin.meter_events[-1].identifier == f"{lost.identifier}:r1"
    assert await outcomes(reconciler) == ["same"]


async def test_a_row_that_stripe_lost_in_silence_is_sent_again(
    standin, reporter, reconciler, postgres_pool
):
    """Error reports are samples: most lost events are never named."""
    for number, hours in enumerate((3, 3, 4, 30)):
        await settle(postgres_pool, number, 10 + number, at=hours_ago(hours))
        await reporter.report_once(force=True)
    await lose(standin, standin.meter_events[1].identifier)
    await lose(standin, standin.meter_events[3].identifier)
    assert await outcomes(reconciler) == ["waiting"]
    assert await outcomes(reconciler) == ["mended"]
    await reporter.report_once()
    assert counted(standin) == 46
    assert await outcomes(reconciler) == ["same"]


async def double(postgres_pool, standin, reporter, reconciler) -> None:
    """The first name's event shows only after the row was sent again."""
    await settle(postgres_pool, 1, 5, at=hours_ago(3))
    await settle(postgres_pool, 2, 100, at=hours_ago(4))
    await reporter.report_once(force=True)
    (event,) = [one for one in standin.meter_events if one.value == 5]
    await lose(standin, event.identifier)
    await outcomes(reconciler)
    assert await outcomes(reconciler) == ["mended"]
    await reporter.report_once()
    event.error = None
    assert counted(standin) == 110


async def test_what_counted_twice_is_cancelled_while_stripe_takes_it(
    standin, reporter, reconciler, postgres_pool
):
    await double(postgres_pool, standin, reporter, reconciler)
    assert await outcomes(reconciler) == ["waiting"]
    assert await outcomes(reconciler) == ["mended"]
    assert [one.identifier[-3:] for one in standin.meter_events if one.cancelled] == [":r1"]
    assert counted(standin) == 105
    assert await outcomes(reconciler) == ["same"]


async def test_what_counted_twice_and_cannot_be_cancelled_any_more_is_balanced(
    standin, reporter, reconciler, postgres_pool
):
    await double(postgres_pool, standin, reporter, reconciler)
    await postgres_pool.execute(
        "UPDATE report_windows SET finished_at = finished_at - interval '25 hours'"
    )
    assert await outcomes(reconciler) == ["waiting"]
    assert await outcomes(reconciler) == ["mended"]
    correction = await postgres_pool.fetchrow(
        "SELECT quantity, seq, identifier FROM report_windows WHERE kind = 'correction'"
    )
    assert (correction["quantity"], correction["seq"]) == (-5, -1)
    await reporter.report_once()
    assert counted(standin) == 105
    assert await outcomes(reconciler) == ["same"]
    # Settlement counts its own rows on as if it were not there.
    await settle(postgres_pool, 3, 1, at=hours_ago(3))
    assert await postgres_pool.fetchval("SELECT max(seq) FROM report_windows") == 2


async def test_a_cancellation_that_never_reached_stripe_is_made_by_the_next_comparisons(
    standin, reporter, reconciler, postgres_pool, connection
):
    """A worker may die between what it has put on record and what it does about it."""
    await double(postgres_pool, standin, reporter, reconciler)

    async def die(*_):
        raise StoreUnavailable("the worker is gone")

    dying = make(postgres_pool, connection, UnboundedReads())
    dying._sums.cancel = die
    assert await outcomes(dying) == ["waiting"]
    with pytest.raises(StoreUnavailable):
        await outcomes(dying)
    assert counted(standin) == 110
    assert await outcomes(reconciler) == ["waiting"]
    assert await outcomes(reconciler) == ["mended"]
    assert counted(standin) == 105
    assert await outcomes(reconciler) == ["same"]


async def test_a_cancellation_that_stripe_refuses_is_balanced_in_the_end(
    standin, reporter, reconciler, postgres_pool
):
    await double(postgres_pool, standin, reporter, reconciler)
    for event in standin.meter_events:
        event.received_at -= timedelta(hours=25)
    for _ in range(4):
        await outcomes(reconciler)
    await reporter.report_once()
    assert counted(standin) == 105
    assert await outcomes(reconciler) == ["same"]


async def test_what_nothing_explains_is_left_to_people_who_may_balance_it(
    standin, reporter, reconciler, postgres_pool
):
    await settle(postgres_pool, 1, 5, at=hours_ago(3))
    await reporter.report_once(force=True)
    standin.meter_events[0].value = Decimal(12)
    assert [await outcomes(reconciler) for _ in range(3)] == [
        ["waiting"],
        ["unexplained"],
        ["unexplained"],
    ]
    assert counted(standin) == 12
    assert len(standin.meter_events) == 1
    (result,) = await reconciler.run_once(customer_id="cus_a", correct=True)
    assert result.outcome is Outcome.MENDED
    await reporter.report_once()
    assert counted(standin) == 5
    assert await outcomes(reconciler) == ["same"]


async def test_sums_that_lag_are_waited_for(postgres_pool, reads):
    """Without the wait, what is only late would look lost and be sent a second time."""
    late = StripeStandin(settings=StripeSettings(summary_lag=timedelta(seconds=1_800)))
    late.add_meter(METER)
    late.add_customer("cus_stripe_a")
    await add_customers(postgres_pool, "a")
    await settle(postgres_pool, 1, 5, at=hours_ago(5))
    async with late.serving() as url:
        provider = StripeMeterReporter(API_KEY, base_url=url)
        connection = StripeConnection(API_KEY, base_url=url)
        reporter = Reporter(PostgresOutbox(postgres_pool), provider, PastClock(), owner="w")
        await reporter.report_once(force=True)
        patient = make(
            postgres_pool, connection, reads, ReconcileTimes(lag_seconds=3_600, reread_seconds=0)
        )
        assert [await outcomes(patient) for _ in range(2)] == [["waiting"]] * 2
        assert reads.taken == 0
        hasty = make(postgres_pool, connection, reads)
        assert [await outcomes(hasty) for _ in range(2)] == [["waiting"], ["mended"]]
        await provider.close()
        await connection.close()


async def test_a_difference_is_read_twice_with_time_between(
    standin, reporter, connection, reads, postgres_pool
):
    await settle(postgres_pool, 1, 5, at=hours_ago(3))
    await reporter.report_once(force=True)
    await lose(standin, standin.meter_events[0].identifier)
    hasty = make(
        postgres_pool, connection, reads, ReconcileTimes(lag_seconds=0, reread_seconds=3_600)
    )
    assert [await outcomes(hasty) for _ in range(3)] == [["waiting"]] * 3
    await postgres_pool.execute(
        "UPDATE report_reconciliations SET read_at = read_at - interval '2 hours'"
    )
    assert await outcomes(hasty) == ["mended"]


async def test_what_was_mended_is_left_alone_for_as_long_as_sums_lag(
    standin, reporter, connection, reads, postgres_pool
):
    await settle(postgres_pool, 1, 5, at=hours_ago(5))
    await reporter.report_once(force=True)
    await lose(standin, standin.meter_events[0].identifier)
    quick = make(postgres_pool, connection, reads)
    await outcomes(quick)
    assert await outcomes(quick) == ["mended"]
    await reporter.report_once()
    await postgres_pool.execute(
        "UPDATE report_windows SET finished_at = finished_at - interval '2 hours'"
    )
    slow = make(
        postgres_pool, connection, reads, ReconcileTimes(lag_seconds=3_600, reread_seconds=0)
    )
    (waits,) = await slow.run_once(customer_id="cus_a")
    assert (waits.outcome, waits.detail) == (Outcome.WAITING, "what was mended is young")


async def test_a_row_in_flight_bounds_what_is_compared(
    standin, reporter, reconciler, postgres_pool
):
    await settle(postgres_pool, 1, 5, at=hours_ago(5))
    await reporter.report_once(force=True)
    await settle(postgres_pool, 2, 7, at=hours_ago(3))
    outbox = PostgresOutbox(postgres_pool)
    await outbox.seal(opened_before=hours_ago(-24), limit=10)
    await outbox.claim("dead", limit=1, lease_seconds=60)
    (result,) = await reconciler.run_once(customer_id="cus_a")
    assert (result.outcome, result.expected) == (Outcome.SAME, 5)
    assert result.period_end <= hours_ago(2)


async def test_a_customer_whom_stripe_does_not_know_is_unreadable_and_changes_nothing(
    standin, reporter, reconciler, postgres_pool
):
    await settle(postgres_pool, 1, 5, at=hours_ago(3))
    await reporter.report_once(force=True)
    await postgres_pool.execute("UPDATE report_windows SET provider_customer_id = 'cus_gone'")
    (result,) = await reconciler.run_once(customer_id="cus_a")
    assert result.outcome is Outcome.UNREADABLE
    assert "No such customer" in result.detail
    assert await states(postgres_pool) == {"sent": 1}


async def test_reads_are_bounded_by_run_and_by_month_over_all_processes(
    standin, reporter, connection, postgres_pool
):
    for number, customer in enumerate("abc"):
        await settle(postgres_pool, number, 5, customer=customer, at=hours_ago(3))
    await reporter.report_once(force=True)
    budget = PostgresReadBudget(postgres_pool, month_max=4, run_max=2)
    record = PostgresReconciliations(postgres_pool)
    sums = StripeMeterSums(connection, budget, RealClock())
    reconciler = ReportReconciler(
        record, sums, RealClock(), times=NOW_TIMES, begin_run=budget.begin_run
    )
    # A list of meters and one sum.
    with pytest.raises(BudgetSpent, match="this run's 2"):
        await reconciler.run_once()
    with pytest.raises(StoreUnavailable), postgres_pool_away(record):
        await reconciler.run_once()
    found = await reconciler.run_once()
    assert [one.outcome for one in found] == [Outcome.SAME] * 2
    assert await budget.used() == 4
    other = PostgresReadBudget(postgres_pool, month_max=4, run_max=2)
    with pytest.raises(BudgetSpent, match="this month's 4"):
        await other.take()


class postgres_pool_away:  # noqa: N801  Reads as a state of the world.
    """While it lasts, the record does not answer."""

    def __init__(self, record) -> None:
        self._record = record
        self._pool = record._pool

    def __enter__(self) -> None:
        class Away:
            def __getattr__(self, name):
                raise OSError("away")

        self._record._pool = Away()

    def __exit__(self, *_) -> None:
        self._record._pool = self._pool


async def test_a_lane_has_its_turn_once_and_earlier_if_something_is_in_doubt(
    standin, reporter, reconciler, postgres_pool
):
    record = PostgresReconciliations(postgres_pool)
    for number, customer in enumerate("ab"):
        await settle(postgres_pool, number, 5, customer=customer, at=hours_ago(3))
    await reporter.report_once(force=True)
    assert len(await reconciler.run_once()) == 2
    assert await record.claim_lanes(before=hours_ago(1), now=hours_ago(0), limit=9) == []
    identifier = standin.meter_events[0].identifier
    service = SettlementService(PostgresSettlements(postgres_pool))
    assert await service.take_error(identifier, "meter_event_invalid_value")
    assert len(await record.claim_lanes(before=hours_ago(1), now=hours_ago(0), limit=9)) == 1


async def test_the_fence_makes_it_the_lanes_turn(standin, reporter, postgres_pool):
    await settle(postgres_pool, 1, 5, at=hours_ago(3))
    outbox = PostgresOutbox(postgres_pool)
    await outbox.seal(opened_before=hours_ago(-24), limit=10)
    await outbox.claim("dead", limit=1, lease_seconds=0)
    record = PostgresReconciliations(postgres_pool)
    assert len(await record.claim_lanes(before=hours_ago(1), now=hours_ago(0), limit=9)) == 1
    await postgres_pool.execute(FENCE)
    assert await outbox.claim("w", limit=1, lease_seconds=0) == []
    assert await states(postgres_pool) == {"uncertain": 1}
    (lane,) = await record.claim_lanes(before=hours_ago(1), now=hours_ago(0), limit=9)
    assert lane == Lane(customer_id="cus_a", meter=METER)


async def test_nothing_is_lost_or_double_under_faults_fences_and_errors(
    standin, reporter, postgres_pool, connection, reads
):
    """
    Rows are fenced while it is unknown whether they were counted, events are lost in silence or
    reported as errors; the sums are right in the end.
    """
    number = seed()
    dice = random.Random(number)
    standin.faults = Faults(seed=number, timeout_seconds=0.05, probabilities=FAULTS)
    expected: Counter[str] = Counter()
    outbox = PostgresOutbox(postgres_pool)
    service = SettlementService(PostgresSettlements(postgres_pool))
    reconciler = make(postgres_pool, connection, reads)
    lost: set[str] = set()

    async def disturb() -> None:
        """A row that had a try is fenced; an event is lost in silence, or with a report of it."""
        await postgres_pool.execute(
            "UPDATE report_windows SET first_attempt_at = now() - interval '24 hours'"
            " WHERE state = 'pending' AND tries > 0 AND row_id % 2 = $1",
            dice.randint(0, 1),
        )
        for event in standin.meter_events:
            if event.error is None and event.identifier not in lost and dice.random() < 0.1:
                lost.add(event.identifier)
                event.error = "meter_event_invalid_value"
                if dice.random() < 0.5:
                    await service.take_error(f"{event.identifier}:0", event.error)

    for index in range(60):
        customer, quantity = dice.choice("abc"), dice.randint(1, 10**6)
        expected[customer] += quantity
        at = hours_ago(dice.choice((2.5, 3.5, 30)))
        await settle(postgres_pool, index, quantity, customer=customer, at=at)
        if index % 5 == 0:
            await reporter.report_once(force=True)
            await disturb()
            await outbox.claim("fences", limit=0, lease_seconds=0)
    standin.faults.stop()
    for _ in range(12):
        await postgres_pool.execute(
            "UPDATE report_windows SET next_attempt_at = now() WHERE state = 'pending'"
        )
        await reporter.report_once(force=True)
        for row in await service.list(customer_id="", state=None, after=0, limit=500):
            if row.state == "failed" and row.uncounted:
                await service.retry(row.number)
        await postgres_pool.execute("UPDATE report_lanes SET checked_at = '-infinity'")
        await reconciler.run_once()
    assert {name: int(counted(standin, name)) for name in "abc"} == {
        name: expected[name] for name in "abc"
    }, f"seed {number}"
    assert await states(postgres_pool) == {"sent": sum((await states(postgres_pool)).values())}
    assert lost


def test_periods_are_months_up_to_what_is_young():
    now = datetime(2026, 3, 10, 12, 34, tzinfo=UTC)
    month = datetime(2026, 3, 1, tzinfo=UTC)
    before = datetime(2026, 2, 1, tzinfo=UTC)
    assert periods(now, timedelta(hours=2)) == [
        (before, month),
        (month, datetime(2026, 3, 10, 10, tzinfo=UTC)),
    ]
    assert periods(month + timedelta(hours=1), timedelta(hours=1)) == [(before, month)]
    assert periods(month, timedelta(hours=1)) == [
        (datetime(2026, 1, 1, tzinfo=UTC), before),
        (before, month - timedelta(hours=1)),
    ]
