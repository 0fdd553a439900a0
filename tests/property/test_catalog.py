"""The catalog's difference: applying it leaves none, from whatever was found."""

import asyncio

from fixtures.catalog_model import ModelCatalog, found_catalogs, wanted_catalogs
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.domain.catalog import FoundCatalog, WantedCatalog
from sidecar.domain.catalog_changes import CreatePrice, CreateProduct
from sidecar.domain.catalog_diff import diff_catalogs
from sidecar.domain.errors import ProviderFailed, StoreUnavailable
from sidecar.services.cataloguing import Applied, Cataloguer, Ending


async def no_pause(_round: int) -> None:
    pass


def apply(model: ModelCatalog, wanted: WantedCatalog, plans=None) -> Applied:
    cataloguer = Cataloguer(model, pause=no_pause)
    return asyncio.run(cataloguer.apply(wanted, plans, replace_meters=True))


@given(found=found_catalogs(), wanted=wanted_catalogs())
@settings(max_examples=150, deadline=None)
def test_applying_leaves_no_difference_and_every_line_its_price(
    found: FoundCatalog, wanted: WantedCatalog
) -> None:
    model = ModelCatalog(found)
    first = diff_catalogs(wanted, found)
    assert apply(model, wanted).ending is Ending.DONE
    assert diff_catalogs(wanted, model.found()).changes == ()
    assert len(model.written) == len(first.changes), "one round does it all"
    for line in wanted.prices:
        (price,) = [one for one in model.prices.values() if one.lookup_key == line.lookup_key]
        assert price.active
        assert price.content == line.content
        assert model.products[price.product_id].plan == line.plan
        assert model.products[price.product_id].active
        if line.content.meter:
            meter = model.meters[price.meter_id]
            assert meter.active
            assert meter.event_name == line.content.meter
            assert meter.fits
        second = [
            one
            for one in model.prices.values()
            if one.active and (one.plan, one.line) == (line.plan, line.line)
        ]
        assert second == [price]


@given(found=found_catalogs(), wanted=wanted_catalogs())
@settings(max_examples=80, deadline=None)
def test_what_is_not_ours_stays_as_it_is(found: FoundCatalog, wanted: WantedCatalog) -> None:
    model = ModelCatalog(found)
    apply(model, wanted)
    keys = {line.lookup_key for line in wanted.prices}
    for product in found.products:
        if not product.plan:
            assert model.products[product.id] == product
    for price in found.prices:
        if not price.plan and price.lookup_key not in keys:
            assert model.prices[price.id] == price
    names = {meter.event_name for meter in wanted.meters}
    for meter in found.meters:
        if meter.event_name not in names:
            assert model.meters[meter.id] == meter


@given(found=found_catalogs(), wanted=wanted_catalogs())
@settings(max_examples=80, deadline=None)
def test_other_plans_stay_as_they_are_where_one_is_named(
    found: FoundCatalog, wanted: WantedCatalog
) -> None:
    model = ModelCatalog(found)
    scope = frozenset({"basic"})
    apply(model, wanted, scope)
    assert diff_catalogs(wanted, model.found(), scope).changes == ()
    for product in found.products:
        if product.plan != "basic":
            assert model.products[product.id] == product
    keys = {line.lookup_key for line in wanted.only(scope).prices}
    for price in found.prices:
        if price.plan not in ("", "basic") and price.lookup_key not in keys:
            assert model.prices[price.id] == price


class Unreliable(ModelCatalog):
    """Loses calls before and after they take effect, and replays a stored failure by its key."""

    def __init__(self, found: FoundCatalog, faults: list[str]) -> None:
        super().__init__(found)
        self._faults = faults
        self._failed: set[str] = set()

    async def write(self, order, key: str) -> str:
        if key in self._failed:
            raise ProviderFailed("stored")
        fault = self._faults.pop() if self._faults else ""
        if fault.endswith("after"):
            await super().write(order, key)
        if fault.startswith("failure"):
            self._failed.add(key)
            raise ProviderFailed("500")
        if fault.startswith("lost"):
            raise StoreUnavailable("no answer")
        return await super().write(order, key)


FAULTS = ["", "lost before", "lost after", "failure before", "failure after"]


@given(
    found=found_catalogs(),
    wanted=wanted_catalogs(),
    faults=st.lists(st.sampled_from(FAULTS), max_size=7),
)
@settings(max_examples=150, deadline=None)
def test_lost_answers_make_nothing_twice_and_all_that_was_done_is_told(
    found: FoundCatalog, wanted: WantedCatalog, faults: list[str]
) -> None:
    plain, model = ModelCatalog(found), Unreliable(found, faults)
    apply(plain, wanted)
    applied = apply(model, wanted)
    assert applied.ending is Ending.DONE
    assert sorted(map(repr, model.products.values())) == sorted(map(repr, plain.products.values()))
    assert sorted(map(repr, model.prices.values())) == sorted(map(repr, plain.prices.values()))
    assert sorted(map(repr, model.meters.values())) == sorted(map(repr, plain.meters.values()))
    made = [order for order in model.written if isinstance(order, CreateProduct | CreatePrice)]
    assert len(made) == len(model.products) + len(model.prices) - len(found.products) - len(
        found.prices
    )
    assert sorted(map(str, applied.done)) == sorted(map(str, diff_catalogs(wanted, found).changes))
