"""
Atheris feeds the fast engine: `make fuzz`, or by path with `frames` or `headers` and its options.

What is found is written to a file, whose name says what kind it is; run with that file to repeat.
"""

import asyncio
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["sidecar.inbound.grpc.fast", "hpack"]):
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from fixtures.fast_checks import check_blocks, check_frames
    from fixtures.http2_peer import GRPC
    from hpack import Encoder

    from sidecar.inbound.grpc.fast.frames import frame

PIECES_MAX = 40
FRAME_KINDS = 12
STREAMS = (0, 1, 3, 5, 2, 2**31 - 1)
LOOP = asyncio.new_event_loop()
ENCODER = Encoder()
BLOCKS = [
    *(
        ENCODER.encode([*GRPC, ("x-request-id", "7f3a"), ("x", "1")], huffman=huffman)
        for huffman in (True, False, True)
    ),
    b"\x20" + Encoder().encode(GRPC),
]
"""The first fills the table, the others use it; the last ends it."""
PARTS = [*BLOCKS, b"\0\0\0\0\2hi", b"\0" * 4, b"\0" * 8, b"\0\4\0\0\0\1", b"\0\1\0\0\0\0"]


def any_bytes(source: atheris.FuzzedDataProvider, known: list[bytes], most: int) -> bytes:
    """Something known as it is or with an octet changed, or anything."""
    if not source.ConsumeBool():
        return source.ConsumeBytes(source.ConsumeIntInRange(0, most))
    found = bytearray(source.PickValueInList(known))
    if source.ConsumeBool():
        place = source.ConsumeIntInRange(0, len(found) - 1)
        found[place] = source.ConsumeIntInRange(0, 255)
    return bytes(found)


def fuzz_frames(data: bytes) -> None:
    """Frames of any kind with any payload, and bytes that are no frames, cut anywhere."""
    source = atheris.FuzzedDataProvider(data)
    pieces = []
    while source.remaining_bytes() and len(pieces) < PIECES_MAX:
        payload = any_bytes(source, PARTS, 120)
        if source.ConsumeBool():
            kind = source.ConsumeIntInRange(0, FRAME_KINDS)
            flags = source.ConsumeIntInRange(0, 255)
            payload = frame(kind, flags, source.PickValueInList(list(STREAMS)), payload)
        cut = source.ConsumeIntInRange(0, len(payload))
        pieces += [payload[:cut], payload[cut:]]
    LOOP.run_until_complete(check_frames(pieces))


def fuzz_headers(data: bytes) -> None:
    """Header blocks of one connection."""
    source = atheris.FuzzedDataProvider(data)
    blocks = []
    while source.remaining_bytes() and len(blocks) < PIECES_MAX:
        blocks.append(any_bytes(source, BLOCKS, 200))
    check_blocks(blocks)


if __name__ == "__main__":
    name, *options = sys.argv[1:]
    target = {"frames": fuzz_frames, "headers": fuzz_headers}[name]
    atheris.Setup([sys.argv[0], *options], target)
    atheris.Fuzz()
