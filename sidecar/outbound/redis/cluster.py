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
    ClusterDownError,
    MovedError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from sidecar.domain.errors import StoreUnavailable
from sidecar.outbound.redis.cluster_plan import Ask, plan, spoken
from sidecar.outbound.redis.cluster_url import ClusterAddress, Node
from sidecar.outbound.redis.keys import PUSH_CHANNEL
from sidecar.outbound.redis.server import Batch, Command, Replies, Server
from sidecar.outbound.redis.slot_map import SlotMap, redirected_to

NODES_MAX = 1_000
"""Of whose connections are kept; those that have left the cluster go first."""
ROUNDS_MAX = 256
"""Of one call: a cluster that sends it back and forth is given up on."""
REFRESH_SECONDS_MIN = 0.1
"""Between two looks at who has what, however many calls fail."""
REFRESH_SECONDS_MAX = 5.0
"""How old the map gets where somebody calls `refresh`."""
_PAUSE_SECONDS_MIN, _PAUSE_SECONDS_MAX = 0.001, 0.05
_FAILURES = (RedisError, OSError, TimeoutError)


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
        self._address = address
        self._connections_max = connections_max
        self._timeout_seconds = timeout_seconds
        self._map = SlotMap()
        self._servers: dict[Node, Server] = {}
        self._suspects: set[Node] = set()
        self._refreshing = asyncio.Lock()
        self._refreshed_at = -REFRESH_SECONDS_MAX
        self._stale = True
        self.calls = 0
        self._server(address.seeds[0])

    async def exchange(
        self, batch: Batch, *, timeout_seconds: float, wait_seconds: float
    ) -> Replies:
        """
        Send commands to the nodes that they are for; replies come back in the batch's order.

        Args:
            batch: One command or more.
            timeout_seconds: For everything but the first wait for free connections.
            wait_seconds: For those.

        Raises:
            TimeoutError, RedisError, OSError: Any of them may have been carried out or not.
            StoreUnavailable: The same, or no node took one of them in time.
        """
        deadline = _now() + timeout_seconds
        asks = plan(batch)
        replies: list[Any] = [None] * len(batch)
        refused: ResponseError | None = None
        for number in range(ROUNDS_MAX):
            await self._know(asks, deadline)
            groups, homeless = self._group(asks)
            if number == 0:
                asks, refused = await self._ask(groups, replies, timeout_seconds, wait_seconds)
            else:
                left = deadline - _now()
                async with asyncio.timeout_at(deadline):
                    asks, refused = await self._ask(groups, replies, left, left)
            asks += homeless
            if not asks:
                return replies, next((r for r in replies if isinstance(r, ResponseError)), None)
            left = deadline - _now()
            if left <= _PAUSE_SECONDS_MIN:
                break
            if homeless or number or isinstance(refused, TryAgainError | ClusterDownError):
                pause = min(_PAUSE_SECONDS_MAX, _PAUSE_SECONDS_MIN * 2.0 ** min(number, 10))
                # Spread, so that callers whom one node refused do not come back together.
                pause *= random.uniform(0.5, 1.0)  # noqa: S311  No secret.
                await asyncio.sleep(min(pause, left / 2))
        words = "nobody serves the slot" if refused is None else str(refused)[:100]
        kind = "" if refused is None else f"{type(refused).__name__}: "
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
            *(self._send(node, batch, timeout_seconds) for node in self._map.masters()),
            return_exceptions=True,
        )
        failures = _failures(results)
        refusals = [r[1] for r in results if not isinstance(r, BaseException) and r[1] is not None]
        if refusals:
            raise refusals[0]
        if failures and len(failures) == len(results):
            raise failures[0]

    async def each_master(
        self, command: Command, *, timeout_seconds: float
    ) -> dict[Node, Any | Exception]:
        """What every master answers to a command, or why it does not; to look at the cluster."""
        await self.refresh(timeout_seconds=timeout_seconds)
        nodes = list(self._map.masters())
        results = await asyncio.gather(
            *(self._send(node, [command], timeout_seconds) for node in nodes),
            return_exceptions=True,
        )
        _failures(results)
        return {
            node: result if isinstance(result, BaseException) else result[0][0]
            for node, result in zip(nodes, results, strict=True)
        }

    async def refresh(self, *, timeout_seconds: float) -> None:
        """Read the map anew if it is old, or if a redirection or a failure has shown it wrong."""
        if self._stale or self._suspects or _now() - self._refreshed_at >= REFRESH_SECONDS_MAX:
            await self._refresh(_now() + timeout_seconds)

    async def ping(self, *, timeout_seconds: float) -> None:
        """Whether any node answers; what a shard's own node says, its own calls find out."""
        await self._refresh(_now() + timeout_seconds, at_once=True)

    @asynccontextmanager
    async def dedicated(self) -> AsyncIterator[AbstractConnection]:
        """A connection to the node that has the push channel's slot; closed at the end."""
        (ask,) = plan([("PUBLISH", PUSH_CHANNEL)])
        await self._know([ask], _now() + self._timeout_seconds)
        node = self._map.owner(ask.slot)
        if node is None:
            raise StoreUnavailable("redis: no node has the push channel's slot")
        connected = False
        try:
            async with self._server(node).dedicated() as connection:
                connected = True
                yield connection
        finally:
            if not connected:
                self._suspects.add(node)

    def is_current(self, connection: AbstractConnection) -> bool:
        """Whether the node that it leads to still has the channel's slot, so far as is known."""
        (ask,) = plan([("PUBLISH", PUSH_CHANNEL)])
        node = Node(getattr(connection, "host", ""), getattr(connection, "port", 0))
        return self._map.owner(ask.slot) == node

    async def aclose(self) -> None:
        """Close all connections."""
        for server in self._servers.values():
            await server.aclose()

    def _server(self, node: Node) -> Server:
        server = self._servers.get(node)
        if server is None:
            server = self._servers[node] = Server.from_url(
                self._address.url(node),
                connections_max=self._connections_max,
                timeout_seconds=self._timeout_seconds,
            )
        return server

    def _group(self, asks: Iterable[Ask]) -> tuple[dict[Node, list[Ask]], list[Ask]]:
        """Who is asked what, and what nobody can be asked."""
        groups: dict[Node, list[Ask]] = {}
        homeless: list[Ask] = []
        for ask in asks:
            node = ask.node or self._map.owner(ask.slot)
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
            found = [await self._send(node, spoken(asks), timeout_seconds, wait_seconds)]
        else:
            results = await asyncio.gather(
                *(
                    self._send(node, spoken(asks), timeout_seconds, wait_seconds)
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
            if isinstance(answer, AskError | TryAgainError | ClusterDownError):
                reason = answer
                held_up.add(ask.slot)
                again.append(ask)
                ask.node = self._learn(node, ask, answer)
            elif ask.slot not in held_up:
                replies[ask.position] = answer
            elif ask.keyless:
                again.append(ask)
            else:
                # Carried out before one that stands in front of it: the slot came in between.
                raise StoreUnavailable("redis: a slot moved in the middle of a batch")
        return reason

    def _learn(self, node: Node, ask: Ask, answer: ResponseError) -> Node | None:
        """Take in a redirection; where to ask next, if it is not the slot's owner."""
        if isinstance(answer, MovedError):
            self._map.move(ask.slot, redirected_to(answer, node))
            self._stale = True
        elif isinstance(answer, AskError):
            return redirected_to(answer, node)
        elif isinstance(answer, ClusterDownError):
            # It may be cut off from the others, who know better.
            self._suspects.add(node)
        return None

    async def _send(
        self, node: Node, batch: Batch, timeout_seconds: float, wait_seconds: float | None = None
    ) -> Replies:
        self.calls += 1
        wait = timeout_seconds if wait_seconds is None else wait_seconds
        try:
            replies = await self._server(node).exchange(
                batch, timeout_seconds=timeout_seconds, wait_seconds=wait
            )
        except _FAILURES:
            self._suspects.add(node)
            raise
        self._suspects.discard(node)
        return replies

    async def _know(self, asks: Iterable[Ask], deadline: float) -> None:
        """Look again at who has what, if it is not known of these or their node is in doubt."""
        for ask in asks:
            node = ask.node or self._map.owner(ask.slot)
            if node is None or node in self._suspects:
                await self._refresh(deadline)
                return

    async def _refresh(self, deadline: float, *, at_once: bool = False) -> None:
        """
        Read the map from the first node that answers; one caller at a time does it.

        Raises:
            TimeoutError, RedisError, OSError: No node answered.
        """
        asked_at = _now()
        async with asyncio.timeout_at(deadline):
            async with self._refreshing:
                age = _now() - self._refreshed_at
                known = any(True for _ in self._map.masters())
                if self._refreshed_at >= asked_at:
                    return  # While this caller waited, another did it.
                if known and age < REFRESH_SECONDS_MIN and not at_once:
                    return
                await self._read_map(deadline)

    async def _read_map(self, deadline: float) -> None:
        candidates = self._candidates()
        for place, node in enumerate(candidates):
            # Half of what is left: one that is silent must not use up the others' time.
            left = max(deadline - _now(), 0)
            share = left / 2 if place < len(candidates) - 1 else left
            try:
                (reply,), refusal = await self._send(node, [("CLUSTER", "SLOTS")], share)
                if refusal is not None:
                    raise refusal
                self._map = SlotMap.parse(reply, node)
            except _FAILURES:
                if place == len(candidates) - 1:
                    raise
                continue
            self._refreshed_at, self._stale = _now(), False
            await self._retire()
            return

    def _candidates(self) -> Sequence[Node]:
        """Whom to ask who has what: the trusted in any order, then the others."""
        nodes = list(dict.fromkeys((*self._map.masters(), *self._address.seeds)))
        random.shuffle(nodes)
        return sorted(nodes, key=lambda node: node in self._suspects)

    async def _retire(self) -> None:
        """Let go of nodes that have no slot any more; whoever waits for one still is answered."""
        current = {*self._map.masters(), *self._address.seeds}
        self._suspects &= current
        for node in [node for node in self._servers if node not in current]:
            await self._servers[node].close_idle()
            if len(self._servers) > NODES_MAX:
                await self._servers.pop(node).aclose()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _failures(results: Sequence[Any]) -> list[Exception]:
    """What went wrong with the store; anything else that was raised is raised again."""
    failures: list[Exception] = []
    for result in results:
        if isinstance(result, _FAILURES):
            failures.append(result)
        elif isinstance(result, BaseException):
            raise result
    return failures
