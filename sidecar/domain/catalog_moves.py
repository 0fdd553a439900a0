"""
Which subscriptions are on prices that the policy has replaced, and what moves them.

A price never changes, so a subscription stays on the one it began with until it is moved. A move
changes what usage costs at the provider from then on, and there for the period that runs as a
whole: so it is a step of its own, and may wait for the beginning of a period.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sidecar.domain.catalog import FoundCatalog, FoundPrice, WantedCatalog, WantedPrice, digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Replaced:
    """A price of a plan's line that another has replaced; `new_id` is "" until that is made."""

    name: str
    old_id: str
    new_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldItem:
    """An item of a subscription that has not ended, with the beginning of its running period."""

    subscription_id: str
    provider_customer_id: str
    item_id: str
    period_start: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """An item to be put from one price on another."""

    name: str
    item: HeldItem
    old_id: str
    new_id: str

    @property
    def key(self) -> str:
        """Names the move by its content, so that a repeat has the same name."""
        held = self.item
        return digest([held.subscription_id, held.item_id, self.old_id, self.new_id])

    def is_due(self, now: datetime, within: timedelta | None) -> bool:
        """Whether the running period is young enough (None: always), and there is a new price."""
        young = within is None or self.item.period_start > now - within
        return bool(self.new_id) and young

    def __str__(self) -> str:
        """On one line."""
        new = self.new_id or "the price that is yet to be made"
        held = self.item
        return (
            f"subscription {held.subscription_id} ({held.provider_customer_id}) {self.name}: "
            f"{self.old_id} -> {new}"
        )


def replaced_prices(wanted: WantedCatalog, found: FoundCatalog) -> tuple[Replaced, ...]:
    """The prices of the wanted lines that are ours and are not the line's present one."""
    replaced = []
    for price in wanted.prices:
        present = _present(price, found.prices)
        replaced += [
            Replaced(name=price.name, old_id=one.id, new_id=present)
            for one in sorted(found.prices, key=lambda one: one.id)
            if (one.plan, one.line) == (price.plan, price.line) and one.id != present
        ]
    return tuple(replaced)


def _present(wanted: WantedPrice, found: Iterable[FoundPrice]) -> str:
    """The id of a line's price; "" where it is yet to be made."""
    for one in found:
        named = one.id == wanted.price_id
        keyed = one.lookup_key == wanted.lookup_key and not wanted.price_id
        if one.active and (named or keyed) and one.content == wanted.content:
            return one.id
    return ""
