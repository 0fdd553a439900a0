"""Reads segments: at the start all of them, for a replay those that it needs."""

from collections.abc import Iterator
from pathlib import Path

from sidecar import telemetry
from sidecar.domain.errors import ConfigError, InvalidInput
from sidecar.outbound.journal.folder import (
    cut_file,
    list_segments,
    segment_path,
    set_aside,
)
from sidecar.outbound.journal.frames import FORMAT_VERSION, Damage, Frame, read_frames
from sidecar.outbound.journal.index import Index
from sidecar.outbound.journal.marks import read_marks
from sidecar.outbound.journal.records import Standing, decode_record, read_standing
from sidecar.services.journal_ports import JournalRecord, JournalSnapshot

BATCH_RECORDS = 256
"""What a replay has in its hands at a time."""


def read_folder(folder: Path, marks_path: Path) -> tuple[Index, int]:
    """
    Read what is there, mend torn ends, and put damaged bytes aside.

    Returns:
        The index, and the highest number that a segment has or that a move speaks of; 0 if
        there is none.

    Raises:
        ConfigError: A newer version wrote it, or it cannot be read.
    """
    index = Index()
    marks = read_marks(marks_path)
    index.watermarks, index.moves = dict(marks.watermarks), dict(marks.moves)
    numbers = list_segments(folder)
    for number in numbers:
        path = segment_path(folder, number)
        try:
            data = path.read_bytes()
            size, standings = _mend(path, data)
        except OSError as error:
            raise ConfigError(f"the journal {path} cannot be read: {error.strerror}") from error
        if size:
            index.add(number, size, standings)
        else:
            path.unlink()
    # A new segment must not get a number that a move of old ones would take for its own.
    spoken = [move.through for moves in index.moves.values() for move in moves]
    return index, max([*numbers, *spoken], default=0)


def read_pending(
    folder: Path, index: Index, snapshot: JournalSnapshot
) -> Iterator[list[JournalRecord]]:
    """
    The snapshot's unsettled records, in batches, oldest segment first.

    Runs outside the event loop: it only looks into the index, each look on its own.
    """
    batch: list[JournalRecord] = []
    for number in sorted(index.segments.copy()):
        if number > snapshot.through:
            break
        path = segment_path(folder, number)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            continue  # Meanwhile all of it was settled.
        for found in read_frames(data):
            if isinstance(found, Damage):
                _report(path, data, found)
                continue
            record = _record_of(path, number, found, index, snapshot)
            if record is not None:
                batch.append(record)
            if len(batch) == BATCH_RECORDS:
                yield batch
                batch = []
    if batch:
        yield batch


def _record_of(
    path: Path, number: int, frame: Frame, index: Index, snapshot: JournalSnapshot
) -> JournalRecord | None:
    standing = read_standing(frame.payload)
    if standing.shard != snapshot.shard:
        return None
    now = index.standing_now(number, standing)
    if now is None or not (
        now.epoch < snapshot.epoch or (now.epoch == snapshot.epoch and now.seq > snapshot.seq)
    ):
        return None
    try:
        return decode_record(frame.payload)
    except InvalidInput as error:
        telemetry.JOURNAL_RECORDS.labels("unreadable").inc()
        telemetry.get_logger().error(
            "journal_record_unreadable", file=path.name, offset=frame.offset, error=str(error)
        )
        set_aside(path, frame.offset, frame.payload)
        return None


def _mend(path: Path, data: bytes) -> tuple[int, list[Standing]]:
    """Read a segment; a torn end is cut off. Returns its size and what stands in it."""
    standings: list[Standing] = []
    size = len(data)
    for found in read_frames(data):
        if isinstance(found, Frame):
            if found.version != FORMAT_VERSION:
                raise ConfigError(
                    f"the journal {path} holds records of format {found.version}, this version "
                    f"knows {FORMAT_VERSION}; start the version that wrote it"
                )
            standings.append(read_standing(found.payload))
            continue
        if found.whole or not found.tail:
            _report(path, data, found)
        if found.tail:
            size = found.start
            cut_file(path, size)
            telemetry.get_logger().warning(
                "journal_tail_cut", file=path.name, offset=found.start, lost=len(data) - size
            )
    return size, standings


def _report(path: Path, data: bytes, damage: Damage) -> None:
    """Tell of damaged bytes, and keep a copy that outlives the segment."""
    copy = set_aside(path, damage.start, data[damage.start : damage.end])
    telemetry.JOURNAL_RECORDS.labels("damaged").inc()
    telemetry.get_logger().error(
        "journal_record_damaged",
        file=path.name,
        offset=damage.start,
        length=damage.end - damage.start,
        copy=copy.name if copy else "",
    )
