"""
On which node of a cluster a shard lives, and what it means that it is found on another.

Each shard has noted its node. A replica that takes over has the note with another node's id: until
somebody has decided about it, no script changes the shard, so what the replica had not heard can
be missed by nobody's count. A slot that was moved has lost nothing, and whoever comes first
notes where it is now. The two are told apart by what the noted node says of itself.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from redis.crc import key_slot

from sidecar import telemetry
from sidecar.outbound.redis import scripts
from sidecar.outbound.redis.server import Argument

PAUSE_SECONDS = 0.25
"""Between two looks at the same shard, however many calls are refused by it."""
_FIELDS_BEFORE_SLOTS = 8
"""Of a node's line in CLUSTER NODES."""


class Place(Enum):
    """Where a shard is."""

    HERE = "here"
    MOVED = "moved"
    """Its slot was moved with all that it has, or its node was never noted."""
    UNSURE = "unsure"
    """Its slot is being moved, or a node did not answer: look again."""
    TAKEN_OVER = "taken_over"
    """Another node has it than had its last writes, which may be lacking."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """What a shard says of itself; empty for what it does not have."""

    epoch: bytes
    seq: bytes
    home: str
    node: str
    """The node that answered; empty outside a cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """What a node says of itself in CLUSTER NODES."""

    node_id: str
    is_master: bool
    ranges: tuple[tuple[int, int], ...]
    leaving: frozenset[int]

    def has(self, slot: int) -> bool:
        """Whether it believes the slot to be its own."""
        return any(first <= slot <= last for first, last in self.ranges)


class Store(Protocol):
    """What looking needs of the connection; both raise StoreUnavailable."""

    async def commands(self, batch: Sequence[Sequence[Argument]], /) -> list[Any]:
        """Plain replies of commands in their order."""

    async def each(self, *command: Argument) -> dict[str, Any]:
        """What every master answers, or an exception."""


class ShardHomes:
    """Looks where shards are, and notes those that have moved."""

    def __init__(self, store: Store) -> None:
        """Wire it."""
        self._store = store
        self._locks: dict[str, asyncio.Lock] = {}
        self._looked: dict[str, tuple[float, Place]] = {}

    async def look(self, keys: Sequence[str]) -> Sequence[tuple[Life, Place]]:
        """
        Where each shard is, by its hash's key; those that have moved are noted and here.

        Raises:
            StoreUnavailable: Some may have been noted; repeat it.
        """
        asked = [("EVAL", scripts.LOOK.source, 1, key) for key in keys]
        lives = [_life(reply) for reply in await self._store.commands(asked)]
        if all(_is_at_home(life) for life in lives):
            return [(life, Place.HERE) for life in lives]
        views = None
        if any(life.node for life in lives):
            # After the shards: a node that has lost one since then is not taken for its home.
            views = read_views(await self._store.each("CLUSTER", "NODES"))
        found = []
        for key, life in zip(keys, lives, strict=True):
            place = place_of(key_slot(key.encode()), life, views)
            if place is Place.MOVED:
                place = await self._note(key, life)
            found.append((life, place))
        return found

    async def settle_in(self, key: str) -> bool:
        """
        Look at a shard that a script found elsewhere: whether it may be worked on now.

        One caller at a time looks; others take what it found, for a moment.

        Raises:
            StoreUnavailable: It cannot be told.
        """
        now = asyncio.get_running_loop().time
        asked_at = now()
        async with self._locks.setdefault(key, asyncio.Lock()):
            looked_at, place = self._looked.get(key, (-PAUSE_SECONDS, Place.UNSURE))
            if looked_at < asked_at and now() - looked_at >= PAUSE_SECONDS:
                ((_, place),) = await self.look([key])
                self._looked[key] = now(), place
        return place is Place.HERE

    async def _note(self, key: str, life: Life) -> Place:
        command = ("EVAL", scripts.HOME.source, 1, key, life.home, life.node)
        (noted,) = await self._store.commands([command])
        if not noted:
            return Place.UNSURE
        if life.home:
            telemetry.get_logger().info("shard_moved", key=key, node=life.node)
        return Place.HERE


def place_of(slot: int, life: Life, views: Mapping[str, NodeView] | None) -> Place:
    """
    Where a shard is, by what it and the masters say.

    Args:
        slot: The shard's.
        life: What it says.
        views: What the masters say of themselves, by id, asked after it; None if not all answered.
    """
    if _is_at_home(life):
        return Place.HERE
    if not life.node:
        return Place.TAKEN_OVER  # Brought here from a cluster, nobody knows from which node.
    if not life.home:
        return Place.MOVED
    if views is None:
        return Place.UNSURE
    home = views.get(life.home)
    if home is None or not home.is_master:
        return Place.TAKEN_OVER
    if slot in home.leaving:
        return Place.UNSURE
    # A master that was replaced and has not heard of it yet believes that the slot is its own.
    return Place.TAKEN_OVER if home.has(slot) else Place.MOVED


def read_views(answers: Mapping[str, Any]) -> Mapping[str, NodeView] | None:
    """What the masters said of themselves, by id; None if one did not answer."""
    if any(isinstance(answer, BaseException) for answer in answers.values()):
        return None
    views = (parse_view(answer.decode()) for answer in answers.values())
    return {view.node_id: view for view in views}


def parse_view(text: str) -> NodeView:
    """A node's own line of its CLUSTER NODES."""
    own = next(line for line in text.splitlines() if "myself" in line.split(" ")[2])
    parts = own.split(" ")
    ranges, leaving = [], set()
    for part in parts[_FIELDS_BEFORE_SLOTS:]:
        if part.startswith("["):
            slot, arrow, _ = part[1:-1].partition("->-")
            if arrow:
                leaving.add(int(slot))
            continue
        first, _, last = part.partition("-")
        ranges.append((int(first), int(last or first)))
    return NodeView(
        node_id=parts[0],
        is_master="master" in parts[2].split(","),
        ranges=tuple(ranges),
        leaving=frozenset(leaving),
    )


def _is_at_home(life: Life) -> bool:
    """Where a shard without an epoch is does not matter: it has to be made anew."""
    return not life.epoch or life.home == life.node


def _life(reply: Sequence[bytes]) -> Life:
    epoch, seq, home, node = reply
    return Life(epoch=epoch, seq=seq, home=home.decode(errors="replace"), node=node.decode())
