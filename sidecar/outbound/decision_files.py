"""Exports of decisions and usage: JSON lines, one event each, in the order of time."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import msgspec

from sidecar.domain.decision_records import DecisionRecord, decode_record, encode_record
from sidecar.domain.errors import ConfigError, InvalidInput
from sidecar.domain.replay_state import ReplayUsage

LINE_BYTES_MAX = 65_536
_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC


class _Line(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    decision: msgspec.Raw = msgspec.Raw()
    usage: ReplayUsage | None = None


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(_Line)


async def write_events(
    path: Path, events: AsyncIterator[DecisionRecord | ReplayUsage]
) -> tuple[int, int]:
    """
    Write an export, readable by its owner only; one that is there is replaced once all is there.

    Returns:
        How many decisions and how many usage events.

    Raises:
        ConfigError: The file cannot be written.
    """
    decisions = usages = 0
    unfinished = path.with_name(path.name + ".part")
    try:
        with os.fdopen(os.open(unfinished, _FLAGS, mode=0o600), "wb") as file:
            async for event in events:
                if isinstance(event, DecisionRecord):
                    line = _Line(decision=msgspec.Raw(encode_record(event)))
                    decisions += 1
                else:
                    line = _Line(usage=event)
                    usages += 1
                file.write(_ENCODER.encode(line) + b"\n")
        unfinished.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        # Half an export would replay as if nothing else had been.
        unfinished.unlink(missing_ok=True)
    return decisions, usages


async def read_events(path: Path) -> AsyncIterator[DecisionRecord | ReplayUsage]:
    """
    Read an export.

    Raises:
        ConfigError: The file cannot be read, or a line of it is no event.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(LINE_BYTES_MAX + 1):
                number += 1
                yield _read_line(line, f"{path}:{number}")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _read_line(line: bytes, place: str) -> DecisionRecord | ReplayUsage:
    if len(line) > LINE_BYTES_MAX:
        raise ConfigError(f"{place}: longer than {LINE_BYTES_MAX} bytes")
    try:
        read = _DECODER.decode(line)
        if read.usage is not None:
            return read.usage
        return decode_record(bytes(read.decision))
    except (InvalidInput, msgspec.MsgspecError, UnicodeError) as error:
        raise ConfigError(f"{place}: no decision record: {error}") from error
