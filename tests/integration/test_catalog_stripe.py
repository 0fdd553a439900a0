"""The catalog at the stand-in, through the official client: applied under faults, and by hand."""

from decimal import Decimal

import pytest

from sidecar.domain.catalog import (
    FoundCatalog,
    PriceContent,
    Tier,
    WantedCatalog,
    WantedMeter,
    WantedPrice,
    WantedProduct,
)
from sidecar.domain.catalog_changes import Action, Cause
from sidecar.domain.catalog_wanted import lookup_key
from sidecar.domain.errors import ConfigError
from sidecar.outbound.stripe.catalog import StripeCatalog
from sidecar.outbound.stripe.client import StripeConnection
from sidecar.services.cataloguing import Cataloguer, Ending
from sidecar.standins.stripe import StripeStandin
from sidecar.standins.stripe_faults import Fault, Faults

KEY = "sk_test_standin"
SEEDS = range(8)


async def no_pause(_round: int) -> None:
    pass


def price(plan: str, line: str, content: PriceContent, **more: str) -> WantedPrice:
    return WantedPrice(
        plan=plan, line=line, content=content, lookup_key=lookup_key(plan, line), **more
    )


def tokens(meter: str, **more) -> PriceContent:
    return PriceContent(currency="USD", meter=meter, **more)


def packages(amount: int) -> PriceContent:
    return tokens("input-tokens", unit=Decimal(amount), divide_by=1_000_000, round="up")


TIERS = (
    Tier(up_to=100_000, unit=Decimal(0)),
    Tier(up_to=1_000_000, unit=Decimal("0.00005")),
    Tier(up_to=None, unit=Decimal("0.00004"), flat=Decimal(100)),
)
WANTED = WantedCatalog(
    meters=(WantedMeter(event_name="input-tokens"), WantedMeter(event_name="output-tokens")),
    products=(
        WantedProduct(plan="my-plan", name="My AI API Plan"),
        WantedProduct(plan="tiered", name="tiered"),
    ),
    prices=(
        price("my-plan", "input-tokens", packages(50)),
        price("my-plan", "output-tokens", tokens("output-tokens", unit=Decimal("0.000000000001"))),
        price(
            "my-plan",
            "fee",
            PriceContent(currency="USD", meter="", unit=Decimal(999), tax_behavior="exclusive"),
        ),
        price(
            "tiered",
            "input-tokens",
            tokens("input-tokens", tiers=TIERS, tiers_mode="graduated"),
        ),
        price("tiered", "output-tokens", tokens("output-tokens", tiers=TIERS, tiers_mode="volume")),
    ),
)


def with_price(amount: int) -> WantedCatalog:
    changed = price("my-plan", "input-tokens", packages(amount))
    return WantedCatalog(
        meters=WANTED.meters, products=WANTED.products, prices=(changed, *WANTED.prices[1:])
    )


@pytest.fixture
async def standin():
    standin = StripeStandin(faults=Faults(paths=None, timeout_seconds=3.0))
    yield standin
    assert list(standin.bugs) == []


@pytest.fixture
async def connection(standin):
    async with standin.serving() as url:
        connection = StripeConnection(KEY, base_url=url, timeout_seconds=1.0)
        yield connection
        await connection.close()


@pytest.fixture
def catalog(connection):
    return StripeCatalog(connection)


@pytest.fixture
def cataloguer(catalog):
    return Cataloguer(catalog, pause=no_pause)


def essence(found: FoundCatalog):
    """What a catalog says, whatever its ids are."""
    products = {one.id: one for one in found.products}
    meters = {one.id: one.event_name for one in found.meters}
    return (
        sorted((one.event_name, one.active, one.misfit) for one in found.meters),
        sorted((one.name, one.active, sorted(one.metadata.items())) for one in found.products),
        sorted(
            (
                products[one.product_id].name,
                meters.get(one.meter_id, ""),
                str(one.content),
                one.active,
                one.lookup_key,
                sorted(one.metadata.items()),
            )
            for one in found.prices
        ),
    )


async def test_what_was_applied_reads_back_as_it_was_wanted(cataloguer, catalog):
    applied = await cataloguer.apply(WANTED)
    assert applied.ending is Ending.DONE
    assert len(applied.done) == 9
    assert (await cataloguer.plan(WANTED)).changes == ()
    found = await catalog.read()
    by_key = {one.lookup_key: one.content for one in found.prices}
    assert by_key == {one.lookup_key: one.content for one in WANTED.prices}
    again = await cataloguer.apply(WANTED)
    assert again.done == ()


async def test_a_changed_price_is_a_new_one_that_takes_the_key(cataloguer, catalog):
    await cataloguer.apply(WANTED)
    applied = await cataloguer.apply(with_price(60))
    assert [change.action for change in applied.done] == [Action.CREATE, Action.ARCHIVE]
    assert {change.cause for change in applied.done} == {Cause.POLICY}
    found = [one for one in (await catalog.read()).prices if one.line == "input-tokens"]
    old, new = sorted(
        (one for one in found if one.plan == "my-plan"), key=lambda one: one.content.unit
    )
    assert (old.active, old.lookup_key) == (False, "")
    assert (new.active, new.lookup_key) == (True, "sidecar:my-plan:input-tokens")


async def test_a_price_that_comes_back_is_the_old_one(cataloguer, catalog):
    await cataloguer.apply(WANTED)
    before = {one.lookup_key: one.id for one in (await catalog.read()).prices}
    await cataloguer.apply(with_price(60))
    applied = await cataloguer.apply(WANTED)
    assert [change.action for change in applied.done] == [Action.TRANSFER, Action.ARCHIVE]
    assert {change.cause for change in applied.done} == {Cause.POLICY}
    found = (await catalog.read()).prices
    assert {one.lookup_key: one.id for one in found if one.active} == before
    assert len(found) == len(before) + 1


async def test_changes_by_hand_are_told_as_drift_and_mended(cataloguer, catalog, connection):
    await cataloguer.apply(WANTED)
    found = await catalog.read()
    v1 = connection.client.v1
    product = next(one for one in found.products if one.plan == "my-plan")
    first, second, third = (one for one in found.prices if one.plan == "my-plan")
    meter = found.meters[0]
    await v1.products.update_async(product.id, {"name": "By hand"})
    await v1.prices.update_async(first.id, {"active": False})
    await v1.prices.update_async(second.id, {"metadata": ""})
    await v1.prices.update_async(third.id, {"lookup_key": "mine"})
    await v1.billing.meters.deactivate_async(meter.id)
    diff = await cataloguer.plan(WANTED)
    assert {change.id for change in diff.changes} == {
        product.id,
        first.id,
        second.id,
        third.id,
        meter.id,
    }
    assert {change.cause for change in diff.changes} == {Cause.DRIFT}
    assert (await cataloguer.apply(WANTED)).ending is Ending.DONE
    assert essence(await catalog.read()) == essence(found)


async def test_an_archive_of_ours_is_no_drift_when_the_plan_comes_back(cataloguer):
    await cataloguer.apply(WANTED)
    without = WantedCatalog(
        meters=WANTED.meters, products=WANTED.products[:1], prices=WANTED.prices[:3]
    )
    gone = await cataloguer.apply(without)
    assert [f"{one.action} {one.kind} {one.name}" for one in gone.done] == [
        "archive price tiered/input-tokens",
        "archive price tiered/output-tokens",
        "archive product tiered",
    ]
    back = await cataloguer.plan(WANTED)
    assert {(change.action, change.cause) for change in back.changes} == {
        (Action.UPDATE, Cause.POLICY)
    }


async def test_what_was_deleted_within_the_day_of_its_key_is_made_again(
    cataloguer, catalog, standin
):
    """The provider replays the answer about the object that is gone."""
    await cataloguer.apply(WANTED)
    before = await catalog.read()
    standin.account.catalog.products.clear()
    standin.account.catalog.prices.clear()
    applied = await cataloguer.apply(WANTED)
    assert applied.ending is Ending.DONE
    after = await catalog.read()
    assert essence(after) == essence(before)
    assert len(applied.done) == len(after.products) + len(after.prices)


async def test_a_change_by_hand_that_comes_back_is_put_right_each_time(
    cataloguer, catalog, connection
):
    """The same order twice within a day has the same key."""
    await cataloguer.apply(WANTED)
    before = await catalog.read()
    for _ in range(3):
        await connection.client.v1.products.update_async(before.products[0].id, {"name": "By hand"})
        assert (await cataloguer.apply(WANTED)).ending is Ending.DONE
        assert essence(await catalog.read()) == essence(before)


async def test_others_objects_stay(cataloguer, catalog, connection):
    v1 = connection.client.v1
    product = await v1.products.create_async({"name": "my-plan"})
    await v1.prices.create_async(
        {"product": product.id, "currency": "usd", "unit_amount": 5, "lookup_key": "theirs"}
    )
    before = await catalog.read()
    await cataloguer.apply(WANTED)
    after = await catalog.read()
    assert set(map(str, before.products)) <= set(map(str, after.products))
    assert set(map(str, before.prices)) <= set(map(str, after.prices))
    assert before.prices[0].unreadable == "it is a one-time price"


async def test_a_meter_that_misfits_is_replaced_only_if_told(cataloguer, catalog, standin):
    standin.add_meter("input-tokens", formula="count")
    refused = await cataloguer.apply(WANTED)
    assert refused.ending is Ending.REFUSED
    assert refused.done == ()
    assert "count" in refused.detail
    applied = await cataloguer.apply(WANTED, replace_meters=True)
    assert applied.ending is Ending.DONE
    found = [one for one in (await catalog.read()).meters if one.event_name == "input-tokens"]
    assert sorted((one.active, one.formula) for one in found) == [(False, "count"), (True, "sum")]


async def test_more_objects_than_may_be_read_are_refused(connection, cataloguer):
    await cataloguer.apply(WANTED)
    for number in range(101):
        await connection.client.v1.products.create_async({"name": f"other {number}"})
    assert len((await StripeCatalog(connection).read()).products) == 103
    with pytest.raises(ConfigError, match="more than 100 products"):
        await StripeCatalog(connection, objects_max=100).read()


async def test_the_provider_refusing_stops_and_tells_what_was_done(connection, standin):
    class RefusesPrices(StripeCatalog):
        async def write(self, order, key):
            if type(order).__name__ == "CreatePrice":
                order = type(order)(price=order.price, product_id="prod_none", meter_id="mtr_none")
            return await super().write(order, key)

    applied = await Cataloguer(RefusesPrices(connection), pause=no_pause).apply(WANTED)
    assert applied.ending is Ending.REFUSED
    assert applied.stopped_at is not None
    assert "No such" in applied.detail
    assert [change.kind for change in applied.done] == ["meter", "meter", "product", "product"]


@pytest.mark.parametrize("seed", SEEDS)
async def test_faults_lead_to_the_same_catalog(seed, standin, connection, catalog):
    quiet = StripeStandin()
    async with quiet.serving() as url:
        other = StripeConnection(KEY, base_url=url)
        await Cataloguer(StripeCatalog(other), pause=no_pause).apply(WANTED)
        await Cataloguer(StripeCatalog(other), pause=no_pause).apply(with_price(60))
        expected = essence(await StripeCatalog(other).read())
        await other.close()
    kinds = [
        Fault.DROP_BEFORE_COMMIT,
        Fault.DROP_AFTER_COMMIT,
        Fault.TRUNCATE_AFTER_COMMIT,
        Fault.ERROR_BEFORE_COMMIT,
        Fault.ERROR_AFTER_COMMIT,
        Fault.RATE_LIMIT,
    ]
    standin.faults = Faults(seed=seed, paths=None, probabilities=dict.fromkeys(kinds, 0.05))
    cataloguer = Cataloguer(catalog, pause=no_pause)
    for wanted in (WANTED, with_price(60)):
        ending = Ending.UNAVAILABLE
        for _ in range(5):
            if ending is not Ending.DONE:
                ending = (await cataloguer.apply(wanted)).ending
        assert ending is Ending.DONE, seed
    assert sum(count for fault, count in standin.faults.drawn.items() if fault != Fault.NONE), seed
    standin.faults.stop()
    assert essence(await catalog.read()) == expected, seed
