"""Decision records from the stream into the table, and out of it once they are old."""

import asyncio
from collections.abc import Sequence

from sidecar import telemetry
from sidecar.domain.errors import InvalidInput
from sidecar.services.decision_ports import DecisionStream, DecisionTable, StreamedDecision
from sidecar.services.rounds import run_rounds

READ_MAX = 200
"""Records of one shard and round: with 64 shards, about 10 MB at most."""
INSERT_MAX = 1_000
FORGET_MAX = 5_000
FORGET_SECONDS = 60.0
_PAUSE_SECONDS_MAX = 30.0


class DecisionMover:
    """
    Moves records; any number of movers may run.

    1. Read the oldest records. *A crash after it:* nothing was changed.
    2. Insert them in transactions. *A crash after it:* they are read again, and the table's
       key makes them repeats.
    3. Trim the stream up to what is committed.
    """

    def __init__(
        self,
        stream: DecisionStream,
        table: DecisionTable,
        *,
        retention_days: int,
        poll_seconds: float = 1.0,
    ) -> None:
        """
        Wire the ports.

        Args:
            stream, table: Ports.
            retention_days: How long records are kept at least.
            poll_seconds: Pause after a round that found nothing.
        """
        self._stream = stream
        self._table = table
        self._retention_days = retention_days
        self._poll_seconds = poll_seconds

    async def move_once(self) -> int:
        """
        One round over all shards.

        Returns:
            How many records were taken off the streams.

        Raises:
            StoreUnavailable: A step may or may not have happened; the next round repeats it.
        """
        taken = 0
        for entries in await self._stream.read(READ_MAX):
            for start in range(0, len(entries), INSERT_MAX):
                batch = entries[start : start + INSERT_MAX]
                await self._insert(batch)
                await self._stream.trim({batch[-1].shard: batch[-1].entry_id})
                taken += len(batch)
        return taken

    async def forget_once(self) -> int:
        """Drop a bounded number of records that are too old; returns how many."""
        return await self._table.forget(days=self._retention_days, limit=FORGET_MAX)

    async def run(self, stop: asyncio.Event) -> None:
        """Move and forget until stopped; a failed round is counted and tried again."""
        loop = asyncio.get_running_loop()
        forget_at = 0.0

        async def move_and_forget() -> int:
            nonlocal forget_at
            moved = await self.move_once()
            if loop.time() >= forget_at:
                dropped = await self.forget_once()
                forget_at = loop.time() + (0 if dropped == FORGET_MAX else FORGET_SECONDS)
            return moved

        await run_rounds(
            stop,
            move_and_forget,
            name="decision_mover",
            event="decisions_not_moved",
            pause_seconds=self._poll_seconds,
            backoff_seconds_max=_PAUSE_SECONDS_MAX,
            at_once=bool,
        )

    async def _insert(self, batch: Sequence[StreamedDecision]) -> None:
        """Insert; a batch that the database refuses is halved down to the culprit."""
        readable = [entry for entry in batch if entry.record is not None]
        unreadable = len(batch) - len(readable)
        if unreadable:
            self._lose(unreadable, batch[0].shard, "unreadable")
        if not readable:
            return
        try:
            await self._table.insert(readable)
        except InvalidInput as error:
            if len(readable) == 1:
                self._lose(1, readable[0].shard, str(error))
                return
            middle = len(readable) // 2
            await self._insert(readable[:middle])
            await self._insert(readable[middle:])

    def _lose(self, count: int, shard: int, problem: str) -> None:
        telemetry.DECISION_RECORDS.labels("dropped").inc(count)
        telemetry.get_logger().error(
            "decision_record_refused", shard=shard, count=count, error=problem
        )
