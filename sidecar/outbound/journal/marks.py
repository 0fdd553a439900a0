"""
The marks file: watermarks and moves, so that a restart need not ask for what is settled.

It only ever saves work: without it every record counts as unsettled and is presented again,
which the store answers as a duplicate or a claim.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sidecar import telemetry
from sidecar.outbound.journal.folder import replace_file
from sidecar.outbound.journal.index import Key, Move

_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Marks:
    """What the file holds."""

    watermarks: Mapping[Key, int] = field(default_factory=dict)
    moves: Mapping[int, list[Move]] = field(default_factory=dict)


def write_marks(path: Path, marks: Marks) -> None:
    """Replace the file. Raises OSError."""
    content = {
        "version": _VERSION,
        "watermarks": [[*key, seq] for key, seq in sorted(marks.watermarks.items())],
        "moves": [
            [
                *(move.shard, move.through, move.epoch, move.known, move.seq),
                sorted(move.settled.items()),
            ]
            for moves in marks.moves.values()
            for move in moves
        ],
    }
    body = json.dumps(content, separators=(",", ":")).encode()
    replace_file(path, f"{zlib.crc32(body):08x}\n".encode() + body)


def read_marks(path: Path) -> Marks:
    """What the file says; nothing if it is absent, damaged or of another version."""
    try:
        checksum, _, body = path.read_bytes().partition(b"\n")
        content = json.loads(body)
        if int(checksum, 16) == zlib.crc32(body) and content["version"] == _VERSION:
            return Marks(
                watermarks={(shard, epoch): seq for shard, epoch, seq in content["watermarks"]},
                moves=_moves(content["moves"]),
            )
        telemetry.get_logger().warning("journal_marks_ignored", error="checksum or version")
    except FileNotFoundError:
        pass  # A new journal.
    except (OSError, ValueError, KeyError, TypeError) as error:
        telemetry.get_logger().warning("journal_marks_ignored", error=type(error).__name__)
    return Marks()


def _moves(rows: list[list[object]]) -> dict[int, list[Move]]:
    found: dict[int, list[Move]] = {}
    for shard, through, epoch, known, seq, settled in rows:
        move = Move(
            shard=_number(shard),
            through=_number(through),
            epoch=_number(epoch),
            known=_number(known),
            seq=_number(seq),
            settled=dict(settled),  # type: ignore[call-overload]  # Pairs, as they were written.
        )
        found.setdefault(move.shard, []).append(move)
    return found


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError("no number")
    return value
