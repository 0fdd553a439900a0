"""A deployment whose workers are killed all the time, and what must be true of it all the same."""

import asyncio
import json
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from multiprocessing import forkserver
from pathlib import Path
from random import Random
from typing import Any

from chaos.doomed import run
from chaos.jobs import JOBS
from chaos.outside import Outside, at_stripe
from chaos.points import Task
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
from sidecar.standins.stripe_faults import Fault

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
JOB_SECONDS_MAX = 120.0
SIDE_BY_SIDE = (1, 2, 2, 3)
"""Workers that live at the same time."""
AFTER_SETTLING = ("report", "invoice")
SETTLED_FIRST = 0.7
AT_ANY_MOMENT = 0.25
ANY_MOMENT_SECONDS = 0.25
UNKILLED_FIRST = 0.3
COMMON = 3
"""A point that so many workers came by must have killed one in a long run."""
DAYS_A_STEP = 3.0
"""How far the clock of invoices and standings goes at the most after each death."""
MEANWHILE_SECONDS = 0.3
LOOK_LEASE = timedelta(minutes=1)
QUIET_ROUNDS = 4
COLLECTING_ROUNDS_MAX = 200
WEIGHTS = {"settle": 3, "report": 3, "webhooks": 3, "standing": 1, "invoice": 3, "collect": 2}
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
    unfinished: int = 0
    finished: int = 0
    repeats: int = 0


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
        self.points: dict[str, Counter[str]] = {job: Counter() for job in JOBS}
        """How many workers came by each point, of those that came to their end."""
        self._owners = iter(range(10**9))
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(["chaos.doomed"])
        with _importable(Path(__file__).parents[1]):
            forkserver.ensure_running()

    async def open(self, policies: PolicyHolder) -> None:
        for meter in REPORTED:
            self.outside.stripe.add_meter(meter)
        accounts = PostgresAccounts(self.pool)
        for name, plan in CUSTOMERS:
            billed = (name, plan) in AT_STRIPE
            customer = Customer(
                customer_id=name,
                plan=plan,
                currency="USD",
                stripe_customer_id=at_stripe(name) if billed else None,
            )
            await self.store.accounts.put_customer(await accounts.create_customer(customer))
            if billed:
                self.outside.add_customer(name)
            else:
                await self.outside.add_payer(name, COLLECTED.index((name, plan)))
        for card in policies.loaded().policy.cards.values():
            await self.store.cards.publish(card)
        self._metering = Parts(self.rng, self.store, self.pool, policies).metering(
            lambda port: port
        )

    async def use(self) -> None:
        """Some usage reaches the gateway, parts of it twice."""
        for _ in range(self.rng.randint(1, EVENTS_A_ROUND)):
            customer, _plan = self.rng.choice(CUSTOMERS)
            tokens = self.rng.randint(0, TOKENS_MAX), self.rng.randint(1, TOKENS_MAX)
            sent = Sent(customer, f"event-{len(self.sent)}", tokens, datetime.now(UTC))
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

    @property
    def now(self) -> datetime:
        """By the clock of invoices and standings."""
        return datetime.now(UTC) + self.ahead

    async def go_on_outside(self) -> None:
        """Invoices are made, paid or disputed at Stripe, and some of the webhooks get through."""
        self.outside.go_on([name for name, _ in AT_STRIPE], self.now)
        if self.rng.random() < 0.5:
            await self.outside.stripe.deliver()

    async def kill_some(self) -> None:
        """Some workers begin a job each, and die at a point of it or at any moment."""
        jobs = [self._next_job() for _ in range(self.rng.choice(SIDE_BY_SIDE))]
        deaths = [self._kill(job) for job in jobs]
        died, _ = await asyncio.gather(asyncio.gather(*deaths), self._meanwhile())
        if any(dead and job in ("webhooks", "standing") for job, dead in zip(jobs, died, strict=True)):
            await self._check_shown()
        self.ahead += timedelta(days=self.rng.uniform(0, DAYS_A_STEP))
        await self.let_time_pass()

    def _next_job(self) -> str:
        unkilled = [job for job, _ in self.unkilled()]
        if unkilled and self.rng.random() < UNKILLED_FIRST:
            return self.rng.choice(unkilled)
        (job,) = self.rng.choices(list(WEIGHTS), list(WEIGHTS.values()))
        return job

    def unkilled(self) -> list[tuple[str, str]]:
        """Points that several workers came by and at which nobody has died."""
        return [
            (job, point)
            for job, seen in self.points.items()
            for point, lives in seen.items()
            if lives >= COMMON and not self.tally.kills[f"{job}: {point}"]
        ]

    async def _kill(self, job: str) -> bool:
        """Whether it died before it came to its end."""
        point, nth, kill_after = self._least_tried(job), self.rng.choice([1, 1, 2, 3]), 0.0
        if self.rng.random() < AT_ANY_MOMENT:
            # Inside of a call, too: of a transaction, of an answer that is being read.
            point, kill_after = "", self.rng.uniform(0.0, ANY_MOMENT_SECONDS)
        settles = job in AFTER_SETTLING and self.rng.random() < SETTLED_FIRST
        died = await self._run(job, point, nth, kill_after=kill_after, settle_first=settles)
        if died:
            self.tally.kills[f"{job}: {died}"] += 1
        else:
            self.tally.finished += 1
        return bool(died)

    async def _check_shown(self) -> None:
        """Whoever looks next shows what the dead has only written down."""
        self.ahead += LOOK_LEASE
        assert not await self._run("standing")
        for customer, _ in CUSTOMERS:
            recorded = await self.pool.fetchval(
                "SELECT standing FROM standings WHERE customer_id = $1", customer
            )
            (live,) = await self.store.connection.command(
                "HMGET", self.store.keyspace.customer(customer), "standing"
            )
            assert (recorded or "good") == (live or b"good").decode(), customer

    async def _meanwhile(self) -> None:
        """Webhooks about what a worker may be handling just now."""
        await asyncio.sleep(self.rng.uniform(0.0, MEANWHILE_SECONDS))
        await self.go_on_outside()

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
            self.ahead += timedelta(days=32)
        for _ in range(COLLECTING_ROUNDS_MAX):
            open_ones = await self.pool.fetchval(
                "SELECT count(*) FROM collections WHERE ended_at IS NULL"
            )
            if not open_ones:
                break
            self.outside.bank.move(self.rng)
            assert not await self._run("collect")
            await self.let_time_pass()
        # What was collected last has marked its customers' standings.
        assert not await self._run("standing")

    async def run_all(self) -> None:
        """Each job once, without a death."""
        for job in JOBS:
            assert not await self._run(job)
            await self.let_time_pass()

    async def _run(
        self,
        job: str,
        point: str = "",
        nth: int = 1,
        *,
        kill_after: float = 0.0,
        settle_first: bool = False,
    ) -> str:
        """Where the worker died; empty if it came to its end."""
        task = Task(
            job=job,
            owner=f"worker-{next(self._owners)}",
            point=point,
            nth=nth,
            settle_first=settle_first,
            redis_url=self._redis_url,
            dsn=self._dsn,
            stripe_url=self.outside.stripe_url,
            paystack_url=self.outside.paystack_url,
            policies=str(self._policy_folder),
            ahead=self.ahead,
        )
        ours, theirs = self._processes.Pipe(duplex=False)
        process = self._processes.Process(target=run, args=(task, theirs), daemon=True)
        # Never in threads: what starts and what waits read from the same descriptors.
        process.start()
        theirs.close()
        if kill_after and not await _has_ended(process, kill_after):
            process.kill()
        if not await _has_ended(process, JOB_SECONDS_MAX):
            process.kill()
            raise AssertionError(f"{job} did not end")
        answer: str | Counter[str] = "at any moment"
        with suppress(EOFError):
            answer = ours.recv() if ours.poll() else answer
        ours.close()
        if process.exitcode == -signal.SIGKILL:
            return answer if isinstance(answer, str) else "at its end"
        assert process.exitcode in (0, 1), process.exitcode
        if process.exitcode == 0:
            assert isinstance(answer, Counter)
            self.points[job].update(answer.keys())
        else:
            self.tally.unfinished += 1
        return ""

    async def let_time_pass(self) -> None:
        """Leases of the dead end, and what waits for another attempt is due."""
        for statement in (
            "UPDATE shards SET lease_until = now() WHERE lease_owner IS NOT NULL",
            "UPDATE report_lanes SET lease_until = now() WHERE lease_owner IS NOT NULL",
            "UPDATE report_windows SET next_attempt_at = now() WHERE state = 'pending'",
            "UPDATE inbox_objects SET lease_until = '-infinity' WHERE lease_owner <> ''",
            "UPDATE inbox_objects SET retry_at = now() WHERE state = 'pending'",
            "UPDATE invoice_cursors SET leased_until = NULL WHERE leased_until IS NOT NULL",
            "UPDATE invoices SET leased_until = NULL WHERE state = 'draft'",
            "UPDATE collections SET lease_until = NULL WHERE lease_until IS NOT NULL",
        ):
            await self.pool.execute(statement)

    def expected(self, customer: str, plan: str) -> Bill:
        """What a customer owes, by Decimal and from the usage alone."""
        return bill(plan, [sent for sent in self.sent if sent.customer == customer])


async def _has_ended(process: Any, seconds: float) -> bool:
    """Whether a process ends in that time."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(process.sentinel, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), seconds)
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(process.sentinel)
    process.join()
    return True


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """A server of forks imports what its children need once, if it can find it."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder), before)))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def numbers_of(seed: int, world: World) -> str:
    """Seed, kills by point, faults and totals, as JSON."""
    kills, outside = world.tally.kills, world.outside
    drawn = outside.drawn
    requests = sum(drawn.values())
    failed = {name.value: count for name, count in drawn.items() if name is not Fault.NONE}
    by_job: Counter[str] = Counter()
    for point, count in kills.items():
        by_job[point.split(":")[0]] += count
    numbers = {
        "seed": seed,
        "events": len(world.sent),
        "repeats": world.tally.repeats,
        "kills": sum(kills.values()),
        "kills_by_job": dict(by_job),
        "kills_by_point": dict(sorted(kills.items())),
        "months": round(world.ahead.days / 30.4),
        "requests_to_providers": requests,
        "faults": failed,
        "faults_percent": round(100 * sum(failed.values()) / max(1, requests)),
        "webhooks": dict(outside.answers),
        "totals": world.totals,
        "reported": {
            f"{who} {meter}": str(n) for (who, meter), n in outside.stripe.meter_totals().items()
        },
    }
    return json.dumps(numbers, indent=1)
