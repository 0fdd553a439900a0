"""Sources of notices on a real Postgres: what crosses is told once, whoever looks, and when."""

import asyncio
import itertools
from dataclasses import replace
from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest
from fixtures.grant_model import GrantModel
from fixtures.http_edges import FixedPolicies, make_policy
from fixtures.ledger_parts import add_customers
from fixtures.notice_parts import AT
from fixtures.stream_records import NOW, REPORTED, usage_record

from sidecar.domain.errors import Conflict, StoreUnavailable
from sidecar.domain.grants import GrantKind
from sidecar.domain.notices import Notice, NoticeKind
from sidecar.domain.orphans import OrphanCount, OrphanFate, OrphanRule
from sidecar.domain.standing import Standing, StandingFact
from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.outbound.postgres.ledger import PostgresLedger
from sidecar.outbound.postgres.notice_sources import PostgresNoticeSources
from sidecar.outbound.postgres.notices import PostgresNotices
from sidecar.outbound.postgres.outbox import PostgresOutbox
from sidecar.outbound.postgres.thresholds import PostgresThresholds
from sidecar.services.control_ports import Grant, ReportAttempt, ReportResult, ReportVerdict
from sidecar.services.notice_sources import CreditLimits, NoticeWatch, of_threshold
from sidecar.services.orphans import OrphanSettlement
from sidecar.services.thresholds import ThresholdReached

numbers = itertools.count(1)


def watch(pool, *, owner: str = "one", **limits: int) -> NoticeWatch:
    return NoticeWatch(
        PostgresNoticeSources(pool),
        owner=owner,
        limits=CreditLimits(**limits),
        interval_seconds=0.01,
    )


async def told(pool, *kinds: NoticeKind) -> list:
    listed = await PostgresNotices(pool).list(before=None, limit=200)
    return [one.notice for one in reversed(listed) if not kinds or one.notice.kind in kinds]


@pytest.fixture
async def pool(postgres_pool):
    """With a look behind it, so that what comes is new."""
    await watch(postgres_pool).look_all()
    return postgres_pool


class Credit:
    """A prepaid customer whose ledger moves as the test says."""

    def __init__(self, pool, customer_id: str = "cus_a") -> None:
        self.pool, self.customer_id = pool, customer_id
        self.model = GrantModel(customer_id)
        self._grants = itertools.count(1)

    async def settle(self, *records) -> None:
        ledger = PostgresLedger(self.pool)
        lease = await ledger.claim_shard(0, "worker", 300)
        await ledger.settle(lease, records, REPORTED)

    async def give(self, amount: int) -> None:
        name = f"g{next(self._grants)}"
        self.model.kinds[name] = GrantKind.PAID
        await PostgresAccounts(self.pool).create_grant(
            Grant(grant_id=name, customer_id=self.customer_id, amount_nano=amount, currency="USD")
        )
        await self.settle(self.model.grant(name, amount))

    async def use(self, amount: int) -> None:
        await self.settle(self.model.use(next(numbers), amount))


@pytest.fixture
async def credit(pool):
    await add_customers(pool, "cus_a")
    return Credit(pool)


def reached(percent: int, *, period: int = 1, customer_id: str = "cus_a", subject: str = ""):
    return ThresholdReached(
        customer_id=customer_id,
        quota="tokens",
        subject=subject,
        period_start=AT.replace(day=period),
        percent=percent,
        used=percent,
        limit=100,
    )


async def test_each_threshold_is_told_once_for_each_period_and_subject(pool):
    record = PostgresThresholds(pool)
    events = [reached(50), reached(80), reached(80, period=2), reached(80, subject="user=ada")]
    for one in events:
        await record.record([one])
        await watch(pool).look_all()
    for owner in ("two", "three"):
        await watch(pool, owner=owner).look_all()
    notices = await told(pool)
    assert [(one.facts["percent"], one.facts["subject"]) for one in notices] == [
        ("50", ""),
        ("80", ""),
        ("80", ""),
        ("80", "user=ada"),
    ]
    assert not any(one.amounts for one in notices)


async def test_a_threshold_that_commits_late_is_told_though_others_were_already(pool):
    """Its row bears the instant at which its transaction began: before the last look."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(
            "INSERT INTO threshold_events (customer_id, quota, subject, period_start, percent,"
            " used, quota_limit) VALUES ('cus_late', 'tokens', '', now(), 80, 1, 1)"
        )
        await PostgresThresholds(pool).record([reached(80)])
        assert await watch(pool).look_all() == 1
    await watch(pool).look_all()
    assert {one.customer_id for one in await told(pool)} == {"cus_a", "cus_late"}


async def test_a_subject_of_any_length_and_script_stops_no_source(pool):
    await PostgresThresholds(pool).record([reached(80, subject="user=" + "ü" * 700), reached(80)])
    await watch(pool).look_all()
    await watch(pool).look_all()
    assert len(await told(pool)) == 2


async def test_what_stands_before_the_first_look_is_noted_and_not_told(postgres_pool):
    await add_customers(postgres_pool, "cus_a")
    credit = Credit(postgres_pool)
    await credit.give(100)
    await credit.use(100)
    await PostgresThresholds(postgres_pool).record([reached(80)])
    await put_standing(postgres_pool, Standing.DELINQUENT)
    # An installation that comes from a version without notices: all of it is long ago.
    await postgres_pool.execute("UPDATE threshold_events SET reached_at = now() - interval '1 day'")
    await watch(postgres_pool).look_all()
    await watch(postgres_pool).look_all()
    assert await told(postgres_pool) == []
    await put_standing(postgres_pool, Standing.GOOD)
    await credit.give(50)
    await watch(postgres_pool).look_all()
    await credit.use(50)
    await watch(postgres_pool).look_all()
    assert [one.kind for one in await told(postgres_pool)] == [
        NoticeKind.STANDING_CHANGED,
        NoticeKind.CREDIT_EXHAUSTED,
    ]


async def test_exhausted_credit_is_told_once_for_each_crossing(pool, credit):
    await credit.give(100)
    for amount in (99, 1, 5):
        await credit.use(amount)
        for owner in ("one", "two"):
            await watch(pool, owner=owner).look_all()
    (only,) = await told(pool)
    assert (only.kind, only.facts, only.amounts) == (
        NoticeKind.CREDIT_EXHAUSTED,
        {"currency": "USD"},
        {"available": 0},
    )
    # Credit that only pays the debt lifts nothing.
    await credit.give(5)
    await watch(pool).look_all()
    assert len(await told(pool)) == 1
    await credit.give(10)
    await watch(pool).look_all()
    await credit.use(10)
    await watch(pool).look_all()
    assert len(await told(pool)) == 2


async def test_an_overdraft_is_credit_until_it_is_taken_away(pool, credit):
    await pool.execute("UPDATE customers SET overdraft_nano = 10")
    await credit.give(100)
    await credit.use(105)
    await watch(pool).look_all()
    assert await told(pool) == []
    # No usage follows, since checks are denied: the look at everybody sees it.
    await pool.execute("UPDATE customers SET overdraft_nano = 0")
    await pool.execute("UPDATE notice_sources SET all_at = now() - interval '2 hours'")
    await watch(pool).look_all()
    assert [one.kind for one in await told(pool)] == [NoticeKind.CREDIT_EXHAUSTED]


async def test_a_floor_is_what_counts_as_nothing_left(pool, credit):
    await credit.give(100)
    await credit.use(90)
    await watch(pool, floor_nano=9).look_all()
    assert await told(pool) == []
    await credit.use(1)
    await watch(pool, floor_nano=9).look_all()
    assert len(await told(pool)) == 1


async def test_a_customer_who_was_never_given_credit_exhausts_none(pool):
    await add_customers(pool, "cus_a")
    await Credit(pool).settle(usage_record(next(numbers)))
    await watch(pool).look_all()
    assert await told(pool) == []


async def sampled(pool, hours_ago: int, used_nano: int, customer_id: str = "cus_a") -> None:
    await pool.execute(
        "INSERT INTO credit_samples VALUES ($1, 'USD', now() - $2::interval, $3)",
        customer_id,
        timedelta(hours=hours_ago),
        used_nano,
    )


async def test_credit_that_runs_out_is_told_once_and_again_only_after_a_grant(pool, credit):
    await pool.execute("TRUNCATE credit_samples")
    await credit.give(10_000)
    await sampled(pool, 24, 0)
    await credit.use(2_400)  # 100 an hour: what is left lasts 76 hours.
    await watch(pool).look_all()
    assert await told(pool) == []
    await credit.use(400)  # 116 an hour: 61 hours.
    for owner in ("one", "two", "one"):
        await watch(pool, owner=owner).look_all()
    (first,) = await told(pool)
    assert (first.kind, first.facts["hours_left"]) == (NoticeKind.CREDIT_RUNNING_OUT, "61")
    assert first.amounts == {"available": 7_200}
    await credit.use(1_000)
    await watch(pool).look_all()
    assert len(await told(pool)) == 1
    await credit.give(1_000)
    await watch(pool).look_all()
    assert len(await told(pool)) == 2


async def test_the_dearer_of_day_and_week_counts_and_an_idle_month_dilutes_nothing(pool, credit):
    """A sample from long ago says what was used up to the beginning of the window, too."""
    await pool.execute("TRUNCATE credit_samples")
    await credit.give(10_000)
    await sampled(pool, 24 * 40, 0)
    await credit.use(4_800)
    await watch(pool).look_all()
    (only,) = await told(pool)
    # 200 an hour in the day (26 h), 28 an hour in the week.
    assert only.facts["hours_left"] == "26"


async def test_samples_are_kept_as_long_as_a_window_may_need_them(pool, credit):
    sources = PostgresNoticeSources(pool)
    await credit.give(100)
    for hours in (24 * 30, 24 * 20, 24 * 9, 24 * 3):
        await sampled(pool, hours, hours)
    await sampled(pool, 24 * 30, 7, "cus_other")
    for _ in range(2):
        await sources.sample_credit(["cus_a"])
    rows = await pool.fetch(
        "SELECT used_nano FROM credit_samples WHERE customer_id = 'cus_a' ORDER BY sampled_at"
    )
    assert [int(row["used_nano"]) for row in rows] == [24 * 9, 24 * 3, 0]
    assert await pool.fetchval("SELECT count(*) FROM credit_samples") == 4


async def put_standing(pool, standing: Standing, **changes) -> None:
    fact = StandingFact(standing=standing, **changes)
    await PostgresAccounts(pool).put_standing("cus_a", fact)


async def test_each_change_of_standing_is_told_once_overrides_and_their_end_too(pool):
    await add_customers(pool, "cus_a")
    await put_standing(pool, Standing.GOOD)
    await watch(pool).look_all()
    assert await told(pool) == []
    await put_standing(pool, Standing.GRACE)
    await watch(pool).look_all()
    await put_standing(pool, Standing.GRACE, reason="the same, for another reason")
    await watch(pool).look_all()
    until = await pool.fetchval("SELECT now() + interval '1 second'")
    await put_standing(pool, Standing.DELINQUENT, until=until)
    await watch(pool).look_all()
    await pool.execute("UPDATE standings SET until = now()")
    for owner in ("one", "two"):
        await watch(pool, owner=owner).look_all()
    notices = await told(pool)
    assert [(one.facts["before"], one.facts["standing"]) for one in notices] == [
        ("good", "grace"),
        ("grace", "delinquent"),
        ("delinquent", "good"),
    ]
    assert notices[1].facts["until"] == until.isoformat()
    assert "reason" not in notices[0].facts


async def test_failed_reports_are_one_notice_for_each_meter_and_hour(pool):
    await add_customers(pool, *(f"cus_{number}" for number in range(5)))
    ledger, outbox = PostgresLedger(pool), PostgresOutbox(pool)
    lease = await ledger.claim_shard(0, "worker", 300)
    records = [
        usage_record(number, customer_id=f"cus_{number % 5}", at=NOW, entry=number)
        for number in range(1, 11)
    ]
    await ledger.settle(lease, records, REPORTED)
    await outbox.seal(opened_before=AT.replace(year=2100), limit=100)
    rejected = ReportAttempt(verdict=ReportVerdict.REJECTED, detail="no such meter")
    rows = await outbox.claim("worker", limit=100, lease_seconds=60)
    assert len(rows) == 10
    await outbox.finish([ReportResult(row=row, attempt=rejected, retry_at=AT) for row in rows[:9]])
    await watch(pool).look_all()
    await pool.execute(
        "UPDATE report_windows SET state = 'uncertain', next_attempt_at = NULL,"
        " finished_at = now() WHERE state = 'pending'"
    )
    for _ in range(2):
        await watch(pool).look_all()
    notices = await told(pool, NoticeKind.REPORT_FAILED)
    assert {one.facts["meter"] for one in notices} == {"input-tokens", "output-tokens"}
    assert len(notices) in (2, 4)  # Four if the hour changed meanwhile.
    assert sum(int(one.facts["rows"]) for one in notices) == 9
    (uncertain,) = await told(pool, NoticeKind.REPORT_UNCERTAIN)
    assert (uncertain.customer_id, uncertain.facts["provider"]) == ("", "stripe")


async def test_one_worker_at_a_time_looks_at_a_source(pool):
    sources = PostgresNoticeSources(pool)
    terms = {"lease_seconds": 60.0, "all_every_seconds": 3600.0}
    first = await sources.begin("credit", "one", **terms)
    assert await sources.begin("credit", "two", **terms) is None
    assert await sources.begin("standing", "two", **terms) is not None
    await sources.finish(first)
    assert await sources.begin("credit", "two", **terms) is not None


async def test_a_look_whose_lease_was_lost_keeps_nothing_and_moves_no_mark(pool):
    await PostgresThresholds(pool).record([reached(80)])
    sources = PostgresNoticeSources(pool)
    late = await sources.begin("thresholds", "late", lease_seconds=0.0, all_every_seconds=3600.0)
    newer = await sources.begin("thresholds", "new", lease_seconds=60.0, all_every_seconds=3600.0)
    before = await pool.fetchval("SELECT looked_to FROM notice_sources WHERE source = 'thresholds'")
    (notice,) = await told_by(late, sources)
    with pytest.raises(Conflict):
        await sources.keep(late, [notice], ())
    await sources.finish(late)
    after = await pool.fetchval("SELECT looked_to FROM notice_sources WHERE source = 'thresholds'")
    assert (after, await told(pool)) == (before, [])
    await sources.keep(newer, [notice], ())
    assert await told(pool) == [notice]


async def told_by(look, sources):
    return [of_threshold(one) for one in await sources.thresholds(look, after=None, limit=9)]


async def test_many_workers_at_a_time_tell_each_fact_once(pool, credit):
    await credit.give(100)
    await credit.use(100)
    await PostgresThresholds(pool).record([reached(percent) for percent in range(1, 101)])
    watches = [watch(pool, owner=f"worker-{number}") for number in range(6)]
    for _ in range(3):
        await asyncio.gather(*(one.look_all() for one in watches))
    notices = await told(pool)
    assert len(notices) == len({(one.kind, one.fact_key) for one in notices}) == 101


async def test_pages_leave_nobody_out(pool, monkeypatch):
    monkeypatch.setattr("sidecar.services.notice_sources.PAGE_MAX", 3)
    names = [f"cus_{number:02d}" for number in range(10)]
    await add_customers(pool, *names)
    for name in names:
        await PostgresAccounts(pool).put_standing(name, StandingFact(standing=Standing.GRACE))
    await PostgresThresholds(pool).record([reached(80, customer_id=name) for name in names])
    await watch(pool).look_all()
    for kind in (NoticeKind.STANDING_CHANGED, NoticeKind.THRESHOLD_REACHED):
        assert sorted(one.customer_id for one in await told(pool, kind)) == names


class TooManyOrphans:
    """Implements OrphanCounts."""

    async def count_orphans(self, customer_id: str, since: datetime) -> OrphanCount:
        return OrphanCount(holds=100, orphans=100)


class AwayNotices:
    """Implements Notices, and is away."""

    async def put(self, *notices: Notice) -> int:
        raise StoreUnavailable("postgres: no answer")


def orphans_settled_with(notices) -> OrphanSettlement:
    policy = replace(make_policy(), orphans={"prepaid": OrphanRule()})
    return OrphanSettlement(
        policies=FixedPolicies(policy), counts=TooManyOrphans(), clock=FixedClock(), notices=notices
    )


class FixedClock:
    """Implements Clock."""

    def now(self) -> datetime:
        return AT


ORPHAN = SimpleNamespace(served=False, terms=SimpleNamespace(customer_id="cus_a", plan="prepaid"))


async def test_orphans_beyond_the_limit_are_told_once_an_hour_by_however_many_sweeps(pool):
    for _ in range(2):
        settlement = orphans_settled_with(PostgresNotices(pool))
        for _ in range(3):
            await settlement.fate(ORPHAN)
    (only,) = await told(pool)
    assert (only.kind, only.facts["plan"]) == (NoticeKind.ORPHANS_EXCEEDED, "prepaid")


async def test_orphans_are_settled_also_where_nobody_can_be_told():
    assert await orphans_settled_with(AwayNotices()).fate(ORPHAN) is OrphanFate.UNPROVEN
