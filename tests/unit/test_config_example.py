"""The policy that ships: it loads, its tests pass, editors accept it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from sidecar.domain.money import parse_amount
from sidecar.outbound.policy_files import LoadedPolicy, load_policy, policy_schema_text
from sidecar.outbound.policy_files.reading import Spec
from sidecar.outbound.policy_files.records import ListOf, MapOf, Record
from sidecar.outbound.policy_files.schema import POLICY
from sidecar.outbound.policy_files.unions import parts_of
from sidecar.services.rule_tests import run_rule_tests

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config"
FILES = sorted((CONFIG / "policy").glob("*.yaml"))
REGENERATE = (
    'python -c "from sidecar.outbound.policy_files import policy_schema_text as t; '
    "print(t(), end='')\" > config/policy.schema.json"
)


@pytest.fixture(scope="module")
def loaded() -> LoadedPolicy:
    return load_policy(CONFIG / "policy")


def validator() -> Draft202012Validator:
    schema = json.loads((CONFIG / "policy.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_every_test_beside_a_rule_passes(loaded: LoadedPolicy) -> None:
    results = run_rule_tests(loaded.policy, loaded.tests)
    assert [
        (result.test.place, result.differences) for result in results if not result.passed
    ] == []
    assert len(results) >= 16


def test_every_rule_has_tests(loaded: LoadedPolicy) -> None:
    assert {test.rule for test in loaded.tests} == {rule.name for rule in loaded.policy.rules}


@pytest.mark.parametrize(
    ("plan", "tokens", "amount"),
    [
        ("free", 1_000_000, "2.00"),
        ("prepaid", 1_000_000, "2.00"),
        ("postpaid", 1, "2.00"),
        ("per-request", 1_000_000, "0.001"),
    ],
)
def test_the_plans_cost_what_they_say(
    loaded: LoadedPolicy, plan: str, tokens: int, amount: str
) -> None:
    card = loaded.policy.cards[plan]
    quantities = {
        "input-tokens": tokens,
        "output-tokens": tokens,
        "total-tokens": 2 * tokens,
        "requests": 1,
    }
    assert card.upper_bound(quantities, "any-model") == parse_amount(amount)


def test_the_published_schema_is_made_from_the_table() -> None:
    assert (CONFIG / "policy.schema.json").read_text() == policy_schema_text(), REGENERATE


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_shipped_files_fit_the_published_schema(path: Path) -> None:
    assert list(validator().iter_errors(yaml.safe_load(path.read_text()))) == []
    assert path.read_text().startswith("# yaml-language-server: $schema=../policy.schema.json\n")


def test_the_published_schema_refuses_unknown_keys_and_bare_amounts() -> None:
    price = {"meter": "m", "model": "per_unit", "amount": 0.5}
    plan = {"name": "p", "billing": "prepaid", "currency": "USD", "prices": [price]}
    assert not validator().is_valid({"plans": [plan]})
    assert not validator().is_valid({"rulez": []})
    price["amount"] = "0.50"
    assert validator().is_valid({"plans": [plan]})


EXAMPLES = re.findall(
    r"^```yaml\n(?! )(.*?)^```", (ROOT / "docs" / "policy.md").read_text(), re.DOTALL | re.MULTILINE
)


@pytest.mark.parametrize("example", EXAMPLES)
def test_each_example_of_the_reference_fits_the_schema(example: str) -> None:
    assert list(validator().iter_errors(yaml.safe_load(example))) == []
    assert len(EXAMPLES) >= 7


def record_keys(record: Record, seen: dict[str, set[str]]) -> dict[str, set[str]]:
    """Each record's keys, by record."""
    if record.name in seen:
        return seen
    seen[record.name] = set(record.fields)
    for entry in record.fields.values():
        for inner in records_in(entry.spec):
            record_keys(inner, seen)
    return seen


def records_in(spec: Spec) -> Iterator[Record]:
    """The records that a kind of value is made of."""
    match spec:
        case Record():
            yield spec
        case ListOf(item=inner) | MapOf(value=inner):
            yield from records_in(inner)
        case _:
            for part in parts_of(spec):
                yield from records_in(part)


def test_the_reference_names_every_key() -> None:
    reference = (ROOT / "docs" / "policy.md").read_text()
    keys = set().union(*record_keys(POLICY, {}).values())
    assert len(keys) > 50
    assert sorted(key for key in keys if f"`{key}`" not in reference) == []
