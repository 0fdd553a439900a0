"""Orphans: what becomes of a hold that expired without usage, and how many of them are too many."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

SHARE_HOLDS_MIN: Final = 20
"""Holds of an hour from which a share of them tells something."""
COUNTED_MAX: Final = 10_000
"""The newest holds of an hour that are looked at; a limit above it could never be reached."""


class OrphanSettling(StrEnum):
    """What an orphan is settled by."""

    RELEASE = "release"
    """Nothing is charged."""
    CAPTURE = "capture"
    """The estimate is charged, if the service is proven where that is asked for."""


class OrphanFate(StrEnum):
    """What becomes of one orphan; a label of its metric."""

    RELEASED = "released"
    UNPROVEN = "unproven"
    """It was to be charged, and nothing shows that the upstream served it: released."""
    CAPTURED = "captured"
    ALLOTMENT = "allotment"
    """What was left of a block of credit whose owner is gone: no usage is about it, so it is
    released, and told of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrphanCount:
    """A customer's holds of the last hour that ended, and how many of them as orphans."""

    orphans: int = 0
    holds: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OrphanRule:
    """
    How a plan's orphans are settled.

    A customer with more orphans in an hour than `count_max`, or than `share_percent` of its
    holds, is settled by capture, whatever `settle` says.
    """

    settle: OrphanSettling = OrphanSettling.RELEASE
    needs_proof: bool = True
    count_max: int = 100
    share_percent: int = 10

    def is_exceeded(self, count: OrphanCount) -> bool:
        """Whether a customer has more orphans than it may."""
        if count.orphans > self.count_max:
            return True
        enough = count.holds >= SHARE_HOLDS_MIN
        return enough and count.orphans * 100 > self.share_percent * count.holds

    def fate(self, *, served: bool, exceeded: bool) -> OrphanFate:
        """What becomes of an orphan of a customer that is, or is not, beyond its limits."""
        if self.settle is OrphanSettling.RELEASE and not exceeded:
            return OrphanFate.RELEASED
        if self.needs_proof and not served:
            return OrphanFate.UNPROVEN
        return OrphanFate.CAPTURED


DEFAULT_ORPHANS: Final = OrphanRule()
