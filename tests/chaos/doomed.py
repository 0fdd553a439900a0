"""
A worker in a process of its own, killed with SIGKILL at a chosen point: no code of it runs on.

A point is before or after a call of a port, in the order in which the worker comes by them.
"""

import asyncio
import inspect
import os
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fixtures.live_store import SystemClock

from sidecar.outbound.postgres.ledger import PostgresLedger
from sidecar.outbound.postgres.outbox import PostgresOutbox
from sidecar.outbound.postgres.pool import Pool, open_pool
from sidecar.outbound.redis.connection import RedisConnection
from sidecar.outbound.redis.keys import Keyspace
from sidecar.outbound.redis.rate_cards import RedisRateCards
from sidecar.outbound.redis.stream import RedisUsageStream
from sidecar.outbound.stripe.reporter import StripeMeterReporter
from sidecar.services.reporting import Reporter
from sidecar.services.settlement import SettlementWorker

SHARDS = 4
BATCH_MAX = 20
LEASE_SECONDS = 600
STRIPE_KEY = "sk_test_standin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a worker does, and at which visit of which point it dies."""

    job: str
    owner: str
    point: str = ""
    nth: int = 1
    redis_url: str
    dsn: str
    stripe_url: str


class Points:
    """Counts the points that a worker comes by, and ends it at one of them."""

    def __init__(self, task: Task, answers: Connection) -> None:
        self.seen: Counter[str] = Counter()
        self._task = task
        self._answers = answers

    def reach(self, name: str, port: Any) -> Any:
        """The port, with a point before and after each of its calls."""
        return _Reached(name, port, self)

    def come_by(self, point: str) -> None:
        self.seen[point] += 1
        if point == self._task.point and self.seen[point] == self._task.nth:
            self._answers.send(point)
            os.kill(os.getpid(), signal.SIGKILL)


class _Reached:
    def __init__(self, name: str, port: Any, points: Points) -> None:
        self._name, self._port, self._points = name, port, points

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._port, name)
        if not inspect.iscoroutinefunction(method):
            return method

        async def call(*arguments: Any, **options: Any) -> Any:
            self._points.come_by(f"before {self._name}.{name}")
            answer = await method(*arguments, **options)
            self._points.come_by(f"after {self._name}.{name}")
            return answer

        return call


@dataclass(frozen=True, slots=True)
class Stores:
    """What a job is made of."""

    task: Task
    points: Points
    connection: RedisConnection
    keyspace: Keyspace
    pool: Pool


async def settle(stores: Stores) -> None:
    reach = stores.points.reach
    worker = SettlementWorker(
        reach("stream", RedisUsageStream(stores.connection, stores.keyspace)),
        reach("ledger", PostgresLedger(stores.pool)),
        reach("rate_cards", RedisRateCards(stores.connection)),
        SystemClock(),
        owner=stores.task.owner,
        shards=range(SHARDS),
        batch_max=BATCH_MAX,
        lease_seconds=LEASE_SECONDS,
    )
    await worker.settle_once()
    await worker.release()


async def report(stores: Stores) -> None:
    reach = stores.points.reach
    provider = StripeMeterReporter(STRIPE_KEY, base_url=stores.task.stripe_url, timeout_seconds=1.0)
    reporter = Reporter(
        reach("outbox", PostgresOutbox(stores.pool)),
        reach("stripe", provider),
        SystemClock(),
        owner=stores.task.owner,
        concurrency_max=4,
        lease_seconds=LEASE_SECONDS,
    )
    try:
        await reporter.report_once(force=True)
    finally:
        await provider.close()


JOBS: dict[str, Callable[[Stores], Awaitable[None]]] = {"settle": settle, "report": report}


def run(task: Task, answers: Connection) -> None:
    """Do a job; answers the point of its death, or all points if it came to its end."""
    sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  As long as the process.
    asyncio.run(_work(task, answers))


async def _work(task: Task, answers: Connection) -> None:
    points = Points(task, answers)
    connection = RedisConnection.from_url(task.redis_url, timeout_seconds=20.0)
    pool = await open_pool(task.dsn, size_max=8)
    stores = Stores(task, points, connection, Keyspace(SHARDS), pool)
    try:
        await JOBS[task.job](stores)
    finally:
        await pool.close()
        await connection.aclose()
    answers.send(points.seen)
