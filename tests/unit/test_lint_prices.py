"""What lint says of prices that holds exceed, and of those that no cap sees."""

from pathlib import Path

import pytest
from fixtures.linting import BASE, codes, findings

from sidecar.services.linting.findings import Severity

MODELS = {
    "package-on-credit": (
        ('model: per_unit, amount: "0.001"', 'model: package, amount: "0.001", per: 1000'),
        Severity.WARNING,
    ),
    "tiers-on-credit": (
        (
            'model: per_unit, amount: "0.001"',
            'model: graduated, tiers: [{up_to: 9, amount: "1"}, {up_to: inf, flat: "1"}]',
        ),
        Severity.WARNING,
    ),
}


@pytest.mark.parametrize("code", MODELS)
def test_prices_whose_holds_exceed_what_is_used(code: str, tmp_path: Path):
    (old, new), severity = MODELS[code]
    assert BASE.count(old) == 1
    found = findings(tmp_path, "", BASE.replace(old, new))
    assert severity in {one.severity for one in found if one.code == code}
    assert code not in codes(findings(tmp_path, ""))


FEES = (
    BASE
    + """    versions:
      - effective_at: "2026-12-01T00:00:00Z"
        prices:
          - {model: flat, amount: "20.00"}
          - {meter: calls, model: volume, tiers: [{up_to: inf, amount: "0.001"}]}
"""
)


def test_a_cap_of_money_does_not_see_what_an_invoice_adds(tmp_path: Path):
    cap = (
        "rules: [{name: a, template: spend-cap, limit: '5', currency: USD, window: {calendar: day}"
    )
    found = findings(tmp_path, f"{cap}}}]", FEES)
    (message,) = [one.message for one in found if one.code == "cap-misses-fees"]
    assert message.endswith("does not see what the invoice adds: flat and volume of plan invoiced")
    others = f"{cap}, customers: {{plans: [paid]}}}}]"
    assert "cap-misses-fees" not in codes(findings(tmp_path, others, FEES))
    assert "cap-misses-fees" not in codes(findings(tmp_path, f"{cap}}}]"))


def test_late_usage_says_little_on_a_plan_that_burns_credit(tmp_path: Path):
    stated = BASE.replace("billing: prepaid", "billing: prepaid\n    late_usage: write_off")
    (found,) = [one for one in findings(tmp_path, "", stated) if one.code == "late-usage-on-credit"]
    assert found.severity is Severity.NOTE
    invoiced = BASE.replace("billing: postpaid", "billing: postpaid\n    late_usage: write_off")
    assert "late-usage-on-credit" not in codes(findings(tmp_path, "", invoiced))


def test_a_finding_of_all_versions_is_told_once(tmp_path: Path):
    prices = '{meter: calls, model: package, amount: "0.001", per: 1000}'
    own = '[{meter: input, model: per_unit, amount: "1"}]'
    base = BASE.replace(
        'prices: [{meter: calls, model: per_unit, amount: "0.001"}]',
        f"prices: [{prices}]\n    overrides: [{{customers: [cus_1], prices: {own}}}]",
    )
    assert codes(findings(tmp_path, "", base)).count("package-on-credit") == 1
