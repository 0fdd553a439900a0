"""
The one thread that touches the journal's files, and the queue before it.

Whatever waits is written together and made durable by one fsync: while one runs, the next batch
gathers. What cannot be written is refused, and the next batch goes to a new segment, because
after a failed fsync nobody knows what a file holds.
"""

import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sidecar import telemetry
from sidecar.outbound.journal.folder import create_file, cut_file, segment_path, write_all
from sidecar.outbound.journal.records import Standing

if TYPE_CHECKING:
    import asyncio

BATCH_BYTES_MAX: Final = 4_194_304
"""Of one fsync."""


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a batch: its segment, or why it was not kept."""

    segment: int
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Frames that belong together, where their captures stand, and who waits for them."""

    data: bytes
    standings: Sequence[Standing]
    future: "asyncio.Future[None]"


Tell = Callable[[Sequence[Batch], Written], object]
"""Called in the writer's thread with all that one fsync was for."""


Task = Callable[[], None]
"""Other work on the files, in order with the batches."""


class SegmentWriter:
    """
    Appends to the newest segment, and begins another when that is full.

    Its methods are called on the event loop and never wait; `join` does.
    """

    def __init__(self, folder: Path, tell: Tell, *, newest: int, segment_bytes: int) -> None:
        """
        Take the folder; nothing is made before the first batch.

        Args:
            folder: Locked by this process.
            tell: Hears of each fsync.
            newest: Number of the newest segment there; it is not written to again.
            segment_bytes: At which a segment is full.
        """
        self.segment = newest
        """The newest segment that may hold something."""
        self._folder = folder
        self._tell = tell
        self._segment_bytes = segment_bytes
        self._descriptor: int | None = None
        self._size = 0
        self._jobs: queue.SimpleQueue[Batch | Task | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def put(self, job: Batch | Task) -> None:
        """Have a batch written, or a task done, after all that was put before."""
        self._jobs.put(job)

    def seal(self) -> None:
        """For tasks: the next batch begins a new segment."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def join(self) -> None:
        """Finish all that was put, and end."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        ended = False
        while not ended:
            batches: list[Batch] = []
            job = self._jobs.get()
            size = 0
            while isinstance(job, Batch):
                batches.append(job)
                size += len(job.data)
                try:
                    job = self._jobs.get_nowait() if size < BATCH_BYTES_MAX else _nothing
                except queue.Empty:
                    job = _nothing
            if batches:
                self._write(batches)
            if job is None:
                ended = True
            elif not isinstance(job, Batch):
                self._do(job)
        self.seal()

    @staticmethod
    def _do(task: Task) -> None:
        try:
            task()
        except Exception as error:  # noqa: BLE001  Without this thread nothing is kept.
            telemetry.WORKER_FAILURES.labels("journal").inc()
            telemetry.get_logger().error("journal_task_failed", error=type(error).__name__)

    def _write(self, batches: list[Batch]) -> None:
        started = time.perf_counter()
        try:
            if self._descriptor is None or self._size >= self._segment_bytes:
                self._begin_segment()
            assert self._descriptor is not None
            write_all(self._descriptor, b"".join(batch.data for batch in batches))
            _sync(self._descriptor)
        except Exception as error:  # noqa: BLE001  Each batch must be told, whatever happened.
            telemetry.WORKER_FAILURES.labels("journal").inc()
            self._give_up_segment()
            written = Written(self.segment, error)
        else:
            self._size += sum(len(batch.data) for batch in batches)
            written = Written(self.segment)
        telemetry.JOURNAL_FSYNC_DURATION.observe(time.perf_counter() - started)
        self._tell(batches, written)

    def _begin_segment(self) -> None:
        self.seal()
        self.segment += 1
        self._size = 0
        self._descriptor = create_file(segment_path(self._folder, self.segment))

    def _give_up_segment(self) -> None:
        """Cut off what was refused, if the disk still lets us; a reader copes if not."""
        if self._descriptor is None:
            return
        self.seal()
        try:
            cut_file(segment_path(self._folder, self.segment), self._size)
        except OSError as error:
            telemetry.get_logger().error("journal_cut_failed", error=error.strerror)


def _nothing() -> None:
    """The queue is empty for now."""


def _sync(descriptor: int) -> None:
    # Data and size are all that a reader needs; macOS has no other than fsync.
    getattr(os, "fdatasync", os.fsync)(descriptor)
