"""Imports: a catalog's plans as policy files that say exactly the same, or a finding."""

import json
from decimal import Decimal
from textwrap import dedent

import pytest
from fixtures.catalog_model import contents
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.app.cataloguing import load_wanted
from sidecar.domain.catalog import (
    FoundCatalog,
    FoundMeter,
    FoundPrice,
    FoundProduct,
    PriceContent,
    Tier,
)
from sidecar.domain.catalog_diff import diff_catalogs
from sidecar.domain.catalog_import import import_catalog, plan_name
from sidecar.domain.catalog_prices import written_price
from sidecar.domain.errors import ConfigError, InvalidInput
from sidecar.outbound.catalog_files import write_catalog
from sidecar.outbound.moesif.catalog import read_catalog
from sidecar.outbound.policy_files.loader import load_policy
from sidecar.settings import Settings


def usd(meter: str = "input_tokens", **more) -> PriceContent:
    return PriceContent(currency="USD", meter=meter, **more)


def wanted_of(folder):
    return load_wanted(Settings(policy_dir=folder), None, None)[1]


METER = FoundMeter(id="mtr_1", event_name="input_tokens", display_name="Input")


def catalog(*prices: FoundPrice, meters=(METER,), products=None) -> FoundCatalog:
    return FoundCatalog(
        meters=meters,
        products=products or (FoundProduct(id="prod_1", name="My AI API Plan"),),
        prices=prices,
    )


def price(name: str = "price_1", content: PriceContent | None = None, **more) -> FoundPrice:
    content = content or usd(unit=Decimal("0.00005"))
    return FoundPrice(
        id=name,
        product_id="prod_1",
        meter_id="mtr_1" if content.meter else "",
        content=content,
        **more,
    )


def test_others_products_become_plans_that_name_them(tmp_path):
    found = catalog(price(), price("price_2", usd("", unit=Decimal(999), tax_behavior="exclusive")))
    imported = import_catalog(found)
    assert [plan.data for plan in imported.plans] == [
        {
            "name": "my-ai-api-plan",
            "title": "My AI API Plan",
            "billing": "postpaid",
            "currency": "USD",
            "stripe": {"product": "prod_1"},
            "prices": [
                {
                    "meter": "input_tokens",
                    "model": "per_unit",
                    "amount": "0.50",
                    "per": 1_000_000,
                    "stripe": {"price": "price_1"},
                },
                {
                    "model": "flat",
                    "amount": "9.99",
                    "tax_behavior": "exclusive",
                    "stripe": {"price": "price_2"},
                },
            ],
        }
    ]
    assert imported.lost == ()
    write_catalog(imported, "Stripe", tmp_path)
    diff = diff_catalogs(wanted_of(tmp_path), found)
    assert (diff.changes, diff.problems) == ((), ())


AMOUNTS = st.integers(0, 10**16).map(lambda units: Decimal(units).scaleb(-12))
CENTS = st.integers(0, 10**9).map(lambda nano: Decimal(nano).scaleb(-7))


@st.composite
def tiered(draw) -> PriceContent:
    ends = sorted(draw(st.sets(st.integers(1, 10**9), max_size=5)))
    first = Tier(up_to=ends[0] if ends else None, unit=draw(AMOUNTS))
    rest = [
        Tier(up_to=end, unit=draw(AMOUNTS), flat=draw(CENTS))
        for end in [*ends[1:], None][: len(ends)]
    ]
    return usd(tiers=(first, *rest), tiers_mode=draw(st.sampled_from(["graduated", "volume"])))


ANY = st.one_of(
    contents("input_tokens"),
    tiered(),
    st.builds(usd, unit=AMOUNTS),
    st.builds(
        usd, unit=CENTS, divide_by=st.integers(2, 10**9), round=st.sampled_from(["up", "down"])
    ),
    st.builds(usd, meter=st.just(""), unit=CENTS),
    st.builds(usd, unit=AMOUNTS, tax_behavior=st.sampled_from(["inclusive", "exclusive"])),
)


@given(found=ANY)
@settings(max_examples=60, deadline=None)
def test_a_price_in_a_file_wants_the_price_that_it_came_from(tmp_path_factory, found):
    """Whatever is written is exact; nothing of these is refused."""
    folder = tmp_path_factory.mktemp("policy")
    imported = import_catalog(catalog(price(content=found)))
    assert imported.lost == ()
    write_catalog(imported, "Stripe", folder)
    (line,) = wanted_of(folder).prices
    assert line.content == found


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (usd(unit=Decimal(1), interval="year"), "every 1 years"),
        (usd(unit=Decimal(1), interval_count=3), "every 3 months"),
        (usd(unit=Decimal("0.000000000001"), divide_by=10, round="up"), "finer"),
        (usd(unit=Decimal(10**13)), "larger"),
        (usd("", unit=Decimal(1), divide_by=10, round="up"), "no usage"),
        (
            usd(tiers=(Tier(up_to=None, unit=Decimal(1), flat=Decimal(1)),), tiers_mode="volume"),
            "without any use",
        ),
        (usd(tiers=(Tier(up_to=5, unit=Decimal(1)),), tiers_mode="volume"), "without an end"),
        (PriceContent(currency="XXX", meter="input_tokens", unit=Decimal(1)), "XXX"),
    ],
)
def test_what_a_plan_cannot_say_is_told_and_not_written(content, word):
    with pytest.raises(InvalidInput, match=word):
        written_price(content)
    imported = import_catalog(catalog(price(content=content)))
    assert imported.plans == ()
    assert any("price_1" in finding.what for finding in imported.lost)


def test_findings_name_ids_and_never_guess_what_is_billed(tmp_path):
    other = FoundMeter(id="mtr_2", event_name="seconds-of-video", display_name="x")
    counted = FoundMeter(id="mtr_3", event_name="counted", display_name="x", formula="count")
    found = catalog(
        price(),
        price("price_2", usd(unit=Decimal(7))),
        FoundPrice(id="price_3", product_id="prod_1", content=None, unreadable="it is one-time"),
        FoundPrice(
            id="price_4",
            product_id="prod_1",
            meter_id="mtr_2",
            content=usd("seconds-of-video", unit=Decimal(2)),
        ),
        FoundPrice(
            id="price_5",
            product_id="prod_1",
            meter_id="mtr_3",
            content=usd("counted", unit=Decimal(2)),
        ),
        price("price_6", usd("", unit=Decimal(1)), active=False),
        meters=(METER, other, counted),
        products=(
            FoundProduct(id="prod_1", name="One"),
            FoundProduct(id="prod_2", name="Empty"),
            FoundProduct(id="prod_3", name="Gone", active=False),
        ),
    )
    imported = import_catalog(found)
    lost = {finding.what.split(" of ")[0] for finding in imported.lost}
    assert lost == {"price price_2", "price price_3", "price price_5", "product prod_2"}
    assert imported.meters == (
        {"name": "input_tokens", "value": "usage.input"},
        {"name": "seconds-of-video", "value": "metadata.sidecar_import.seconds_of_video"},
    )
    write_catalog(imported, "Stripe", tmp_path)
    text = (tmp_path / "catalog-20-plans.yaml").read_text()
    assert "# - price price_3 of product prod_1: it is one-time" in text
    assert "seconds-of-video" in (tmp_path / "catalog-10-meters.yaml").read_text()


def test_two_currencies_of_a_product_are_two_plans_that_share_it(tmp_path):
    euro = PriceContent(currency="EUR", meter="input_tokens", unit=Decimal(2))
    found = catalog(price(), price("price_2", euro))
    imported = import_catalog(found)
    assert [plan.data["name"] for plan in imported.plans] == [
        "my-ai-api-plan-eur",
        "my-ai-api-plan-usd",
    ]
    write_catalog(imported, "Stripe", tmp_path)
    assert diff_catalogs(wanted_of(tmp_path), found).changes == ()


@given(title=st.text(max_size=300))
@settings(deadline=None)
def test_any_title_gives_a_name(title):
    assert plan_name(title)[:1].isalnum()
    assert len(plan_name(title)) <= 64


MOESIF = {
    "plans": [
        {
            "id": "prod_m",
            "name": "My AI API Plan",
            "provider": "stripe",
            "status": "active",
            "prices": [
                {
                    "id": "price_in",
                    "name": "Input Tokens",
                    "pricing_model": "per_unit",
                    "price_in_decimal": "50",
                    "currency": "usd",
                    "period": 1,
                    "period_units": "M",
                    "usage_aggregator": "sum",
                    "transform_quantity": {"divide_by": 1000000, "round": "up"},
                    "status": "active",
                },
                {
                    "id": "price_out",
                    "pricing_model": "tiered",
                    "price_meter": {"event_name": "output-tokens"},
                    "currency": "USD",
                    "tiers": [
                        {"up_to": 100000, "unit_price_in_decimal": "0"},
                        {"up_to": 1000000, "unit_price_in_decimal": "0.00015"},
                        {
                            "up_to": "inf",
                            "unit_price_in_decimal": "0.0001",
                            "flat_price_in_decimal": "100",
                        },
                    ],
                },
            ],
        }
    ],
    "prices": [
        {
            "id": "price_year",
            "plan_id": "prod_m",
            "pricing_model": "per_unit",
            "price_in_decimal": "1",
            "period_units": "y",
        },
        {"id": "price_max", "plan_id": "prod_m", "usage_aggregator": "max"},
        {
            "id": "price_fee",
            "plan_id": "prod_m",
            "pricing_model": "flat",
            "price_in_decimal": "900",
        },
        {"id": "price_old", "plan_id": "prod_m", "status": "archived"},
    ],
}


def moesif(tmp_path, value):
    path = tmp_path / "catalog.json"
    path.write_text(json.dumps(value))
    return read_catalog(path)


def test_moesifs_plans_become_ours(tmp_path):
    imported = import_catalog(moesif(tmp_path, MOESIF), hints=False)
    (plan,) = imported.plans
    assert plan.data["prices"] == [
        {
            "meter": "input-tokens",
            "model": "package",
            "amount": "0.50",
            "per": 1_000_000,
            "round": "up",
        },
        {
            "meter": "output-tokens",
            "model": "graduated",
            "per": 1_000_000,
            "tiers": [
                {"up_to": 100_000, "amount": "0"},
                {"up_to": 1_000_000, "amount": "1.50"},
                {"up_to": "inf", "amount": "1.00", "flat": "1.00"},
            ],
        },
        {"model": "flat", "amount": "9.00"},
    ]
    assert {finding.what.split(" of ")[0] for finding in imported.lost} == {
        "price price_year",
        "price price_max",
    }
    write_catalog(imported, "Moesif", tmp_path / "policy")
    assert list(load_policy(tmp_path / "policy").policy.cards) == ["my-ai-api-plan"]


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("text", "a list of plans"),
        ({"prices": []}, "plans"),
        ([7], "plan 1"),
        ([{"name": "x"}], "no id"),
        ([{"id": "a", "prices": 3}], "allowed: a list"),
        ({"plans": [], "prices": [{"id": "p", "plan_id": "none"}]}, "plan_id"),
    ],
)
def test_other_files_are_refused_with_what_was_found(tmp_path, value, word):
    with pytest.raises(ConfigError, match=word):
        moesif(tmp_path, value)


@pytest.mark.parametrize(
    "fields",
    [
        {"pricing_model": "mystery"},
        {"pricing_model": "tiered"},
        {"pricing_model": "tiered", "tiers": [{"up_to": "many"}]},
        {"price_in_decimal": 0.1},
        {"price_in_decimal": "1e-15"},
        {"price_in_decimal": "-1"},
        {"price_in_decimal": "NaN"},
        {"price_in_decimal": "1e999999"},
        {},
        {"price_in_decimal": "1", "period": -1},
        {"price_in_decimal": "1", "period_units": "fortnight"},
        {"price_in_decimal": "1", "tax_behavior": "maybe"},
        {"price_in_decimal": "1", "transform_quantity": {"divide_by": 10}},
        {"price_in_decimal": "1", "transform_quantity": 4},
        {"price_in_decimal": "1", "currency": "nothing"},
    ],
)
def test_a_foreign_price_that_makes_no_sense_is_told(tmp_path, fields):
    plan = {"id": "plan_1", "prices": [{"id": "price_1", **fields}]}
    imported = import_catalog(moesif(tmp_path, [plan]), hints=False)
    assert imported.plans == ()
    assert next(finding.what for finding in imported.lost).startswith("price price_1")


def test_our_own_plans_are_imported_without_names_of_objects(tmp_path):
    """See tests/integration/test_catalog_cli.py for the same through the stand-in."""
    (tmp_path / "a.yaml").write_text(
        dedent(
            """
            meters: [{name: m, value: requests}]
            plans:
              - {name: p, title: A Plan, billing: postpaid, currency: USD,
                 prices: [{meter: m, model: per_unit, amount: "1"}]}
            """
        )
    )
    wanted = wanted_of(tmp_path)
    (product,), (line,) = wanted.products, wanted.prices
    found = FoundCatalog(
        meters=(FoundMeter(id="mtr", event_name="m", display_name="m"),),
        products=(FoundProduct(id="prod", name=product.name, metadata=product.metadata),),
        prices=(
            FoundPrice(
                id="price",
                product_id="prod",
                meter_id="mtr",
                content=line.content,
                lookup_key=line.lookup_key,
                metadata=line.metadata,
            ),
        ),
    )
    (plan,) = import_catalog(found).plans
    assert plan.data == {
        "name": "p",
        "title": "A Plan",
        "billing": "postpaid",
        "currency": "USD",
        "prices": [{"meter": "m", "model": "per_unit", "amount": "1.00", "per": 1}],
    }
