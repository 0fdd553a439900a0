"""
Which records the ledger does not have yet, by segment; in memory, and on the event loop only.

A record is settled once its shard's watermark for its epoch has reached its seq. A replay moves
what it presented again to the seq that the store then gave: such a move holds for segments up to
the one that was the last when the replay began, and never for what was captured meanwhile.
"""

from array import array
from bisect import bisect_right, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sidecar.outbound.journal.records import Standing

Key = tuple[int, int]
"""Shard and epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """
    What a replay changed: its snapshot, the seq it ended at, and the watermarks before it.

    `settled` has the shard's watermark by epoch: what it covered was not presented again.
    """

    shard: int
    through: int
    epoch: int
    known: int
    seq: int
    settled: Mapping[int, int]

    def moves(self, epoch: int, seq: int) -> bool:
        """Whether an unsettled record of its segments was presented again."""
        return epoch < self.epoch or (epoch == self.epoch and seq > self.known)


@dataclass(slots=True)
class Segment:
    """One file: its size, what stands in it, and the seqs that are not settled, in order."""

    size: int = 0
    seen: set[Key] = field(default_factory=set)
    unsettled: dict[Key, "array[int]"] = field(default_factory=dict)


class Index:
    """All segments, watermarks and moves of one journal."""

    def __init__(self) -> None:
        """Begin empty."""
        self.segments: dict[int, Segment] = {}
        self.watermarks: dict[Key, int] = {}
        self.moves: dict[int, list[Move]] = {}
        self.unsettled = 0

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        return sum(segment.size for segment in self.segments.values())

    def add(self, number: int, size: int, standings: Iterable[Standing]) -> int:
        """Note a segment's growth and the records in it; returns how many are unsettled."""
        segment = self.segments.setdefault(number, Segment())
        segment.size += size
        added = 0
        for standing in standings:
            segment.seen.add((standing.shard, standing.epoch))
            now = self.standing_now(number, standing)
            if now is not None:
                insort(segment.unsettled.setdefault((now.shard, now.epoch), array("Q")), now.seq)
                added += 1
        self.unsettled += added
        return added

    def standing_now(self, number: int, standing: Standing) -> Standing | None:
        """Where a record of a segment stands after all moves; None if it is settled."""
        shard, epoch, seq = standing.shard, standing.epoch, standing.seq
        for move in self.moves.get(shard, ()):
            if number > move.through:
                continue
            if move.settled.get(epoch, -1) >= seq:
                return None
            if move.moves(epoch, seq):
                epoch, seq = move.epoch, move.seq
        if self.watermarks.get((shard, epoch), -1) >= seq:
            return None
        return Standing(shard, epoch, seq)

    def settle(self, shard: int, epoch: int, seq: int) -> int:
        """Raise a watermark; returns how many records became settled."""
        key = (shard, epoch)
        if self.watermarks.get(key, -1) >= seq:
            return 0
        self.watermarks[key] = seq
        return sum(self._settle_in(segment, key, seq) for segment in self.segments.values())

    def move(self, move: Move) -> None:
        """Note that a replay has presented its records again."""
        self.moves.setdefault(move.shard, []).append(move)
        target = (move.shard, move.epoch)
        for number, segment in self.segments.items():
            if number > move.through:
                continue
            count = 0
            for key in [key for key in segment.unsettled if key[0] == move.shard]:
                seqs = segment.unsettled[key]
                stay = 0
                if key[1] == move.epoch:
                    stay = bisect_right(seqs, move.known)
                elif key[1] > move.epoch:
                    continue
                count += len(seqs) - stay
                del seqs[stay:]
                if not seqs:
                    del segment.unsettled[key]
            if count:
                seqs = segment.unsettled.get(target, array("Q"))
                segment.unsettled[target] = array("Q", sorted([*seqs, *([move.seq] * count)]))
            if target in self.watermarks:
                self._settle_in(segment, target, self.watermarks[target])

    def watermarks_of(self, shard: int) -> dict[int, int]:
        """The shard's watermark by epoch."""
        return {epoch: seq for (of, epoch), seq in self.watermarks.items() if of == shard}

    def newest(self) -> dict[int, tuple[int, int]]:
        """By shard that has unsettled records, the highest (epoch, seq) among them."""
        found: dict[int, tuple[int, int]] = {}
        for segment in self.segments.values():
            for (shard, epoch), seqs in segment.unsettled.items():
                found[shard] = max(found.get(shard, (0, 0)), (epoch, seqs[-1]))
        return found

    def settled_segments(self, active: int) -> list[int]:
        """Segments below the active one that hold nothing unsettled."""
        return [n for n, segment in self.segments.items() if n < active and not segment.unsettled]

    def forget_segment(self, number: int) -> None:
        """Its file is gone."""
        del self.segments[number]
        oldest = min(self.segments, default=number + 1)
        self.moves = {
            shard: kept
            for shard, moves in self.moves.items()
            if (kept := [move for move in moves if move.through >= oldest])
        }

    def worthwhile_watermarks(self) -> dict[Key, int]:
        """Those that a segment's records, or what they were moved to, can be compared with."""
        keys = {key for segment in self.segments.values() for key in segment.seen}
        keys |= {(shard, move.epoch) for shard, moves in self.moves.items() for move in moves}
        return {key: seq for key, seq in self.watermarks.items() if key in keys}

    def _settle_in(self, segment: Segment, key: Key, seq: int) -> int:
        seqs = segment.unsettled.get(key)
        if seqs is None:
            return 0
        count = bisect_right(seqs, seq)
        del seqs[:count]
        if not seqs:
            del segment.unsettled[key]
        self.unsettled -= count
        return count
