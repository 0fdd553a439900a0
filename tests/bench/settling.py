"""Streams full of real records for any number of customers, and the process that settles them."""

import hashlib
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import asyncpg
from bench.deployment import Redis, Worker, processor_seconds, running_gateway
from bench.results import Row, medians
from fixtures.live_store import open_shards

from sidecar.domain.holds import make_hold_id
from sidecar.domain.periods import from_epoch_ms
from sidecar.domain.usage import UsageEvent
from sidecar.outbound.redis.connection import fix_shards
from sidecar.outbound.redis.keys import Keyspace
from sidecar.outbound.redis.records import event_from_bytes, event_to_bytes
from sidecar.services.control_ports import Customer

CHECK, EXPORT = "CheckRequest_json_ok", "ExportLogsServiceRequest_json"
PLANS = ("prepaid", "postpaid")
PIPELINE = 1_000
EVENTS_A_SECOND = 500
"""Of all customers together, by the instants inside the hold ids."""
INSERT_CUSTOMERS = """
INSERT INTO customers (customer_id, plan, currency, stripe_customer_id)
SELECT customer_id, plan, 'USD', CASE plan WHEN 'postpaid' THEN 'cus_stripe_' || n END
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS c (customer_id, plan, n)
"""
INSERT_GRANTS = """
INSERT INTO grants (
    customer_id, grant_id, amount_nano, currency, state, posted_at, opening_nano, remaining_nano)
SELECT customer_id, 'g_' || customer_id, 4e18, 'USD', 'posted', now(), 4e18, 4e18
FROM customers WHERE plan = 'prepaid'
"""
"""What the gateway that writes the templates has given; see `deployment`."""
GROWING = ("usage_events", "usage_lines", "ledger_transactions", "ledger_entries")

Fields = dict[bytes, bytes]
"""Of one stream entry."""


def make_customers(count: int) -> list[Customer]:
    """Every other one prepaid, so that both ways through the ledger are taken."""
    return [
        Customer(customer_id=f"cus_{number:05d}", plan=PLANS[number % 2], currency="USD")
        for number in range(count)
    ]


async def add_customers(dsn: str, customers: Sequence[Customer]) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(
            INSERT_CUSTOMERS,
            [customer.customer_id for customer in customers],
            [customer.plan for customer in customers],
        )
        await connection.execute(INSERT_GRANTS)
    finally:
        await connection.close()


@dataclass(slots=True)
class Streams:
    """
    Fills the shards' streams.

    Its records are those that a real check and a real log entry left, one of each plan, with
    another customer and hold.
    """

    redis: Redis
    keyspace: Keyspace
    customers: Sequence[Customer]
    templates: dict[str, tuple[Fields, UsageEvent]]
    second: int
    made: int = 0

    @classmethod
    @asynccontextmanager
    async def prepare(
        cls, folder: Path, redis_url: str, customers: Sequence[Customer], *, shards: int
    ) -> AsyncIterator["Streams"]:
        """Let a gateway write the records that all others are made of."""
        redis = Redis(redis_url)
        try:
            keyspace = await fix_shards(redis.connection, shards)
            await open_shards(redis.connection, keyspace)
            templates = await _write_templates(folder, redis, customers, keyspace)
            yield cls(redis, keyspace, customers, templates, int(time.time()) - 7_200)
        finally:
            await redis.connection.aclose()

    def make(self, count: int) -> list[tuple[str, Fields]]:
        """Records (stream, fields) of new holds, of all customers in turn."""
        first, self.made = self.made, self.made + count
        return [self._record(number) for number in range(first, self.made)]

    async def append(self, records: Sequence[tuple[str, Fields]]) -> None:
        """Append records, under new entry ids also those that were appended before."""
        for start in range(0, len(records), PIPELINE):
            await self.redis.connection.commands(
                [
                    ("XADD", stream, "*", *(part for pair in fields.items() for part in pair))
                    for stream, fields in records[start : start + PIPELINE]
                ]
            )

    def _record(self, number: int) -> tuple[str, Fields]:
        customer = self.customers[number % len(self.customers)]
        fields, event = self.templates[customer.plan]
        second = self.second + number // EVENTS_A_SECOND
        hold_id = make_hold_id(second, hashlib.sha256(number.to_bytes(8, "big")).digest())
        event = replace(
            event,
            hold_id=hold_id,
            customer_id=customer.customer_id,
            occurred_at=from_epoch_ms(second * 1_000),
            received_at=from_epoch_ms(second * 1_000 + 400),
        )
        record = fields | {
            b"id": hold_id.encode(),
            b"c": customer.customer_id.encode(),
            b"at": str(second * 1_000).encode(),
            b"mv": fields[b"mv"].replace(
                b"g_" + fields[b"c"], f"g_{customer.customer_id}".encode()
            ),
            b"ev": event_to_bytes(event),
        }
        return self.keyspace.usage(self.keyspace.shard_of(customer.customer_id)), record


async def _write_templates(
    folder: Path, redis: Redis, customers: Sequence[Customer], keyspace: Keyspace
) -> dict[str, tuple[Fields, UsageEvent]]:
    """The stream entry of one checked and captured request of each plan; the streams end empty."""
    by_plan = {customer.plan: customer for customer in customers}
    async with running_gateway(
        folder, redis.url, customers=list(by_plan.values()), shards=keyspace.shards
    ) as gateway:
        await gateway.client.ask({"do": "hold", "capture": CHECK, "count": 4})
        done = await gateway.load(do="export", capture=EXPORT, batch=4, concurrency=1)
        assert done["accepted"] == 1, done
    templates = {}
    for plan, customer in by_plan.items():
        stream = keyspace.usage(keyspace.shard_of(customer.customer_id))
        for _, flat in await redis.connection.command("XRANGE", stream, "-", "+"):
            fields = dict(zip(flat[::2], flat[1::2], strict=True))
            if fields[b"k"] == b"capture" and fields[b"c"] == customer.customer_id.encode():
                templates[plan] = fields, event_from_bytes(fields[b"ev"])
    for shard in range(keyspace.shards):
        await redis.connection.command("DEL", keyspace.usage(shard))
    return templates


@asynccontextmanager
async def running_settlement(
    redis_url: str, dsn: str, *, shards: int, batch: int
) -> AsyncIterator[Worker]:
    """A settlement worker that has no other work than what the streams hold."""
    order = {
        "redis_url": redis_url,
        "postgres_dsn": dsn,
        "shards": shards,
        "batch": batch,
        "owner": "bench",
    }
    async with Worker.run("settle_process.py", order) as worker:
        await keep_apart(worker, dsn)
        yield worker


async def settle_round(worker: Worker, dsn: str) -> dict[str, Any]:
    """Settle all that is there, and see what the database's server used meanwhile."""
    async with _servers(dsn) as pids:
        before = sum(map(processor_seconds, pids))
    done = await worker.ask({})
    # The worker keeps its connections, so none of its servers has ended.
    async with _servers(dsn) as pids:
        used = sum(map(processor_seconds, pids)) - before
    return done | {"postgres_seconds": used}


async def keep_apart(worker: Worker, dsn: str) -> None:
    """
    Give the worker the last core, and the database's server the others.

    A machine with one core is left as it is, and so is a server of another user.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) == 1:
        return
    os.sched_setaffinity(worker.pid, cores[-1:])
    async with _servers(dsn) as pids:
        with suppress(PermissionError):
            for pid in pids:
                os.sched_setaffinity(pid, cores[:-1])


@asynccontextmanager
async def _servers(dsn: str) -> AsyncIterator[list[int]]:
    """Postgres' processes, with the one that begins them and without the one that tells."""
    connection = await asyncpg.connect(dsn)
    try:
        own = connection.get_server_pid()
        fields = Path(f"/proc/{own}/stat").read_text().rpartition(")")[2].split()
        rows = await connection.fetch("SELECT pid FROM pg_stat_activity WHERE pid <> $1", own)
        yield [int(fields[1]), *(row["pid"] for row in rows)]
    finally:
        await connection.close()


async def ledger_numbers(dsn: str) -> dict[str, int]:
    """What the tables say of the same facts, each read for itself."""
    queries = {
        "events": "SELECT count(*) FROM usage_events",
        "billed": "SELECT coalesce(sum(amount_nano), 0) FROM usage_events",
        "billed by line": "SELECT coalesce(sum(amount_nano), 0) FROM usage_lines",
        "revenue": "SELECT coalesce(sum(amount_nano), 0) FROM ledger_entries "
        "WHERE account = 'revenue'",
        "revenue of balances": "SELECT coalesce(sum(revenue_nano), 0) FROM account_balances",
        "ledger": "SELECT coalesce(sum(amount_nano), 0) FROM ledger_entries",
        "to report": "SELECT coalesce(sum(quantity), 0) FROM usage_lines "
        "WHERE window_start IS NOT NULL",
        "in windows": "SELECT coalesce(sum(quantity), 0) FROM report_windows",
        "set aside": "SELECT count(*) FROM quarantine",
    }
    connection = await asyncpg.connect(dsn)
    try:
        return {name: int(await connection.fetchval(text)) for name, text in queries.items()}
    finally:
        await connection.close()


async def rows_scanned(dsn: str) -> dict[str, int]:
    """
    Rows that were read by sequential scans so far, of the tables that grow with each event.

    Sessions report what they read when they end; ask after that.
    """
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(
            "SELECT relname, seq_tup_read FROM pg_stat_user_tables WHERE relname = ANY ($1)",
            GROWING,
        )
    finally:
        await connection.close()
    return {row["relname"]: row["seq_tup_read"] for row in rows}


def check_ledger(numbers: dict[str, int], events: int) -> None:
    """Each event once, and every sum the same wherever it is kept."""
    assert numbers["events"] == events
    assert numbers["billed"] > 0
    assert numbers["billed"] == numbers["billed by line"] == numbers["revenue"]
    assert numbers["revenue"] == numbers["revenue of balances"]
    assert numbers["ledger"] == 0
    assert numbers["to report"] == numbers["in windows"] > 0
    assert numbers["set aside"] == 0


def row_of_rounds(what: str, setting: str, events: int, rounds: Sequence[dict[str, Any]]) -> Row:
    """Rounds of the settling process as a row; each of them had `events` to settle."""
    rates = [events / one["seconds"] for one in rounds]
    middle = medians(
        [
            {"rate": rate, "cpu": one["cpu_seconds"] / events * 1e6}
            for rate, one in zip(rates, rounds, strict=True)
        ]
    )
    notes = []
    if all("postgres_seconds" in one for one in rounds):
        server = median(one["postgres_seconds"] for one in rounds) / events * 1e6
        notes.append(f"{1e6 / middle['cpu']:,.0f}/s of a full core, Postgres {server:.0f} us")
    first, last = rounds[0]["resident_kib"] / 1_024, rounds[-1]["resident_kib"] / 1_024
    if len(rounds) > 1:
        notes.append(f"memory {first:.0f} MiB, after all runs {last:.0f}")
    return Row(
        what=what,
        setting=setting,
        runs=len(rounds),
        per_second=middle["rate"],
        low=min(rates),
        high=max(rates),
        cpu_us=middle["cpu"],
        note=", ".join(notes),
    )
