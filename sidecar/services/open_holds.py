"""Holds in flight, listed page by page over all customers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sidecar.services.ports import StoredHold


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldPosition:
    """A place in the list: shards in order, in each the hold that expires first."""

    shard: int
    expires_at_ms: int
    hold_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldPage:
    """Holds in the list's order; `next` is where to go on, None at the end."""

    holds: Sequence[StoredHold]
    next: HoldPosition | None = None


class OpenHolds(Protocol):
    """The live store's open holds."""

    async def page(
        self, *, limit: int, after: HoldPosition | None = None, customer_id: str = ""
    ) -> HoldPage:
        """
        Open holds behind a position, of one customer if it is named.

        The list moves while it is read: a sign of life moves a hold towards its end, so that it
        may be told twice, and one that was open throughout is told at least once. A page looks
        at a bounded number of holds, so one for a customer may be short and not the last.

        Raises:
            StoreUnavailable: The store does not answer.
        """
