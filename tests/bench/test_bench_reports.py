"""Reports: sealed quantities from a real Postgres to the stand-in of Stripe, each once."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import pytest
from bench.results import Results
from bench.settling import row_of_rounds

pytestmark = pytest.mark.asyncio(loop_scope="session")

CUSTOMERS = 200
ROWS = 2_000
RUNS = 3
METER = "input-tokens"
FILL = """
INSERT INTO report_windows (
    customer_id, provider, meter, window_start, seq, provider_customer_id, quantity, state,
    sealed_at, event_at, next_attempt_at, identifier)
SELECT 'cus_' || n % $1, 'stripe', $4, h.hour, $3::integer * 1000 + n / $1 + 1,
    'cus_stripe_' || n % $1, 5, 'pending', now(), h.hour, now(),
    'sc1:' || encode(sha256(('bench ' || $3 || ' ' || n)::bytea), 'hex')
FROM generate_series(0, $2 - 1) n,
    (SELECT date_trunc('hour', now(), 'UTC') - interval '2 hours' AS hour) h
"""
LANES = """
INSERT INTO report_lanes (customer_id, provider, meter)
SELECT 'cus_' || n, 'stripe', $2 FROM generate_series(0, $1 - 1) n
"""


@asynccontextmanager
async def running(*command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def ask(process: asyncio.subprocess.Process, order: dict[str, object]) -> dict[str, object]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(order).encode() + b"\n")
    await process.stdin.drain()
    return json.loads(await process.stdout.readline())


@pytest.mark.parametrize("concurrency", [16, 64])
async def test_settlements_reported_a_second(
    concurrency: int, make_database: Callable, results: Results
):
    dsn = await make_database()
    connection = await asyncpg.connect(dsn)
    await connection.execute(LANES, CUSTOMERS, METER)
    names = [part for n in range(CUSTOMERS) for part in ("--customer", f"cus_stripe_{n}")]
    worker_file = str(Path(__file__).with_name("report_process.py"))
    async with (
        running("-m", "sidecar.standins.stripe", "--meter", METER, *names) as standin,
        running(worker_file) as worker,
    ):
        assert standin.stdout is not None
        url = (await standin.stdout.readline()).decode().strip()
        set_up = {"postgres_dsn": dsn, "stripe_url": url, "concurrency": concurrency}
        await ask(worker, set_up)
        rounds = []
        for run in range(RUNS):
            await connection.execute(FILL, CUSTOMERS, ROWS, run, METER)
            rounds.append(await ask(worker, {}))
        assert [one["reported"] for one in rounds] == [ROWS] * RUNS
    assert await connection.fetchval(
        "SELECT count(*) FROM report_windows WHERE state = 'sent' AND attempts = 1"
    ) == (ROWS * RUNS)
    await connection.close()
    setting = f"{CUSTOMERS} customers, {concurrency} calls at a time, one core the stand-in's"
    results.add(row_of_rounds("reported settlements", setting, ROWS, rounds))
