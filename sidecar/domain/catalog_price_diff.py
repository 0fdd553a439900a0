"""The part of a catalog's difference that is about prices: chosen, replaced, archived."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sidecar.domain.catalog import (
    ARCHIVED,
    VERSION_KEY,
    FoundPrice,
    PriceContent,
    Problem,
    WantedPrice,
)
from sidecar.domain.catalog_changes import (
    Action,
    Cause,
    Change,
    CreatePrice,
    Kind,
    UpdatePrice,
    bring_back,
    unusable,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What prices hang on: by plan the product, by event name the meter; "" is yet to come."""

    products: Mapping[str, str]
    meters: Mapping[str, str]


class PriceDiff:
    """Goes through all prices once; `changes` and `problems` are what came of it."""

    def __init__(
        self,
        wanted: Sequence[WantedPrice],
        found: Sequence[FoundPrice],
        chosen: Chosen,
        plans: frozenset[str] | None,
    ) -> None:
        """Compare; nothing is asked of anybody."""
        self.changes: list[Change] = []
        self.problems: list[Problem] = []
        self._chosen = chosen
        self._plans = plans
        self._holders = {price.lookup_key: price for price in found if price.lookup_key}
        named = {price.price_id: price for price in wanted if price.price_id}
        lines = {(price.plan, price.line): price for price in wanted}
        keys = {price.lookup_key: price for price in wanted}
        ours: dict[tuple[str, str], list[FoundPrice]] = {key: [] for key in lines}
        for price in sorted(found, key=lambda one: one.id):
            owner = (
                named.get(price.id)
                or lines.get((price.plan, price.line))
                or (keys.get(price.lookup_key) if not price.plan else None)
            )
            if owner is not None:
                ours[owner.plan, owner.line].append(price)
            elif self._is_ours(price) and price.active:
                self._archive(price, f"{price.plan}/{price.line}", "the policy has no such line")
        for price_wanted in wanted:
            if price_wanted.plan in chosen.products:
                self._add(price_wanted, ours[price_wanted.plan, price_wanted.line])

    def _is_ours(self, price: FoundPrice) -> bool:
        return bool(price.plan) and (self._plans is None or price.plan in self._plans)

    def _add(self, wanted: WantedPrice, ours: list[FoundPrice]) -> None:
        choose = self._add_named if wanted.price_id else self._add_ours
        chosen = choose(wanted, ours)
        if chosen is None:
            return
        for price in ours:
            if price.active and price.id != chosen:
                self._archive(price, wanted.name, "another price is the line's")

    def _add_named(self, wanted: WantedPrice, ours: list[FoundPrice]) -> str | None:
        """The price that the line names has to be there and to say the same."""
        price = next((one for one in ours if one.id == wanted.price_id), None)
        if price is None:
            wrong = "which is not there"
        elif not self._matches(wanted, price):
            wrong = f"which differs and cannot be changed ({self._difference(wanted, price)})"
        else:
            if not price.active:
                order = UpdatePrice(id=price.id, active=True)
                self.changes.append(bring_back(Kind.PRICE, wanted.name, order, "the line names it"))
            return price.id
        self.problems.append(unusable(Kind.PRICE, wanted.name, wanted.price_id, wrong))
        return None

    def _add_ours(self, wanted: WantedPrice, ours: list[FoundPrice]) -> str:
        """The price that says the same, or "" for a new one."""
        matching = [price for price in ours if self._matches(wanted, price)]
        if not matching:
            self._create(wanted, ours)
            return ""
        price = min(
            matching,
            key=lambda one: (not one.active, one.lookup_key != wanted.lookup_key, one.id),
        )
        self._update(wanted, price)
        return price.id

    def _create(self, wanted: WantedPrice, ours: list[FoundPrice]) -> None:
        current = next((one for one in ours if one.lookup_key == wanted.lookup_key), None)
        current = current or next((one for one in ours if one.active), None)
        if current is None:
            reason, cause = "the line has no price", Cause.POLICY
            before: Mapping[str, str] = {}
            after = shown(wanted.content)
        else:
            before, after = self._sides(wanted, current)
            reason = f"a price is never changed; {current.id} is archived"
            claims = current.metadata.get(VERSION_KEY) == wanted.content.version
            cause = Cause.DRIFT if claims else Cause.POLICY
        self.changes.append(
            Change(
                action=Action.CREATE,
                kind=Kind.PRICE,
                name=wanted.name,
                reason=reason,
                cause=cause,
                before=before,
                after=after,
                order=CreatePrice(
                    price=wanted,
                    product_id=self._chosen.products[wanted.plan],
                    meter_id=self._chosen.meters.get(wanted.content.meter, ""),
                ),
            )
        )

    def _update(self, wanted: WantedPrice, price: FoundPrice) -> None:
        """Bring back, move the key, or mark anew the price that says the same."""
        before: dict[str, str] = {}
        after: dict[str, str] = {}
        moves = price.lookup_key != wanted.lookup_key
        if not price.active:
            before["active"], after["active"] = "no", "yes"
        if moves:
            before["lookup_key"], after["lookup_key"] = price.lookup_key, wanted.lookup_key
        marks = {
            key: value for key, value in wanted.metadata.items() if price.metadata.get(key) != value
        }
        for key, value in marks.items():
            before[key], after[key] = price.metadata.get(key, ""), value
        if not after:
            return
        by_policy = price.metadata.get(VERSION_KEY) == ARCHIVED
        holder = self._holders.get(wanted.lookup_key)
        reason = f"{' and '.join(after)} differ{'s' if len(after) == 1 else ''}"
        if moves and holder is not None:
            reason = f"the line costs again what this price says; the key is taken from {holder.id}"
        self.changes.append(
            Change(
                action=Action.TRANSFER if moves else Action.UPDATE,
                kind=Kind.PRICE,
                name=wanted.name,
                id=price.id,
                reason=reason,
                cause=Cause.POLICY if by_policy else Cause.DRIFT,
                before=before,
                after=after,
                order=UpdatePrice(
                    id=price.id,
                    active=None if price.active else True,
                    lookup_key=wanted.lookup_key if moves else None,
                    metadata=marks,
                ),
            )
        )

    def _archive(self, price: FoundPrice, name: str, reason: str) -> None:
        self.changes.append(
            Change(
                action=Action.ARCHIVE,
                kind=Kind.PRICE,
                name=name,
                id=price.id,
                reason=reason,
                before={"active": "yes"},
                after={"active": "no"},
                order=UpdatePrice(id=price.id, active=False, metadata={VERSION_KEY: ARCHIVED}),
                first=not price.plan,
            )
        )

    def _matches(self, wanted: WantedPrice, price: FoundPrice) -> bool:
        """Whether it says the same, of the product and on the meter that count."""
        return (
            price.content == wanted.content
            and price.product_id == self._chosen.products[wanted.plan] != ""
            and price.meter_id == self._chosen.meters.get(wanted.content.meter, "")
        )

    def _difference(self, wanted: WantedPrice, price: FoundPrice) -> str:
        before, after = self._sides(wanted, price)
        return ", ".join(f"{key} is {before.get(key, '-')}, not {after[key]}" for key in after)

    def _sides(
        self, wanted: WantedPrice, price: FoundPrice
    ) -> tuple[dict[str, str], dict[str, str]]:
        """What differs, on both sides."""
        if price.content is None:
            return {"content": price.unreadable}, {"content": "a price as Sidecar writes it"}
        before = {**shown(price.content), "product": price.product_id}
        after = {
            **shown(wanted.content),
            "product": self._chosen.products[wanted.plan] or "a new one",
        }
        if wanted.content.meter:
            before["meter_id"] = price.meter_id
            after["meter_id"] = self._chosen.meters[wanted.content.meter] or "a new one"
        keys = [key for key in {**after, **before} if before.get(key) != after.get(key)]
        return (
            {key: before.get(key, "-") for key in keys},
            {key: after.get(key, "-") for key in keys},
        )


def shown(content: PriceContent) -> dict[str, str]:
    """A content for people; what has its default is left out."""
    found: dict[str, str] = {"currency": content.currency}
    for key, value in content.describe().items():
        if key in ("tiers", "currency") or value in (None, "", 1, "unspecified"):
            continue
        found[key] = str(value)
    if content.interval == "month" and content.interval_count == 1:
        found.pop("interval")
    below = 0
    for tier in content.tiers:
        end = "inf" if tier.up_to is None else str(tier.up_to)
        described = tier.describe()
        flat = described["flat_amount_decimal"]
        found[f"tier {below + 1} to {end}"] = f"{described['unit_amount_decimal']}" + (
            f" + {flat} flat" if flat != "0" else ""
        )
        below = tier.up_to or below
    return found
