"""What plans want of a provider: the same amounts, or a word on why not."""

import re
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from textwrap import dedent

import pytest

from sidecar.domain.catalog import PriceContent, Tier, plain
from sidecar.domain.catalog_wanted import wanted_by_policy
from sidecar.outbound.policy_files.loader import load_policy

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
METERS = """
meters:
  - {name: input-tokens, value: usage.input}
  - {name: output-tokens, value: usage.output}
  - {name: quiet, value: requests, report: false}
"""
MILLION = 1_000_000


@pytest.fixture
def wanted(tmp_path):
    def load(plans: str, instant: datetime = NOW):
        (tmp_path / "policy.yaml").write_text(METERS + dedent(plans))
        return wanted_by_policy(load_policy(tmp_path).policy, instant)

    return load


def plan(prices: str, **keys: str) -> str:
    more = "".join(f", {key}: {value}" for key, value in keys.items())
    return f"plans: [{{name: p, billing: postpaid, currency: USD{more}, prices: [{prices}]}}]"


def content(**more) -> PriceContent:
    return PriceContent(currency="USD", meter="input-tokens", **more)


@pytest.mark.parametrize(
    ("price", "expected"),
    [
        ('model: per_unit, amount: "0.50", per: 1000000', {"unit": Decimal("0.00005")}),
        ('model: per_unit, amount: "0.000000001"', {"unit": Decimal("0.0000001")}),
        (
            'model: package, amount: "0.50", per: 1000000',
            {"unit": Decimal(50), "divide_by": MILLION, "round": "up"},
        ),
        (
            'model: package, amount: "2", per: 1000, round: down',
            {"unit": Decimal(200), "divide_by": 1000, "round": "down"},
        ),
        ('model: package, amount: "2", per: 1', {"unit": Decimal(200)}),
        (
            'model: per_unit, amount: "1.50", per: 1000000, free: 500',
            {
                "tiers": (
                    Tier(up_to=500, unit=Decimal(0)),
                    Tier(up_to=None, unit=Decimal("0.00015")),
                ),
                "tiers_mode": "graduated",
            },
        ),
        (
            (
                "model: graduated, per: 1000000, free: 10, tiers: "
                '[{up_to: 100, amount: "1", flat: "2"}, {up_to: inf, amount: "3"}]'
            ),
            {
                "tiers": (
                    Tier(up_to=10, unit=Decimal(0)),
                    Tier(up_to=110, unit=Decimal("0.0001"), flat=Decimal(200)),
                    Tier(up_to=None, unit=Decimal("0.0003")),
                ),
                "tiers_mode": "graduated",
            },
        ),
        (
            'model: volume, tiers: [{up_to: 10, amount: "1"}, {up_to: inf, amount: "0.5"}]',
            {
                "tiers": (
                    Tier(up_to=10, unit=Decimal(100)),
                    Tier(up_to=None, unit=Decimal(50)),
                ),
                "tiers_mode": "volume",
            },
        ),
        (
            'model: cost_plus, cost_plus: {cost: "0.50", per: 1000000, markup: 20%}',
            {"unit": Decimal("0.00006")},
        ),
        (
            'model: per_unit, amount: "1", tax_behavior: exclusive',
            {"unit": Decimal(100), "tax_behavior": "exclusive"},
        ),
    ],
)
def test_a_price_becomes_the_same_price(wanted, price, expected):
    found = wanted(plan(f"{{meter: input-tokens, {price}}}"))
    assert found.problems == ()
    (line,) = found.prices
    assert line.content == content(**expected)
    assert line.lookup_key == "sidecar:p:input-tokens"
    assert [meter.event_name for meter in found.meters] == ["input-tokens"]


@pytest.mark.parametrize(
    ("prices", "word"),
    [
        ('{meter: input-tokens, model: per_unit, amount: "1", per: 3}', "12 decimals"),
        ('{meter: input-tokens, model: package, amount: "1", per: 3, free: 2}', "packages"),
        (
            "{meter: input-tokens, model: volume, free: 2, tiers: [{up_to: inf, amount: '1'}]}",
            "volume",
        ),
        (
            "{meter: input-tokens, model: graduated, tiers: [{up_to: inf, flat: '1'}]}",
            "without any use",
        ),
        ('{model: minimum, amount: "5"}', "no minimum"),
        (
            (
                '{meter: input-tokens, model: per_unit, amount: "1", models: [a]}, '
                '{meter: input-tokens, model: per_unit, amount: "2"}'
            ),
            "a meter of its own",
        ),
    ],
)
def test_what_has_no_counterpart_is_a_problem_and_no_price(wanted, prices, word):
    found = wanted(plan(prices))
    (problem,) = found.problems
    assert word in problem.message
    assert problem.where.startswith("p/")
    assert found.prices == ()


def test_a_currency_that_stripe_has_not_is_a_problem(wanted):
    found = wanted(
        "plans: [{name: p, billing: postpaid, currency: credits, prices: "
        '[{meter: input-tokens, model: per_unit, amount: "1"}]}]'
    )
    assert "takes no amounts" in found.problems[0].message


def test_amounts_are_in_the_minor_units_of_the_currency(wanted):
    found = wanted(
        "plans: [{name: yen, billing: postpaid, currency: JPY, prices: "
        '[{meter: input-tokens, model: per_unit, amount: "1.5"}]}, '
        "{name: dinar, billing: postpaid, currency: KWD, prices: "
        '[{meter: input-tokens, model: per_unit, amount: "1.5"}]}]'
    )
    assert [line.content.unit for line in found.prices] == [Decimal("1.5"), Decimal(1500)]


def test_credit_plans_and_silent_meters_have_no_prices_there(wanted):
    found = wanted(
        """
        estimates: [{default: {input: 10, output: 10}}]
        plans:
          - {name: credit, billing: prepaid, currency: USD, prices: [
              {meter: input-tokens, model: per_unit, amount: "1"}]}
          - {name: silent, title: A Plan, billing: postpaid, currency: USD, prices: [
              {meter: quiet, model: per_unit, amount: "1"}, {model: flat, amount: "9.99"}]}
        """
    )
    assert [(one.plan, one.name) for one in found.products] == [
        ("credit", "credit"),
        ("silent", "A Plan"),
    ]
    assert [(one.name, one.content) for one in found.prices] == [
        ("silent/@fee", PriceContent(currency="USD", meter="", unit=Decimal(999)))
    ]
    assert found.meters == ()
    assert [one.where for one in found.notes] == ["credit", "silent/quiet"]


def test_the_prices_of_the_instant_count_and_customers_have_their_own(wanted):
    text = """
    plans:
      - name: p
        billing: postpaid
        currency: USD
        prices: [{meter: input-tokens, model: per_unit, amount: "1"},
                 {meter: output-tokens, model: per_unit, amount: "3"}]
        versions:
          - effective_at: "2026-12-01T00:00:00Z"
            prices: [{meter: input-tokens, model: per_unit, amount: "2"}]
        overrides:
          - customers: [a, b]
            until: "2026-12-01T00:00:00Z"
            prices: [{meter: input-tokens, model: per_unit, amount: "0.5"}]
    """
    now = wanted(text)
    units = [(one.line.split("@")[0], one.content.unit) for one in now.prices]
    assert units == [
        ("input-tokens", Decimal(100)),
        ("output-tokens", Decimal(300)),
        ("input-tokens", Decimal(50)),
    ]
    own = now.prices[2]
    assert own.line == f"input-tokens@{own.content.version[:8]}"
    later = wanted(text, datetime(2026, 12, 1, tzinfo=UTC))
    assert [(one.line, one.content.unit) for one in later.prices] == [
        ("input-tokens", Decimal(200))
    ]


def test_the_documents_plans_are_what_the_document_says(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "catalog.md").read_text()
    (example,) = re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "policy.yaml").write_text(example)
    found = wanted_by_policy(load_policy(tmp_path).policy, NOW)
    assert found.problems == found.notes == ()
    objects = len(found.meters) + len(found.products) + len(found.prices)
    assert f"{objects} to create" in page
    assert all(plain(tier.unit) in page for tier in found.prices[2].content.tiers)


def test_a_meter_called_fee_is_not_the_fee(tmp_path):
    (tmp_path / "policy.yaml").write_text(
        "meters: [{name: fee, value: requests}]\n"
        'plans: [{name: p, billing: postpaid, currency: USD, prices: [{model: flat, amount: "1"}, '
        '{meter: fee, model: per_unit, amount: "1"}]}]'
    )
    found = wanted_by_policy(load_policy(tmp_path).policy, NOW)
    assert found.problems == ()
    assert [one.lookup_key for one in found.prices] == ["sidecar:p:@fee", "sidecar:p:fee"]


def test_two_lines_cannot_name_one_object(wanted):
    line = '{{meter: {}, model: per_unit, amount: "1", stripe: {{{}}}}}'
    for hint in ("price: price_1", "lookup_key: k"):
        found = wanted(
            plan(f"{line.format('input-tokens', hint)}, {line.format('output-tokens', hint)}")
        )
        assert "as p/input-tokens does" in found.problems[0].message
