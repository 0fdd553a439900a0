"""The nodes of a Redis Cluster: who has what, as far as is known, and how to speak with each."""

import asyncio
import random
from collections.abc import Iterable, Sequence

from redis.exceptions import (
    AskError,
    ClusterDownError,
    InvalidResponse,
    MasterDownError,
    MovedError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from sidecar import telemetry
from sidecar.outbound.redis.cluster_plan import PUSH_SLOT, Ask
from sidecar.outbound.redis.cluster_url import ClusterAddress, Node
from sidecar.outbound.redis.server import Batch, Replies, Server
from sidecar.outbound.redis.slot_map import SlotMap, redirected_to

NODES_MAX = 1_000
"""Of whose connections are kept; those that have left the cluster go first."""
REFRESH_SECONDS_MIN = 0.1
"""Between two looks at who has what, however many calls fail."""
REFRESH_SECONDS_MAX = 5.0
"""How old the map gets where somebody calls `refresh`."""
FAILURES = (RedisError, OSError, TimeoutError)
"""What an exchange with a node raises: whether anything was carried out is not known."""
REDIRECTIONS = (AskError, TryAgainError, ClusterDownError)
"""What a node refuses a command with before it has looked at it. A MOVED is an AskError too."""
_KINDS: dict[type[ResponseError], str] = {
    MovedError: "moved",
    AskError: "ask",
    TryAgainError: "try_again",
    ClusterDownError: "down",
    MasterDownError: "down",
}


class ClusterNodes:
    """
    The slot map, and a pool of connections to each node that is or was in it.

    A node that did not answer is a suspect until it does: whoever needs it next looks again at
    who has what, at most ten times a second among all callers.
    """

    def __init__(
        self, address: ClusterAddress, *, connections_max: int, timeout_seconds: float
    ) -> None:
        """
        Know the first nodes to ask; connects to nothing yet.

        Args:
            address: Those nodes, and how to speak with all.
            connections_max: To each node.
            timeout_seconds: For connecting.

        Raises:
            ConfigError: If its URL has options that no server takes.
        """
        self._address = address
        self._connections_max = connections_max
        self._timeout_seconds = timeout_seconds
        self._servers: dict[Node, Server] = {}
        self._suspects: set[Node] = set()
        self._refreshing = asyncio.Lock()
        self._refreshed_at = self._tried_at = -REFRESH_SECONDS_MAX
        self._stale = True
        self.map = SlotMap()
        self.calls = 0
        self.server(address.seeds[0])

    @property
    def in_doubt(self) -> bool:
        """Whether the map is old, or a redirection or a failure has shown it wrong."""
        is_old = _now() - self._refreshed_at >= REFRESH_SECONDS_MAX
        return self._stale or bool(self._suspects) or is_old

    def trusted(self, slot: int | None) -> Node | None:
        """Who has a slot, if that is known and not in doubt."""
        node = self.map.owner(PUSH_SLOT if slot is None else slot)
        return None if node in self._suspects else node

    def doubt(self, node: Node) -> None:
        """This node did not answer."""
        self._suspects.add(node)

    async def aclose(self) -> None:
        """Close all connections."""
        for server in self._servers.values():
            await server.aclose()

    def server(self, node: Node) -> Server:
        """The pool of connections to a node; made when it is first needed."""
        server = self._servers.get(node)
        if server is None:
            server = self._servers[node] = Server.from_url(
                self._address.url(node),
                connections_max=self._connections_max,
                timeout_seconds=self._timeout_seconds,
            )
        return server

    async def send(
        self,
        node: Node,
        batch: Batch,
        timeout_seconds: float,
        wait_seconds: float | None = None,
        *,
        shared: bool = False,
    ) -> Replies:
        """
        One exchange with a node; waits for a connection as long as for the answer if not told.

        `shared` as `Server.exchange` has it.

        Raises:
            TimeoutError, RedisError, OSError: It may have been carried out or not.
        """
        self.calls += 1
        wait = timeout_seconds if wait_seconds is None else wait_seconds
        try:
            replies = await self.server(node).exchange(
                batch, timeout_seconds=timeout_seconds, wait_seconds=wait, shared=shared
            )
        except FAILURES:
            self._suspects.add(node)
            raise
        self._suspects.discard(node)
        return replies

    async def know(self, asks: Iterable[Ask], deadline: float) -> None:
        """Look again at who has what, if it is not known of these or their node is in doubt."""
        for ask in asks:
            node = ask.node or self.map.owner(ask.slot)
            if node is None or node in self._suspects:
                await self.refresh(deadline)
                return

    def learn(self, node: Node, ask: Ask, answer: ResponseError) -> Node | None:
        """Take in a redirection; where to ask next, if it is not the slot's owner."""
        telemetry.REDIS_REDIRECTIONS.labels(_KINDS[type(answer)]).inc()
        if isinstance(answer, MovedError):
            self.map.move(ask.slot, redirected_to(answer, node))
            self._stale = True
        elif isinstance(answer, AskError):
            return redirected_to(answer, node)
        elif isinstance(answer, ClusterDownError):
            # It may be cut off from the others, who know better.
            self._suspects.add(node)
        return None

    async def refresh(self, deadline: float, *, at_once: bool = False) -> None:
        """
        Read the map from the first node that answers; one caller at a time does it.

        Raises:
            TimeoutError, RedisError, OSError: No node answered.
        """
        asked_at = _now()
        async with asyncio.timeout_at(deadline):
            async with self._refreshing:
                if self._refreshed_at >= asked_at:
                    return  # While this caller waited, another did it.
                age = _now() - self._tried_at
                if self.map.masters and age < REFRESH_SECONDS_MIN and not at_once:
                    return
                self._tried_at = _now()
                await self._read_map(deadline)

    async def _read_map(self, deadline: float) -> None:
        candidates = self._candidates()
        for place, node in enumerate(candidates):
            # Half of what is left: one that is silent must not use up the others' time.
            left = max(deadline - _now(), 0)
            share = left / 2 if place < len(candidates) - 1 else left
            try:
                (reply,), refusal = await self.send(node, [("CLUSTER", "SLOTS")], share)
                if refusal is not None:
                    raise refusal
                found = SlotMap.parse(reply, node)
                if not found.masters:
                    raise InvalidResponse("the node is in no cluster that serves anything")
                self.map = found
            except FAILURES:
                if place == len(candidates) - 1:
                    raise
                continue
            self._refreshed_at, self._stale = _now(), False
            await self._retire()
            return

    def _candidates(self) -> Sequence[Node]:
        """Whom to ask who has what: the trusted in any order, then the others."""
        nodes = list(dict.fromkeys((*self.map.masters, *self._address.seeds)))
        random.shuffle(nodes)
        return sorted(nodes, key=lambda node: node in self._suspects)

    async def _retire(self) -> None:
        """Let go of nodes that have no slot any more; whoever waits for one still is answered."""
        current = {*self.map.masters, *self._address.seeds}
        self._suspects &= current
        for node in [node for node in self._servers if node not in current]:
            await self._servers[node].close_idle()
            if len(self._servers) > NODES_MAX:
                await self._servers.pop(node).aclose()


def _now() -> float:
    return asyncio.get_running_loop().time()
