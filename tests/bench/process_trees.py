"""Processor time of a server with all its processes, from `/proc` of Linux."""

from pathlib import Path

from bench.deployment import TICKS


def children_of(pid: int) -> dict[int, str]:
    """Names of the processes that this one has started and that live, by their ids."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := _read(int(entry.name))) is not None:
            name, fields = stat
            if int(fields[1]) == pid:
                found[int(entry.name)] = name
    return found


def tree_seconds(pid: int) -> float:
    """What a process, its descendants, and those of them that have ended have used."""
    stat = _read(pid)
    if stat is None:  # Ended since it was seen.
        return 0.0
    # User and system time of its own, then of the children that it has waited for.
    own = sum(map(int, stat[1][11:15])) / TICKS
    return own + sum(map(tree_seconds, children_of(pid)))


def _read(pid: int) -> tuple[str, list[str]] | None:
    """Name and the further fields of a process, or None if it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    head, _, tail = text.rpartition(")")
    return head.partition("(")[2], tail.split()
