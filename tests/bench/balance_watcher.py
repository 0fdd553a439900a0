"""
Sends usage of one customer and looks at its balance until that shows it; a process of its own.

The balance is read as the admin API reads it, over and over, so that what is told is at most one
reading too long, and the pause before it. Orders and results are lines of JSON. Run by path.
"""

import asyncio
import json
import sys
import time
from typing import Any

from frames import CallFrames, Connection
from load_client import EXPORT, EXPORT_TIMEOUT, Client, answer

from sidecar.outbound.redis.accounts import RedisLiveAccounts
from sidecar.outbound.redis.connection import RedisConnection
from sidecar.outbound.redis.keys import Keyspace


class Watcher:
    def __init__(self, order: dict[str, Any]) -> None:
        self._client = Client(order)
        self._host, _, self._port = order["address"].rpartition(":")
        self._metadata = list(order["metadata"].items())
        self._customer = order["customer_id"]
        self._connection = RedisConnection.from_url(order["redis_url"], timeout_seconds=10.0)
        self._accounts = RedisLiveAccounts(self._connection, Keyspace(order["shards"]))

    async def run(self, order: dict[str, Any]) -> dict[str, Any]:
        """
        One event after the other, each sent when it is due and the one before has been seen.

        Of each the milliseconds from its sending until it was seen, and until it was answered. It
        ends after `count` events, or when `seconds` are over.
        """
        tokens = await self._client.place_holds(order["check"], order["count"])
        answer({})  # The holds are there; now others may begin.
        sys.stdin.readline()
        frames = CallFrames(EXPORT, self._metadata, EXPORT_TIMEOUT)
        messages = self._client.exports(order["export"], tokens, 1)
        connection = await Connection.open(self._host, int(self._port))
        started, seen_ms, answered_ms = time.perf_counter(), [], []
        for number, message in enumerate(messages):
            due = started + number * order["every_seconds"]
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            if time.perf_counter() - started > order["seconds"]:
                break
            sending = frames.of(number, message)
            seen, answered = await self._watch(connection, sending, order["pause_seconds"])
            seen_ms.append(seen * 1_000)
            answered_ms.append(answered * 1_000)
        await connection.close()
        return {
            "seen_ms": seen_ms,
            "answered_ms": answered_ms,
            "seconds": time.perf_counter() - started,
        }

    async def _watch(
        self, connection: Connection, frames: bytes, pause_seconds: float
    ) -> tuple[float, float]:
        before = await self._used()
        sent = time.perf_counter()
        sending = asyncio.ensure_future(connection.send([frames], 1))
        while await self._used() == before:
            if pause_seconds:
                await asyncio.sleep(pause_seconds)
        seen = time.perf_counter() - sent
        answered = await sending
        assert len(answered.seconds) == 1, "the event was refused"
        return seen, answered.seconds[0]

    async def _used(self) -> int:
        balance = await self._accounts.read_balance(self._customer)
        assert balance is not None
        return balance.used_nano

    async def close(self) -> None:
        await self._client.close()
        await self._connection.aclose()


async def main() -> None:
    watcher = Watcher(json.loads(sys.stdin.readline()))
    answer({})
    # Nothing else runs while an order is awaited, so a blocking read harms nobody.
    while line := sys.stdin.readline():
        answer(await watcher.run(json.loads(line)))
    await watcher.close()


asyncio.run(main())
