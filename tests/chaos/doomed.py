"""
A worker in a process of its own, killed with SIGKILL at a chosen point: no code of it runs on.

A point is before or after a call of a port, in the order in which the worker comes by them.
"""

import asyncio
import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from chaos.jobs import JOBS, SHARDS
from chaos.points import Points, Stores, Task

from sidecar.outbound.postgres.pool import open_pool
from sidecar.outbound.redis.connection import RedisConnection
from sidecar.outbound.redis.keys import Keyspace


def run(task: Task, answers: Connection) -> None:
    """Do a job; answers the point of its death, or all points if it came to its end."""
    sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  As long as the process.
    asyncio.run(_work(task, answers))


async def _work(task: Task, answers: Connection) -> None:
    points = Points(task, answers)
    connection = RedisConnection.from_url(task.redis_url, timeout_seconds=20.0)
    await connection.load_scripts()
    pool = await open_pool(task.dsn, size_max=8)
    stores = Stores(task, points, connection, Keyspace(SHARDS), pool)
    try:
        await JOBS[task.job](stores)
    finally:
        await pool.close()
        await connection.aclose()
    answers.send(points.seen)
