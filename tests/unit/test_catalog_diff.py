"""Single differences of catalogs, with their reasons."""

from dataclasses import replace
from decimal import Decimal

from fixtures.catalog_model import ModelCatalog

from sidecar.domain.catalog import (
    FoundCatalog,
    FoundMeter,
    FoundPrice,
    FoundProduct,
    PriceContent,
    WantedCatalog,
    WantedMeter,
    WantedPrice,
    WantedProduct,
)
from sidecar.domain.catalog_changes import Action, Cause, Change, CreatePrice, Kind
from sidecar.domain.catalog_diff import diff_catalogs
from sidecar.domain.catalog_wanted import lookup_key
from sidecar.services.cataloguing import WHOLE_ROUNDS_MAX, Cataloguer, Ending

CONTENT = PriceContent(currency="USD", meter="m", unit=Decimal(50))
LINE = WantedPrice(plan="p", line="m", content=CONTENT, lookup_key=lookup_key("p", "m"))
PRODUCT = WantedProduct(plan="p", name="P")
WANTED = WantedCatalog(meters=(WantedMeter(event_name="m"),), products=(PRODUCT,), prices=(LINE,))
METER = FoundMeter(id="mtr", event_name="m", display_name="m")
FOUND = FoundCatalog(
    meters=(METER,),
    products=(FoundProduct(id="prod", name="P", metadata=PRODUCT.metadata),),
    prices=(
        FoundPrice(
            id="price",
            product_id="prod",
            meter_id="mtr",
            content=CONTENT,
            lookup_key=LINE.lookup_key,
            metadata=LINE.metadata,
        ),
    ),
)


def changes(found: FoundCatalog, wanted: WantedCatalog = WANTED) -> list[Change]:
    return list(diff_catalogs(wanted, found).changes)


def told(found: FoundCatalog, wanted: WantedCatalog = WANTED) -> list[tuple[Action, Kind, str]]:
    return [(one.action, one.kind, one.id) for one in changes(found, wanted)]


def with_price(**fields) -> FoundCatalog:
    return replace(FOUND, prices=(replace(FOUND.prices[0], **fields),))


REPLACED = [(Action.CREATE, Kind.PRICE, ""), (Action.ARCHIVE, Kind.PRICE, "price")]


def test_what_is_as_it_is_wanted_needs_nothing():
    assert changes(FOUND) == []


def test_a_price_of_another_product_is_not_the_plans():
    other = FoundProduct(id="prod_other", name="Other")
    found = replace(with_price(product_id="prod_other"), products=(*FOUND.products, other))
    assert told(found) == REPLACED
    assert changes(found)[0].before == {"product": "prod_other"}


def test_a_price_on_an_archived_meter_of_the_name_is_not_the_lines():
    old = replace(METER, id="mtr_old", active=False)
    found = replace(with_price(meter_id="mtr_old"), meters=(METER, old))
    assert told(found) == REPLACED
    create = changes(found)[0]
    assert create.before == {"meter_id": "mtr_old"}
    assert isinstance(create.order, CreatePrice)
    assert (create.order.product_id, create.order.meter_id) == ("prod", "mtr")


def test_a_price_that_claims_our_version_and_costs_otherwise_was_made_by_hand():
    forged = with_price(content=replace(CONTENT, unit=Decimal(1)))
    assert told(forged) == REPLACED
    assert changes(forged)[0].cause is Cause.DRIFT
    changed = replace(WANTED, prices=(replace(LINE, content=replace(CONTENT, unit=Decimal(1))),))
    assert changes(FOUND, changed)[0].cause is Cause.POLICY


def test_a_price_that_its_key_alone_shows_to_be_ours_goes_before_the_key():
    """Otherwise a crash between the two would leave it active, and nobody's."""
    unmarked = with_price(metadata={}, content=replace(CONTENT, unit=Decimal(1)))
    assert told(unmarked) == REPLACED[::-1]
    model = ModelCatalog(unmarked)
    for change in changes(unmarked):
        model.take(change.order)
        rest = model.found()
        assert [one.id for one in rest.prices if one.active and not one.plan] == []


def test_a_renamed_plan_is_the_policys_and_a_renamed_product_is_not():
    titled = replace(WANTED, products=(replace(PRODUCT, name="New"),))
    assert [one.cause for one in changes(FOUND, titled)] == [Cause.POLICY]
    by_hand = replace(FOUND, products=(replace(FOUND.products[0], name="By hand"),))
    assert [one.cause for one in changes(by_hand)] == [Cause.DRIFT]


def test_metadata_that_is_gone_is_written_again_where_the_key_tells_whose_it_is():
    found = with_price(metadata={"theirs": "kept"})
    assert told(found) == [(Action.UPDATE, Kind.PRICE, "price")]
    model = ModelCatalog(found)
    model.take(changes(found)[0].order)
    assert model.prices["price"].metadata == {"theirs": "kept", **LINE.metadata}


def test_a_named_price_stays_unmarked_and_has_to_say_the_same():
    named = replace(WANTED, prices=(replace(LINE, price_id="price"),))
    theirs = with_price(metadata={}, lookup_key="theirs")
    assert changes(theirs, named) == []
    assert [one.cause for one in changes(with_price(active=False), named)] == [Cause.DRIFT]
    other = with_price(content=replace(CONTENT, unit=Decimal(7)))
    diff = diff_catalogs(named, other)
    assert diff.changes == ()
    assert "unit_amount_decimal is 7, not 50" in diff.problems[0].message
    unknown = replace(WANTED, prices=(replace(LINE, price_id="price_none"),))
    assert "not there" in diff_catalogs(unknown, FOUND).problems[0].message


def test_a_named_product_stays_unmarked_and_has_to_be_there():
    named = replace(WANTED, products=(replace(PRODUCT, product_id="prod"),))
    theirs = replace(FOUND, products=(FoundProduct(id="prod", name="Theirs"),))
    assert changes(theirs, named) == []
    archived = replace(FOUND, products=(FoundProduct(id="prod", name="Theirs", active=False),))
    assert told(archived, named) == [(Action.UPDATE, Kind.PRODUCT, "prod")]
    gone = replace(WANTED, products=(replace(PRODUCT, product_id="prod_none"),))
    diff = diff_catalogs(gone, FOUND)
    assert [problem.where for problem in diff.problems] == ["p"]
    assert diff.problems[0].message.startswith("names product 'prod_none', which is not there")


def test_a_line_that_names_a_price_lets_go_of_the_one_it_had():
    theirs = FoundPrice(id="price_theirs", product_id="prod", meter_id="mtr", content=CONTENT)
    named = replace(WANTED, prices=(replace(LINE, price_id="price_theirs"),))
    found = replace(FOUND, prices=(*FOUND.prices, theirs))
    assert told(found, named) == [(Action.ARCHIVE, Kind.PRICE, "price")]


async def test_a_provider_that_takes_orders_and_does_nothing_is_not_asked_for_ever():
    class Idle(ModelCatalog):
        async def write(self, order, key: str) -> str:
            self.written.append(order)
            return "id"

    async def no_pause(_round: int) -> None:
        pass

    model = Idle(FOUND)
    model.products["prod"] = replace(model.products["prod"], name="By hand")
    applied = await Cataloguer(model, pause=no_pause).apply(WANTED)
    assert applied.ending is Ending.UNAVAILABLE
    assert "kept differing" in applied.detail
    assert len(model.written) == WHOLE_ROUNDS_MAX
