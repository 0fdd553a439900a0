"""
Sees a store that lost data: one watch for a process, told of every script's answer.

A shard's life is an epoch, which the ledger's database numbers, and the count of its writes. A
store never goes back in either. So an answer to a question that was asked when this process knew
of a later write comes from a store that forgot that write. Answers that pass each other on
several connections are no sign of it: each is compared with what was known before its question
was sent.
"""

import asyncio
import re
from contextlib import suppress
from typing import Final, Protocol

from sidecar import telemetry
from sidecar.domain.errors import StoreUnavailable

Position = tuple[int, int]
"""Epoch, and number of the last write in it; (0, 0) before the first answer."""

_START: Final[Position] = (0, 0)
ELSEWHERE: Final[Position] = (0, 1)
"""In place of a position: the shard is on another node than the one it was noted to live on."""
_TAG = re.compile(r"\{s(\d+)\}")
_REPORT_SECONDS = 1.0


class Reports(Protocol):
    """Where losses are told to whoever can rebuild."""

    async def report(self, shard: int, epoch: int) -> None:
        """Say that this shard's store went back in this epoch. Raises StoreUnavailable."""


class ShardWatch:
    """
    What is known of each shard that this process works on; at most one entry a shard.

    A shard that went back stays refused until it has a later epoch: what it says meanwhile
    counts from numbers that are wrong. `renewed` has shards whose epoch has changed since
    they were last taken from it.
    """

    def __init__(self) -> None:
        """Know nothing: the first answers are believed."""
        self._known: dict[str, Position] = {}
        self._went_back: dict[str, int] = {}
        self._absent: set[str] = set()
        self._renewed: dict[int, None] = {}
        self._changed = asyncio.Event()

    def known(self, key: str) -> Position:
        """What is known of the shard with this hash; ask before a script is sent."""
        return self._known.get(key, _START)

    def take(
        self, key: str, asked: Position, found: Position, *, before: Position | None = None
    ) -> None:
        """
        Take an answer's position in.

        Args:
            key: Of the shard's hash.
            asked: What was known when the script was sent.
            found: What came with the answer; epoch 0 for a shard without one, or ELSEWHERE.
            before: Where the shard stood before the script; None: it wrote nothing. A script's own
                write may take the number of a lost one, and would hide the loss.

        Raises:
            StoreUnavailable: The shard has lost data; the answer must not be used.
        """
        if found == ELSEWHERE:
            if key not in self._absent:
                self._absent.add(key)
                telemetry.get_logger().warning("shard_elsewhere", shard=_shard_of(key))
                self._count()
            raise StoreUnavailable("redis: this shard's node was replaced, or its slot is moving")
        if found[0] == 0:
            self._lose(key, "absent")
            raise StoreUnavailable("redis: this shard's data is gone or not there yet")
        if (found if before is None else before) < asked or found[0] <= self._went_back.get(key, 0):
            if key not in self._went_back:
                self._went_back[key] = max(found[0], asked[0] - 1)
                self._lose(key, "older")
            raise StoreUnavailable("redis: this shard went back to an older state")
        known = self.known(key)
        if found > known:
            self._known[key] = found
            if key in self._absent or key in self._went_back:
                self._absent.discard(key)
                self._went_back.pop(key, None)
                self._count()
            if known is not _START and found[0] > known[0]:
                self.renew(_shard_of(key))
        elif key in self._absent and found[0] == known[0]:
            self._absent.discard(key)
            self._count()

    def renew(self, shard: int) -> None:
        """Note that the shard has a new epoch, heard of by other ways than an answer."""
        self._renewed[shard] = None
        self._changed.set()

    def take_renewed(self) -> list[int]:
        """Shards whose epoch has changed; each is told once."""
        renewed, self._renewed = list(self._renewed), {}
        return renewed

    async def wait_renewed(self, stop: asyncio.Event, seconds: float) -> None:
        """Wait until a shard has been renewed, or for so long."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)
        if not stop.is_set():
            self._changed.clear()

    @property
    def lost(self) -> dict[int, int]:
        """Shards that went back, with the epoch in which they did."""
        return {_shard_of(key): epoch for key, epoch in self._went_back.items()}

    async def run_reports(self, reports: Reports, stop: asyncio.Event) -> None:
        """Tell of shards that went back, until they have a new epoch; a failure is tried again."""
        while not stop.is_set():
            with suppress(StoreUnavailable):
                await self.report_once(reports)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _REPORT_SECONDS)

    async def report_once(self, reports: Reports) -> None:
        """Tell of the shards that went back. Raises StoreUnavailable."""
        for shard, epoch in self.lost.items():
            await reports.report(shard, epoch)

    def _lose(self, key: str, kind: str) -> None:
        if kind == "absent":
            if key in self._absent:
                return
            self._absent.add(key)
        telemetry.STORE_LOSSES.labels(kind).inc()
        telemetry.get_logger().error("shard_lost", shard=_shard_of(key), kind=kind)
        self._count()

    def _count(self) -> None:
        telemetry.SHARDS_LOST.set(len(self._absent | self._went_back.keys()))


def _shard_of(key: str) -> int:
    found = _TAG.search(key)
    assert found is not None, key
    return int(found[1])
