"""The sweep: holds that expired uncaptured become orphans, visible and settled by rule."""

import asyncio
from collections.abc import Iterable

from sidecar import telemetry
from sidecar.domain.errors import SidecarError
from sidecar.services.metering import MeteringService
from sidecar.services.ports import Balances


class Sweeper:
    """
    Ends expired holds on all shards; any number may run, each step is idempotent.

    A crash anywhere leaves a hold that the next round ends.
    """

    def __init__(
        self,
        *,
        balances: Balances,
        metering: MeteringService,
        shards: Iterable[int],
        interval_seconds: float,
        batch_max: int = 500,
    ) -> None:
        """
        Wire the ports.

        Args:
            balances, metering: Ports.
            shards: Which shards to sweep.
            interval_seconds: Pause between rounds of `run`.
            batch_max: Holds ended per shard and round.
        """
        self._balances = balances
        self._metering = metering
        self._shards = tuple(shards)
        self._interval_seconds = interval_seconds
        self._batch_max = batch_max

    async def sweep_once(self) -> int:
        """One round over all shards; returns how many holds ended."""
        ended = 0
        for shard in self._shards:
            for customer_id, hold_id in await self._balances.due_holds(shard, self._batch_max):
                await self._end(customer_id, hold_id)
                ended += 1
        return ended

    async def run(self, stop: asyncio.Event) -> None:
        """Sweep until stopped; a failed round is counted, and the next one tries again."""
        while not stop.is_set():
            try:
                await self.sweep_once()
            except SidecarError as error:
                telemetry.WORKER_FAILURES.labels("sweep").inc()
                telemetry.get_logger().warning("sweep_failed", error=str(error))
            try:
                await asyncio.wait_for(stop.wait(), self._interval_seconds)
            except TimeoutError:
                continue

    async def _end(self, customer_id: str, hold_id: str) -> None:
        interrupted = await self._balances.orphan_hold(customer_id, hold_id)
        if interrupted is None:
            telemetry.HOLDS.labels("expired").inc()
            return
        # Its price interval was reserved, then the process died: the usage is known, so the
        # capture is finished rather than the hold orphaned.
        stored = await self._balances.read_hold(customer_id, hold_id)
        if stored is not None:
            await self._metering.finish(interrupted, stored.terms)
            telemetry.HOLDS.labels("captured").inc()
