"""
Frames: how a payload lies in a segment, and how damage is told from the end.

A frame is `SCJR`, CRC-32, length, format version, payload. The checksum covers everything after
itself, so no byte can change unseen. Behind damage the next whole frame is searched for, which
the four letters make cheap and the checksum makes certain.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

FORMAT_VERSION: Final = 1
PAYLOAD_BYTES_MAX: Final = 1_048_576
_MAGIC: Final = b"SCJR"
_HEAD: Final = struct.Struct(">4sIIB")
_BODY: Final = struct.Struct(">IB")
_CHECKED_FROM: Final = 8
"""What the checksum covers begins behind the letters and the checksum itself."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A whole frame: where it begins, and what it holds."""

    offset: int
    version: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Damage:
    """
    Bytes that are no frame.

    `tail` says that no frame follows: a write that a crash cut off. Unless `whole`: then all
    bytes of a frame are there and the checksum refuses them.
    """

    start: int
    end: int
    tail: bool
    whole: bool


def to_frame(payload: bytes) -> bytes:
    """Wrap a payload of at most `PAYLOAD_BYTES_MAX` bytes."""
    assert len(payload) <= PAYLOAD_BYTES_MAX
    body = _BODY.pack(len(payload), FORMAT_VERSION) + payload
    return _MAGIC + zlib.crc32(body).to_bytes(4, "big") + body


def read_frames(data: bytes) -> Iterator[Frame | Damage]:
    """Everything in a segment, in order: frames, and what lies between them."""
    position, end = 0, len(data)
    while position < end:
        frame = _frame_at(data, position)
        if frame is None:
            following = _next_frame(data, position + 1)
            yield Damage(
                start=position,
                end=following,
                tail=following == end,
                whole=_seems_whole(data, position),
            )
            position = following
            continue
        yield frame
        position += _HEAD.size + len(frame.payload)


def _frame_at(data: bytes, position: int) -> Frame | None:
    body = position + _HEAD.size
    if body > len(data):
        return None
    magic, checksum, length, version = _HEAD.unpack_from(data, position)
    if magic != _MAGIC or length > PAYLOAD_BYTES_MAX or body + length > len(data):
        return None
    view = memoryview(data)[position + _CHECKED_FROM : body + length]
    if zlib.crc32(view) != checksum:
        return None
    return Frame(position, version, data[body : body + length])


def _next_frame(data: bytes, position: int) -> int:
    """Where the next whole frame begins, or the end."""
    while True:
        position = data.find(_MAGIC, position)
        if position < 0:
            return len(data)
        if _frame_at(data, position) is not None:
            return position
        position += 1


def _seems_whole(data: bytes, position: int) -> bool:
    body = position + _HEAD.size
    if body > len(data):
        return False
    _, _, length, _ = _HEAD.unpack_from(data, position)
    return bool(body + length <= len(data))
