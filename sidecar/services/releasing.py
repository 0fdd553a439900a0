"""Holds to give back: at once, or as soon as the store answers again."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

from sidecar import telemetry
from sidecar.domain.errors import StoreUnavailable
from sidecar.services.ports import Holds

RELEASES_WAITING_MAX = 10_000
RELEASE_PAUSE_SECONDS = 0.5
TRIES_REMEMBERED_MAX = 16_384
"""Some seconds of a busy gateway's checks: longer than any try goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Release:
    """A hold to give back; after `give_up_at` (the loop's seconds) it has expired by itself."""

    customer_id: str
    hold_id: str
    give_up_at: float


class CheckTries:
    """
    How many tries of one check count on its hold; only the last of them may give it back.

    A gateway that lost a connection asks again at once, while the first try is still under way:
    what the first one gives back, the second one may have been told to use. Tries that passed
    are remembered for as long as there is room, the oldest are forgotten first.
    """

    def __init__(self, remembered_max: int = TRIES_REMEMBERED_MAX) -> None:
        """Start with none."""
        self._remembered_max = remembered_max
        self._tries: OrderedDict[str, int] = OrderedDict()

    def begin(self, hold_id: str) -> None:
        """One more try counts on the hold."""
        self._tries[hold_id] = self._tries.pop(hold_id, 0) + 1
        if len(self._tries) > self._remembered_max:
            self._tries.popitem(last=False)

    def is_only(self, hold_id: str) -> bool:
        """Whether no other try counts on the hold than the one that asks."""
        return self._tries.get(hold_id, 1) <= 1

    def end(self, hold_id: str) -> bool:
        """One try fewer counts on the hold; whether none is left."""
        left = self._tries.pop(hold_id, 1) - 1
        if left > 0:
            self._tries[hold_id] = left
        return left <= 0


class HoldReleases:
    """
    Gives back holds that nobody will use; those that the store gave no answer for wait here.

    What a crash costs: the hold stays until it expires, and the sweep ends it.
    """

    def __init__(
        self,
        balances: Holds,
        *,
        hold_ttl_seconds: float,
        pause_seconds: float = RELEASE_PAUSE_SECONDS,
        waiting_max: int = RELEASES_WAITING_MAX,
    ) -> None:
        """
        Wire it.

        Args:
            balances: Port.
            hold_ttl_seconds: How long a release is tried; after it there is nothing to release.
            pause_seconds: After a try that the store did not answer.
            waiting_max: Beyond it, holds end by expiring.
        """
        self._balances = balances
        self._hold_ttl_seconds = hold_ttl_seconds
        self._pause_seconds = pause_seconds
        self._waiting: asyncio.Queue[_Release] = asyncio.Queue(waiting_max)
        self._ids: set[str] = set()

    def __contains__(self, hold_id: str) -> bool:
        """Whether the hold waits to be given back: a repeat of its check must not be allowed."""
        return hold_id in self._ids

    async def release(self, customer_id: str, hold_id: str) -> None:
        """Give a hold back now, or as soon as the store answers again."""
        if hold_id in self._ids:
            return
        # A repeat of its check that comes meanwhile must not be allowed.
        self._ids.add(hold_id)
        answered = False
        try:
            answered = await self._try(customer_id, hold_id)
        finally:
            self._ids.discard(hold_id)
            if not answered:  # Nor where whoever asked has been cancelled meanwhile.
                self.release_later(customer_id, hold_id)

    def release_later(self, customer_id: str, hold_id: str) -> None:
        """Give a hold back as soon as the store answers again."""
        if hold_id in self._ids:
            return
        give_up_at = asyncio.get_running_loop().time() + self._hold_ttl_seconds
        self._enqueue(_Release(customer_id=customer_id, hold_id=hold_id, give_up_at=give_up_at))

    async def run(self, stop: asyncio.Event) -> None:
        """
        Give back what waits, until stopped.

        A hold that the store does not answer for goes behind the others, so that one damaged
        record keeps none of them waiting.
        """
        loop = asyncio.get_running_loop()
        stopped = asyncio.ensure_future(stop.wait())
        next_one: asyncio.Future[_Release] | None = None
        try:
            while not stop.is_set():
                next_one = asyncio.ensure_future(self._waiting.get())
                await asyncio.wait({next_one, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if not next_one.done():
                    return
                release = next_one.result()
                answered = await self._try(release.customer_id, release.hold_id)
                if answered or loop.time() >= release.give_up_at:
                    self._ids.discard(release.hold_id)
                    continue
                self._enqueue(release)
                await asyncio.wait({stopped}, timeout=self._pause_seconds)
        finally:
            stopped.cancel()
            if next_one is not None:
                next_one.cancel()

    def _enqueue(self, release: _Release) -> None:
        try:
            self._waiting.put_nowait(release)
            self._ids.add(release.hold_id)
        except asyncio.QueueFull:
            self._ids.discard(release.hold_id)
            telemetry.get_logger().warning("hold_release_dropped", hold_id=release.hold_id)

    async def _try(self, customer_id: str, hold_id: str) -> bool:
        """Try once; whether the store answered."""
        try:
            released = await self._balances.release_hold(customer_id, hold_id)
        except StoreUnavailable:
            return False
        if released:
            telemetry.HOLDS.labels("released").inc()
        return True
