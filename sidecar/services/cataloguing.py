"""
Making a provider's catalog what the policy says.

Each round reads the catalog anew and does what still differs, so a crash, a lost answer or
another's change at any point costs a round and nothing else: what was done is found.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from enum import Enum
from typing import Any, Final

from sidecar.domain.catalog import Problem, WantedCatalog, digest, plain
from sidecar.domain.catalog_changes import (
    CatalogDiff,
    Change,
    CreatePrice,
    Kind,
    Order,
)
from sidecar.domain.catalog_diff import diff_catalogs
from sidecar.domain.errors import ProviderFailed, ProviderRefused, StoreUnavailable
from sidecar.services.catalog_ports import ProviderCatalog

ROUNDS_MAX: Final = 200
IDLE_ROUNDS_MAX: Final = 8
"""Rounds in a row in which nothing could be done; then it is the provider that is away."""
WHOLE_ROUNDS_MAX: Final = 4
"""Rounds that did everything; where something still differs, somebody else changes it too."""


class Ending(Enum):
    """How an apply ended."""

    DONE = "done"
    REFUSED = "refused"
    """By us, before anything was sent, or by the provider."""
    UNAVAILABLE = "unavailable"
    """The provider gave no usable answers; apply again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """
    What an apply did.

    Attributes:
        done: Changes that the provider has, in order.
        problems: What the policy says and the provider cannot have; then nothing was sent.
        stopped_at: The change that the provider refused, or that would lose usage.
        detail: Why it stopped.
    """

    ending: Ending
    done: tuple[Change, ...] = ()
    problems: tuple[Problem, ...] = ()
    stopped_at: Change | None = None
    detail: str = ""


class Cataloguer:
    """Compares and applies; two that run at once make no object twice."""

    def __init__(
        self, provider: ProviderCatalog, *, pause: Callable[[int], Awaitable[None]]
    ) -> None:
        """
        Wire the ports.

        Args:
            provider: The provider's catalog.
            pause: Waits after the n-th round in a row that did nothing, n from 1.
        """
        self._provider = provider
        self._pause = pause

    async def plan(self, wanted: WantedCatalog, plans: frozenset[str] | None = None) -> CatalogDiff:
        """What would change. Raises as `ProviderCatalog.read` does."""
        return diff_catalogs(wanted, await self._provider.read(), plans)

    async def apply(
        self,
        wanted: WantedCatalog,
        plans: frozenset[str] | None = None,
        *,
        replace_meters: bool = False,
        told: Callable[[Change], None] = lambda _change: None,
    ) -> Applied:
        """
        Change the provider's catalog until nothing differs, or until it refuses.

        Args:
            wanted: What the policy says.
            plans: Look at these alone.
            replace_meters: Whether a meter that misfits may be archived, with its usage.
            told: Is called with each change once it is known to be done.

        Raises:
            ConfigError, ProviderRefused: The catalog cannot be read.
        """
        work = _Work(self._provider, told)
        idle = whole = 0
        for _ in range(ROUNDS_MAX):
            before = len(work.done)
            try:
                diff = await self.plan(wanted, plans)
                stop = work.look(diff, replace_meters=replace_meters)
                if stop is not None:
                    return stop
                if whole == WHOLE_ROUNDS_MAX:
                    break
                stop = await work.do_all(diff)
                if stop is not None:
                    return stop
                whole += 1
            except StoreUnavailable as error:
                idle = 0 if len(work.done) > before else idle + 1
                if idle >= IDLE_ROUNDS_MAX:
                    return work.end(Ending.UNAVAILABLE, detail=str(error))
                await self._pause(idle + 1)
        return work.end(
            Ending.UNAVAILABLE, detail="the catalog kept differing; does somebody else change it?"
        )


class _Work:
    """One apply: what is done, and under which keys it was asked for."""

    def __init__(self, provider: ProviderCatalog, told: Callable[[Change], None]) -> None:
        self.done: list[Change] = []
        self._provider = provider
        self._told = told
        self._unclear: Change | None = None
        self._answered: set[str] = set()
        self._generations: Counter[str] = Counter()

    def look(self, diff: CatalogDiff, *, replace_meters: bool) -> Applied | None:
        """What ends the work before a round, else None; settles what the last one left open."""
        if self._unclear is not None:
            wanted_still = {(one.kind, one.action, one.name, one.id) for one in diff.changes}
            one = self._unclear
            self._unclear = None
            if (one.kind, one.action, one.name, one.id) not in wanted_still:
                self._note(one)
        if diff.problems:
            return self.end(
                Ending.REFUSED,
                problems=diff.problems,
                detail="the policy wants what the provider cannot have",
            )
        if not diff.changes:
            return self.end(Ending.DONE)
        lossy = next((change for change in diff.changes if change.disruptive), None)
        if lossy is not None and not replace_meters:
            return self.end(Ending.REFUSED, stopped_at=lossy, detail=lossy.reason)
        return None

    async def do_all(self, diff: CatalogDiff) -> Applied | None:
        """
        Do the changes in order; objects that are made on the way are named to later ones.

        Raises:
            StoreUnavailable: One of them may or may not have happened.
        """
        made: dict[tuple[Kind, str], str] = {}
        for change in diff.changes:
            order = _resolved(change.order, made)
            name = order_digest(order, change)
            if name in self._answered:
                # It was answered and still differs: the answer was a replay of an older one.
                self._answered.discard(name)
                self._generations[name] += 1
            try:
                made[change.kind, change.name] = await self._provider.write(
                    order, f"sidecar-catalog:{name}:{self._generations[name]}"
                )
            except ProviderRefused as error:
                return self.end(Ending.REFUSED, stopped_at=change, detail=str(error))
            except StoreUnavailable as error:
                if isinstance(error, ProviderFailed):
                    # Replayed for as long as the key stays the same; reading tells what happened.
                    self._generations[name] += 1
                self._unclear = change
                raise
            self._answered.add(name)
            self._note(change)
        return None

    def end(
        self,
        ending: Ending,
        *,
        problems: tuple[Problem, ...] = (),
        stopped_at: Change | None = None,
        detail: str = "",
    ) -> Applied:
        """The result so far."""
        return Applied(
            ending=ending,
            done=tuple(self.done),
            problems=problems,
            stopped_at=stopped_at,
            detail=detail,
        )

    def _note(self, change: Change) -> None:
        self.done.append(change)
        self._told(change)


def order_digest(order: Order, change: Change) -> str:
    """
    A name of the order by its content and by what it finds, so that a repeat has the same one.

    Two processes that find the same catalog send the same keys, and the provider does once what
    both ask for.
    """
    return digest([type(order).__name__, _json(asdict(order)), dict(change.before)])


def _resolved(order: Order, made: dict[tuple[Kind, str], str]) -> Order:
    """The order with the ids of objects that were made before it."""
    if not isinstance(order, CreatePrice):
        return order
    price = order.price
    return replace(
        order,
        product_id=order.product_id or made[Kind.PRODUCT, price.plan],
        meter_id=order.meter_id or made.get((Kind.METER, price.content.meter), ""),
    )


def _json(value: Any) -> Any:
    """JSON types of an order's fields."""
    if isinstance(value, dict):
        return {key: _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    if isinstance(value, Decimal):
        return plain(value)
    return value
