"""Ports of the gateway's journal, and the values that cross them."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from sidecar.domain.holds import QuotaLine
from sidecar.domain.usage import UsageEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalRecord:
    """
    One capture that the store accepted: all that is needed to ask for it again.

    (`epoch`, `seq`) is the store's word for where the decision stands on its shard; of a
    duplicate it is the shard's newest decision, which stands no earlier than the capture.
    """

    event: UsageEvent
    quota_lines: tuple[QuotaLine, ...]
    prepaid: bool
    owes: bool = False
    epoch: int
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalSnapshot:
    """
    What a shard's journal held when a replay began.

    Meant are records of an epoch before `epoch`, and those of it above `seq`, in segments up
    to number `through`.
    """

    shard: int
    epoch: int
    seq: int
    through: int


class UsageJournal(Protocol):
    """Keeps captures on this process's own disk until the ledger has them."""

    async def append(self, records: Sequence[JournalRecord]) -> None:
        """
        Keep records; returns once they are on the disk.

        Raises:
            StoreUnavailable: They may or may not be kept, so they must not be acknowledged.
        """

    def settled(self, shard: int, epoch: int, seq: int) -> None:
        """The ledger has all of an epoch up to a seq. Never goes back; repeats are harmless."""

    def newest(self) -> dict[int, tuple[int, int]]:
        """By shard that has unsettled records, the highest (epoch, seq) among them."""

    def oldest(self) -> dict[int, int]:
        """By shard that has unsettled records, the lowest epoch among them."""

    async def snapshot(self, shard: int, *, epoch: int, seq: int) -> JournalSnapshot:
        """
        Begin a replay: what the store may have lost, if it stands at (`epoch`, `seq`) now.

        From here on, captures of an epoch before `epoch` are refused: their answers were on
        the way when the store lost them. Until `release`, nothing of the shard is settled.

        Raises:
            Conflict: The shard is being replayed already.
        """

    def pending(self, snapshot: JournalSnapshot) -> AsyncIterator[Sequence[JournalRecord]]:
        """The snapshot's unsettled records in the order they were kept, in bounded batches."""

    async def moved(self, snapshot: JournalSnapshot, *, seq: int) -> None:
        """
        The snapshot's records are in the store again, none after `seq` of its epoch.

        Raises:
            StoreUnavailable: It may or may not be remembered after a restart.
        """

    def release(self, snapshot: JournalSnapshot) -> None:
        """End a replay, whatever it came to."""

    def remember(self) -> None:
        """Write down how far the ledger is, for the next start; never fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardMark:
    """
    How far a shard is: its last decision, and the last one that the ledger has.

    `epoch` is 0 while the shard has none; so is `settled_epoch`. `empty` says that the shard's
    stream is: whatever was appended to it is committed. The three need not be of one instant.
    """

    shard: int
    epoch: int
    seq: int
    settled_epoch: int
    settled_seq: int
    empty: bool


class ShardMarks(Protocol):
    """The shards' marks in the live store."""

    async def read(self, shards: Sequence[int]) -> Sequence[ShardMark]:
        """One mark for each shard, in one round trip. Raises StoreUnavailable."""
