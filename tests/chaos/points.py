"""The points of a worker's calls, and what its jobs are made of."""

import asyncio
import inspect
import os
import signal
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from typing import Any

from sidecar.outbound.postgres.pool import Pool
from sidecar.outbound.redis.connection import RedisConnection
from sidecar.outbound.redis.keys import Keyspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """
    What a worker does, and at which visit of which point it dies, or stands still until it is told.
    With `within` that is so many seconds later, while it waits for the call's answer.

    `ahead` is how far its clock is before the machine's: periods end and invoices fall due by it.
    With `settle_first` it brings what gateways took to the ledger before it begins.
    """

    job: str
    owner: str
    point: str = ""
    nth: int = 1
    stands_still: bool = False
    within: float = 0.0
    settle_first: bool = False
    redis_url: str
    dsn: str
    stripe_url: str
    paystack_url: str
    policies: str
    plans: Mapping[str, str]
    """From a price at Stripe to the plan that it gives."""
    pages: tuple[tuple[str, str], ...]
    """Customers who wait for a page to pay on, with the payment's reference."""
    ahead: timedelta


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
            if self._task.within:
                asyncio.get_running_loop().call_later(
                    self._task.within, self._die, point.replace("before", "in")
                )
            else:
                self._die(point)

    def _die(self, point: str) -> None:
        self._answers.send(point)
        stops = self._task.stands_still
        os.kill(os.getpid(), signal.SIGSTOP if stops else signal.SIGKILL)


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

    @property
    def clock(self) -> "AheadClock":
        return AheadClock(self.task.ahead)


@dataclass(frozen=True, slots=True)
class AheadClock:
    """The machine's clock, moved."""

    ahead: timedelta

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead
