"""
A gateway's ear: what the control plane pushes drops the entries that it is about.

Correctness never hangs on it, since the place script compares revision and generation. It keeps
remembered facts warm and fresh for whatever is decided without the script. That nothing was
missed is known from Redis itself: a PING every 250 ms on the subscriber's own connection, whose
answer comes behind all that was published before it. So there is no heartbeat to publish, and no
process whose absence could be taken for silence.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from sidecar import telemetry
from sidecar.domain.errors import StoreUnavailable
from sidecar.outbound.redis.connection import RedisConnection
from sidecar.outbound.redis.keys import PUSH_CHANNEL
from sidecar.outbound.redis.push_messages import (
    CredentialPush,
    CustomerPush,
    PolicyPush,
    RecallPush,
    ShardPush,
    decode_push,
    encode_push,
)

HEARTBEAT_SECONDS = 0.25
SILENT_ROUNDS_MAX = 3
"""PINGs without an answer until the channel counts as silent: 1 s after the last sound."""
RECONNECT_SECONDS = 0.25


class Cache(Protocol):
    """What is remembered, and how it is dropped."""

    def drop_customer(self, customer_id: str) -> None:
        """Forget a customer's facts."""

    def drop_credential(self, secret_hash: str) -> None:
        """Forget where a credential leads, or that it leads nowhere."""

    def drop_all(self) -> None:
        """Forget everything."""


class Caches:
    """Several caches that are told the same: implements Cache."""

    def __init__(self, *caches: Cache) -> None:
        """Take them."""
        self._caches = caches

    def drop_customer(self, customer_id: str) -> None:
        """Each forgets a customer's facts."""
        for cache in self._caches:
            cache.drop_customer(customer_id)

    def drop_credential(self, secret_hash: str) -> None:
        """Each forgets where a credential leads."""
        for cache in self._caches:
            cache.drop_credential(secret_hash)

    def drop_all(self) -> None:
        """Each forgets everything."""
        for cache in self._caches:
            cache.drop_all()


class PushListener:
    """
    Keeps one subscription, and drops from the cache what the messages name.

    When the subscription is lost, or has been silent for 1 s, the whole cache is dropped, since
    messages may have been lost; and again when it stands again, for what was read in between.
    """

    def __init__(
        self,
        connection: RedisConnection,
        cache: Cache,
        *,
        on_policy: Callable[[], None] = lambda: None,
        on_recall: Callable[[str], None] = lambda _customer_id: None,
    ) -> None:
        """
        Wire it; `run` opens a connection of its own.

        Args:
            connection, cache: What it listens with, and what it drops from.
            on_policy: Called when policy files have changed.
            on_recall: Called with a customer whose blocks of credit are to be given back.
        """
        self._connection = connection
        self._cache = cache
        self._on_policy = on_policy
        self._on_recall = on_recall
        self._told = False
        self.trusted = False
        """Whether the subscription stands, and was heard of within the last second."""

    async def run(self, stop: asyncio.Event) -> None:
        """Listen until stopped; a lost subscription is opened again."""
        while not stop.is_set():
            try:
                await self._listen(stop)
            except StoreUnavailable as error:
                self._lose(error)
            finally:
                self.trusted = False
            with suppress(TimeoutError):
                # Spread, so that a Redis that comes back is not met by all gateways at once.
                seconds = RECONNECT_SECONDS * random.uniform(0.5, 1.0)  # noqa: S311  No secret.
                await asyncio.wait_for(stop.wait(), seconds)

    async def _listen(self, stop: asyncio.Event) -> None:
        """One subscription's life. Raises StoreUnavailable when it is lost or silent."""
        async with self._connection.dedicated() as connection:
            await connection.send_command("SUBSCRIBE", PUSH_CHANNEL)
            unanswered = 0
            while not stop.is_set():
                reply = await connection.read_response(timeout=HEARTBEAT_SECONDS)
                if reply is not None:
                    unanswered = 0
                    self._hear(reply)
                    continue
                if unanswered == SILENT_ROUNDS_MAX:
                    raise StoreUnavailable("redis: the push channel is silent")
                if not self._connection.is_current(connection):
                    # A node that has left its cluster would answer for ever and hear nothing.
                    raise StoreUnavailable("redis: the push channel is on another node now")
                unanswered += 1
                await connection.send_command("PING", check_health=False)

    def _hear(self, reply: Any) -> None:
        match reply:
            case [b"subscribe", *_]:
                # What was read before it stood may have changed unheard.
                self._cache.drop_all()
                self.trusted, self._told = True, False
            case [b"message", _, bytes(data)]:
                self._handle(data)

    def _handle(self, data: bytes) -> None:
        push = decode_push(data)
        match push:
            case CustomerPush():
                telemetry.PUSH_MESSAGES.labels("customer").inc()
                self._cache.drop_customer(push.customer_id)
            case CredentialPush():
                telemetry.PUSH_MESSAGES.labels("credential").inc()
                self._cache.drop_credential(push.secret_hash)
            case PolicyPush():
                telemetry.PUSH_MESSAGES.labels("policy").inc()
                self._on_policy()
            case RecallPush():
                telemetry.PUSH_MESSAGES.labels("recall").inc()
                self._on_recall(push.customer_id)
            case ShardPush():
                telemetry.PUSH_MESSAGES.labels("shard").inc()
                self._cache.drop_all()
                self._connection.watch.renew(push.shard)
            case None:
                # Of a newer version perhaps: something has changed, and what is not known.
                telemetry.PUSH_MESSAGES.labels("unreadable").inc()
                self._distrust("a message cannot be read")

    def _lose(self, error: StoreUnavailable) -> None:
        """Note an outage once, one from the start on too: a right may be missing."""
        if self.trusted:
            self._distrust(str(error))
        elif not self._told:
            telemetry.get_logger().warning("push_unavailable", error=str(error))
        self._told = True

    def _distrust(self, problem: str) -> None:
        telemetry.PUSH_DISTRUSTS.inc()
        telemetry.get_logger().warning("push_distrusted", problem=problem)
        self._cache.drop_all()


class RedisPolicyNotices:
    """Implements PolicyNotices: tells every gateway that policy files have changed."""

    def __init__(self, connection: RedisConnection) -> None:
        """Wire it."""
        self._connection = connection

    async def tell(self) -> None:
        """Tell them; whoever does not listen finds the change by itself."""
        await self._connection.command("PUBLISH", PUSH_CHANNEL, encode_push(PolicyPush()))
