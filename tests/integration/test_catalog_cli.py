"""`sidecar catalog`: plan, apply, drift, import, and their exit codes."""

import io
import json
import sys

import pytest
from fixtures.catalog_account import KEY, PLANS, account_settings, running_account, write_policy
from fixtures.shell import sidecar

__all__ = ["sidecar"]


@pytest.fixture
def account():
    with running_account() as account:
        yield account


class Commands:
    def __init__(self, shell, settings, folder) -> None:
        self._shell, self._settings, self._policy = shell, settings, folder / "policy"
        self.plans(PLANS)

    def plans(self, text: str) -> None:
        write_policy(self._policy, text)

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        ended = self._shell("catalog", *arguments, **self._settings)
        assert KEY not in ended.out + ended.err
        return ended.code, ended.out, ended.err


@pytest.fixture
def catalog(sidecar, account, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    return Commands(sidecar, account_settings(account.url, tmp_path), tmp_path)


def test_plan_apply_change_and_plan_again(catalog, account):
    code, out, _ = catalog("plan")
    assert code == 2
    assert out.startswith("Stripe, test mode; policy ")
    assert "+ product my-ai-api-plan: the plan has no product" in out
    assert "+ price three-tier/input-tokens" in out
    assert "note: credit: credit pays its usage" in out
    assert "9 to create, 0 to change, 0 to archive; 0 changed by hand; 0 problems" in out
    assert account.posts == 0
    code, out, _ = catalog("apply", "--yes")
    assert code == 0
    assert "9 changes done" in out
    code, out, _ = catalog("plan")
    assert (code, out.splitlines()[-1]) == (
        0,
        "no changes: the catalog is what the policy says",
    )
    catalog.plans(PLANS.replace('"0.80"', '"0.70"'))
    code, out, _ = catalog("plan", "--json")
    assert code == 2
    changes = json.loads(out)["changes"]
    assert [(one["action"], one["name"]) for one in changes] == [
        ("create", "three-tier/input-tokens"),
        ("archive", "three-tier/input-tokens"),
    ]
    assert changes[0]["before"] == {"tier 1000001 to inf": "0.00008 + 100 flat"}
    assert changes[0]["after"] == {"tier 1000001 to inf": "0.00007 + 100 flat"}
    code, out, _ = catalog("apply", "--yes", "--json", "--plan", "three-tier")
    assert (code, len(json.loads(out)["done"])) == (0, 2)


def test_what_cannot_be_told_is_an_error_and_changes_nothing(catalog, account):
    code, _, err = catalog("plan", "--plan", "nobody")
    assert code == 1
    assert "no plan 'nobody'" in err
    catalog.plans(PLANS.replace("{model: flat", "{model: minimum"))
    code, out, _ = catalog("plan")
    assert code == 1
    assert "! three-tier/@fee: Stripe's prices have no minimum" in out
    code, _, err = catalog("apply", "--yes")
    assert code == 1
    assert "no minimum" in err
    code, _, _ = catalog("plan", "--plan", "my-ai-api-plan")
    assert code == 2
    catalog.plans("plans: 3")
    code, _, err = catalog("plan")
    assert code == 1
    assert "b.yaml:1" in err
    assert account.posts == 0


def test_without_a_key_there_is_no_catalog(sidecar, account, tmp_path):
    settings = account_settings(account.url, tmp_path)
    del settings["stripe_api_key_file"]
    write_policy(tmp_path / "policy")
    for command, code in (("plan", 1), ("apply", 2)):
        ended = sidecar("catalog", command, **settings)
        assert ended.code == code
        assert "SIDECAR_STRIPE_API_KEY_FILE is not set" in ended.err


def test_a_key_that_may_not_read_is_named_with_what_it_lacks(sidecar, account, tmp_path):
    settings = account_settings(account.url, tmp_path)
    write_policy(tmp_path / "policy")
    scopes = ("rak_billing_meter_read", "rak_product_read")
    account.standin.add_restricted_key("rk_test_limited", *scopes)
    for key, word in (("rk_test_limited", "403; it lacks rak_"), ("nonsense", "401")):
        (tmp_path / "key").write_text(key)
        for command, code in (("plan", 1), ("apply", 2)):
            ended = sidecar("catalog", command, **settings)
            assert ended.code == code
            assert f"Stripe refuses the key with {word}" in ended.err
            assert key not in ended.err


def test_moesifs_plans_are_written_and_what_is_not_ends_with_an_error(catalog, tmp_path):
    price = {"id": "price_1", "name": "Calls", "price_in_decimal": "7", "usage_aggregator": "sum"}
    odd = {"id": "price_2", "pricing_model": "mystery"}
    file = tmp_path / "moesif.json"
    for prices, code in (([price], 0), ([price, odd], 1)):
        file.write_text(json.dumps([{"id": "prod_1", "name": "Pro", "prices": prices}]))
        ended, out, err = catalog("import", "moesif", file, "-o", tmp_path / "imported")
        assert ended == code
        assert "1 imported" in out
        assert ("NOT IMPORTED: price price_2" in err) is bool(code)


def test_apply_asks_first(catalog, account):
    code, _, err = catalog("apply")
    assert code == 1
    assert "apply to Stripe, test mode?" in err
    assert account.posts == 0


def test_a_provider_that_is_away_is_an_error(catalog, account):
    account.stop()
    code, _, err = catalog("plan")
    assert code == 1
    assert "Stripe: no answer" in err


def test_import_then_plan_is_no_change(catalog, account, tmp_path):
    catalog("apply", "--yes")
    imported = tmp_path / "imported"
    code, out, err = catalog("import", "stripe", "-o", imported)
    assert code == 0, err
    assert "3 imported, 0 objects not" in out
    text = (imported / "catalog-20-plans.yaml").read_text()
    assert "title: My AI API Plan" in text
    code, out, _ = catalog("plan", "--policy", imported)
    assert code == 0, out


def test_an_account_that_others_made_is_taken_up_as_it_is(catalog, account, tmp_path):
    meter = account.standin.add_meter("output_tokens")
    product = account.standin.account.catalog.create_product(
        {"name": "Gold!", "metadata": {"theirs": "1"}}
    )
    recurring = {"interval": "month", "usage_type": "metered", "meter": meter}
    price = {"product": product["id"], "currency": "usd", "recurring": recurring}
    account.standin.account.catalog.create_price({**price, "unit_amount_decimal": "0.00015"})
    account.standin.account.catalog.create_price({**price, "unit_amount": 7, "active": False})
    account.standin.account.catalog.create_price(
        {"product": product["id"], "currency": "usd", "unit_amount": 9}
    )
    imported = tmp_path / "imported"
    code, _, err = catalog("import", "stripe", "-o", imported)
    assert code == 1
    assert "NOT IMPORTED: price price_standin00000003" in err
    assert "assumed: meter" in err
    code, out, _ = catalog("plan", "--policy", imported)
    assert code == 0, out
    assert "name: gold" in (imported / "catalog-20-plans.yaml").read_text()
