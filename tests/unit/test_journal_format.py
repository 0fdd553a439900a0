"""The journal's bytes: nothing that was damaged passes, and no damage costs its neighbours."""

import stat
from pathlib import Path

import pytest
from fixtures.journal_parts import capture, frame_of, journal_in, pending, segments
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.errors import ConfigError, InvalidInput
from sidecar.outbound.journal.frames import Damage, Frame, read_frames, to_frame
from sidecar.outbound.journal.index import Move
from sidecar.outbound.journal.marks import Marks, read_marks, write_marks
from sidecar.outbound.journal.records import decode_record, encode_record, read_standing

RECORDS = [capture(number, number + 1) for number in range(3)]
FRAMES = [frame_of(record) for record in RECORDS]
FIRST = "0000000000000001.journal"


def segment(folder: Path, data: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / FIRST
    path.write_bytes(data)
    return path


def test_a_record_reads_back_as_it_was():
    payload = encode_record(RECORDS[0], 7)
    assert decode_record(payload) == RECORDS[0]
    standing = read_standing(payload)
    assert (standing.shard, standing.epoch, standing.seq) == (7, 1, 1)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_record_are_refused_and_never_crash(payload: bytes):
    with pytest.raises(InvalidInput):
        decode_record(payload)


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_frames_read_back_in_order(payloads: list[bytes]):
    found = list(read_frames(b"".join(to_frame(payload) for payload in payloads)))
    assert [frame.payload for frame in found if isinstance(frame, Frame)] == payloads
    assert len(found) == len(payloads)


@given(st.binary(max_size=300))
def test_what_is_no_frame_is_damage_from_its_first_byte_to_its_last(data: bytes):
    found = list(read_frames(data))
    assert not [item for item in found if isinstance(item, Frame)]
    assert [(item.start, item.end, item.tail) for item in found] == (
        [(0, len(data), True)] if data else []
    )


def test_a_flipped_bit_anywhere_is_found_and_costs_one_record():
    data = b"".join(FRAMES)
    begins = [0, len(FRAMES[0]), len(FRAMES[0]) + len(FRAMES[1])]
    for offset in range(len(data)):
        for bit in (0, 7):
            bad = bytearray(data)
            bad[offset] ^= 1 << bit
            found = list(read_frames(bytes(bad)))
            hit = max(n for n, begin in enumerate(begins) if begin <= offset)
            whole = [item.payload for item in found if isinstance(item, Frame)]
            expected = [encode_record(record, 0) for n, record in enumerate(RECORDS) if n != hit]
            assert whole == expected, offset
            (damage,) = [item for item in found if isinstance(item, Damage)]
            assert damage.start == begins[hit]
            assert damage.tail is (hit == 2)


async def test_a_tail_torn_at_any_byte_is_cut_and_the_records_before_it_stay(tmp_path: Path):
    whole = FRAMES[0] + FRAMES[1]
    for cut in range(len(FRAMES[2])):
        folder = tmp_path / str(cut)
        path = segment(folder, whole + FRAMES[2][:cut])
        async with journal_in(folder) as journal:
            assert await pending(journal) == RECORDS[:2]
            assert path.read_bytes() == whole
            await journal.append([RECORDS[2]])
        async with journal_in(folder) as journal:
            assert await pending(journal) == RECORDS
        assert not list(folder.glob("*.damaged")), "a torn write was never acknowledged"


async def test_a_damaged_record_is_put_aside_and_the_rest_is_read(tmp_path: Path):
    bad = bytearray(b"".join(FRAMES))
    offset = len(FRAMES[0])
    bad[offset + 20] ^= 1
    path = segment(tmp_path, bytes(bad))
    async with journal_in(tmp_path) as journal:
        assert await pending(journal) == [RECORDS[0], RECORDS[2]]
    copy = tmp_path / f"{path.stem}-{offset}.damaged"
    assert copy.read_bytes() == bad[offset : offset + len(FRAMES[1])]


async def test_a_last_record_with_all_its_bytes_is_put_aside_before_it_is_cut(tmp_path: Path):
    bad = bytearray(b"".join(FRAMES))
    bad[-1] ^= 1
    path = segment(tmp_path, bytes(bad))
    async with journal_in(tmp_path) as journal:
        assert await pending(journal) == RECORDS[:2]
    assert path.stat().st_size == len(FRAMES[0]) + len(FRAMES[1])
    (copy,) = tmp_path.glob("*.damaged")
    assert copy.read_bytes() == bad[-len(FRAMES[2]) :]


async def test_a_journal_of_a_newer_version_is_left_as_it_is(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("sidecar.outbound.journal.frames.FORMAT_VERSION", 2)
    path = segment(tmp_path, frame_of(RECORDS[0]))
    monkeypatch.undo()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="format 2"):
        await journal_in(tmp_path).__aenter__()
    assert path.read_bytes() == before


async def test_a_folder_belongs_to_one_process_and_is_closed_to_others(tmp_path: Path):
    folder = tmp_path / "journal"
    async with journal_in(folder) as journal:
        await journal.append(RECORDS)
        with pytest.raises(ConfigError, match="in use by another process"):
            await journal_in(folder).__aenter__()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        files = [*folder.iterdir()]
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    async with journal_in(folder) as journal:
        assert await pending(journal) == RECORDS


async def test_a_folder_that_cannot_be_made_is_a_configuration_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="SIDECAR_JOURNAL_DIR"):
        await journal_in(tmp_path / "file" / "journal").__aenter__()


def test_marks_read_back_and_any_damage_makes_them_say_nothing(tmp_path: Path):
    path = tmp_path / "marks"
    move = Move(shard=3, through=4, epoch=9, known=2, seq=7, settled={8: 5})
    marks = Marks({(3, 9): 6, (0, 1): 2}, {3: [move]})
    write_marks(path, marks)
    assert read_marks(path) == marks
    whole = path.read_bytes()
    for offset in range(len(whole)):
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 1]) + whole[offset + 1 :])
        assert read_marks(path) in (Marks(), marks)
        path.write_bytes(whole[:offset])
        assert read_marks(path) == Marks()
    path.unlink()
    assert read_marks(path) == Marks()


def test_no_prompt_token_or_key_has_a_place_in_a_record():
    fields = set(RECORDS[0].event.__dataclass_fields__)
    assert not {name for name in fields if any(w in name for w in ("prompt", "body", "token"))}
    assert {"client_key", "request_id"} <= fields, "the sender's own ids are all that is free"


async def test_an_empty_segment_leaves_nothing_behind(tmp_path: Path):
    segment(tmp_path, FRAMES[0][:5])
    async with journal_in(tmp_path) as journal:
        assert journal.newest() == {}
    assert segments(tmp_path) == []
