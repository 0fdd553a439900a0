"""
A worker in a process of its own, killed with SIGKILL at a chosen point: no code of it runs on.

A point is before or after a call of a port, in the order in which the worker comes by them.
"""

import asyncio
import gc
import os
import sys
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import stripe
from chaos.jobs import JOBS, settle
from chaos.parts import SHARDS, STRIPE_KEY
from chaos.points import Points, Stores, Task
from stripe._object_classes import get_object_class

from sidecar.outbound.postgres.pool import open_pool
from sidecar.outbound.redis.connection import RedisConnection
from sidecar.outbound.redis.keys import Keyspace

SERVICES = ("invoices", "subscriptions", "payment_intents", "customers", "events", "prices")
SERVICES += ("disputes", "refunds", "charges")
OBJECTS = ("invoice", "subscription", "payment_intent", "customer", "charge", "refund", "list")
OBJECTS += ("dispute", "price", "billing.meter", "billing.meter_event", "checkout.session")
POOL_MAX = 4
"""Each connection learns all statements anew, which is most of what a worker's life costs."""


def run(task: Task, answers: Connection) -> None:
    """Do a job; answers the point of its death, or all points if it came to its end."""
    sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  As long as the process.
    asyncio.run(_work(task, answers))


async def _work(task: Task, answers: Connection) -> None:
    points = Points(task, answers)
    connection = RedisConnection.from_url(task.redis_url, timeout_seconds=20.0)
    await connection.load_scripts()
    pool = await open_pool(task.dsn, size_max=POOL_MAX)
    stores = Stores(task, points, connection, Keyspace(SHARDS), pool)
    try:
        if task.settle_first:
            unharmed = Points(replace(task, point=""), answers)
            await settle(replace(stores, points=unharmed))
        await JOBS[task.job](stores)
    finally:
        await pool.close()
        await connection.aclose()
    answers.send(points.seen)


def _warm() -> None:
    """Load before the first fork what the SDK would load in each worker; it is not copied then."""
    client = stripe.StripeClient(STRIPE_KEY)
    for name in SERVICES:
        getattr(client.v1, name)
    _ = client.v1.billing.meter_events, client.v1.billing.meters, client.v1.checkout.sessions
    for kind in OBJECTS:
        get_object_class("V1", kind)
    gc.freeze()


_warm()
