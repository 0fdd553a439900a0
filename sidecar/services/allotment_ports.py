"""Ports of allotments: blocks of credit that a gateway process places holds from by itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from sidecar.domain.holds import HoldTerms
from sidecar.domain.thawing import quickly_made
from sidecar.services.ports import PlaceHold, PlaceOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Allotted:
    """
    What the store said to a block that was asked for.

    `outcome` is as a hold of that size would have it; `placed` means that the block has it.
    `changes_at_ms` is when the next grant begins or ends by the store's clock, 0 if none does:
    what is placed from then on is not what the store would place.
    """

    outcome: PlaceOutcome
    changes_at_ms: int = 0


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class BlockHold:
    """
    A hold that was placed from a block.

    `dropped`: nobody was told of it, so that its part goes back to the customer. What it takes of
    the block's counters are its quota lines, in the block's order.
    """

    terms: HoldTerms
    fingerprint: str
    decided_at_ms: int
    expires_at_ms: int
    dropped: bool = False


class Registered(StrEnum):
    """What became of one hold of a batch, or why of none."""

    OPENED = "opened"
    KNOWN = "known"
    """Its id was known: its usage had come before, or another process had placed it."""
    DROPPED = "dropped"
    UNFIT = "unfit"
    """The block has not so much. Never, unless the store's record was changed by hand."""
    LOST = "lost"
    """The block had ended, so that nothing stands behind the hold."""


class Blocks(Protocol):
    """
    Blocks in the live store; each method but `check` is one atomic script on the customer's shard.

    The others raise StoreUnavailable: it may or may not have happened, and is safe to repeat.
    """

    def check(self, terms: HoldTerms) -> None:
        """
        Make sure that the store can be told of a hold before anybody else is.

        Raises:
            InvalidInput: It cannot.
        """

    async def allot(self, block: PlaceHold, credit: int, quantities: Sequence[int]) -> Allotted:
        """
        Set a block aside, or add to one that is open and move its end.

        Args:
            block: As a hold: its id is the block's, its ttl lasts until no hold can have been
                placed from it any more.
            credit: Nano to add.
            quantities: What to add of each of the block's counters.
        """

    async def register(
        self, block: HoldTerms, batch: int, holds: Sequence[BlockHold], *, ends: bool
    ) -> Sequence[Registered]:
        """
        Open holds that were placed from a block, and give back the rest of one that ends.

        Args:
            block: Its terms.
            batch: One more than that of the batch before: the same one again changes nothing.
            holds: All of one dedupe bucket, no id twice; none where the block ends.
            ends: Whether the block ends.

        Returns:
            What became of each; nothing is told of a batch that had been taken before.
        """
