"""The connection: deadlines, cut-off calls, scripts that a restart has forgotten, refusals."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fixtures.live_store import CUSTOMER, LiveStore, SystemClock, hold_id_of, hold_of

from sidecar.domain.errors import ConfigError, StoreUnavailable
from sidecar.outbound.embedded.redis_server import GATEWAY_ACL_RULES
from sidecar.outbound.redis.balances import RedisBalances
from sidecar.outbound.redis.connection import RedisConnection
from sidecar.services.ports import PlaceStatus


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[LiveStore]:
    store = await LiveStore.open(redis_url)
    yield store
    await store.connection.aclose()


async def test_a_server_that_forgot_the_scripts_learns_them_again(store):
    facts = await store.add_customer(granted=100)
    await store.place(facts, 1, 10)
    await store.connection.command("SCRIPT", "FLUSH")
    assert (await store.place(facts, 2, 10)).status is PlaceStatus.PLACED
    calls = store.connection.calls
    assert (await store.place(facts, 3, 10)).status is PlaceStatus.PLACED
    assert store.connection.calls - calls == 1


async def test_no_server_is_told_at_once_and_not_tried_again(tmp_path):
    connection = RedisConnection.from_url(f"unix://{tmp_path}/none.sock", timeout_seconds=20.0)
    with pytest.raises(StoreUnavailable):
        await connection.command("PING")
    assert connection.calls == 1
    await connection.aclose()


@pytest.mark.parametrize("url", ["", "localhost:6379", "http://secret@host", "redis://h:port/0"])
def test_a_url_that_cannot_be_used_is_refused_without_its_secrets(url):
    with pytest.raises(ConfigError) as refused:
        RedisConnection.from_url(url)
    assert "secret" not in str(refused.value)


async def test_a_server_that_hangs_costs_no_more_than_the_deadline(tmp_path):
    asked = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        asked.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(hang, tmp_path / "s")
    connection = RedisConnection.from_url(f"unix://{tmp_path}/s", timeout_seconds=0.05)
    with pytest.raises(StoreUnavailable, match="in time"):
        await connection.command("PING")
    assert asked.is_set()
    await connection.aclose()
    server.close()
    await server.wait_closed()


async def test_more_callers_than_connections_wait_within_their_own_deadline(redis_url):
    connection = RedisConnection.from_url(redis_url, connections_max=1, timeout_seconds=20.0)
    blocked = asyncio.create_task(connection.command("BLPOP", "sc:none", 10))
    await _until(lambda: connection.calls == 1)
    await asyncio.sleep(0.01)
    with pytest.raises(StoreUnavailable, match="in time"):
        await connection.command("PING", timeout_seconds=0.02)
    blocked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await blocked
    assert await connection.command("PING") == b"PONG"
    await connection.aclose()


async def test_a_call_that_was_cut_off_leaves_no_reply_for_the_next(redis_url):
    connection = RedisConnection.from_url(redis_url, connections_max=1, timeout_seconds=20.0)
    for number in range(20):
        with pytest.raises(StoreUnavailable):
            # Answers later than it is waited for.
            await connection.command("BLPOP", f"sc:none{number}", "0.02", timeout_seconds=0.005)
        assert await connection.command("ECHO", str(number)) == str(number).encode()
    for number in range(20):
        task = asyncio.create_task(connection.command("BLPOP", f"sc:none{number}", "0.02"))
        await asyncio.sleep(number / 4_000)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await connection.command("ECHO", str(number)) == str(number).encode()
    await connection.aclose()


async def test_an_error_inside_a_batch_leaves_no_reply_for_the_next(redis_url):
    connection = RedisConnection.from_url(redis_url, connections_max=1, timeout_seconds=20.0)
    with pytest.raises(StoreUnavailable, match="NOSUCH"):
        await connection.commands([("ECHO", "1"), ("NOSUCH",), ("ECHO", "2")])
    assert await connection.commands([("ECHO", "3"), ("ECHO", "4")]) == [b"3", b"4"]
    await connection.aclose()


async def test_a_place_that_was_not_waited_for_loses_to_the_release_that_follows(store):
    facts = await store.add_customer(granted=100)
    balances = RedisBalances(
        store.connection, store.keyspace, SystemClock(), store_timeout_seconds=0.02
    )
    await store.connection.command("CLIENT", "PAUSE", 150)
    with pytest.raises(StoreUnavailable):
        await balances.place_hold(hold_of(facts, 1, 30))
    await store.balances.release_hold(CUSTOMER, hold_id_of(1))
    assert (await store.place(facts, 1, 30)).status is PlaceStatus.CLOSED
    assert await store.numbers() == (100, 0, 0, 100)


async def test_a_full_store_refuses_and_writes_nothing(store):
    facts = await store.add_customer(granted=100)
    before = await store.dump()
    await store.connection.command("CONFIG", "SET", "maxmemory", 1)
    try:
        with pytest.raises(StoreUnavailable, match="refused"):
            await store.place(facts, 1, 10)
    finally:
        await store.connection.command("CONFIG", "SET", "maxmemory", 0)
    assert await store.dump() == before


async def test_the_gateway_user_may_do_all_that_a_gateway_does(store, redis_socket: Path):
    facts = await store.add_customer(granted=100)
    rules = GATEWAY_ACL_RULES.split()
    await store.connection.command("ACL", "SETUSER", "gateway", "on", ">pw", *rules)
    gateway = await LiveStore.open(f"unix://gateway@{redis_socket}?password=pw")
    try:
        await gateway.connection.load_scripts()
        assert (await gateway.place(facts, 1, 10)).status is PlaceStatus.PLACED
        assert await gateway.balances.release_hold(CUSTOMER, hold_id_of(1))
        assert await gateway.balances.find_hold(hold_id_of(1)) == CUSTOMER
        await gateway.balances.ping()
        for command in (("FLUSHALL",), ("KEYS", "*"), ("GET", "other"), ("SCRIPT", "FLUSH")):
            with pytest.raises(StoreUnavailable, match="permission"):
                await gateway.connection.command(*command)
    finally:
        await gateway.connection.aclose()
        await store.connection.command("ACL", "DELUSER", "gateway")


async def _until(condition) -> None:
    for _ in range(2_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came to that")
