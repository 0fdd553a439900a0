"""
From the wanted and the found catalog to the changes between them.

An object is ours if a line or plan of the policy names it, if its metadata says so, or if it has
a lookup key of ours; nothing else is ever touched. Applying all changes leaves no difference.
"""

from collections.abc import Iterable

from sidecar.domain.catalog import (
    ARCHIVED,
    VERSION_KEY,
    FoundCatalog,
    FoundMeter,
    FoundProduct,
    Problem,
    WantedCatalog,
    WantedMeter,
    WantedProduct,
    product_version,
)
from sidecar.domain.catalog_changes import (
    Action,
    CatalogDiff,
    Cause,
    Change,
    CreateMeter,
    CreateProduct,
    Kind,
    SetMeterActive,
    UpdateProduct,
    bring_back,
    unusable,
)
from sidecar.domain.catalog_price_diff import Chosen, PriceDiff

_ORDER = {
    (Kind.METER, Action.ARCHIVE): 0,
    (Kind.METER, Action.UPDATE): 1,
    (Kind.METER, Action.CREATE): 2,
    (Kind.PRODUCT, Action.CREATE): 3,
    (Kind.PRODUCT, Action.UPDATE): 3,
    (Kind.PRICE, Action.CREATE): 4,
    (Kind.PRICE, Action.TRANSFER): 5,
    (Kind.PRICE, Action.UPDATE): 5,
    (Kind.PRICE, Action.ARCHIVE): 6,
    (Kind.PRODUCT, Action.ARCHIVE): 7,
}
"""What others need comes first, what others need gone comes last."""


def diff_catalogs(
    wanted: WantedCatalog, found: FoundCatalog, plans: frozenset[str] | None = None
) -> CatalogDiff:
    """
    The changes that make the found catalog the wanted one.

    Args:
        wanted: What the policy says.
        found: Everything that the provider has.
        plans: Look at these alone; None also archives what belongs to plans that are gone.
    """
    if plans is not None:
        wanted = wanted.only(plans)
    meters = _Meters(found.meters)
    for meter in wanted.meters:
        meters.add(meter)
    products = _Products(wanted, found.products, plans)
    for product in wanted.products:
        products.add(product)
    products.archive_rest()
    prices = PriceDiff(
        wanted.prices,
        found.prices,
        Chosen(products=products.chosen, meters=meters.chosen),
        plans,
    )
    changes = [*meters.changes, *products.changes, *prices.changes]
    return CatalogDiff(
        changes=tuple(sorted(changes, key=_place)),
        problems=(*wanted.problems, *products.problems, *prices.problems),
    )


def _place(change: Change) -> int:
    return (
        _ORDER[Kind.PRODUCT, Action.CREATE] if change.first else _ORDER[change.kind, change.action]
    )


class _Meters:
    """An event name belongs to one active meter; `chosen` has its id, or "" if it is to come."""

    def __init__(self, found: Iterable[FoundMeter]) -> None:
        self.changes: list[Change] = []
        self.chosen: dict[str, str] = {}
        self._found: dict[str, list[FoundMeter]] = {}
        for meter in sorted(found, key=lambda meter: meter.id):
            self._found.setdefault(meter.event_name, []).append(meter)

    def add(self, wanted: WantedMeter) -> None:
        """Choose the meter that counts, or ask for one."""
        name = wanted.event_name
        found = self._found.get(name, [])
        for meter in found:
            if meter.active and meter.fits:
                self.chosen[name] = meter.id
                return
        for meter in found:
            if meter.active:
                self._archive(meter)
        fitting = [meter for meter in found if meter.fits]
        if fitting:
            # It was archived by others: nothing here ever archives a meter that fits.
            meter = fitting[-1]
            self.chosen[name] = meter.id
            order = SetMeterActive(id=meter.id, active=True)
            self.changes.append(
                bring_back(Kind.METER, name, order, "takes no usage until it is back")
            )
            return
        self.chosen[name] = ""
        self.changes.append(
            Change(
                action=Action.CREATE,
                kind=Kind.METER,
                name=name,
                reason="no meter takes its usage" if not found else "the one that is there misfits",
                after={"event_name": name, "formula": "sum"},
                order=CreateMeter(meter=wanted),
            )
        )

    def _archive(self, meter: FoundMeter) -> None:
        self.changes.append(
            Change(
                action=Action.ARCHIVE,
                kind=Kind.METER,
                name=meter.event_name,
                id=meter.id,
                reason=f"{meter.misfit}, and a meter is never changed; "
                "usage that it already has is on no later invoice",
                cause=Cause.DRIFT,
                before={"active": "yes"},
                after={"active": "no"},
                order=SetMeterActive(id=meter.id, active=False),
                disruptive=True,
            )
        )


class _Products:
    """`chosen` has each plan's product, "" if it is to come; plans in trouble are not in it."""

    def __init__(
        self,
        wanted: WantedCatalog,
        found: Iterable[FoundProduct],
        plans: frozenset[str] | None,
    ) -> None:
        self.changes: list[Change] = []
        self.problems: list[Problem] = []
        self.chosen: dict[str, str] = {}
        self._plans = plans
        self._by_id = {product.id: product for product in found}
        self._named = {product.product_id for product in wanted.products if product.product_id}
        self._taken: set[str] = set(self._named)

    def add(self, wanted: WantedProduct) -> None:
        """Choose the plan's product, or ask for one."""
        if wanted.product_id:
            self._add_named(wanted)
            return
        ours = [
            product
            for product in self._by_id.values()
            if product.plan == wanted.plan and product.id not in self._named
        ]
        if not ours:
            self.chosen[wanted.plan] = ""
            self.changes.append(
                Change(
                    action=Action.CREATE,
                    kind=Kind.PRODUCT,
                    name=wanted.plan,
                    reason="the plan has no product",
                    after={"name": wanted.name},
                    order=CreateProduct(product=wanted),
                )
            )
            return
        product = min(ours, key=lambda one: (not one.active, one.id))
        self.chosen[wanted.plan] = product.id
        self._taken.add(product.id)
        self._update(wanted, product)

    def archive_rest(self) -> None:
        """Archive products of ours that no plan has."""
        for product in self._by_id.values():
            in_scope = self._plans is None or product.plan in self._plans
            if product.plan and in_scope and product.active and product.id not in self._taken:
                second = product.plan in self.chosen
                self.changes.append(
                    Change(
                        action=Action.ARCHIVE,
                        kind=Kind.PRODUCT,
                        name=product.plan,
                        id=product.id,
                        reason="the plan has another product" if second else "the plan is gone",
                        cause=Cause.DRIFT if second else Cause.POLICY,
                        before={"active": "yes"},
                        after={"active": "no"},
                        order=UpdateProduct(
                            id=product.id, active=False, metadata={VERSION_KEY: ARCHIVED}
                        ),
                    )
                )

    def _add_named(self, wanted: WantedProduct) -> None:
        product = self._by_id.get(wanted.product_id)
        if product is None:
            self.problems.append(
                unusable(Kind.PRODUCT, wanted.plan, wanted.product_id, "which is not there")
            )
            return
        self.chosen[wanted.plan] = product.id
        if not product.active and not any(change.id == product.id for change in self.changes):
            order = UpdateProduct(id=product.id, active=True)
            self.changes.append(bring_back(Kind.PRODUCT, wanted.plan, order, "the plan names it"))

    def _update(self, wanted: WantedProduct, product: FoundProduct) -> None:
        before: dict[str, str] = {}
        after: dict[str, str] = {}
        written = product.metadata.get(VERSION_KEY, "")
        renamed = product.name != wanted.name
        if renamed:
            before["name"], after["name"] = product.name, wanted.name
        if not product.active:
            before["active"], after["active"] = "no", "yes"
        marks = {
            key: value
            for key, value in wanted.metadata.items()
            if product.metadata.get(key) != value
        }
        for key, value in marks.items():
            before[key], after[key] = product.metadata.get(key, ""), value
        if not after:
            return
        # What we wrote last is what the policy says now, or is what is still there.
        by_policy = written == ARCHIVED or (renamed and written == product_version(product.name))
        self.changes.append(
            Change(
                action=Action.UPDATE,
                kind=Kind.PRODUCT,
                name=wanted.plan,
                id=product.id,
                reason=f"{' and '.join(after)} differ{'s' if len(after) == 1 else ''}",
                cause=Cause.POLICY if by_policy else Cause.DRIFT,
                before=before,
                after=after,
                order=UpdateProduct(
                    id=product.id,
                    name=wanted.name if renamed else None,
                    active=None if product.active else True,
                    metadata=marks,
                ),
            )
        )
