"""Ids of stream entries, `milliseconds-sequence`: their order is not that of their text."""

from sidecar.domain.errors import InvalidInput


def entry_order(entry_id: str) -> tuple[int, int]:
    """
    Where an entry stands in its stream.

    Raises:
        InvalidInput: It is no entry's id.
    """
    milliseconds, _, sequence = entry_id.partition("-")
    if not (milliseconds.isdecimal() and sequence.isdecimal()):
        raise InvalidInput(f"{entry_id[:40]!r} is no stream entry id", field="offset")
    return int(milliseconds), int(sequence)


def next_entry_id(entry_id: str) -> str:
    """The least id after this one. Raises InvalidInput."""
    milliseconds, sequence = entry_order(entry_id)
    return f"{milliseconds}-{sequence + 1}"
