"""
The process that compiles one policy and ends: `python -m` runs it, its standard input is a socket.

It is told the files by one line of JSON, `[[path, bytes], ...]`, then their contents, and answers
with parcels. Whoever began it may change its mind and close the socket without a word.
"""

import gc
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from sidecar.domain.errors import ConfigError
from sidecar.outbound.policy_files.loader import Source, parse_policy
from sidecar.outbound.policy_files.parcels import LENGTH, pack, pack_problems


def main() -> None:
    """Compile what comes in, send what comes of it, and end without tidying up."""
    gc.disable()  # A policy is a million objects without a cycle, and the process ends soon.
    _be_the_first_to_go()
    with suppress(ConnectionError):  # Nobody wants the policy any more.
        _answer()
    # To free a large policy object by object would take as long as a tenth of the work.
    os._exit(0)


def _answer() -> None:
    with open(0, "rb", closefd=False) as incoming, open(0, "wb", closefd=False) as outgoing:
        sources = _read(incoming)
        if sources:
            outgoing.writelines(LENGTH.pack(len(parcel)) + parcel for parcel in _compiled(sources))
            outgoing.write(LENGTH.pack(0))


def _be_the_first_to_go() -> None:
    """Where memory runs out, Linux ends this process and not the one that serves."""
    with suppress(OSError):  # Other systems choose by themselves.
        Path("/proc/self/oom_score_adj").write_text("1000")


def _read(incoming: BinaryIO) -> Sequence[Source]:
    """The files; none if nobody wants them compiled any more."""
    listed = json.loads(incoming.readline() or b"[]")
    sources = [Source(Path(path), incoming.read(size)) for path, size in listed]
    complete = all(
        len(source.data) == size for source, (_, size) in zip(sources, listed, strict=True)
    )
    return sources if complete else ()


def _compiled(sources: Sequence[Source]) -> Iterator[bytes]:
    try:
        loaded = parse_policy(sources)
    except ConfigError as error:
        yield pack_problems(error)
        return
    yield from pack(loaded)


if __name__ == "__main__":
    main()
