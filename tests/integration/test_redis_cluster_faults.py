"""A node of a cluster that misbehaves: nothing is sent twice that may have had an effect."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from sidecar.domain.errors import StoreUnavailable
from sidecar.outbound.redis.cluster_nodes import REFRESH_SECONDS_MIN
from sidecar.outbound.redis.connection import RedisConnection

SLOTS = b"*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n$9\r\n127.0.0.1\r\n:PORT\r\n$2\r\nid\r\n"
Answer = Callable[[list[bytes]], bytes | None]


class FakeNode:
    """One node that says it has every slot, and answers the rest as the test has it."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.heard: list[list[bytes]] = []
        self.slots = SLOTS
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis+cluster://127.0.0.1:{self.port}"

    def heard_of(self, name: bytes) -> int:
        return sum(command[0] == name for command in self.heard)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A connection that was cut off ends here too.
        with suppress(ConnectionError):
            await self._serve(reader, writer)
        writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while command := await _read_command(reader):
            self.heard.append(command)
            if command[0] == b"CLUSTER":
                reply: bytes | None = self.slots.replace(b"PORT", b"%d" % self.port)
            else:
                reply = self._answer(command)
            if reply is None:
                break
            writer.write(reply)
            await writer.drain()


async def _read_command(reader: asyncio.StreamReader) -> list[bytes]:
    head = await reader.readline()
    parts = []
    for _ in range(int(head[1:] or b"0")):
        size = int((await reader.readline())[1:])
        parts.append((await reader.readexactly(size + 2))[:-2])
    return parts


@asynccontextmanager
async def faulty(answer: Answer) -> AsyncIterator[tuple[FakeNode, RedisConnection]]:
    node = FakeNode(answer)
    server = await asyncio.start_server(node.serve, "127.0.0.1", 0)
    node.port = server.sockets[0].getsockname()[1]
    connection = RedisConnection.from_url(node.url, timeout_seconds=10.0)
    try:
        yield node, connection
    finally:
        await connection.aclose()
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("was_well", [True, False])
async def test_a_command_whose_connection_is_lost_is_not_sent_again(was_well):
    def answer(command: list[bytes]) -> bytes | None:
        return None if command[0] == b"XADD" else b"+OK\r\n"

    async with faulty(answer) as (node, connection):
        for count in (1, 2):
            if was_well:
                await connection.command("SET", "sc:{s00}:a", "b")
            with pytest.raises(StoreUnavailable):
                await connection.command("XADD", "sc:{s00}:usage", "*", "k", "v")
            assert node.heard_of(b"XADD") == count


async def test_the_call_after_a_lost_node_finds_who_has_its_slots_now():
    """By itself: nobody watches this connection."""
    async with (
        faulty(lambda c: b"+OK\r\n" if c[0] == b"SET" else None) as (old, _),
        faulty(lambda _: b"+OK\r\n") as (heir, _),
    ):
        connection = RedisConnection.from_url(f"{old.url},127.0.0.1:{heir.port}")
        try:
            old.slots = heir.slots = SLOTS.replace(b"PORT", b"%d" % old.port)
            await connection.command("SET", "a", "b")
            heir.slots = SLOTS
            with pytest.raises(StoreUnavailable):
                await connection.command("XADD", "a", "*", "k", "v")
            await asyncio.sleep(REFRESH_SECONDS_MIN)
            assert await connection.command("XADD", "a", "*", "k", "v") == b"OK"
            assert (old.heard_of(b"XADD"), heir.heard_of(b"XADD")) == (1, 1)
        finally:
            await connection.aclose()


async def test_a_node_that_sends_its_callers_round_in_circles_is_given_up_on():
    port = 0

    def answer(_: list[bytes]) -> bytes:
        return b"-MOVED 5 127.0.0.1:%d\r\n" % port

    async with faulty(answer) as (node, connection):
        port = node.port
        with pytest.raises(StoreUnavailable, match="in time"):
            await connection.command("GET", "a", timeout_seconds=0.1)
        assert 2 < node.heard_of(b"GET") < 60


async def test_a_refusal_that_is_no_redirection_is_final():
    async with faulty(lambda _: b"-OOM command not allowed\r\n") as (node, connection):
        with pytest.raises(StoreUnavailable, match="refused"):
            await connection.command("SET", "a", "b")
        assert node.heard_of(b"SET") == 1


async def test_a_batch_that_a_redirection_cuts_is_not_taken_for_done():
    """The second command was carried out, the first one in front of it was not."""

    def answer(command: list[bytes]) -> bytes:
        return b"-TRYAGAIN\r\n" if command[0] == b"HSET" else b"+OK\r\n"

    async with faulty(answer) as (node, connection):
        with pytest.raises(StoreUnavailable, match="in the middle of a batch"):
            await connection.commands([("HSET", "a", "f", "v"), ("PEXPIREAT", "a", 1)])
        assert node.heard_of(b"HSET") == 1


async def test_a_node_that_is_asked_after_an_ask_is_told_so_each_time():
    port, asking = 0, False

    def answer(command: list[bytes]) -> bytes:
        nonlocal asking
        if command[0] == b"ASKING":
            asking = True
            return b"+OK\r\n"
        reply = b"$1\r\n1\r\n" if asking else b"-ASK 5 127.0.0.1:%d\r\n" % port
        asking = False
        return reply

    async with faulty(answer) as (node, connection):
        port = node.port
        for _ in range(2):
            assert await connection.command("GET", "a") == b"1"
        assert [c[0] for c in node.heard if c[0] != b"CLUSTER"] == [b"GET", b"ASKING", b"GET"] * 2
        assert await connection.commands([("GET", "a"), ("GET", "b")]) == [b"1", b"1"]


async def test_the_first_nodes_being_away_costs_nothing_but_a_look():
    async with faulty(lambda _: b"+OK\r\n") as (node, _):
        url = f"redis+cluster://127.0.0.1:1,127.0.0.1:2,127.0.0.1:{node.port}"
        connection = RedisConnection.from_url(url, timeout_seconds=10.0)
        assert await connection.command("SET", "a", "b") == b"OK"
        assert (await connection.command("SET", "a", "b"), node.heard_of(b"CLUSTER")) == (b"OK", 1)
        await connection.aclose()


async def test_callers_who_lose_a_node_look_together_and_not_each_for_itself():
    async with faulty(lambda _: b"-CLUSTERDOWN The cluster is down\r\n") as (node, connection):
        results = await asyncio.gather(
            *(connection.command("GET", f"k{n}", timeout_seconds=0.3) for n in range(20)),
            return_exceptions=True,
        )
        assert all(isinstance(result, StoreUnavailable) for result in results)
        assert node.heard_of(b"CLUSTER") <= 6


async def test_no_node_at_all_is_told_at_once():
    connection = RedisConnection.from_url("redis+cluster://127.0.0.1:1", timeout_seconds=20.0)
    with pytest.raises(StoreUnavailable):
        await connection.command("PING")
    with pytest.raises(StoreUnavailable):
        await connection.ping()
    await connection.aclose()


@pytest.mark.parametrize(
    "reply", [b"-ERR This instance has cluster support disabled\r\n", b"*0\r\n", b"+OK\r\n"]
)
async def test_a_server_that_is_in_no_cluster_is_refused(reply):
    async with faulty(lambda _: b"+OK\r\n") as (node, connection):
        node.slots = reply
        with pytest.raises(StoreUnavailable, match=r"cluster|CLUSTER"):
            await connection.command("SET", "a", "b")
        assert node.heard_of(b"SET") == 0
