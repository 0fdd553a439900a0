"""The gateway's journal: an append-only log in segments, in a folder of one process."""

from sidecar.outbound.journal.journal import FileJournal

__all__ = ["FileJournal"]
