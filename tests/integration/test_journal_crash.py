"""A process that is killed while it writes: what it acknowledged is there, and no more is lost."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.journal_parts import capture, journal_in, pending, segments

ROOT = Path(__file__).parents[2]
ROUNDS = 6
SEGMENT_BYTES = 20_000


def acknowledged_until_killed(folder: Path, first: int, lines: int) -> list[int]:
    """Numbers that the process printed whole before it died."""
    script = ROOT / "tests" / "fixtures" / "journal_process.py"
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    with subprocess.Popen(
        [sys.executable, script, folder, str(first), str(SEGMENT_BYTES)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path},
    ) as process:
        assert process.stdout is not None
        try:
            told = [process.stdout.readline() for _ in range(lines)]
        finally:
            process.kill()
        told += process.stdout.read().splitlines(keepends=True)
        if not told[0]:
            pytest.fail(process.stderr.read().decode()[-2000:])
    return [int(line) for line in told if line.endswith(b"\n")]


@pytest.mark.timeout(120)
async def test_every_record_that_was_acknowledged_before_a_kill_is_read_back(tmp_path: Path):
    rng = random.Random(20)
    acknowledged: list[int] = []
    for number in range(ROUNDS):
        first = 1 + number * 1_000_000
        acknowledged += acknowledged_until_killed(tmp_path, first, rng.randrange(50, 900))
        async with journal_in(tmp_path, segment_bytes=SEGMENT_BYTES) as journal:
            found = {record.seq: record for record in await pending(journal)}
            assert set(acknowledged) <= found.keys()
            assert all(found[seq] == capture(seq, seq) for seq in acknowledged[-50:])
    assert len(segments(tmp_path)) > ROUNDS
    assert not list(tmp_path.glob("*.damaged"))
