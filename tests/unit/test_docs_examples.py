"""What the documents say, held against the program: examples load, and nothing is left out."""

import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml
from prometheus_client import Counter, Gauge, Histogram

from sidecar import telemetry
from sidecar.cli.commands import app
from sidecar.domain.decisions import DenyReason
from sidecar.domain.expression_functions import FUNCTIONS, MACROS
from sidecar.domain.expression_variables import RULE_VARIABLES
from sidecar.inbound.captured_events import read_captured_event
from sidecar.inbound.http.problems import ProblemCode
from sidecar.inbound.http.table import ROUTES
from sidecar.outbound.policy_files import LoadedPolicy, load_policy
from sidecar.services.rule_tests import run_rule_tests
from sidecar.settings import Settings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "proto/*.md", "sidecar/**/*.md")
    for path in ROOT.glob(pattern)
)
POLICY = (DOCS / "policy.md").read_text()
OPERATING = (DOCS / "operating.md").read_text()
API = (DOCS / "api.md").read_text()
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```", POLICY, re.DOTALL | re.MULTILINE)
BASE = yaml.safe_load(
    """
    estimates:
      - {default: {input: 1000, output: 1000}}
    meters:
      - {name: input-tokens, value: usage.input}
      - {name: output-tokens, value: usage.output}
      - {name: total-tokens, value: usage.total}
    plans:
      - {name: prepaid, billing: prepaid, currency: USD, prices: []}
      - {name: free, billing: postpaid, currency: USD, prices: []}
    """
)
WARNING = """
unmatched: allow
quotas: [{name: monthly-tokens, meter: total-tokens, limit: 100000, window: {calendar: month}}]
rules:
  - name: warn-at-80
    template: quota
    quota: monthly-tokens
    at: 80%
    warn: {headers: {x-quota-used: '{{quota.used_percent|0}}'}}
"""


def loaded(folder: Path, example: str) -> LoadedPolicy:
    """The example as a policy: what it refers to and does not define is put beside it."""
    if example.startswith(" "):
        # Keys of a rule.
        example = WARNING + textwrap.indent(textwrap.dedent(example), "    ")
    given: dict[str, Any] = yaml.safe_load(example)
    rest = {
        key: [one for one in entries if one.get("name") not in names(given, key)]
        for key, entries in BASE.items()
        if key != "estimates" or key not in given
    }
    ruled = {rule.get("quota") for rule in given.get("rules", ())}
    rest["rules"] = [
        {"name": f"of-{quota}", "template": "quota", "quota": quota}
        for quota in names(given, "quotas") - ruled
    ] + [*member_rules(given)]
    (folder / "a.yaml").write_text(example)
    (folder / "b.yaml").write_text(
        yaml.safe_dump({key: value for key, value in rest.items() if value})
    )
    return load_policy(folder)


def names(policy: dict[str, Any], section: str) -> set[str]:
    return {entry["name"] for entry in policy.get(section, ()) if "name" in entry}


def member_rules(policy: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A rule for each that a list of members names."""
    for kind, lists in policy.get("members", {}).items():
        for entry in {str(one): one for rules in lists.values() for one in rules}.values():
            name = entry if isinstance(entry, str) else entry["rule"]
            yield {"name": name, "template": "block", kind: {"members": "listed"}}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: text.split(":")[0].strip())
def test_each_example_of_the_reference_loads_and_its_tests_pass(tmp_path: Path, example: str):
    policy = loaded(tmp_path, example)
    results = run_rule_tests(policy.policy, policy.tests)
    assert [result.differences for result in results if not result.passed] == []
    assert len(results) == example.count("- given:")


def test_there_are_examples_of_each_part():
    parts = {key for example in EXAMPLES for key in yaml.safe_load(example) if example[0] != " "}
    assert {"identity", "free", "errors", "estimates", "meters", "quotas", "plans", "rules"} < parts


def test_the_captured_event_of_the_reference_is_one():
    (event,) = re.findall(r"^```json\n(.*?)^```", POLICY, re.DOTALL | re.MULTILINE)
    assert read_captured_event(json.dumps(json.loads(event)).encode())


def test_the_reference_lists_what_conditions_may_say():
    words = set(re.findall(r"`([a-zA-Z_.]+)`", POLICY))
    assert {*FUNCTIONS, *MACROS} - words == set()
    assert {*RULE_VARIABLES.variables} - words == set()


def test_the_operators_table_has_every_setting():
    table = OPERATING[OPERATING.index("## Settings") : OPERATING.index("## Commands")]
    rows = set(re.findall(r"^\| `([a-z_]+)` \|", table, re.MULTILINE))
    assert rows == Settings.model_fields.keys() - {"envoy", "notify"}


def test_the_operators_page_has_every_metric_with_its_labels_and_no_other():
    metrics = {
        family.name + ("_total" if isinstance(metric, Counter) else ""): list(metric._labelnames)
        for metric in vars(telemetry).values()
        if isinstance(metric, Counter | Gauge | Histogram)
        for family in metric.describe()
    }
    rows = re.findall(r"^\| `(sidecar_[a-z_]+)` \|([^|]*)\|", OPERATING, re.MULTILINE)
    assert {name: re.findall(r"`([a-z]+)`", labels) for name, labels in rows} == metrics


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_metrics_that_a_page_names_exist(page: Path):
    known = set(re.findall(r'"(sidecar_[a-z_]+)"', Path(telemetry.__file__).read_text()))
    named = set(re.findall(r"\bsidecar_[a-z_]+_(?:total|seconds|failing)\b", page.read_text()))
    assert named <= known


def test_the_operators_page_has_every_command():
    commands = OPERATING[OPERATING.index("## Commands") : OPERATING.index("Exit codes")]
    group = typer.main.get_command(app)
    assert {*leaves(group, ())} == set(
        re.findall(r"`([a-z][a-z -]+)`", commands.replace("`sidecar serve`", ""))
    )


def leaves(command: click.Command, path: tuple[str, ...]) -> Iterator[str]:
    """Each command's words."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield " ".join(path)
        return
    for name, below in inner.items():
        yield from leaves(below, (*path, name))


def test_the_api_page_has_every_route_and_no_other():
    served = {f"{route.method} {re.sub('{[a-z_]+}', '{}', route.path)}" for route in ROUTES}
    written = set(re.findall(r"(?<![a-z])(GET|POST|PUT|PATCH|DELETE) (/[^\s`?]*)", API))
    named = {f"{method} {re.sub('{[a-z_]+}', '{}', path)}" for method, path in written}
    examples = {"GET /api/v1/meters/gpu-minutes/query"}
    assert named - examples == served


@pytest.mark.parametrize("code", [*ProblemCode, *DenyReason])
def test_the_api_page_has_every_code(code: str):
    assert f"`{code}`" in API


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file.read_text()), target


def anchors(text: str) -> set[str]:
    """Headings as the forges make anchors of them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower().replace("`", "")).replace(" ", "-")
        for heading in headings
    }
