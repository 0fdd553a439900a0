"""
Looks how far the ledger is, so that the journal can forget what is settled.

A watermark is the number of a record. A duplicate may stand above the last record there is; it
is settled once the stream was empty after its number had been given: seen in a look that came
after the number, with the epoch the same before and behind it, so that a store that was emptied
does not pass for one that was settled.

Where a shard stands behind what was captured on it, the store has lost something. Then nothing
is forgotten: new decisions there may have taken the numbers of lost ones. For the same reason
nothing is believed of an epoch that is over: its records wait for their replay.
"""

import asyncio

from sidecar import telemetry
from sidecar.services.journal_ports import ShardMark, ShardMarks, UsageJournal
from sidecar.services.rounds import run_rounds

POLL_SECONDS = 1.0


class JournalWatch:
    """Asks for the marks of the shards that the journal has unsettled records of."""

    def __init__(
        self, journal: UsageJournal, marks: ShardMarks, *, poll_seconds: float = POLL_SECONDS
    ) -> None:
        """Wire the ports; `poll_seconds` is the pause between two looks."""
        self._journal = journal
        self._marks = marks
        self._poll_seconds = poll_seconds
        self.behind: frozenset[int] = frozenset()
        """Shards that have lost captures of this journal, until they were replayed."""
        self._before: dict[int, ShardMark] = {}
        self._drained: dict[int, tuple[int, int]] = {}

    async def look(self) -> None:
        """One round. Raises StoreUnavailable: nothing was forgotten."""
        # Asked before the store is: what is kept meanwhile may be newer than its answer.
        newest = self._journal.newest()
        marks = await self._marks.read(sorted(newest))
        before, self._before = self._before, {mark.shard: mark for mark in marks}
        drained, self._drained = self._drained, {}
        behind = set()
        for mark in marks:
            if (mark.epoch, mark.seq) < newest[mark.shard]:
                behind.add(mark.shard)
                continue
            if mark.settled_epoch == mark.epoch:
                self._journal.settled(mark.shard, mark.settled_epoch, mark.settled_seq)
            epoch, seq = drained.get(mark.shard, (0, 0))
            if epoch == mark.epoch:
                self._journal.settled(mark.shard, epoch, seq)
            earlier = before.get(mark.shard)
            if earlier is not None and mark.empty and _is_same_life(earlier, mark):
                self._drained[mark.shard] = (earlier.epoch, earlier.seq)
            # One record of this life says nothing of those of earlier ones.
            if self._journal.oldest().get(mark.shard, mark.epoch) < mark.epoch:
                behind.add(mark.shard)
        for shard in sorted(behind - self.behind):
            telemetry.get_logger().warning("journal_shard_behind", shard=shard)
        self.behind = frozenset(behind)
        self._journal.remember()

    async def run(self, stop: asyncio.Event) -> None:
        """Look until stopped; failures are counted."""
        await run_rounds(
            stop,
            self.look,
            name="journal_watch",
            pause_seconds=self._poll_seconds,
        )


def _is_same_life(earlier: ShardMark, mark: ShardMark) -> bool:
    """
    Whether the store has had all since then; a replica that took over may have less.

    Its stream is empty of what it never heard, and nobody has settled that.
    """
    return earlier.epoch == mark.epoch and earlier.seq <= mark.seq
