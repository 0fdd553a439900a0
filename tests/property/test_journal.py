"""Whatever is appended, settled, replayed, damaged at its end and reopened: a model agrees."""

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fixtures.journal_parts import FOREVER, capture, frame_of, journal_in, pending, segments
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sidecar.services.journal_ports import JournalRecord

SHARDS = (0, 1)
SEGMENT_BYTES = 4 * len(frame_of(capture(0, 1)))
shards = st.sampled_from(SHARDS)


@dataclass
class Kept:
    """A capture that was acknowledged, and where it stands now."""

    record: JournalRecord
    shard: int
    epoch: int
    seq: int
    settled: bool = False


class JournalMachine(RuleBasedStateMachine):
    """
    A store that counts decisions, and loses its memory at will.

    The journal may forget a capture only once the ledger has it, and must have forgotten it from
    then on: the watermark is told exactly.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="sc-journal-"))
        self.kept: list[Kept] = []
        self.epochs = dict.fromkeys(SHARDS, 1)
        self.seqs = dict.fromkeys(SHARDS, 0)
        self.number = 0

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    @initialize()
    def begin(self) -> None:
        self.journal = journal_in(self.folder, segment_bytes=SEGMENT_BYTES)
        self.run(self.journal.__aenter__())

    def teardown(self) -> None:
        self.run(self.journal.__aexit__())
        self.loop.close()
        shutil.rmtree(self.folder)

    @rule(counts=st.lists(st.tuples(shards, st.booleans()), min_size=1, max_size=6))
    def append(self, counts: list[tuple[int, bool]]) -> None:
        """Captures, and duplicates, which have the number of the newest decision."""
        records = []
        for shard, fresh in counts:
            self.seqs[shard] += fresh or not self.seqs[shard]
            self.number += 1
            standing = (self.epochs[shard], self.seqs[shard])
            record = capture(self.number, standing[1], epoch=standing[0], shard=shard)
            records.append(record)
            below = self.told(shard)
            settled = standing[0] == below[0] and standing[1] <= below[1]
            self.kept.append(Kept(record, shard, *standing, settled=settled))
        self.run(self.journal.append(records))

    def told(self, shard: int) -> tuple[int, int]:
        return self.epochs[shard], getattr(self, f"told_{shard}", 0)

    @rule(shard=shards, back=st.integers(0, 4))
    def settle(self, shard: int, back: int) -> None:
        seq = max(0, self.seqs[shard] - back)
        self.journal.settled(shard, self.epochs[shard], seq)
        setattr(self, f"told_{shard}", max(seq, self.told(shard)[1]))
        for kept in self.kept:
            if (kept.shard, kept.epoch) == (shard, self.epochs[shard]) and kept.seq <= seq:
                kept.settled = True

    @rule(shard=shards, wiped=st.booleans(), extra=st.integers(0, 3), finished=st.booleans())
    def lose(self, shard: int, *, wiped: bool, extra: int, finished: bool) -> None:
        """The store begins again, or goes on from an older copy, with decisions of its own."""
        self.epochs[shard] += 1
        self.seqs[shard] = extra + (0 if wiped else max(0, self.seqs[shard] - 3))
        setattr(self, f"told_{shard}", 0)
        snapshot = self.run(
            self.journal.snapshot(shard, epoch=self.epochs[shard], seq=self.seqs[shard])
        )
        lost = [kept for kept in self.kept if kept.shard == shard and not kept.settled]
        assert self.run(self.read(snapshot)) == [kept.record for kept in lost]
        if finished and lost:
            self.seqs[shard] += len(lost)
            self.run(self.journal.moved(snapshot, seq=self.seqs[shard]))
            for kept in lost:
                kept.epoch, kept.seq = self.epochs[shard], self.seqs[shard]
        self.journal.release(snapshot)

    async def read(self, snapshot) -> list[JournalRecord]:
        return [record async for batch in self.journal.pending(snapshot) for record in batch]

    @rule(torn=st.binary(max_size=12))
    def restart(self, torn: bytes) -> None:
        self.run(self.journal.__aexit__())
        files = segments(self.folder)
        if files:
            with files[-1].open("ab") as file:
                file.write(torn)
        self.begin()
        self.the_journal_has_what_the_ledger_has_not()
        # A watermark that no file needs any more is not remembered; the watch tells it again.
        for shard in SHARDS:
            self.journal.settled(shard, *self.told(shard))

    @invariant()
    def the_journal_has_what_the_ledger_has_not(self) -> None:
        if not hasattr(self, "journal"):
            return
        for shard in SHARDS:
            expected = [kept for kept in self.kept if kept.shard == shard and not kept.settled]
            found = self.run(pending(self.journal, shard, epoch=FOREVER))
            assert found == [kept.record for kept in expected]
            newest = max([(kept.epoch, kept.seq) for kept in expected], default=None)
            assert self.journal.newest().get(shard) == newest
        assert self.journal._index.unsettled == sum(not kept.settled for kept in self.kept)


JournalMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)
TestJournal = JournalMachine.TestCase
