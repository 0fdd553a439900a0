"""Captures on this process's own disk until the ledger has them: implements `UsageJournal`."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final, Self, TypeVar

from sidecar import telemetry
from sidecar.domain.errors import Conflict, StoreUnavailable
from sidecar.outbound.journal.folder import locked_folder, segment_path
from sidecar.outbound.journal.frames import to_frame
from sidecar.outbound.journal.index import Move
from sidecar.outbound.journal.marks import Marks, write_marks
from sidecar.outbound.journal.reading import read_folder, read_pending
from sidecar.outbound.journal.records import Standing, encode_record
from sidecar.outbound.journal.writer import Batch, SegmentWriter, Written
from sidecar.services.journal_ports import JournalRecord, JournalSnapshot

ALARM_PERCENT: Final = 80
_T = TypeVar("_T")


class FileJournal:
    """
    Implements UsageJournal; an async context manager, in which the folder is this process's.

    Safe to cancel: what was handed over is written all the same, and harmless.
    """

    def __init__(
        self,
        folder: Path,
        *,
        shard_of: Callable[[str], int],
        segment_bytes: int = 16_777_216,
        bytes_max: int = 1_073_741_824,
        queue_max: int = 10_000,
    ) -> None:
        """
        Take the settings; nothing is opened yet.

        Args:
            folder: Made if need be; of this journal alone.
            shard_of: The shard of a customer.
            segment_bytes: At which a new file begins; a file goes once all of it is settled.
            bytes_max: Of all files; what does not fit is refused.
            queue_max: Records that wait for the disk.
        """
        self._folder = folder
        self._shard_of = shard_of
        self._segment_bytes = segment_bytes
        self._bytes_max = bytes_max
        self._queue_max = queue_max
        self._queued = self._queued_bytes = 0
        self._closed_below: dict[int, int] = {}
        self._replaying: set[int] = set()
        self._open = False
        self._marks_changed = False
        self._alarmed = False
        self._stack = ExitStack()
        self._writer: SegmentWriter

    async def __aenter__(self) -> Self:
        """
        Lock the folder and read what is there.

        Raises:
            ConfigError: Another process has it, it cannot be used, or a newer version wrote it.
        """
        self._loop = asyncio.get_running_loop()
        self._stack.enter_context(locked_folder(self._folder))
        try:
            self._index, newest = await asyncio.to_thread(
                read_folder, self._folder, self._marks_path
            )
        except BaseException:
            self._stack.close()
            raise
        self._writer = SegmentWriter(
            self._folder,
            lambda *told: self._loop.call_soon_threadsafe(self._note, *told),
            newest=newest,
            segment_bytes=self._segment_bytes,
        )
        # Nothing is on its way to segments below it: what was written there has been noted.
        self._active = newest + 1
        self._open = True
        telemetry.get_logger().info(
            "journal_opened", bytes=self._index.size, unsettled=self._index.unsettled
        )
        self._drop_settled()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Write what waits, remember what is settled, and let go of the folder."""
        self._open = False
        self._write_marks()
        await asyncio.to_thread(self._writer.join)
        self._stack.close()

    async def append(self, records: Sequence[JournalRecord]) -> None:
        """
        Keep records; returns once they are on the disk.

        Raises:
            StoreUnavailable: The journal or its queue is full, the disk refused, or the store
                has lost the epoch that they were captured in. Do not acknowledge them.
        """
        if not records:
            return
        standings, frames = [], []
        for record in records:
            shard = self._shard_of(record.event.customer_id)
            standings.append(Standing(shard, record.epoch, record.seq))
            frames.append(to_frame(encode_record(record, shard)))
        data = b"".join(frames)
        self._refuse(standings, len(data))
        self._queued += len(standings)
        self._queued_bytes += len(data)
        future: asyncio.Future[None] = self._loop.create_future()
        self._writer.put(Batch(data, standings, future))
        await future

    def settled(self, shard: int, epoch: int, seq: int) -> None:
        """
        The ledger has all of an epoch up to a seq; files that hold nothing else go.

        During a replay of the shard it is not heard: what is presented again gets new numbers.
        """
        if shard in self._replaying:
            return
        count = self._index.settle(shard, epoch, seq)
        if count:
            telemetry.JOURNAL_RECORDS.labels("settled").inc(count)
            self._marks_changed = True
            self._drop_settled()

    def newest(self) -> dict[int, tuple[int, int]]:
        """By shard that has unsettled records, the highest (epoch, seq) among them."""
        return self._index.newest()

    async def snapshot(self, shard: int, *, epoch: int, seq: int) -> JournalSnapshot:
        """
        Begin a replay: close older epochs of the shard, and begin a new segment.

        `release` ends it, whatever it came to.
        """
        if shard in self._replaying:
            raise Conflict(f"shard {shard} is being replayed already")
        self._replaying.add(shard)
        self._closed_below[shard] = max(epoch, self._closed_below.get(shard, 0))

        def seal() -> int:
            self._writer.seal()
            return self._writer.segment

        # The writer's thread says so behind all that it has told of earlier batches.
        try:
            through = await self._in_order(seal)
        except BaseException:
            self._replaying.discard(shard)
            raise
        return JournalSnapshot(shard=shard, epoch=epoch, seq=seq, through=through)

    async def pending(self, snapshot: JournalSnapshot) -> AsyncIterator[Sequence[JournalRecord]]:
        """The snapshot's unsettled records in the order they were kept, in batches of 256."""
        batches = read_pending(self._folder, self._index, snapshot)
        while batch := await asyncio.to_thread(next, batches, None):
            yield batch

    async def moved(self, snapshot: JournalSnapshot, *, seq: int) -> None:
        """The snapshot's records are in the store again, none after `seq` of its epoch."""
        self._index.move(
            Move(
                shard=snapshot.shard,
                through=snapshot.through,
                epoch=snapshot.epoch,
                known=snapshot.seq,
                seq=seq,
                settled=self._index.watermarks_of(snapshot.shard),
            )
        )
        marks = self._marks()
        self._drop_settled()
        try:
            await self._in_order(lambda: write_marks(self._marks_path, marks))
        except OSError as error:
            raise StoreUnavailable(f"the journal's marks: {error.strerror}") from error

    def release(self, snapshot: JournalSnapshot) -> None:
        """The replay has ended; the shard's watermarks count again."""
        self._replaying.discard(snapshot.shard)
        self._drop_settled()

    def remember(self) -> None:
        """Write down how far the ledger is, if that has changed; costs one small file."""
        if self._marks_changed:
            self._write_marks()

    @property
    def _marks_path(self) -> Path:
        return self._folder / "marks"

    def _refuse(self, standings: Sequence[Standing], size: int) -> None:
        """Raise StoreUnavailable for what must not be kept, or cannot."""
        problem = ""
        if not self._open:
            problem = "the journal is closed"
        elif any(one.epoch < self._closed_below.get(one.shard, 0) for one in standings):
            problem = "the store lost its memory after the capture; repeat it"
        elif self._queued + len(standings) > self._queue_max:
            problem = "the journal's queue is full"
        elif self._index.size + self._queued_bytes + size > self._bytes_max:
            problem = "the journal is full"
        if problem:
            telemetry.JOURNAL_RECORDS.labels("refused").inc(len(standings))
            raise StoreUnavailable(problem)

    def _note(self, batches: Sequence[Batch], written: Written) -> None:
        """On the loop: batches are on the disk, or were refused."""
        count = sum(len(batch.standings) for batch in batches)
        self._queued -= count
        self._queued_bytes -= sum(len(batch.data) for batch in batches)
        if written.error is None:
            self._active = max(self._active, written.segment)
            for batch in batches:
                self._index.add(written.segment, len(batch.data), batch.standings)
            telemetry.JOURNAL_RECORDS.labels("kept").inc(count)
            self._show()
        else:
            telemetry.JOURNAL_RECORDS.labels("refused").inc(count)
            telemetry.get_logger().error("journal_write_failed", error=str(written.error))
        for batch in batches:
            if batch.future.done():
                continue  # Whoever waited was cancelled.
            if written.error is None:
                batch.future.set_result(None)
            else:
                problem = f"the journal could not be written: {written.error}"
                batch.future.set_exception(StoreUnavailable(problem))

    def _drop_settled(self) -> None:
        for number in self._index.settled_segments(self._active):
            self._index.forget_segment(number)
            path = segment_path(self._folder, number)
            self._writer.put(partial(path.unlink, missing_ok=True))
        self._show()

    def _show(self) -> None:
        size = self._index.size
        telemetry.JOURNAL_BYTES.set(size)
        telemetry.JOURNAL_UNSETTLED.set(self._index.unsettled)
        alarmed = size * 100 >= self._bytes_max * ALARM_PERCENT
        if alarmed != self._alarmed:
            self._alarmed = alarmed
            telemetry.JOURNAL_NEARLY_FULL.set(int(alarmed))
            if alarmed:
                telemetry.get_logger().warning(
                    "journal_nearly_full", bytes=size, bytes_max=self._bytes_max
                )

    def _marks(self) -> Marks:
        self._marks_changed = False
        return Marks(
            self._index.worthwhile_watermarks(),
            {shard: list(moves) for shard, moves in self._index.moves.items()},
        )

    def _write_marks(self) -> None:
        marks = self._marks()

        def write() -> None:
            try:
                write_marks(self._marks_path, marks)
            except OSError as error:
                telemetry.get_logger().warning("journal_marks_failed", error=error.strerror)

        self._writer.put(write)

    async def _in_order(self, work: Callable[[], _T]) -> _T:
        """Do something in the writer's thread, after all that was put before."""
        future: asyncio.Future[_T] = self._loop.create_future()

        def finish(result: _T | None, error: OSError | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]  # Without error there is one.

        def run() -> None:
            try:
                result, error = work(), None
            except OSError as caught:
                result, error = None, caught
            self._loop.call_soon_threadsafe(finish, result, error)

        self._writer.put(run)
        return await future
