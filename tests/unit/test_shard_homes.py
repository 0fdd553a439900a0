"""Where a shard is: a slot that moved is told from a replica that took over."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from sidecar.outbound.redis import scripts
from sidecar.outbound.redis.shard_homes import (
    Life,
    Place,
    ShardHomes,
    parse_view,
    place_of,
    read_views,
)

KEY, SLOT = "sc:{s07}:shard", 1_195
OLD, NEW = "a" * 40, "b" * 40


def view_text(node: str, flags: str, *slots: str) -> str:
    """As CLUSTER NODES has it: the node's own line among others'."""
    other = f"{'f' * 40} 127.0.0.1:7009@17009 master - 0 1 9 connected 16000-16383"
    own = f"{node} 127.0.0.1:7000@17000 myself,{flags} - 0 0 3 connected {' '.join(slots)}"
    return f"{other}\n{own.rstrip()}\n"


def life(home: str, node: str, epoch: bytes = b"3") -> Life:
    return Life(epoch=epoch, seq=b"9", home=home, node=node)


def placed(home: str, node: str, *texts: str) -> Place:
    views = {view.node_id: view for view in map(parse_view, texts)}
    return place_of(SLOT, life(home, node), views)


@pytest.mark.parametrize(
    ("own", "place"),
    [
        ((OLD, "master", "0-1194", "1196-5460"), Place.MOVED),
        ((OLD, "master"), Place.MOVED),
        ((OLD, "master", "0-5460", f"[1195->-{NEW}]"), Place.UNSURE),
        # Another slot is being moved there, which says nothing of this one.
        ((OLD, "master", "0-5460", f"[1196->-{NEW}]"), Place.TAKEN_OVER),
        ((OLD, "master", "0-1194", "1196-5460", f"[1195-<-{NEW}]"), Place.MOVED),
        ((OLD, "master", "1195"), Place.TAKEN_OVER),
        ((OLD, "slave"), Place.TAKEN_OVER),
        ((NEW, "master", "0-5460"), Place.TAKEN_OVER),
    ],
)
def test_what_the_noted_node_says_of_itself_decides(own, place):
    assert placed(OLD, NEW, view_text(*own)) is place


def test_a_shard_is_at_home_where_it_was_noted_and_nowhere_else():
    assert placed(NEW, NEW) is Place.HERE
    assert placed("", "") is Place.HERE
    assert placed("", NEW) is Place.MOVED, "opened before nodes were noted"
    assert placed(OLD, "") is Place.TAKEN_OVER, "brought to one server from a cluster"


def test_without_an_epoch_it_does_not_matter_where_a_shard_is():
    assert place_of(SLOT, life(OLD, NEW, epoch=b""), None) is Place.HERE


def test_nothing_is_decided_while_a_master_does_not_answer():
    text = view_text(OLD, "slave").encode()
    assert read_views({"a": text, "b": TimeoutError()}) is None
    assert place_of(SLOT, life(OLD, NEW), None) is Place.UNSURE


@dataclass
class Nodes:
    """A shard on the new node, and what the old one says of itself."""

    old: str
    home: str = OLD
    looks: int = 0
    noted: list[str] = field(default_factory=list)

    async def commands(self, batch, /) -> list[Any]:
        await asyncio.sleep(0)
        ((_, source, _, key, *arguments),) = batch
        assert key == KEY
        if source == scripts.LOOK.source:
            self.looks += 1
            return [[b"3", b"9", self.home.encode(), NEW.encode()]]
        assert (source, arguments) == (scripts.HOME.source, [OLD, NEW])
        self.noted.append(NEW)
        self.home = NEW
        return [1]

    async def each(self, *command) -> dict[str, Any]:
        assert command == ("CLUSTER", "NODES")
        return {"old": self.old.encode(), "new": view_text(NEW, "master", "1195").encode()}


async def test_callers_that_come_together_note_a_moved_shard_once():
    nodes = Nodes(old=view_text(OLD, "master", "0-100"))
    homes = ShardHomes(nodes)
    assert await asyncio.gather(*(homes.settle_in(KEY) for _ in range(20))) == [True] * 20
    assert (nodes.looks, nodes.noted) == (1, [NEW])


async def test_a_shard_that_was_taken_over_is_not_noted_and_not_looked_at_by_every_call():
    nodes = Nodes(old=view_text(OLD, "slave"))
    homes = ShardHomes(nodes)
    assert await asyncio.gather(*(homes.settle_in(KEY) for _ in range(20))) == [False] * 20
    assert not await homes.settle_in(KEY)
    assert (nodes.looks, nodes.noted) == (1, [])
