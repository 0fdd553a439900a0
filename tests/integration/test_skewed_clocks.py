"""Usage whose client's clock is wrong: what is reported of it, and when."""

from datetime import timedelta

import pytest
from fixtures.stripe_reports import (
    API_KEY,
    METER,
    PastClock,
    add_customers,
    counted,
    hours_ago,
    settle,
)

from sidecar.outbound.postgres.outbox import PostgresOutbox
from sidecar.outbound.stripe.reporter import StripeMeterReporter
from sidecar.services.reporting import Reporter
from sidecar.standins.stripe import StripeStandin


@pytest.fixture
async def standin():
    standin = StripeStandin()
    standin.add_meter(METER)
    standin.add_customer("cus_stripe_a")
    yield standin
    assert list(standin.bugs) == []


async def test_usage_of_an_hour_that_is_still_to_come_waits_for_it(postgres_pool, standin):
    """Stripe takes five minutes of future at most, and would refuse it for good."""
    await add_customers(postgres_pool, "a")
    await settle(postgres_pool, 1, 5, at=hours_ago(-2))
    await settle(postgres_pool, 2, 7, at=hours_ago(0))
    async with standin.serving() as url:
        provider = StripeMeterReporter(API_KEY, base_url=url, timeout_seconds=2.0)
        reporter = Reporter(PostgresOutbox(postgres_pool), provider, PastClock(), owner="worker")
        assert await reporter.report_once(force=True) == 1
        rows = await postgres_pool.fetch("SELECT state, quantity FROM report_windows ORDER BY 2")
        assert [tuple(row) for row in rows] == [("open", 5), ("sent", 7)]
        assert counted(standin) == 7
        # Two hours later, as far as this window goes.
        await postgres_pool.execute(
            "UPDATE report_windows SET window_start = window_start - $1::interval"
            " WHERE state = 'open'",
            timedelta(hours=3),
        )
        assert await reporter.report_once(force=True) == 1
        await provider.close()
    assert counted(standin) == 12
