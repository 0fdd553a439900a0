"""A deployment whose workers are killed all the time, and what must be true of it all the same."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Protocol

from chaos.jobs import GUARDS, JOBS, WEIGHTS
from chaos.outside import Outside, at_stripe
from chaos.points import Task
from chaos.workers import TIME_PASSES, End, Workers
from fixtures.live_store import LiveStore
from fixtures.simulation_model import Bill, bill
from fixtures.simulation_parts import Parts

from sidecar.domain.usage import TokenUsage, UsageReport
from sidecar.outbound.policy_files.holder import PolicyHolder
from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.outbound.postgres.pool import Pool
from sidecar.services.control_ports import Customer
from sidecar.services.hold_terms import MeterPrincipal
from sidecar.services.metering import UsageOutcome

AT_STRIPE = [
    (f"cus_{plan}_{number}", plan)
    for plan in ("invoiced", "packs", "fractions")
    for number in range(2)
]
COLLECTED = [(f"cus_collected_{number}", "invoiced") for number in range(3)]
"""Nobody else rates their usage: Paystack collects our invoices of it."""
CUSTOMERS = AT_STRIPE + COLLECTED
REPORTED = ("input", "output")
TOKENS_MAX = 900
EVENTS_A_ROUND = 6
SIDE_BY_SIDE = (1, 2, 2, 3)
"""Workers that live at the same time."""
AFTER_SETTLING = ("report", "invoice")
SETTLED_FIRST = 0.7
AT_ANY_MOMENT = 0.25
ANY_MOMENT_SECONDS = 0.25
WITHIN = 0.4
WITHIN_SECONDS_MAX = 0.1
UNKILLED_FIRST = 0.5
KILLS_IN_TURN = 500
SHOWING = frozenset({"webhooks", "standing"})
COMMON = 0.05
LIVES_MIN = 3
"""A point that such a share of a job's workers came by must have killed one in a long run."""
HOURS_LATE_MAX = 3.0
DAYS_A_STEP = 3.0
"""How far the clock of invoices and standings goes at the most after each death."""
MEANWHILE_SECONDS = 0.3
STANDS_STILL = 0.2
LOCKED_SECONDS_MAX = 3.0
ACTS_MEANWHILE = 6
AT_GUARDS = 0.7
LEASES_END = 0.3
"""How often leases end while those who hold them live."""
LOOK_LEASE = timedelta(minutes=1)
FIRST_AND_LAST = ("settle", "standing", "compare")
AT_ONCE = 3
QUIET_ROUNDS = 4
COLLECTING_ROUNDS_MAX = 200
OPEN_COLLECTIONS = "SELECT count(*) FROM collections WHERE ended_at IS NULL"
SENDING_ROUNDS_MAX = 12
OPEN_COMPARISONS = """
SELECT (SELECT count(*) FROM report_reconciliations WHERE outcome <> 'same')
    + (SELECT count(*) FROM report_windows WHERE state <> 'sent')
"""
SENDER = MeterPrincipal(name="gateway", may_send_unheld=True)
_TAKEN = {UsageOutcome.UNHELD, UsageOutcome.DUPLICATE, UsageOutcome.CAPTURED, UsageOutcome.LATE}


@dataclass(frozen=True, slots=True)
class Sent:
    """Usage that a gateway took, as `fixtures.simulation_model.bill` reads it."""

    customer: str
    event_id: str
    charged: tuple[int, int]
    occurred_at: datetime


@dataclass(slots=True)
class Tally:
    """What a run came to."""

    kills: Counter[str] = field(default_factory=Counter)
    tries: Counter[str] = field(default_factory=Counter)
    """How often somebody was to die at a point."""
    lives: Counter[str] = field(default_factory=Counter)
    """How many workers came to the end of a job."""
    stood: int = 0
    unfinished: int = 0
    finished: int = 0
    repeats: int = 0


class Story(Protocol):
    """Some more customers, what happens to them, and what must be true of them in the end."""

    async def open(self) -> None: ...

    async def go_on(self) -> None: ...

    async def check(self) -> None: ...


class World:
    """Gateway and providers live in this process, each worker in one of its own."""

    def __init__(
        self, rng: Random, store: LiveStore, pool: Pool, urls: tuple[str, str], policies: Path
    ) -> None:
        self.rng = rng
        self.store = store
        self.pool = pool
        self.sent: list[Sent] = []
        self.tally = Tally()
        self.totals: dict[str, Any] = {}
        self.outside = Outside(rng, pool)
        self.ahead = timedelta(0)
        self._policy_folder = policies
        self._redis_url, self._dsn = urls
        self.reported = REPORTED
        self.customers = list(CUSTOMERS)
        """With their plan, who came later included."""
        self.users = list(CUSTOMERS)
        """Who uses what is sold."""
        self.stories: list[Story] = []
        self.pages: tuple[tuple[str, str], ...] = ()
        """Whose page is to be opened, and under which reference."""
        self.points: dict[str, Counter[str]] = {job: Counter() for job in JOBS}
        """How many workers came by each point, of those that came to their end."""
        self._owners = iter(range(10**9))
        self._workers = Workers()

    async def open(self, policies: PolicyHolder) -> None:
        for meter in REPORTED:
            self.outside.stripe.add_meter(meter)
        for name, plan in CUSTOMERS:
            if (name, plan) in AT_STRIPE:
                self.outside.add_customer(name)
                await self._put(name, plan, at_stripe(name))
            else:
                await self._put(name, plan, None)
                await self.outside.add_payer(name, COLLECTED.index((name, plan)))
        for card in policies.loaded().policy.cards.values():
            await self.store.cards.publish(card)
        self._metering = Parts(self.rng, self.store, self.pool, policies).metering(
            lambda port: port
        )
        for story in self.stories:
            await story.open()

    async def add_customer(self, name: str, plan: str, account: str | None = None) -> None:
        """Somebody comes."""
        self.customers.append((name, plan))
        await self._put(name, plan, account)

    async def _put(self, name: str, plan: str, account: str | None) -> None:
        accounts = PostgresAccounts(self.pool)
        customer = Customer(customer_id=name, plan=plan, currency="USD", stripe_customer_id=account)
        await self.store.accounts.put_customer(await accounts.create_customer(customer))

    async def use(self) -> None:
        """Some usage reaches the gateway, parts of it twice."""
        for _ in range(self.rng.randint(1, EVENTS_A_ROUND)):
            customer, _plan = self.rng.choice(self.users)
            tokens = self.rng.randint(0, TOKENS_MAX), self.rng.randint(1, TOKENS_MAX)
            sent = Sent(customer, f"event-{len(self.sent)}", tokens, self._some_time_ago())
            self.sent.append(sent)
            await self._send(sent)
            if self.rng.random() < 0.1:
                self.tally.repeats += 1
                await self._send(self.rng.choice(self.sent))

    async def _send(self, sent: Sent) -> None:
        report = UsageReport(
            edge="otlp",
            gateway_id="gateway-1",
            received_at=datetime.now(UTC),
            status=200,
            route="/chat",
            customer_id=sent.customer,
            event_id=sent.event_id,
            occurred_at=sent.occurred_at,
            usage=TokenUsage(input=sent.charged[0], output=sent.charged[1]),
        )
        result = await self._metering.capture(report, SENDER)
        assert result.outcome in _TAKEN, result

    def _some_time_ago(self) -> datetime:
        """In this month, for a package is of one month."""
        now = datetime.now(UTC)
        month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        return max(month, now - timedelta(hours=self.rng.uniform(0, HOURS_LATE_MAX)))

    @property
    def now(self) -> datetime:
        """By the clock of invoices and standings."""
        return datetime.now(UTC) + self.ahead

    async def go_on_outside(self) -> None:
        """Invoices are made, paid or disputed at Stripe, and some of the webhooks get through."""
        self.outside.go_on([name for name, _ in AT_STRIPE], self.now)
        for story in self.stories:
            await story.go_on()
        if self.rng.random() < 0.5:
            await self.outside.stripe.deliver()

    async def kill_some(self) -> None:
        """Some workers begin a job each, and die at a point of it or at any moment."""
        if self.rng.random() < STANDS_STILL:
            guarded = self.rng.random() < AT_GUARDS
            await self._outlive(*(self.rng.choice(GUARDS) if guarded else self._next_death()))
            return
        chosen = [self._next_death() for _ in range(self.rng.choice(SIDE_BY_SIDE))]
        deaths = [self._kill(job, point) for job, point in chosen]
        died, _ = await asyncio.gather(asyncio.gather(*deaths), self._meanwhile())
        if SHOWING & {job for (job, _), dead in zip(chosen, died, strict=True) if dead}:
            await self._check_shown()
        self.ahead += timedelta(days=self.rng.uniform(0, DAYS_A_STEP))
        await self.let_time_pass()

    def _next_death(self) -> tuple[str, str]:
        """A job and a point of it, in turn; late in a run more often one that killed nobody yet."""
        late = self.tally.kills.total() >= KILLS_IN_TURN
        unkilled = self.unkilled() if late and self.rng.random() < UNKILLED_FIRST else []
        if unkilled:
            return self.rng.choice(unkilled)
        (job,) = self.rng.choices(list(WEIGHTS), list(WEIGHTS.values()))
        return job, self._least_tried(job)

    def unkilled(self) -> list[tuple[str, str]]:
        """Points that several workers came by and at which nobody has died."""
        return [
            (job, point)
            for job, seen in self.points.items()
            for point, lives in seen.items()
            if lives >= max(LIVES_MIN, COMMON * self.tally.lives[job])
            and not self.tally.kills[f"{job}: {point}"]
        ]

    async def _kill(self, job: str, point: str) -> bool:
        """Whether it died before it came to its end."""
        late = self.tally.kills.total() >= KILLS_IN_TURN
        nth, kill_after, within = self.rng.choice([1, 1, 2, 3]), 0.0, 0.0
        if late and not self.tally.kills[f"{job}: {point}"]:
            nth = 1
        elif self.rng.random() < AT_ANY_MOMENT:
            # Inside of a call, too: of a transaction, of an answer that is being read.
            point, kill_after = "", self.rng.uniform(0.0, ANY_MOMENT_SECONDS)
        elif point.startswith("before ") and self.rng.random() < WITHIN:
            # Transactions are of several statements, most of them of few milliseconds.
            within = WITHIN_SECONDS_MAX ** self.rng.uniform(1.0, 3.0)
        settles = job in AFTER_SETTLING and self.rng.random() < SETTLED_FIRST
        task = replace(self._task(job, point), nth=nth, within=within, settle_first=settles)
        died = await self._live(task, kill_after)
        if died:
            self.tally.kills[f"{job}: {died}"] += 1
        else:
            self.tally.finished += 1
        return bool(died)

    async def _outlive(self, job: str, point: str) -> None:
        """A worker stands still for long; others do its work, then it goes on as if nobody had."""

        async def meanwhile() -> None:
            await self.outside.pay_what_is_looked_at()
            try:
                await asyncio.wait_for(self.let_time_pass(), LOCKED_SECONDS_MAX)
            except TimeoutError:
                return  # It stands in a transaction, and whoever needs those rows waits.
            for _ in range(ACTS_MEANWHILE):
                await self.go_on_outside()
            await self.outside.stripe.deliver()
            assert not await self._run(job)

        end = await self._workers.outlive(self._task(job, point), meanwhile)
        self._note(job, end)
        self.tally.stood += bool(end.stood)
        await self.let_time_pass()
        if end.stood and job in SHOWING:
            await self._check_shown()

    async def _check_shown(self) -> None:
        """Whoever looks next shows what the dead has only written down."""
        self.ahead += LOOK_LEASE
        assert not await self._run("standing")
        for customer, _ in self.customers:
            recorded = await self.pool.fetchval(
                "SELECT standing FROM standings WHERE customer_id = $1", customer
            )
            (live,) = await self.store.connection.command(
                "HMGET", self.store.keyspace.customer(customer), "standing"
            )
            assert (recorded or "good") == (live or b"good").decode(), customer

    async def _meanwhile(self) -> None:
        """Webhooks about what a worker may be handling just now; leases end that it still needs."""
        await asyncio.sleep(self.rng.uniform(0.0, MEANWHILE_SECONDS))
        await self.go_on_outside()
        if self.rng.random() < LEASES_END:
            await self.let_time_pass()

    def _least_tried(self, job: str) -> str:
        """Of the points that a job was seen to come by, one where fewest were to die."""
        points = list(self.points[job]) or ["before nothing is known"]
        self.rng.shuffle(points)
        point = min(points, key=lambda name: self.tally.tries[f"{job}: {name}"])
        self.tally.tries[f"{job}: {point}"] += 1
        return point

    async def finish(self) -> None:
        """Without faults or deaths, until nobody has anything left to do."""
        await self.outside.calm()
        for _ in range(QUIET_ROUNDS):
            await self.run_all()
            await self.outside.stripe.drain()
            self.ahead += timedelta(days=32)
        for _ in range(COLLECTING_ROUNDS_MAX):
            if not await self.pool.fetchval(OPEN_COLLECTIONS):
                break
            self.outside.bank.move(self.rng)
            await self.end("collect")
        for _ in range(SENDING_ROUNDS_MAX):
            if not await self.pool.fetchval(OPEN_COMPARISONS):
                break
            await self.end("compare", "report")
        # What was collected or bought last has marked its customers' standings.
        await self.end("webhooks", "standing")

    async def end(self, *jobs: str) -> None:
        """Some jobs in turn, which nobody disturbs."""
        for job in jobs:
            assert not await self._run(job)
            await self.let_time_pass()

    async def run_all(self) -> None:
        """Each job once, without a death."""
        await self.end("settle")
        jobs = [job for job in JOBS if job not in FIRST_AND_LAST]
        for start in range(0, len(jobs), AT_ONCE):
            died = await asyncio.gather(*map(self._run, jobs[start : start + AT_ONCE]))
            assert not any(died)
        await self.let_time_pass()
        await self.end("standing", "compare")

    async def _run(self, job: str) -> str:
        """One that nobody disturbs: where it died all the same; empty if it came to its end."""
        return await self._live(self._task(job))

    async def _live(self, task: Task, kill_after: float = 0.0) -> str:
        """Where it died; empty if it came to its end."""
        end = await self._workers.live(task, kill_after)
        self._note(task.job, end)
        return end.died

    def _task(self, job: str, point: str = "") -> Task:
        return Task(
            job=job,
            owner=f"worker-{next(self._owners)}",
            point=point,
            redis_url=self._redis_url,
            dsn=self._dsn,
            stripe_url=self.outside.stripe_url,
            paystack_url=self.outside.paystack_url,
            policies=str(self._policy_folder),
            plans=dict(self.outside.plans),
            pages=self.pages,
            ahead=self.ahead,
        )

    def _note(self, job: str, end: End) -> None:
        if end.came_by is not None:
            self.points[job].update(end.came_by.keys())
            self.tally.lives[job] += 1
        elif not end.died:
            self.tally.unfinished += 1

    async def let_time_pass(self) -> None:
        """Leases of the dead end, and what waits for another attempt is due."""
        for statement in TIME_PASSES:
            await self.pool.execute(statement)

    def expected(self, customer: str, plan: str) -> Bill:
        """What a customer owes, by Decimal and from the usage alone."""
        return bill(plan, [sent for sent in self.sent if sent.customer == customer])
