"""A live store made anew from the ledger: 100,000 customers with credit, a key and windows."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from bench.results import Results, Row
from fixtures.recovering import CARD, LAST_HOUR, SHARDS, TOKENS, recovering

from sidecar.domain.customers import NOBODY
from sidecar.domain.holds import hold_day, make_hold_id
from sidecar.outbound.postgres.pool import open_pool
from sidecar.outbound.redis.keys import Keyspace

pytestmark = pytest.mark.asyncio(loop_scope="session")

CUSTOMERS = 100_000
EVENTS = 100_000
"""Settled within the dedupe horizon, so that each leaves a marker."""
GRANTED, USED = 1_000_000_000, 5_000


async def test_a_rebuild_of_many_customers(
    redis_of_test: str, make_database: Callable, results: Results
):
    dsn = await make_database()
    connection = await asyncpg.connect(dsn)
    await _fill(connection)
    await connection.close()
    pool = await open_pool(dsn, command_timeout_seconds=120.0)
    async with recovering(redis_of_test, pool) as world:
        started, began = time.perf_counter(), time.process_time()
        assert await world.rebuilder.look_once() == SHARDS
        seconds, processor = time.perf_counter() - started, time.process_time() - began
        assert await world.store.numbers(_name(7)) == (GRANTED, USED, 0, GRANTED - USED)
        assert await world.rebuilder.look_once() == 0
    await pool.close()
    rate = CUSTOMERS / seconds
    results.add(
        Row(
            what="rebuilt customers",
            setting=f"{CUSTOMERS:,} customers, {EVENTS:,} markers, {SHARDS} shards",
            runs=1,
            per_second=rate,
            low=rate,
            high=rate,
            cpu_us=processor / CUSTOMERS * 1e6,
            note=f"{seconds:.1f} s",
        )
    )


def _name(number: int) -> str:
    return f"cus_{number:06d}"


async def _fill(connection: asyncpg.Connection) -> None:
    """Rows as settlement leaves them; their triggers are off, for it is no ledger to verify."""
    keyspace, now = Keyspace(SHARDS), datetime.now(UTC)
    names = [_name(number) for number in range(CUSTOMERS)]
    await connection.execute("SET session_replication_role = replica")

    async def copy(table: str, columns: str, rows) -> None:
        await connection.copy_records_to_table(table, records=rows, columns=columns.split())

    await copy("customers", "customer_id plan currency", ((n, "prepaid", "USD") for n in names))
    await copy(
        "credentials",
        "customer_id credential_id secret_hash",
        ((n, f"crd_{n}", f"hash_{n}") for n in names),
    )
    await copy(
        "grants",
        "customer_id grant_id amount_nano currency state posted_at applied_at remaining_nano",
        ((n, f"g_{n}", GRANTED, "USD", "posted", now, now, GRANTED - USED) for n in names),
    )
    await copy(
        "account_balances",
        "customer_id currency customer_credit_nano customer_overage_nano customer_receivable_nano"
        " funding_nano revenue_nano granted_nano used_nano used_prepaid_nano",
        ((n, "USD", GRANTED - USED, 0, 0, -GRANTED, USED, GRANTED, USED, USED) for n in names),
    )
    fields = [c.take(NOBODY, 1, now, hard=True).field for c in (TOKENS, LAST_HOUR)]
    await copy(
        "counter_totals",
        "customer_id field quantity",
        ((n, field, USED) for n in names for field in fields),
    )
    at = now - timedelta(hours=1)
    events = [
        (names[k % CUSTOMERS], make_hold_id(int(at.timestamp()), k.to_bytes(16, "big")))
        for k in range(EVENTS)
    ]
    await copy(
        "usage_events",
        "customer_id day hold_id kind transaction_id shard entry_id currency amount_nano"
        " overage_nano held_nano prepaid late plan price_version model user_id credential_id route"
        " edge gateway_id duration_ms request_bytes response_bytes estimated estimate_reason"
        " client_key request_id occurred_at received_at decided_at input_tokens output_tokens",
        (
            (
                n,
                hold_day(h),
                h,
                "capture",
                "t",
                keyspace.shard_of(n),
                "1-1",
                "USD",
                USED,
                0,
                USED,
                True,
                False,
                "prepaid",
                CARD.version,
                "m",
                "",
                "",
                "",
                "otlp",
                "gw",
                0,
                0,
                0,
                False,
                "",
                "",
                b"",
                at,
                at,
                at,
                1,
                2,
            )
            for n, h in events
        ),
    )
    await copy(
        "usage_lines",
        "customer_id day hold_id kind meter quantity amount_nano",
        ((n, hold_day(h), h, "capture", "output", USED, USED) for n, h in events),
    )
    await connection.execute("ANALYZE")
