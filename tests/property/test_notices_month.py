"""A month of crossings, in any order, by any number of workers that die: each is told once."""

import asyncio
import itertools
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta

from fixtures.ledger_parts import add_customers
from fixtures.notice_parts import AT, Way
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.domain.errors import Conflict
from sidecar.domain.notices import Channel, NoticeKind
from sidecar.domain.standing import Standing, StandingFact
from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.outbound.postgres.notice_sources import PostgresNoticeSources
from sidecar.outbound.postgres.notices import PostgresNotices
from sidecar.outbound.postgres.thresholds import PostgresThresholds
from sidecar.services.notice_routes import NoticeRoutes
from sidecar.services.notice_sources import CreditLimits, NoticeWatch
from sidecar.services.noticing import NoticeRouter, NoticeSender, SendLimits
from sidecar.services.thresholds import ThresholdReached

PERCENTS = (50, 80, 95, 100)
NAMED = ("quota", "period_start", "percent")
QUOTAS = ("tokens", "requests")
MONTH_START = AT.replace(day=1, hour=0, minute=0)
ROUTES = NoticeRoutes(channels=frozenset({Channel.WEBHOOK}))
LIMITS = SendLimits(retry_seconds_first=0.0001, retry_seconds_max=0.0001)
runs = itertools.count(1)

usage = st.tuples(
    st.just("use"),
    st.integers(0, 1),  # Which of two customers.
    st.sampled_from(QUOTAS),
    st.integers(0, 29),  # The day: its own period.
    st.integers(1, 70),
)
steps = st.lists(
    st.one_of(
        usage,
        usage,
        st.tuples(st.just("stand"), st.integers(0, 1), st.sampled_from(list(Standing))),
        st.tuples(st.sampled_from(["look", "look", "route", "send", "race"])),
        # The worker dies after it kept a page, and before it noted how far it had looked.
        st.tuples(st.just("die_looking")),
    ),
    max_size=40,
)


class DyingSources(PostgresNoticeSources):
    """The real ones, of a worker that dies before the end of each look; its lease ends with it."""

    async def finish(self, look) -> None:
        await self._pool.execute(
            "UPDATE notice_sources SET lease_owner = NULL, lease_until = NULL WHERE source = $1",
            look.source,
        )


@dataclass
class Month:
    """What happened, and so what must be told."""

    pool: object
    names: tuple[str, str]
    way: Way = field(default_factory=Way)
    used: Counter = field(default_factory=Counter)
    standing: dict[str, str] = field(default_factory=dict)
    crossed: set[tuple] = field(default_factory=set)

    def watch(self, owner: str, *, dies: bool = False) -> NoticeWatch:
        sources = (DyingSources if dies else PostgresNoticeSources)(self.pool)
        return NoticeWatch(sources, owner=owner, limits=CreditLimits(), interval_seconds=1)

    async def use(self, place: int, quota: str, day: int, amount: int) -> None:
        """As `Thresholds` does: all percentages that are reached, known or not."""
        name = self.names[place]
        self.used[name, quota, day] += amount
        percent = self.used[name, quota, day]
        reached = [
            ThresholdReached(
                customer_id=name,
                quota=quota,
                subject="",
                period_start=MONTH_START + timedelta(days=day),
                percent=one,
                used=percent,
                limit=100,
            )
            for one in PERCENTS
            if percent >= one
        ]
        if reached:
            await PostgresThresholds(self.pool).record(reached)
        self.crossed |= {(name, quota, one.period_start, one.percent) for one in reached}

    async def stand(self, place: int, standing: Standing) -> None:
        name = self.names[place]
        await PostgresAccounts(self.pool).put_standing(name, StandingFact(standing=standing))
        # Looked at at once: what changes and changes back between two looks is no change.
        await self.look("one")
        self.standing[name] = standing.value

    async def look(self, owner: str, *, dies: bool = False) -> None:
        try:
            await self.watch(owner, dies=dies).look_all()
        except Conflict:
            assert dies

    async def route(self) -> None:
        await NoticeRouter(
            record=PostgresNotices(self.pool), routes=ROUTES, retention_days=9, poll_seconds=1
        ).route_once()

    async def send(self, owner: str) -> None:
        sender = NoticeSender(
            Channel.WEBHOOK,
            self.way,
            record=PostgresNotices(self.pool),
            routes=ROUTES,
            owner=owner,
            limits=LIMITS,
        )
        while await sender.send_once():
            pass

    async def race(self) -> None:
        await asyncio.gather(
            *(self.look(f"racer-{number}") for number in range(3)),
            *(self.route() for _ in range(2)),
            *(self.send(f"sender-{number}") for number in range(2)),
        )


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(plan=steps)
async def test_each_crossing_of_a_month_is_told_once(postgres_pool, plan):
    run = next(runs)
    names = (f"cus_{run}_a", f"cus_{run}_b")
    await add_customers(postgres_pool, *names)
    month = Month(postgres_pool, names)
    await month.look("one")
    changes: Counter = Counter()
    for step, *arguments in plan:
        match step:
            case "use":
                await month.use(*arguments)
            case "stand":
                place, standing = arguments
                before = month.standing.get(names[place], "good")
                changes[names[place]] += before != standing.value
                await month.stand(place, standing)
            case "look":
                await month.look("two")
            case "die_looking":
                await month.look("dying", dies=True)
            case "route":
                await month.route()
            case "send":
                await month.send("one")
            case "race":
                await month.race()
    await month.look("last")
    await month.route()
    await month.send("last")
    listed = await PostgresNotices(postgres_pool).list(before=None, limit=10_000)
    ours = [one for one in listed if one.notice.customer_id in names]
    thresholds = Counter(
        (one.notice.customer_id, *(one.notice.facts[name] for name in NAMED))
        for one in ours
        if one.notice.kind is NoticeKind.THRESHOLD_REACHED
    )
    wanted = {
        (name, quota, start.isoformat(), str(percent))
        for name, quota, start, percent in month.crossed
    }
    assert thresholds == dict.fromkeys(wanted, 1)
    stood = Counter(
        one.notice.customer_id for one in ours if one.notice.kind is NoticeKind.STANDING_CHANGED
    )
    assert stood == +changes
    sent = Counter(notice_id for notice_id, _ in month.way.sent)
    assert sent == {one.notice_id: 1 for one in listed if one.notice_id in sent}
    assert {one.notice_id for one in ours} <= set(sent)
    assert month.way.clashes == 0
