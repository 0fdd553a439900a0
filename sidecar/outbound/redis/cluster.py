"""
A Redis Cluster: commands go to the node that has their slot, and follow it when it moves.

redis-py's own cluster client repeats writes after a lost connection and sleeps on its own
account. Here only what a node has refused unheard (MOVED, ASK, TRYAGAIN, CLUSTERDOWN) is sent
again, and only inside the caller's time. A lost connection ends the call, and makes the next one
look again at who has what: there is no task behind the callers' backs.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    AskError,
    ResponseError,
)

from sidecar.domain.errors import StoreUnavailable
from sidecar.outbound.redis.cluster_nodes import FAILURES, REDIRECTIONS, ClusterNodes
from sidecar.outbound.redis.cluster_plan import PUSH_SLOT, Ask, plan, spoken
from sidecar.outbound.redis.cluster_url import ClusterAddress, Node
from sidecar.outbound.redis.keys import PUSH_CHANNEL
from sidecar.outbound.redis.server import Batch, Command, Replies
from sidecar.outbound.redis.slot_map import slot_of

ROUNDS_MAX = 256
"""Of one call: a cluster that sends it back and forth is given up on."""
_PAUSE_SECONDS_MIN, _PAUSE_SECONDS_MAX = 0.001, 0.05


class Cluster:
    """
    The link to a Redis Cluster; replicas are never read.

    A batch is divided among nodes, which work on it at the same time. Commands about one slot
    keep their order; those without a key go with the one before them.
    """

    def __init__(
        self, address: ClusterAddress, *, connections_max: int, timeout_seconds: float
    ) -> None:
        """
        Describe it; connects to nothing yet.

        Args:
            address: Nodes to ask first.
            connections_max: To each node.
            timeout_seconds: For connecting.

        Raises:
            ConfigError: If its URL has options that no server takes.
        """
        self._nodes = ClusterNodes(
            address, connections_max=connections_max, timeout_seconds=timeout_seconds
        )
        self._timeout_seconds = timeout_seconds

    @property
    def calls(self) -> int:
        """Round trips so far, to any node."""
        return self._nodes.calls

    @property
    def is_cluster(self) -> bool:
        """Yes: one node may be away while the others serve their slots."""
        return True

    async def exchange(
        self, batch: Batch, *, timeout_seconds: float, wait_seconds: float, shared: bool = False
    ) -> Replies:
        """
        Send commands to the nodes that they are for; replies come back in the batch's order.

        Args:
            batch: One command or more.
            timeout_seconds: For everything but the first wait for free connections.
            wait_seconds: For those.
            shared: Over the connection to the node that calls share, if there is one command and
                it goes where it should at once.

        Raises:
            TimeoutError, RedisError, OSError: Any of them may have been carried out or not.
            StoreUnavailable: The same, or no node took one of them in time.
        """
        deadline = _now() + timeout_seconds
        replies: list[Any] = [None] * len(batch)
        if len(batch) == 1:
            # Nearly every call: one command, whose node is known and right.
            node = self._nodes.trusted(slot_of(batch[0]))
            if node is not None:
                found = await self._nodes.send(
                    node, batch, timeout_seconds, wait_seconds, shared=shared
                )
                if not isinstance(found[1], REDIRECTIONS):
                    return found
                again: list[Ask] = []
                reason = self._sort(node, plan(batch), found[0], replies, again)
                await _pause(reason, 0, deadline)
                return await self._route(again, replies, deadline, None, reason)
        return await self._route(plan(batch), replies, deadline, wait_seconds, None)

    async def exchange_each(
        self, batch: Batch, *, timeout_seconds: float, wait_seconds: float
    ) -> list[Any]:
        """
        Send commands over the connections to their nodes that calls share; each has its own end.

        Args: As `exchange`, each command as one that is shared.

        Returns:
            For each its reply, or the error that `exchange` would answer or raise for it alone.
        """
        results = await asyncio.gather(
            *(
                self.exchange(
                    [command],
                    timeout_seconds=timeout_seconds,
                    wait_seconds=wait_seconds,
                    shared=True,
                )
                for command in batch
            ),
            return_exceptions=True,
        )
        found: list[Any] = []
        for result in results:
            if isinstance(result, (*FAILURES, StoreUnavailable)):
                found.append(result)
            elif isinstance(result, BaseException):
                raise result
            else:
                found.append(result[0][0])
        return found

    async def _route(
        self,
        asks: list[Ask],
        replies: list[Any],
        deadline: float,
        wait_seconds: float | None,
        reason: ResponseError | None,
    ) -> Replies:
        """Ask round after round until every reply is in its place, or the time is up."""
        for number in range(ROUNDS_MAX):
            left = deadline - _now()
            if left <= 0:
                break
            await self._nodes.know(asks, deadline)
            groups, homeless = self._group(asks)
            left = max(deadline - _now(), 0)
            if wait_seconds is not None:
                asks, reason = await self._ask(groups, replies, left, wait_seconds)
                wait_seconds = None
            else:
                async with asyncio.timeout_at(deadline):
                    asks, reason = await self._ask(groups, replies, left, left)
            asks += homeless
            if not asks:
                return replies, next((r for r in replies if isinstance(r, ResponseError)), None)
            await _pause(reason, number if reason else number + 1, deadline)
        words = "nobody serves the slot" if reason is None else str(reason)[:100]
        kind = "" if reason is None else f"{type(reason).__name__}: "
        raise StoreUnavailable(f"redis: no node took it in time: {kind}{words}")

    async def everywhere(self, batch: Batch, *, timeout_seconds: float) -> None:
        """
        Send the same to every master at the same time.

        Raises:
            TimeoutError, RedisError, OSError: None of them took it. A node that is away alone is
                no failure; whatever was sent must be something that is made up for later.
        """
        await self.refresh(timeout_seconds=timeout_seconds)
        results = await asyncio.gather(
            *(self._nodes.send(node, batch, timeout_seconds) for node in self._nodes.map.masters),
            return_exceptions=True,
        )
        failures = _failures(results)
        refusals = [r[1] for r in results if not isinstance(r, BaseException) and r[1] is not None]
        if refusals:
            raise refusals[0]
        if failures and len(failures) == len(results):
            raise failures[0]

    async def each(self, command: Command, *, timeout_seconds: float) -> dict[str, Any]:
        """What every master answers to a command; an exception for an answer where it does not."""
        await self._nodes.refresh(_now() + timeout_seconds, at_once=True)
        nodes = list(self._nodes.map.masters)
        results = await asyncio.gather(
            *(self._nodes.send(node, [command], timeout_seconds) for node in nodes),
            return_exceptions=True,
        )
        _failures(results)
        return {
            f"{node.host}:{node.port}": result
            if isinstance(result, BaseException)
            else result[0][0]
            for node, result in zip(nodes, results, strict=True)
        }

    async def refresh(self, *, timeout_seconds: float) -> None:
        """Read the map anew if it is old, or if a redirection or a failure has shown it wrong."""
        if self._nodes.in_doubt:
            await self._nodes.refresh(_now() + timeout_seconds)

    async def ping(self, *, timeout_seconds: float) -> None:
        """Whether any node answers; what a shard's own node says, its own calls find out."""
        await self._nodes.refresh(_now() + timeout_seconds, at_once=True)

    @asynccontextmanager
    async def dedicated(self) -> AsyncIterator[AbstractConnection]:
        """A connection to the node that has the push channel's slot; closed at the end."""
        await self._nodes.know(plan([("PUBLISH", PUSH_CHANNEL)]), _now() + self._timeout_seconds)
        node = self._nodes.map.owner(PUSH_SLOT)
        if node is None:
            raise StoreUnavailable("redis: no node has the push channel's slot")
        connected = False
        try:
            async with self._nodes.server(node).dedicated() as connection:
                connected = True
                yield connection
        finally:
            if not connected:
                self._nodes.doubt(node)

    def is_current(self, connection: AbstractConnection) -> bool:
        """Whether the node that it leads to still has the channel's slot, so far as is known."""
        node = Node(getattr(connection, "host", ""), getattr(connection, "port", 0))
        return self._nodes.map.owner(PUSH_SLOT) == node

    async def aclose(self) -> None:
        """Close all connections."""
        await self._nodes.aclose()

    def _group(self, asks: Iterable[Ask]) -> tuple[dict[Node, list[Ask]], list[Ask]]:
        """Who is asked what, and what nobody can be asked."""
        groups: dict[Node, list[Ask]] = {}
        homeless: list[Ask] = []
        for ask in asks:
            node = ask.node or self._nodes.map.owner(ask.slot)
            if node is None:
                homeless.append(ask)
            else:
                groups.setdefault(node, []).append(ask)
        return groups, homeless

    async def _ask(
        self,
        groups: dict[Node, list[Ask]],
        replies: list[Any],
        timeout_seconds: float,
        wait_seconds: float,
    ) -> tuple[list[Ask], ResponseError | None]:
        """One round: put replies in their places; what is to be asked again, and a reason."""
        if len(groups) == 1:  # The usual case, without a task.
            ((node, asks),) = groups.items()
            found = [await self._nodes.send(node, spoken(asks), timeout_seconds, wait_seconds)]
        else:
            results = await asyncio.gather(
                *(
                    self._nodes.send(node, spoken(asks), timeout_seconds, wait_seconds)
                    for node, asks in groups.items()
                ),
                return_exceptions=True,
            )
            for failure in _failures(results):
                raise failure
            found = [result for result in results if not isinstance(result, BaseException)]
        again: list[Ask] = []
        reason: ResponseError | None = None
        for (node, asks), (answers, refusal) in zip(groups.items(), found, strict=True):
            if refusal is None and len(answers) == len(asks):
                for ask, answer in zip(asks, answers, strict=True):
                    replies[ask.position] = answer
                continue
            reason = self._sort(node, asks, answers, replies, again) or reason
        return again, reason

    def _sort(
        self,
        node: Node,
        asks: list[Ask],
        answers: list[Any],
        replies: list[Any],
        again: list[Ask],
    ) -> ResponseError | None:
        """Tell the answers that are final from those that send a command elsewhere, or later."""
        reason: ResponseError | None = None
        held_up: set[int] = set()
        heard = iter(answers)
        for ask in asks:
            if ask.node is not None:
                next(heard)  # ASKING's own.
            answer = next(heard)
            if isinstance(answer, REDIRECTIONS):
                reason = answer
                held_up.add(ask.slot)
                again.append(ask)
                ask.node = self._nodes.learn(node, ask, answer)
            elif ask.slot not in held_up:
                replies[ask.position] = answer
            elif ask.keyless:
                again.append(ask)
            else:
                # Carried out before one that stands in front of it: the slot came in between.
                raise StoreUnavailable("redis: a slot moved in the middle of a batch")
        return reason


async def _pause(reason: ResponseError | None, number: int, deadline: float) -> None:
    """
    Wait before the next round, longer each time; not where a first redirection says where to go.

    Args:
        reason: Why there is another round; None if nobody serves a slot.
        number: Of the round that has ended.
        deadline: Not waited for: when a moment is left, the rest of it is.
    """
    if number == 0 and isinstance(reason, AskError):
        return
    pause = min(_PAUSE_SECONDS_MAX, _PAUSE_SECONDS_MIN * 2.0 ** min(number, 10))
    # Spread, so that callers whom one node refused do not come back together.
    pause *= random.uniform(0.5, 1.0)  # noqa: S311  No secret.
    left = deadline - _now()
    await asyncio.sleep(min(pause, left / 2 if left > _PAUSE_SECONDS_MIN else max(left, 0)))


def _now() -> float:
    return asyncio.get_running_loop().time()


def _failures(results: Sequence[Any]) -> list[Exception]:
    """What went wrong with the store; anything else that was raised is raised again."""
    failures: list[Exception] = []
    for result in results:
        if isinstance(result, FAILURES):
            failures.append(result)
        elif isinstance(result, BaseException):
            raise result
    return failures
