"""
Moving subscriptions to the prices that have replaced theirs.

What is to be moved is read anew in each round, so a crash, a lost answer or another's change costs
a round and nothing else. A move bears a name made of its content: two processes that find the same
ask for it once.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Protocol

from sidecar.domain.catalog import WantedCatalog
from sidecar.domain.catalog_moves import HeldItem, Move, replaced_prices
from sidecar.domain.errors import ProviderFailed, ProviderRefused, StoreUnavailable
from sidecar.services.catalog_ports import ProviderCatalog
from sidecar.services.ports import Clock

ROUNDS_MAX: Final = 200
IDLE_ROUNDS_MAX: Final = 8
"""Rounds in a row in which nothing could be done; then it is the provider that is away."""


class ProviderSubscriptions(Protocol):
    """Subscriptions at a billing provider."""

    async def items_on(self, price_id: str) -> tuple[HeldItem, ...]:
        """
        The items on a price, of all subscriptions that have not ended.

        Raises:
            ConfigError: There are more than may be read.
            ProviderRefused: The key may not read them.
            StoreUnavailable: No answer.
        """

    async def put_on(self, item: HeldItem, price_id: str, key: str) -> None:
        """
        Put an item on another price, from now on and without proration, once for each key.

        Raises:
            ProviderRefused: It will not be done.
            ProviderFailed: It may have been done, and the answer is kept under the key.
            StoreUnavailable: It may have been done.
        """


@dataclass(slots=True, kw_only=True)
class Moved:
    """What a run has done; `waiting` are of periods that are not young, `refused` with why."""

    done: list[Move] = field(default_factory=list)
    waiting: list[Move] = field(default_factory=list)
    refused: dict[str, tuple[Move, str]] = field(default_factory=dict)
    unavailable: str = ""


class SubscriptionMover:
    """Plans and moves; any number may run at once."""

    def __init__(
        self,
        catalog: ProviderCatalog,
        subscriptions: ProviderSubscriptions,
        clock: Clock,
        *,
        pause: Callable[[int], Awaitable[None]],
    ) -> None:
        """
        Wire the ports.

        Args:
            catalog, subscriptions, clock: Ports.
            pause: Waits after the n-th round in a row that did nothing, n from 1.
        """
        self._catalog = catalog
        self._subscriptions = subscriptions
        self._clock = clock
        self._pause = pause

    async def plan(self, wanted: WantedCatalog) -> tuple[Move, ...]:
        """
        What would be moved, by line and subscription; one read for each price that was replaced.

        Raises:
            ConfigError, ProviderRefused, StoreUnavailable: As the ports.
        """
        moves = [
            Move(name=one.name, item=item, old_id=one.old_id, new_id=one.new_id)
            for one in replaced_prices(wanted, await self._catalog.read())
            for item in await self._subscriptions.items_on(one.old_id)
        ]
        return tuple(sorted(moves, key=lambda move: (move.name, move.item.subscription_id)))

    async def move(
        self,
        wanted: WantedCatalog,
        *,
        within: timedelta | None = None,
        told: Callable[[Move], None] = lambda _move: None,
    ) -> Moved:
        """
        Move until nothing is left that can be moved now.

        Args:
            wanted: What the policy says; its prices have been made.
            within: Only items whose running period began so long ago at most.
            told: Is called with each move once it is known to be done.

        Raises:
            ConfigError, ProviderRefused: What is to be moved cannot be read.
        """
        work = _Work(self._subscriptions, told)
        idle = 0
        for _ in range(ROUNDS_MAX):
            before = len(work.moved.done)
            try:
                left = await self.plan(wanted)
                now = self._clock.now()
                due = work.look(left, [move for move in left if move.is_due(now, within)])
                if not due:
                    return work.moved
                await work.do_all(due)
            except StoreUnavailable as error:
                idle = 0 if len(work.moved.done) > before else idle + 1
                if idle >= IDLE_ROUNDS_MAX:
                    return work.end(str(error))
                await self._pause(idle + 1)
        return work.end("subscriptions kept coming back; does somebody else move them, too?")


class _Work:
    """One run: what is done, and under which keys it was asked for."""

    def __init__(self, subscriptions: ProviderSubscriptions, told: Callable[[Move], None]) -> None:
        self.moved = Moved()
        self._subscriptions = subscriptions
        self._told = told
        self._unclear: Move | None = None
        self._generations: Counter[str] = Counter()

    def look(self, left: Sequence[Move], due: Sequence[Move]) -> list[Move]:
        """What is to be moved in this round; settles what the last one left open."""
        if self._unclear is not None:
            one, self._unclear = self._unclear, None
            if one.key not in {move.key for move in left}:
                self._note(one)
        keys = {move.key for move in due}
        self.moved.waiting = [move for move in left if move.key not in keys]
        return [move for move in due if move.key not in self.moved.refused]

    async def do_all(self, due: Sequence[Move]) -> None:
        """Move one after the other. Raises StoreUnavailable: one may or may not have happened."""
        for move in due:
            name = f"sidecar-move:{move.key}:{self._generations[move.key]}"
            try:
                await self._subscriptions.put_on(move.item, move.new_id, name)
            except ProviderRefused as error:
                self.moved.refused[move.key] = move, str(error)
            except StoreUnavailable as error:
                if isinstance(error, ProviderFailed):
                    # Replayed for as long as the key stays the same; reading tells what happened.
                    self._generations[move.key] += 1
                self._unclear = move
                raise
            else:
                self._note(move)

    def end(self, why: str) -> Moved:
        """The result so far, of a run that did not come to its end."""
        self.moved.unavailable = why
        return self.moved

    def _note(self, move: Move) -> None:
        self.moved.done.append(move)
        self._told(move)
