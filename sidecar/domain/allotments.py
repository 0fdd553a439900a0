"""Allotments: how large a block of credit is, and until when holds may be placed from it."""

from dataclasses import dataclass
from typing import Final

PLACE_MS: Final = 1_000
"""Longest that a block may be placed from without the store's word: what a void, a standing or a
revocation changes is felt within it."""
HOLDS_MIN: Final = 4
"""A block for fewer holds than this is not worth its two calls: they are placed one by one."""
SHARE: Final = 8
"""A block takes no more than an eighth of what is left, so that it shrinks as that does."""
AHEAD_MS: Final = 1_250
"""A block has what is burned in so long: somewhat more than until it is renewed."""
FRESH_SECONDS: Final = 2
"""A hold of an older request is in the store, or was never placed: it is not on its way there."""


@dataclass(frozen=True, slots=True)
class Burned:
    """What holds took over some time: how many, of one measure how much."""

    holds: int
    quantity: int
    ms: int

    def wanted(self, free: int, left: int | None) -> int | None:
        """
        By how much a block should grow.

        Args:
            free: What it has.
            left: What there is beside it; None where nothing bounds it.

        Returns:
            None where so little is left that holds are to be placed one by one.
        """
        if not self.quantity:
            return 0
        wish = -(-self.quantity * AHEAD_MS // self.ms)
        more = max(0, wish - free)
        if left is not None:
            more = min(more, max(0, left) // SHARE)
        least = HOLDS_MIN * self.quantity // max(1, self.holds)
        return more if free + more >= least else None


def place_ms(instant_ms: int, ends_ms: tuple[int, ...]) -> int:
    """
    How long a block may be placed from: less than a second where something ends before it.

    Args:
        instant_ms: When the store gave it.
        ends_ms: When a window, a slice or a grant ends, or a grant begins.
    """
    return max(0, min([PLACE_MS, *[end - instant_ms for end in ends_ms]]))
