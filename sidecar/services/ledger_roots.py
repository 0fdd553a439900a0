"""
The daily root: once a UTC day, where all chains of the ledger stand, signed.

Any number of workers may run: the day's row is there once. A day on which settlement did not run
has no root; the next one covers it.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Protocol

from sidecar import telemetry
from sidecar.domain.ledger_chain import LedgerBreak, LedgerRoot
from sidecar.services.ports import Clock
from sidecar.services.rounds import run_rounds


class RootSigner(Protocol):
    """Signs roots by the newest secret key, and knows signatures of all."""

    newest_id: str

    def sign(self, content: bytes) -> bytes:
        """A signature by the newest key."""

    def verify(self, key_id: str, content: bytes, signature: bytes) -> bool | None:
        """Whether a key of ours signed it; None if there is no such key."""


class LedgerRoots(Protocol):
    """Roots on record."""

    async def write(self, at: datetime, *, daily: bool) -> LedgerRoot | None:
        """
        Sign where the chains stand, or find that this has been done.

        Args:
            at: The instant, which names the day.
            daily: The day's one root. Otherwise one for now, unless the newest says the same.

        Returns:
            The root, new or not; None while no chain has a link.

        Raises:
            InvariantViolated: A shard's head is not its chain's last link: nothing is signed.
        """


class LedgerRootList(Protocol):
    """Roots on record, read; may raise StoreUnavailable."""

    async def list(self, *, after: int, limit: int) -> Sequence[LedgerRoot]:
        """Roots by number, those after `after`. Raises InvariantViolated for a damaged one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainVerdict:
    """What walking one chain found."""

    chain: int
    first_seq: int
    last_seq: int
    hash: str
    transactions: int
    events: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerVerdict:
    """What verifying the ledger found; `unbegun` counts transactions of shards without chain."""

    chains: tuple[ChainVerdict, ...]
    roots: int
    breaks: tuple[LedgerBreak, ...]
    unbegun: dict[int, int] = field(default_factory=dict)

    @property
    def intact(self) -> bool:
        """Whether nothing is broken."""
        return not self.breaks


class DailyRoots:
    """Sees to the day's root."""

    def __init__(self, roots: LedgerRoots, clock: Clock, *, interval_seconds: float = 60.0) -> None:
        """
        Wire the ports.

        Args:
            roots, clock: Ports.
            interval_seconds: How often `run` looks at the day.
        """
        self._roots = roots
        self._clock = clock
        self._interval_seconds = interval_seconds
        self._done: date | None = None

    async def look_once(self) -> LedgerRoot | None:
        """
        Write the day's root if this process has not seen it yet; None if there was nothing to do.

        Raises:
            SidecarError: It may or may not be there; look again.
        """
        now = self._clock.now()
        if now.date() == self._done:
            return None
        root = await self._roots.write(now, daily=True)
        if root is not None:
            self._done = root.day
            telemetry.get_logger().info(
                "ledger_root",
                number=root.number,
                day=root.day.isoformat(),
                chains=len(root.heads),
                signature=root.signature.hex(),
            )
        return root

    async def run(self, stop: asyncio.Event) -> None:
        """Look until stopped; failures are counted and tried again."""
        await run_rounds(
            stop,
            self.look_once,
            name="ledger_roots",
            pause_seconds=self._interval_seconds,
            event="ledger_root_failed",
        )
