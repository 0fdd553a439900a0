"""Which node of a cluster has which slot, and which slot a command is about."""

from collections.abc import Collection, Sequence
from typing import Any, Self

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import AskError, InvalidResponse

from sidecar.outbound.redis.cluster_url import Node
from sidecar.outbound.redis.server import Command

_KEYLESS = frozenset(
    {
        "ACL",
        "CLIENT",
        "CLUSTER",
        "CONFIG",
        "DBSIZE",
        "ECHO",
        "FLUSHALL",
        "INFO",
        "KEYS",
        "PING",
        "SCRIPT",
        "TIME",
        "WAIT",
    }
)
_SCRIPTS = frozenset({"EVAL", "EVALSHA"})


def slot_of(command: Command) -> int | None:
    """
    The slot of a command's first key, or None if it has none.

    That of a PUBLISH is its channel's: a cluster takes it anywhere, but the node that has the
    slot is where gateways listen, so what is published is heard there without a detour.
    """
    name = str(command[0]).upper()
    if name in _KEYLESS:
        return None
    if name in _SCRIPTS:
        return _slot(command[3]) if int(command[2]) else None
    return _slot(command[1])


def _slot(key: str | bytes | int) -> int:
    return key_slot(key if isinstance(key, bytes) else str(key).encode())


class SlotMap:
    """
    Owners of all slots, as a node told them; corrected slot by slot by redirections.

    A slot that nobody serves has no owner.
    """

    def __init__(self, owners: Sequence[Node | None] = ()) -> None:
        """Start with nothing known, or with an owner for each slot."""
        self._owners = list(owners) or [None] * REDIS_CLUSTER_HASH_SLOTS
        assert len(self._owners) == REDIS_CLUSTER_HASH_SLOTS
        self._masters = dict.fromkeys(node for node in self._owners if node is not None)

    @classmethod
    def parse(cls, reply: Any, asked: Node) -> Self:
        """
        Read what CLUSTER SLOTS answers.

        Args:
            reply: Ranges of slots, each with its master before its replicas.
            asked: Who answered; a node that does not know its own address means this one.

        Raises:
            InvalidResponse: It is no such reply.
        """
        owners: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        try:
            for first, last, master, *_ in reply:
                node = _node(master[0], int(master[1]), asked)
                if not 0 <= first <= last < REDIS_CLUSTER_HASH_SLOTS:
                    raise ValueError  # noqa: TRY301  One place words all of it.
                owners[first : last + 1] = [node] * (last + 1 - first)
        except (TypeError, ValueError, IndexError) as error:
            raise InvalidResponse("CLUSTER SLOTS has another form than expected") from error
        return cls(owners)

    def owner(self, slot: int) -> Node | None:
        """Who has a slot, so far as is known."""
        return self._owners[slot]

    def move(self, slot: int, node: Node) -> None:
        """A redirection said who has it now."""
        self._owners[slot] = node
        self._masters[node] = None

    @property
    def masters(self) -> Collection[Node]:
        """Every node that has a slot, once; until the map is read anew, also one that had."""
        return self._masters.keys()


def redirected_to(error: AskError, asked: Node) -> Node:
    """Where a MOVED or ASK points; without a host it means the host that was asked."""
    return Node(error.host or asked.host, error.port)


def _node(host: Any, port: int, asked: Node) -> Node | None:
    if not host:
        return Node(asked.host, port)
    text = host.decode()
    # "?" stands for a host name that the operator told the cluster to prefer and did not set.
    return None if text == "?" else Node(text, port)
