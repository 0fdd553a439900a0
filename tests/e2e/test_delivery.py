"""Duplicates, crashes and stores that go away: usage counts once, and is never invented."""

import asyncio
import os
import signal
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from fixtures.stack import Stack

from sidecar.outbound.embedded import EmbeddedRedis

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

USED_NANO = 11 * 500 + 7 * 1_500


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def both(make_stack: Any) -> Stack:
    """Usage arrives over OTLP and over the access log service."""
    return await make_stack(transport="both")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def fragile(make_stack: Any) -> Stack:
    """A deployment whose parts these tests kill."""
    return await make_stack()


async def test_the_same_usage_over_both_transports_counts_once(both: Stack):
    key = await both.customer("cus_both", "prepaid", grant="1")
    for _ in range(5):
        status, _, _ = await both.ask(key)
        assert status == 200
    balance = await both.until_captured("cus_both")

    async def seen_twice() -> bool:
        duplicates = await both.metric("sidecar_usage_events_total", outcome="duplicate")
        return duplicates >= 5

    await both.until(seen_twice, "each entry came a second time")
    assert (await both.balance("cus_both"))["used_nano"] == 5 * USED_NANO
    assert balance["used_nano"] == 5 * USED_NANO
    assert await both.metric("sidecar_usage_events_total", edge="als") > 0
    assert await both.metric("sidecar_usage_events_total", edge="otlp") > 0


async def test_a_sidecar_killed_between_check_and_log_loses_nothing(fragile: Stack):
    key = await fragile.customer("cus_kill", "prepaid", grant="1")
    script = {"kind": "sse", "chunks": 20, "pause": 0.1}
    asking = asyncio.create_task(fragile.ask(key, script=script, stream=True))

    async def held() -> bool:
        return bool((await fragile.balance("cus_kill"))["held_nano"])

    await fragile.until(held, "the hold is placed")
    await fragile.kill_sidecar()
    status, _, body = await asking
    assert status == 200
    assert b"[DONE]" in body
    await fragile.start_sidecar()
    balance = await fragile.until_captured("cus_kill")
    assert balance["used_nano"] == USED_NANO


async def test_requests_are_refused_while_the_sidecar_is_away(fragile: Stack):
    key = await fragile.customer("cus_away", "prepaid", grant="1")
    served = fragile.upstream.served
    await fragile.kill_sidecar()
    status, _, _ = await fragile.ask(key)
    assert status == 503
    assert fragile.upstream.served == served
    await fragile.start_sidecar()
    status, _, _ = await fragile.ask(key)
    assert status == 200
    balance = await fragile.until_captured("cus_away")
    assert balance["used_nano"] == USED_NANO


async def test_kills_at_any_moment_lose_and_double_nothing(fragile: Stack):
    key = await fragile.customer("cus_chaos", "prepaid", grant="100")
    allowed = 0
    for round_number in range(4):
        batch = [asyncio.create_task(fragile.ask(key)) for _ in range(10)]
        await asyncio.sleep(0.05 * round_number)
        await fragile.kill_sidecar()
        answers = await asyncio.gather(*batch)
        allowed += sum(status == 200 for status, _, _ in answers)
        assert {status for status, _, _ in answers} <= {200, 503}
        await fragile.start_sidecar()

    async def all_captured() -> bool:
        return (await fragile.balance("cus_chaos"))["used_nano"] >= allowed * USED_NANO

    await fragile.until(all_captured, "the usage of every allowed request is captured")
    balance = await fragile.balance("cus_chaos")
    assert balance["used_nano"] == allowed * USED_NANO
    # A hold whose answer never reached Envoy stays until it expires, and costs nothing.
    assert balance["available_nano"] + balance["held_nano"] == 100 * 10**9 - allowed * USED_NANO
    await fragile.until(lambda: _ledger_agrees(fragile, "cus_chaos"), "the ledger agrees")


async def test_usage_during_a_redis_outage_arrives_when_redis_is_back(
    make_stack: Any, tmp_path_factory: pytest.TempPathFactory
):
    stack = await make_stack()
    key = await stack.customer("cus_outage", "prepaid", grant="1")
    pid = await _redis_pid(stack)
    script = {"kind": "sse", "chunks": 10, "pause": 0.1}
    asking = asyncio.create_task(stack.ask(key, script=script, stream=True))
    await stack.until(lambda: _held(stack, "cus_outage"), "the hold is placed")
    # Stopped, not killed: the socket accepts and nobody answers, the worst way to be away.
    os.kill(pid, signal.SIGSTOP)
    try:
        status, _, _ = await asking
        assert status == 200
        status, _, _ = await stack.ask(key)
        assert status == 503
        await stack.until(lambda: _not_ready(stack), "readiness says so")
    finally:
        os.kill(pid, signal.SIGCONT)
    balance = await stack.until_captured("cus_outage")
    assert balance["used_nano"] == USED_NANO
    status, _, _ = await stack.ask(key)
    assert status == 200


async def test_postgres_away_stops_no_check_and_the_ledger_catches_up(
    make_stack: Any, postgres: str
):
    stack = await make_stack()
    key = await stack.customer("cus_nopg", "prepaid", grant="1")
    database = stack.environment()["SIDECAR_POSTGRES_DSN"].partition("?")[0].rpartition("/")[2]
    connection = await asyncpg.connect(postgres)
    try:
        await connection.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", database
        )
        statuses = [(await stack.ask(key))[0] for _ in range(3)]
        assert statuses == [200, 200, 200]
    finally:
        await connection.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true")
        await connection.close()
    balance = await stack.until_captured("cus_nopg")
    assert balance["used_nano"] == 3 * USED_NANO
    await stack.until(lambda: _ledger_agrees(stack, "cus_nopg"), "the ledger catches up")


async def test_a_sidecar_that_starts_before_redis_serves_once_redis_is_there(
    make_stack: Any, tmp_path_factory: pytest.TempPathFactory
):
    stack = await make_stack()
    await stack.stop_sidecar()
    data_dir = tmp_path_factory.mktemp("late") / "data"
    async with EmbeddedRedis(data_dir, None) as url:
        late_url = url
    # The server has ended; its socket's path is where the next one will listen.
    stack.use_redis(late_url)
    await stack.start_sidecar(wait=False)
    await stack.until(lambda: _not_ready(stack), "it listens and is not ready")
    async with EmbeddedRedis(data_dir, None) as url:
        assert url == late_url
        await stack.until(stack.ready, "it is ready")
        await stack.stop_sidecar()


async def test_a_sidecar_that_starts_before_postgres_serves_once_postgres_is_there(
    make_stack: Any, postgres: str
):
    stack = await make_stack()
    key = await stack.customer("cus_early", "prepaid", grant="1")
    await stack.stop_sidecar()
    database = stack.environment()["SIDECAR_POSTGRES_DSN"].partition("?")[0].rpartition("/")[2]
    connection = await asyncpg.connect(postgres)
    try:
        await connection.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
        await stack.start_sidecar(wait=False)
        await stack.until(lambda: _not_ready(stack), "it listens and is not ready")
        status, _, _ = await stack.ask(key)
        assert status == 200, "a check needs no Postgres"
    finally:
        await connection.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true")
        await connection.close()
    await stack.until(stack.ready, "it is ready")
    await stack.until_captured("cus_early")
    await stack.until(lambda: _ledger_agrees(stack, "cus_early"), "the ledger agrees")


async def _held(stack: Stack, customer_id: str) -> bool:
    return bool((await stack.balance(customer_id))["held_nano"])


async def _not_ready(stack: Stack) -> bool:
    try:
        async with stack.session.get(f"http://{stack.http}/readyz") as response:
            return response.status == 503
    except OSError:
        return False


async def _redis_pid(stack: Stack) -> int:
    import redis.asyncio as redis  # noqa: PLC0415  Only this helper speaks to Redis itself.

    client = redis.from_url(stack.environment()["SIDECAR_REDIS_URL"])
    try:
        return int((await client.info("server"))["process_id"])
    finally:
        await client.aclose()


async def _ledger_agrees(stack: Stack, customer_id: str) -> bool:
    balance = await stack.balance(customer_id)
    live = balance["granted_nano"] - balance["used_nano"]
    connection = await asyncpg.connect(stack.environment()["SIDECAR_POSTGRES_DSN"])
    try:
        ledger = await connection.fetchval(
            "SELECT coalesce(sum(amount_nano), 0) FROM ledger_entries WHERE customer_id = $1"
            " AND account IN ('customer_credit', 'customer_overage', 'customer_receivable')",
            customer_id,
        )
    finally:
        await connection.close()
    return int(ledger) == live
