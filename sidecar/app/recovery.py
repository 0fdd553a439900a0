"""What a process does about a live store that loses data: tell, make anew, show again."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from sidecar import telemetry
from sidecar.app.journaling import Journaling
from sidecar.app.workers import Run, Workers
from sidecar.domain.errors import SidecarError
from sidecar.outbound.redis.connection import RedisConnection
from sidecar.outbound.redis.directory import RedisDirectory
from sidecar.outbound.redis.keys import Keyspace
from sidecar.outbound.redis.rate_cards import RedisRateCards
from sidecar.outbound.redis.shards import RedisLiveShards
from sidecar.settings import Settings

if TYPE_CHECKING:
    from sidecar.services.rebuilding import Rebuilder

_RENEWAL_SECONDS = 1.0
"""Also how often a shard that lacks captures of this process's journal is shown them."""

Replay = Callable[[int], Awaitable[object]]
"""Shows a shard again what this process knows and the shard may have lost. Safe to repeat."""


class Recovery:
    """
    A process's part in it, by its roles.

    Every process tells of shards that went back and shows renewed ones what it knows; the
    control plane opens new stores, and settlement makes lost shards anew.
    """

    def __init__(self, settings: Settings, redis: RedisConnection, keyspace: Keyspace) -> None:
        """Wire it; `use_rebuilder` makes it the control plane's."""
        self._settings = settings
        self._redis = redis
        self._keyspace = keyspace
        self.live = RedisLiveShards(redis, keyspace)
        self.rebuilder: Rebuilder | None = None
        self._forget: Run | None = None
        self._replays: list[Replay] = []
        self._behind: Callable[[], frozenset[int]] = frozenset

    def show_again(self, replay: Replay) -> None:
        """Call this with each shard that has a new epoch."""
        self._replays.append(replay)

    def show_facts_again(self, cards: RedisRateCards, directory: RedisDirectory) -> None:
        """Put the rate cards of this process back, and forget what it knew of customers."""

        async def replay(_: int) -> None:
            directory.drop_all()
            await cards.publish_again()

        self.show_again(replay)

    def show_journal_again(self, journaling: Journaling) -> None:
        """Replay this process's journal, if it has one, also what was lost before it started."""
        if journaling.replay is not None:
            self.show_again(journaling.replay.replay)
            self._behind = lambda: journaling.behind

    def use_rebuilder(self, rebuilder: "Rebuilder", forget: Run) -> None:
        """
        Look for lost shards.

        Args:
            rebuilder: Opens new stores and makes lost shards anew.
            forget: A worker that forgets what no rebuilding will ask for.
        """
        self.rebuilder = rebuilder
        self._forget = forget

    async def open_if_new(self) -> None:
        """
        Open a store that was never opened; one that is away is left to the worker.

        A gateway alone with a Redis of its own opens that: whoever settles it takes its epoch over,
        or finds by the recorded one that it was lost.
        """
        if self.rebuilder is not None:
            with suppress(SidecarError):
                await self.rebuilder.open_if_new()
        elif self._settings.embedded_redis and not await self.live.is_opened():
            new = [found.shard for found in await self.live.look() if found.epoch == 0]
            await self.live.open_new(dict.fromkeys(new, 1))

    def start(self, workers: Workers, *, after: Callable[[], Awaitable[None]], looks: bool) -> None:
        """Start the workers; `looks` is whether this one looks for lost shards."""
        watch = self._redis.watch
        workers.start("loss_reports", lambda stop: watch.run_reports(self.live, stop), after=after)
        workers.start("renewals", self._run_renewals, after=after)
        if looks and self.rebuilder is not None and self._forget is not None:
            workers.start("rebuild", self.rebuilder.run, after=after)
            workers.start("counter_totals", self._forget)

    async def _run_renewals(self, stop: asyncio.Event) -> None:
        watch = self._redis.watch
        while not stop.is_set():
            await watch.wait_renewed(stop, _RENEWAL_SECONDS)
            for shard in {*watch.take_renewed(), *self._behind()}:
                try:
                    for replay in self._replays:
                        await replay(shard)
                except SidecarError as error:
                    telemetry.WORKER_FAILURES.labels("renewals").inc()
                    telemetry.get_logger().warning("renewal_failed", shard=shard, error=str(error))
                    watch.renew(shard)
                    with suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), _RENEWAL_SECONDS)
