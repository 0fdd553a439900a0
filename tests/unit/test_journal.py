"""The journal keeps what it answered for, forgets what is settled, and refuses what it cannot."""

import asyncio
import errno
import os
from pathlib import Path

import pytest
from fixtures.journal_parts import capture, frame_of, journal_in, pending, segments
from fixtures.use_cases import Grown

from sidecar import telemetry
from sidecar.domain.errors import Conflict, StoreUnavailable
from sidecar.outbound.journal import writer as writing

FRAME = len(frame_of(capture(0, 1)))


def sample(metric) -> float:
    return metric._value.get()


async def test_what_was_appended_is_there_after_a_restart_in_order(tmp_path: Path):
    records = [capture(number, number + 1) for number in range(600)]
    async with journal_in(tmp_path) as journal:
        for start in range(0, 600, 50):
            await journal.append(records[start : start + 50])
    async with journal_in(tmp_path) as journal:
        assert await pending(journal) == records
        assert sample(telemetry.JOURNAL_UNSETTLED) == 600
        assert sample(telemetry.JOURNAL_BYTES) == 600 * FRAME


async def test_appends_that_wait_together_share_an_fsync(tmp_path: Path, monkeypatch):
    calls = 0
    sync = writing._sync

    def count(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        sync(descriptor)

    monkeypatch.setattr(writing, "_sync", count)
    async with journal_in(tmp_path) as journal:
        await asyncio.gather(*(journal.append([capture(n, n + 1)]) for n in range(500)))
        assert 1 <= calls < 250
        assert len(await pending(journal)) == 500


async def test_an_append_returns_only_after_its_bytes_are_synced(tmp_path: Path, monkeypatch):
    synced: list[int] = []
    sync = writing._sync

    def note(descriptor: int) -> None:
        sync(descriptor)
        synced.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(writing, "_sync", note)
    async with journal_in(tmp_path) as journal:
        for number in range(5):
            await journal.append([capture(number, number + 1)])
            assert synced[-1] == (number + 1) * FRAME


async def test_settled_segments_go_and_others_stay(tmp_path: Path):
    async with journal_in(tmp_path, segment_bytes=3 * FRAME) as journal:
        for number in range(12):
            await journal.append([capture(number, number + 1, shard=number % 2)])
        assert len(segments(tmp_path)) == 4
        journal.settled(0, 1, 12)
        assert len(segments(tmp_path)) == 4, "each file still has records of shard 1"
        journal.settled(1, 1, 6)
        await pending(journal)  # The writer's thread has removed what it was told to.
        assert len(segments(tmp_path)) == 2
        assert journal.newest() == {1: (1, 12)}
        assert [record.seq for record in await pending(journal, shard=1)] == [8, 10, 12]


async def test_a_watermark_of_another_epoch_settles_nothing(tmp_path: Path):
    async with journal_in(tmp_path) as journal:
        await journal.append([capture(1, 5, epoch=2)])
        journal.settled(0, 1, 99)
        journal.settled(0, 3, 99)
        assert journal.newest() == {0: (2, 5)}
        journal.settled(0, 2, 5)
        assert journal.newest() == {}


async def test_a_record_that_was_settled_before_it_was_kept_is_not_pending(tmp_path: Path):
    async with journal_in(tmp_path) as journal:
        journal.settled(0, 1, 7)
        await journal.append([capture(1, 7)])
        assert journal.newest() == {}


async def test_what_is_settled_is_remembered_over_a_restart(tmp_path: Path):
    async with journal_in(tmp_path) as journal:
        await journal.append([capture(1, 1), capture(2, 2)])
        journal.settled(0, 1, 1)
    async with journal_in(tmp_path) as journal:
        assert await pending(journal) == [capture(2, 2)]


async def test_a_full_journal_refuses_and_takes_again_once_there_is_room(tmp_path: Path):
    refused = Grown("sidecar_journal_records_total", outcome="refused")
    async with journal_in(tmp_path, segment_bytes=2 * FRAME, bytes_max=10 * FRAME) as journal:
        for number in range(10):
            assert sample(telemetry.JOURNAL_NEARLY_FULL) == (number > 7)
            await journal.append([capture(number, number + 1)])
        with pytest.raises(StoreUnavailable, match="the journal is full"):
            await journal.append([capture(10, 11)])
        assert refused.by == 1
        journal.settled(0, 1, 4)
        assert sample(telemetry.JOURNAL_NEARLY_FULL) == 0
        await journal.append([capture(10, 11)])
    assert sum(path.stat().st_size for path in segments(tmp_path)) <= 10 * FRAME


async def test_a_batch_beyond_the_queue_is_refused_and_nothing_of_it_is_kept(tmp_path: Path):
    async with journal_in(tmp_path, queue_max=3) as journal:
        with pytest.raises(StoreUnavailable, match="queue is full"):
            await journal.append([capture(number, number + 1) for number in range(4)])
        await journal.append([capture(9, 9)])
        assert await pending(journal) == [capture(9, 9)]


@pytest.mark.parametrize("broken", ["_sync", "write_all"])
async def test_what_the_disk_refused_is_not_acknowledged_and_the_next_is(
    tmp_path: Path, monkeypatch, broken: str
):
    def fail(descriptor: int, *data: bytes) -> None:
        for part in data:
            os.write(descriptor, part[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    async with journal_in(tmp_path) as journal:
        await journal.append([capture(1, 1)])
        monkeypatch.setattr(writing, broken, fail)
        with pytest.raises(StoreUnavailable, match="No space left"):
            await journal.append([capture(2, 2)])
        monkeypatch.undo()
        await journal.append([capture(3, 3)])
        assert await pending(journal) == [capture(1, 1), capture(3, 3)]
    async with journal_in(tmp_path) as journal:
        assert await pending(journal) == [capture(1, 1), capture(3, 3)]


async def test_a_cancelled_append_is_written_all_the_same(tmp_path: Path):
    async with journal_in(tmp_path) as journal:
        append = asyncio.ensure_future(journal.append([capture(1, 1)]))
        await asyncio.sleep(0)
        append.cancel()
        with pytest.raises(asyncio.CancelledError):
            await append
        await journal.append([capture(2, 2)])
        assert await pending(journal) == [capture(1, 1), capture(2, 2)]


async def test_a_closed_journal_takes_nothing(tmp_path: Path):
    async with journal_in(tmp_path) as journal:
        pass
    with pytest.raises(StoreUnavailable):
        await journal.append([capture(1, 1)])


async def test_a_replay_sees_older_epochs_and_what_stands_above_the_store(tmp_path: Path):
    kept = [capture(1, 50, epoch=1), capture(2, 5, epoch=2), capture(3, 6, epoch=2)]
    async with journal_in(tmp_path) as journal:
        await journal.append(kept)
        assert await pending(journal, epoch=1, seq=50) == []
        assert await pending(journal, epoch=2, seq=5) == [kept[0], kept[2]]
        assert await pending(journal, epoch=2, seq=6) == [kept[0]]
        assert await pending(journal, epoch=3) == kept
        assert await pending(journal, shard=1) == []


async def test_from_a_replay_on_captures_of_a_lost_epoch_are_refused(tmp_path: Path):
    async with journal_in(tmp_path) as journal:
        snapshot = await journal.snapshot(0, epoch=2, seq=0)
        with pytest.raises(StoreUnavailable, match="lost its memory"):
            await journal.append([capture(1, 9, epoch=1)])
        await journal.append([capture(1, 9, epoch=1, shard=1), capture(2, 1, epoch=2)])
        with pytest.raises(Conflict):
            await journal.snapshot(0, epoch=2, seq=0)
        journal.release(snapshot)


async def test_what_was_presented_again_is_settled_by_its_new_number(tmp_path: Path):
    async with journal_in(tmp_path) as journal:
        await journal.append([capture(1, 50), capture(2, 51)])
        snapshot = await journal.snapshot(0, epoch=2, seq=3)
        await journal.append([capture(3, 4, epoch=2)])
        await journal.moved(snapshot, seq=6)
        journal.release(snapshot)
        journal.settled(0, 1, 99)
        journal.settled(0, 2, 5)
        assert journal.newest() == {0: (2, 6)}
        expected = [capture(1, 50), capture(2, 51)]
        assert await pending(journal, epoch=3) == expected
    async with journal_in(tmp_path) as journal:
        assert journal.newest() == {0: (2, 6)}
        assert await pending(journal, epoch=3) == expected
        assert await pending(journal, epoch=2, seq=6) == []
        journal.settled(0, 2, 6)
        assert journal.newest() == {}
    assert len(segments(tmp_path)) <= 1


async def test_a_watermark_counts_for_nothing_while_its_shard_is_replayed(tmp_path: Path):
    """A store that went back gives the numbers of what it lost to other decisions."""
    async with journal_in(tmp_path) as journal:
        await journal.append([capture(1, 100)])
        snapshot = await journal.snapshot(0, epoch=1, seq=90)
        journal.settled(0, 1, 110)
        assert journal.newest() == {0: (1, 100)}
        await journal.moved(snapshot, seq=121)
        journal.release(snapshot)
        journal.settled(0, 1, 110)
        assert journal.newest() == {0: (1, 121)}
        assert await pending(journal, epoch=2) == [capture(1, 100)]


async def test_new_segments_never_take_the_number_of_a_replayed_one(tmp_path: Path):
    async with journal_in(tmp_path) as journal:
        await journal.append([capture(1, 5)])
        snapshot = await journal.snapshot(0, epoch=2, seq=0)
        await journal.moved(snapshot, seq=1)
        journal.release(snapshot)
    for path in segments(tmp_path):
        path.unlink()
    async with journal_in(tmp_path) as journal:
        await journal.append([capture(2, 7, epoch=1)])
        assert journal.newest() == {0: (1, 7)}
    async with journal_in(tmp_path) as journal:
        assert journal.newest() == {0: (1, 7)}
