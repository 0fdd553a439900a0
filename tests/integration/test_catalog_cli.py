"""`sidecar catalog` as a process against the stand-in: plan, apply, kill, import."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from sidecar.outbound.stripe.catalog import StripeCatalog
from sidecar.outbound.stripe.client import StripeConnection
from sidecar.standins.stripe import StripeStandin
from sidecar.standins.stripe_settings import StripeSettings

KEY = "sk_test_catalogsecret"
METERS = """
meters:
  - {name: input-tokens, value: usage.input}
  - {name: output-tokens, value: usage.output}
estimates: [{default: {input: 1000, output: 1000}}]
"""
PLANS = """
plans:
  - name: my-ai-api-plan
    title: My AI API Plan
    billing: postpaid
    currency: USD
    prices:
      - {meter: input-tokens, model: package, amount: "0.50", per: 1000000, round: up}
      - {meter: output-tokens, model: package, amount: "1.50", per: 1000000, round: up}
  - name: three-tier
    billing: postpaid
    currency: USD
    prices:
      - meter: input-tokens
        model: graduated
        per: 1000000
        tiers:
          - {up_to: 100000, amount: "0"}
          - {up_to: 1000000, amount: "1.00"}
          - {up_to: inf, amount: "0.80", flat: "1.00"}
      - {model: flat, amount: "9.99"}
  - {name: credit, billing: prepaid, currency: USD, prices: [
      {meter: input-tokens, model: per_unit, amount: "0.50", per: 1000000}]}
"""


class Commands:
    def __init__(self, url: str, folder: Path) -> None:
        (folder / "key").write_text(KEY)
        self.policy = folder / "policy"
        self.policy.mkdir()
        (self.policy / "a.yaml").write_text(METERS)
        self.plans(PLANS)
        kept = {name: value for name, value in os.environ.items() if "SIDECAR_" not in name}
        self._env = {
            **kept,
            "SIDECAR_STRIPE_API_KEY_FILE": str(folder / "key"),
            "SIDECAR_STRIPE_BASE_URL": url,
            "SIDECAR_POLICY_DIR": str(self.policy),
            "SIDECAR_DATA_DIR": str(folder / "data"),
        }

    def plans(self, text: str) -> None:
        (self.policy / "b.yaml").write_text(text)

    async def begin(self, *arguments: object) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "sidecar",
            "catalog",
            *map(str, arguments),
            env=self._env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def __call__(self, *arguments: object) -> tuple[int, str, str]:
        process = await self.begin(*arguments)
        out, err = await asyncio.wait_for(process.communicate(), 60)
        assert KEY not in out.decode() + err.decode()
        return process.returncode or 0, out.decode(), err.decode()


@pytest.fixture
async def standin():
    standin = StripeStandin(settings=StripeSettings(latency_seconds=0.01))
    yield standin
    assert list(standin.bugs) == []


@pytest.fixture
async def catalog(standin, tmp_path):
    async with standin.serving() as url:
        yield Commands(url, tmp_path)


async def found(standin_url: str):
    connection = StripeConnection(KEY, base_url=standin_url)
    try:
        return await StripeCatalog(connection).read()
    finally:
        await connection.close()


def posts(standin: StripeStandin) -> int:
    return sum(record.method == "POST" for record in standin.requests_log)


async def test_plan_apply_change_and_plan_again(catalog, standin):
    code, out, _ = await catalog("plan")
    assert code == 2
    assert "+ product my-ai-api-plan: the plan has no product" in out
    assert "+ price three-tier/input-tokens" in out
    assert "note: credit: credit pays its usage" in out
    assert "9 to create, 0 to change, 0 to archive; 0 changed by hand; 0 problems" in out
    assert posts(standin) == 0
    code, out, _ = await catalog("apply", "--yes")
    assert code == 0
    assert "9 changes done" in out
    code, out, _ = await catalog("plan")
    assert (code, out.splitlines()[-1]) == (
        0,
        "no changes: the catalog is what the policy says",
    )
    catalog.plans(PLANS.replace('"0.80"', '"0.70"'))
    code, out, _ = await catalog("plan", "--json")
    assert code == 2
    changes = json.loads(out)["changes"]
    assert [(one["action"], one["name"]) for one in changes] == [
        ("create", "three-tier/input-tokens"),
        ("archive", "three-tier/input-tokens"),
    ]
    assert changes[0]["before"] == {"tier 1000001 to inf": "0.00008 + 100 flat"}
    assert changes[0]["after"] == {"tier 1000001 to inf": "0.00007 + 100 flat"}
    code, out, _ = await catalog("apply", "--yes", "--json", "--plan", "three-tier")
    assert (code, len(json.loads(out)["done"])) == (0, 2)


async def test_what_cannot_be_told_is_an_error_and_changes_nothing(catalog, standin):
    code, _, err = await catalog("plan", "--plan", "nobody")
    assert code == 1
    assert "no plan 'nobody'" in err
    catalog.plans(PLANS.replace("{model: flat", "{model: minimum"))
    code, out, _ = await catalog("plan")
    assert code == 1
    assert "! three-tier/fee: Stripe's prices have no minimum" in out
    code, _, err = await catalog("apply", "--yes")
    assert code == 1
    assert "no minimum" in err
    code, _, _ = await catalog("plan", "--plan", "my-ai-api-plan")
    assert code == 2
    catalog.plans("plans: 3")
    code, _, err = await catalog("plan")
    assert code == 1
    assert "b.yaml:1" in err
    assert posts(standin) == 0


async def test_apply_asks_first(catalog, standin):
    code, _, err = await catalog("apply")
    assert code == 1
    assert "apply?" in err
    assert posts(standin) == 0


async def test_a_provider_that_is_away_is_an_error(catalog, standin):
    await standin.stop()
    code, _, err = await catalog("plan")
    assert code == 1
    assert "Stripe: no answer" in err


@pytest.mark.parametrize("kill_at", [1, 4, 7, 9])
async def test_killed_at_any_point_a_repeat_ends_in_the_same_catalog(catalog, standin, kill_at):
    process = await catalog.begin("apply", "--yes")
    try:
        while posts(standin) < kill_at and process.returncode is None:
            await asyncio.sleep(0.002)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()
    code, _out, err = await catalog("apply", "--yes")
    assert code == 0, err
    code, _, _ = await catalog("plan")
    assert code == 0
    names = sorted(product["name"] for product in standin._catalog.products.values())
    assert names == ["My AI API Plan", "credit", "three-tier"]
    keys = sorted(price["lookup_key"] for price in standin._catalog.prices.values())
    assert keys == [
        "sidecar:my-ai-api-plan:input-tokens",
        "sidecar:my-ai-api-plan:output-tokens",
        "sidecar:three-tier:fee",
        "sidecar:three-tier:input-tokens",
    ]
    assert posts(standin) <= 9 + 1, "what was done before the kill is not asked for again"


async def test_import_then_plan_is_no_change(catalog, standin, tmp_path):
    await catalog("apply", "--yes")
    imported = tmp_path / "imported"
    code, out, err = await catalog("import", "stripe", "-o", imported)
    assert code == 0, err
    assert "3 imported, 0 objects not" in out
    text = (imported / "catalog-20-plans.yaml").read_text()
    assert "title: My AI API Plan" in text
    code, out, _ = await catalog("plan", "--policy", imported)
    assert code == 0, out


async def test_an_account_that_others_made_is_taken_up_as_it_is(catalog, standin, tmp_path):
    meter = standin.add_meter("output_tokens")
    product = standin._catalog.create_product({"name": "Gold!", "metadata": {"theirs": "1"}})
    recurring = {"interval": "month", "usage_type": "metered", "meter": meter}
    price = {"product": product["id"], "currency": "usd", "recurring": recurring}
    standin._catalog.create_price({**price, "unit_amount_decimal": "0.00015"})
    standin._catalog.create_price({**price, "unit_amount": 7, "active": False})
    standin._catalog.create_price({"product": product["id"], "currency": "usd", "unit_amount": 9})
    imported = tmp_path / "imported"
    code, _, err = await catalog("import", "stripe", "-o", imported)
    assert code == 1
    assert "NOT IMPORTED: price price_standin00000003" in err
    assert "assumed: meter" in err
    code, out, _ = await catalog("plan", "--policy", imported)
    assert code == 0, out
    assert "name: gold" in (imported / "catalog-20-plans.yaml").read_text()
