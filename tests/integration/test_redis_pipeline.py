"""The shared connection: every reply to its own caller, whoever gives up and whatever breaks."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvloop
from fixtures.redis_fixture import ask_redis
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    NoScriptError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from sidecar.outbound.redis import pipeline as module
from sidecar.outbound.redis.server import Server

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
SECONDS = 20.0
"""For what must not run into its time."""


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Server]:
    server = Server.from_url(url, connections_max=4, timeout_seconds=SECONDS)
    try:
        yield server
    finally:
        await server.aclose()


async def ask(server: Server, *command: Any, seconds: float = SECONDS, wait: float = SECONDS):
    (reply,), _ = await server.exchange(
        [command], timeout_seconds=seconds, wait_seconds=wait, shared=True
    )
    return reply


@asynccontextmanager
async def serving(folder: Path, serve: Serve) -> AsyncIterator[str]:
    """A server that speaks as it is told, at a URL."""
    path, running = folder / "s.sock", set[asyncio.Task[None]]()

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # The client hung up.
        finally:
            writer.close()

    listener = await asyncio.start_unix_server(served, path)
    try:
        yield f"unix://{path}"
    finally:
        listener.close()
        if running:
            await asyncio.wait(running, timeout=SECONDS)


async def test_every_caller_gets_its_own_reply_whoever_gives_up(redis_url, monkeypatch):
    # Beside other tests Redis may stand still for half a second, for its disk or for want of a
    # core; that such a server is given up has tests of its own.
    monkeypatch.setattr(module, "SILENT_SECONDS_MAX", SECONDS)
    dice = random.Random(20261128)
    async with connected(redis_url) as server:
        calls: list[tuple[int, float, asyncio.Task[Any]]] = []
        for number in range(3_000):
            # Some are given up by a cancellation, some by their time, in every order.
            seconds = dice.choice([0.0, 0.001, SECONDS, SECONDS])
            task = asyncio.create_task(ask(server, "ECHO", number, seconds=seconds))
            calls.append((number, seconds, task))
            if dice.random() < 0.2:
                dice.choice(calls)[2].cancel()
            if dice.random() < 0.3:
                await asyncio.sleep(0)
        await asyncio.wait({task for _, _, task in calls})
        heard = 0
        for number, seconds, task in calls:
            if task.cancelled():
                continue
            error = task.exception()
            if error is None:
                assert task.result() == str(number).encode()
                heard += 1
            else:
                assert isinstance(error, TimeoutError)
                assert seconds < SECONDS
        assert heard > 1_000
        assert await ask(server, "ECHO", "last") == b"last"


async def answer_pings(
    writes: list[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    while data := await reader.read(1 << 16):
        writes.append(data)
        writer.write(b":1\r\n" * data.count(b"PING"))


async def test_the_calls_of_one_turn_are_one_write(tmp_path):
    writes: list[bytes] = []
    async with serving(tmp_path, partial(answer_pings, writes)) as url, connected(url) as server:
        await ask(server, "PING")
        writes.clear()
        await asyncio.gather(*(ask(server, "PING") for _ in range(100)))
        assert [data.count(b"PING") for data in writes] == [100]


async def ask_each(server: Server, *commands: Any, seconds: float = SECONDS):
    return await server.exchange_each(commands, timeout_seconds=seconds, wait_seconds=SECONDS)


async def test_a_batch_is_one_write_with_the_calls_of_its_turn(tmp_path):
    writes: list[bytes] = []
    async with serving(tmp_path, partial(answer_pings, writes)) as url, connected(url) as server:
        await ask(server, "PING")
        writes.clear()
        calls = server.calls
        batch, one = await asyncio.gather(ask_each(server, *[("PING",)] * 64), ask(server, "PING"))
        assert (batch, one) == ([1] * 64, 1)
        assert [data.count(b"PING") for data in writes] == [65]
        assert server.calls - calls == 2
        assert await ask_each(server) == []


async def test_each_command_of_a_batch_has_its_own_reply_or_refusal(redis_url):
    async with connected(redis_url) as server:
        first, refused, last = await ask_each(
            server, ("ECHO", "a"), ("NO_SUCH_COMMAND",), ("ECHO", "b")
        )
        assert (first, last) == (b"a", b"b")
        assert isinstance(refused, ResponseError)


async def test_batches_and_calls_keep_their_replies_whoever_gives_up(redis_url):
    dice = random.Random(20261129)
    async with connected(redis_url) as server:
        running: list[tuple[list[int], asyncio.Task[Any]]] = []
        for number in range(600):
            texts = [number * 100 + place for place in range(dice.randint(1, 20))]
            seconds = dice.choice([0.0, 0.001, SECONDS, SECONDS])
            commands = [("ECHO", text) for text in texts]
            task = asyncio.create_task(ask_each(server, *commands, seconds=seconds))
            running.append((texts, task))
            if dice.random() < 0.2:
                dice.choice(running)[1].cancel()
            if dice.random() < 0.3:
                await asyncio.sleep(0)
        await asyncio.wait({task for _, task in running})
        heard = 0
        for texts, task in running:
            if task.cancelled():
                continue
            for text, reply in zip(texts, task.result(), strict=True):
                if not isinstance(reply, TimeoutError):
                    assert reply == str(text).encode()
                    heard += 1
        assert heard > 1_000
        assert await ask(server, "ECHO", "last") == b"last"


async def test_what_a_lost_connection_did_not_answer_is_told_command_by_command(tmp_path):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"last\r\n")
        writer.write(b"+first\r\n")
        await writer.drain()

    async with serving(tmp_path, serve) as url, connected(url) as server:
        first, *rest = await ask_each(server, ("first",), ("second",), ("last",))
        assert first == b"first"
        assert [isinstance(error, RedisError) for error in rest] == [True, True]


async def test_a_batch_that_would_be_too_many_is_refused_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "UNANSWERED_MAX", 3)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(b":1\r\n" * data.count(b"PING"))

    async with serving(tmp_path, serve) as url, connected(url) as server:
        with pytest.raises(TimeoutError):
            await ask_each(server, *[("PING",)] * 4)
        assert await ask_each(server, *[("PING",)] * 3) == [1] * 3


async def test_a_late_reply_is_nobody_elses(tmp_path):
    late = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"first\r\n")
        await late.wait()
        writer.write(b"+first\r\n")
        await reader.readuntil(b"second\r\n")
        writer.write(b"+second\r\n")

    async with serving(tmp_path, serve) as url, connected(url) as server:
        with pytest.raises(TimeoutError):
            await ask(server, "first", seconds=0.01)
        second = asyncio.create_task(ask(server, "second"))
        await asyncio.sleep(0.01)
        late.set()
        assert await second == b"second"


async def test_a_silent_server_is_given_up_and_tried_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SILENT_SECONDS_MAX", 0.02)
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"PING\r\n")
        if connections > 1:
            writer.write(b"+PONG\r\n")
        await reader.read()

    async with serving(tmp_path, serve) as url, connected(url) as server:
        hasty = asyncio.create_task(ask(server, "PING", seconds=0.01))
        await asyncio.sleep(0)
        patient = asyncio.create_task(ask(server, "PING"))
        with pytest.raises(TimeoutError):
            await hasty
        # Its own time is long, but the server has been silent for too long by then.
        with pytest.raises(RedisError, match="does not answer"):
            await patient
        assert await ask(server, "PING") == b"PONG"
        assert connections == 2


async def test_a_connection_that_is_lost_fails_who_waits_and_the_next_call_opens_another(tmp_path):
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"PING\r\n")
        if connections == 2:
            writer.write(b"+PONG\r\n")
            await reader.read()

    async with serving(tmp_path, serve) as url, connected(url) as server:
        replies = await asyncio.gather(
            *(ask(server, "PING") for _ in range(10)), return_exceptions=True
        )
        assert all(isinstance(one, RedisError) for one in replies), replies
        assert await ask(server, "PING") == b"PONG"
        assert connections == 2


async def test_what_is_no_reply_reaches_nobody(tmp_path):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"PING\r\n")
        writer.write(b"GET / HTTP/1.1\r\n")
        await reader.read()

    async with serving(tmp_path, serve) as url, connected(url) as server:
        with pytest.raises(RedisError):
            await ask(server, "PING")


async def test_a_reply_that_nobody_asked_for_ends_the_connection(tmp_path):
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"PING\r\n")
        writer.write(b"+PONG\r\n+PONG\r\n" if connections == 1 else b"+PONG\r\n")
        await reader.read()

    async with serving(tmp_path, serve) as url, connected(url) as server:
        assert await ask(server, "PING") == b"PONG"
        for _ in range(100):
            if connections == 2:
                break
            await asyncio.sleep(0.005)
            assert await ask(server, "PING") == b"PONG"
        assert connections == 2


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("NOSCRIPT No matching script.", NoScriptError),
        ("MOVED 7 127.0.0.1:7001", MovedError),
        ("ASK 7 127.0.0.1:7001", AskError),
        ("TRYAGAIN Multiple keys", TryAgainError),
        ("CLUSTERDOWN Hash slot not served", ClusterDownError),
        ("WRONGTYPE Operation against a key", ResponseError),
    ],
)
async def test_a_refusal_is_told_as_its_kind_and_the_connection_goes_on(tmp_path, words, kind):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1 << 16):
            writer.write(f"-{words}\r\n".encode())

    async with serving(tmp_path, serve) as url, connected(url) as server:
        replies, refusal = await server.exchange(
            [("PING",)], timeout_seconds=SECONDS, wait_seconds=SECONDS, shared=True
        )
        assert type(refusal) is kind
        assert replies == [refusal]
        if isinstance(refusal, MovedError):
            assert (refusal.slot_id, refusal.host, refusal.port) == (7, "127.0.0.1", 7001)
        assert type(await ask(server, "PING")) is kind


async def test_more_unanswered_calls_than_the_maximum_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "UNANSWERED_MAX", 5)

    asked = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(5):
            await reader.readuntil(b"PING\r\n")
        asked.set()
        await reader.read()

    async with serving(tmp_path, serve) as url, connected(url) as server:
        waiting = [asyncio.create_task(ask(server, "PING")) for _ in range(5)]
        await asked.wait()
        with pytest.raises(TimeoutError):
            await ask(server, "PING")
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        # A call that was given up still has its place: its reply may be on the way.
        with pytest.raises(TimeoutError):
            await ask(server, "PING")


async def test_it_signs_in_and_works_in_the_urls_database(redis_url, redis_socket: Path):
    ask_redis(redis_socket, b"ACL SETUSER ada on >secret ~* +@all")
    try:
        async with connected(f"unix://ada:secret@{redis_socket}?db=3") as server:
            assert await ask(server, "ACL", "WHOAMI") == b"ada"
            assert await ask(server, "SET", "here", 1) == b"OK"
        async with connected(f"{redis_url}?db=3") as server:
            assert await ask(server, "GET", "here") == b"1"
        async with connected(f"unix://ada:mistaken@{redis_socket}") as server:
            for _ in range(2):
                with pytest.raises(ResponseError, match="WRONGPASS") as refused:
                    await ask(server, "PING")
                assert "mistaken" not in str(refused.value)
    finally:
        ask_redis(redis_socket, b"ACL DELUSER ada")


async def test_nobody_there_is_told_to_all_who_wait(tmp_path):
    async with connected(f"unix://{tmp_path}/none.sock") as server:
        replies = await asyncio.gather(
            *(ask(server, "PING") for _ in range(10)), return_exceptions=True
        )
        assert all(isinstance(one, OSError) for one in replies), replies


def test_the_same_holds_on_uvloop(redis_url, redis_socket, tmp_path, monkeypatch):
    """Its transports are others than asyncio's."""
    with monkeypatch.context() as patches:
        uvloop.run(test_every_caller_gets_its_own_reply_whoever_gives_up(redis_url, patches))
    uvloop.run(test_it_signs_in_and_works_in_the_urls_database(redis_url, redis_socket))
    scenarios = (
        test_the_calls_of_one_turn_are_one_write,
        test_a_late_reply_is_nobody_elses,
        test_a_connection_that_is_lost_fails_who_waits_and_the_next_call_opens_another,
        test_what_is_no_reply_reaches_nobody,
        test_nobody_there_is_told_to_all_who_wait,
    )
    for number, scenario in enumerate(scenarios):
        folder = tmp_path / str(number)
        folder.mkdir()
        uvloop.run(scenario(folder))
