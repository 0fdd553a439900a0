"""A policy comes into force only when its rate cards are where every process can read them."""

import asyncio
from contextlib import suppress

from sidecar import telemetry
from sidecar.domain.errors import SidecarError, StoreUnavailable
from sidecar.domain.policy import Policy
from sidecar.services.ports import Policies, RateCards

REPUBLISH_SECONDS = 60.0
"""How long a store that lost its data may be without the cards."""


class PublishedPolicies:
    """
    Implements Policies over the loaded ones, a step behind them.

    A hold names a price version, and its capture may be rated by another process hours
    later: so the version is published before the first hold can name it.
    """

    def __init__(self, loaded: Policies, rate_cards: RateCards, *, poll_seconds: float) -> None:
        """
        Wire the ports.

        Args:
            loaded, rate_cards: Ports.
            poll_seconds: How soon a store that was away is tried again; `notice` cuts it short.
        """
        self._loaded = loaded
        self._rate_cards = rate_cards
        self._poll_seconds = poll_seconds
        self._published: Policy | None = None
        self._noticed = asyncio.Event()

    def notice(self) -> None:
        """Say that another policy was loaded, so that it is published at once."""
        self._noticed.set()

    def current(self) -> Policy:
        """The newest published snapshot. Raises StoreUnavailable before the first."""
        if self._published is None:
            raise StoreUnavailable("no policy is published yet")
        return self._published

    @property
    def ready(self) -> bool:
        """Whether there is a snapshot to serve with."""
        return self._published is not None

    async def publish(self) -> None:
        """Publish the loaded policy's cards, then put it in force. Raises StoreUnavailable."""
        policy = self._loaded.current()
        for card in policy.all_cards:
            await self._rate_cards.publish(card)
        self._published = policy

    async def run(self, stop: asyncio.Event) -> None:
        """Follow the loaded policy until stopped; a store that is away is tried again."""
        loop = asyncio.get_running_loop()
        published_at = -REPUBLISH_SECONDS
        while not stop.is_set():
            stale = loop.time() - published_at >= REPUBLISH_SECONDS
            if stale or self._loaded.current() is not self._published:
                try:
                    await self.publish()
                    published_at = loop.time()
                except SidecarError as error:
                    telemetry.WORKER_FAILURES.labels("publishing").inc()
                    telemetry.get_logger().warning("policy_publish_failed", error=str(error))
            # A stop is seen with the next poll: half a second is nothing to a drain.
            with suppress(TimeoutError):
                await asyncio.wait_for(self._noticed.wait(), self._poll_seconds)
            self._noticed.clear()
