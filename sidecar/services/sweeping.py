"""The sweep: holds that expired uncaptured become orphans, visible and settled by rule."""

import asyncio
from collections.abc import Iterable

from sidecar import telemetry
from sidecar.domain.errors import InvariantViolated, SidecarError
from sidecar.domain.orphans import OrphanFate
from sidecar.services.metering import MeteringService
from sidecar.services.orphans import OrphanSettlement
from sidecar.services.ports import Balances, CaptureStatus
from sidecar.services.rounds import run_rounds

_BOOKED = frozenset(
    {
        CaptureStatus.CAPTURED,
        CaptureStatus.LATE,
        CaptureStatus.DUPLICATE,
        CaptureStatus.CORRECTED,
    }
)


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
        orphans: OrphanSettlement | None = None,
    ) -> None:
        """
        Wire the ports.

        Args:
            balances, metering: Ports.
            shards: Which shards to sweep.
            interval_seconds: Pause between rounds of `run`.
            batch_max: Holds ended per shard and round.
            orphans: How orphans are settled; without it all are released.
        """
        self._balances = balances
        self._metering = metering
        self._shards = tuple(shards)
        self._interval_seconds = interval_seconds
        self._batch_max = batch_max
        self._orphans = orphans

    async def sweep_once(self) -> int:
        """
        One round over all shards; a hold that cannot be ended is counted and left.

        Counters that nobody came back to are dropped after the holds, so that what is damaged
        there keeps no hold from ending.

        Returns:
            How many holds ended.

        Raises:
            StoreUnavailable: The store does not answer; the next round goes on.
        """
        ended = 0
        for shard in self._shards:
            # If this one's node is away the next round begins behind it, so that the shards of
            # other nodes have their turn.
            self._shards = (*self._shards[1:], shard)
            for customer_id, hold_id in await self._balances.due_holds(shard, self._batch_max):
                ended += await self._try_end(customer_id, hold_id)
        for shard in self._shards:
            await self._balances.prune_counters(shard, self._batch_max)
        return ended

    async def run(self, stop: asyncio.Event) -> None:
        """Sweep until stopped; a failed round is counted, and the next one tries again."""
        await run_rounds(
            stop,
            self.sweep_once,
            name="sweep",
            pause_seconds=self._interval_seconds,
        )

    async def _try_end(self, customer_id: str, hold_id: str) -> bool:
        """End a hold; False if it could not be, which must not keep the others from ending."""
        try:
            await self._end(customer_id, hold_id)
        except SidecarError as error:
            telemetry.WORKER_FAILURES.labels("sweep").inc()
            telemetry.get_logger().error(
                "hold_sweep_failed", customer_id=customer_id, hold_id=hold_id, error=str(error)
            )
            # A store that is away ends the round; waiting for it hold by hold would take hours.
            await self._balances.ping()
            return False
        return True

    async def _end(self, customer_id: str, hold_id: str) -> None:
        fate = await self._settle(customer_id, hold_id)
        if fate is None or fate is OrphanFate.CAPTURED:
            return
        interrupted = await self._balances.orphan_hold(customer_id, hold_id)
        if interrupted is None:
            telemetry.HOLDS.labels("expired").inc()
            telemetry.ORPHANS.labels(fate.value).inc()
            return
        # Its price interval was reserved, then the process died: the usage is known, so the
        # capture is finished rather than the hold orphaned.
        stored = await self._balances.read_hold(customer_id, hold_id)
        if stored is None:
            raise InvariantViolated("an interrupted capture's hold cannot be read")
        status = await self._metering.finish(interrupted, stored.terms)
        if status not in (*_BOOKED, CaptureStatus.CLAIMED):
            raise InvariantViolated(f"an interrupted capture cannot be finished: {status.value}")

    async def _settle(self, customer_id: str, hold_id: str) -> OrphanFate | None:
        """
        Charge an orphan's estimate where its plan says so.

        A crash after the charge leaves nothing to do: it ended the hold. What cannot be charged
        is released as any other orphan, and so stays visible.

        Returns:
            What is to become of it; None if it ended meanwhile, or lives on.
        """
        stored = await self._balances.read_hold(customer_id, hold_id)
        if stored is None or stored.interrupted:
            return OrphanFate.RELEASED
        if not stored.due:
            return None
        if stored.terms.is_block:
            telemetry.get_logger().warning(
                "allotment_orphaned", customer_id=customer_id, block_id=hold_id
            )
            return OrphanFate.ALLOTMENT
        if self._orphans is None:
            return OrphanFate.RELEASED
        fate = await self._orphans.fate(stored)
        if fate is not OrphanFate.CAPTURED:
            return fate
        status = await self._metering.charge_orphan(stored.terms)
        if status not in _BOOKED:
            telemetry.get_logger().warning(
                "orphan_not_charged",
                customer_id=customer_id,
                hold_id=hold_id,
                reason="unknown_price" if status is None else status.value,
            )
            return OrphanFate.RELEASED
        if status is CaptureStatus.CAPTURED:
            telemetry.ORPHANS.labels(fate.value).inc()
        return fate
