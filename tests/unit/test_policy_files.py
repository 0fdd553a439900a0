"""YAML policy files: what loads, what is refused, and in which words."""

import shutil
from pathlib import Path

import pytest

from sidecar.domain.errors import ConfigError
from sidecar.domain.periods import CalendarUnit, CalendarWindow
from sidecar.domain.policy import Policy
from sidecar.domain.pricing import Billing, Package, PerUnit, RoundPackages
from sidecar.domain.rules import EstimateFrom, Mode, OnStoreFailure, RuleTemplate
from sidecar.domain.usage import OnMissing
from sidecar.outbound.policy_files import load_policy
from sidecar.outbound.policy_files.loader import TOTAL_BYTES_MAX, Source, parse_policy
from sidecar.outbound.policy_files.yaml_marks import FILE_BYTES_MAX

BAD = Path(__file__).parents[1] / "data" / "bad_policies"
BAD_NAMES = sorted(path.stem for path in BAD.glob("*.yaml"))

GOOD = """
identity:
  - api_key: {headers: [Authorization, X-API-Key], remove: false}
estimates:
  - match: {routes: ['^/ai/'], methods: [POST], headers: {X-Tier: '^gold$'}}
    from: none
    default: {input: 10, output: 20}
models:
  4.5: {max_output: 100, max_input: 50}
unmatched: allow
free:
  - {routes: ['^/ping$'], methods: [GET]}
rules:
  - name: broke
    template: block-when-no-available-credits
    match: {routes: ['^/ai/', '/x$']}
    customers: {plans: [pro], labels: {region: eu}, ids: [cus_1], except: [cus_2]}
    mode: shadow
    on_store_failure: allow
    deny:
      status: 451
      headers: {X-Left: '{{credits.available}}'}
      body: {error: broke, list: [1, true, null, '{{customer.id}}']}
  - {name: full, template: quota, quota: daily}
  - {name: near, template: quota, quota: daily, at: 75 %, warn: {headers: {x-u: '{{quota.used}}'}}}
quotas:
  - {name: daily, meter: tokens, limit: 5, window: {calendar: day, tz: Europe/Berlin}, hard: false}
meters:
  - name: tokens
    match: {routes: ['^/ai/'], status: [200, 201]}
    value: usage.total
    on_missing: bytes
    report: false
    report_every: 90s
  - {name: calls, value: requests, report_every: 2h}
plans:
  - name: pro
    billing: prepaid
    currency: credits
    prices:
      - {meter: tokens, model: per_unit, amount: "0.50", per: 1000000, models: [a, b]}
      - {meter: tokens, model: package, amount: "2", per: 1000, round: down}
      - {meter: calls, model: package, amount: "0", per: 10}
"""


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture
def good(tmp_path: Path) -> Policy:
    return load_policy(write(tmp_path, policy=GOOD)).policy


@pytest.mark.parametrize("name", BAD_NAMES)
def test_each_mistake_is_told_with_its_place_and_what_is_allowed(name: str, tmp_path: Path) -> None:
    shutil.copy(BAD / f"{name}.yaml", tmp_path)
    with pytest.raises(ConfigError) as failure:
        load_policy(tmp_path)
    told = str(failure.value).replace(f"{tmp_path}/", "")
    assert told == (BAD / f"{name}.expected").read_text().rstrip("\n")


def test_each_bad_file_has_an_expected_message_and_the_other_way_round() -> None:
    assert sorted(path.stem for path in BAD.glob("*.expected")) == BAD_NAMES
    assert len(BAD_NAMES) > 105


def test_identity_estimates_and_models_are_compiled(good: Policy) -> None:
    (source,) = good.identity
    assert (source.headers, source.remove) == (("authorization", "x-api-key"), False)
    (estimate,) = good.estimates
    assert estimate.source is EstimateFrom.NONE
    assert (estimate.default_input, estimate.default_output) == (10, 20)
    (match,) = estimate.match
    assert match.methods == {"POST"}
    (name, pattern), *rest = match.headers
    assert (name, rest) == ("x-tier", [])
    assert pattern.search("gold")
    assert not pattern.search("golden")
    assert (good.models["4.5"].max_output, good.models["4.5"].max_input) == (100, 50)
    assert good.allow_unmatched


def test_rules_are_compiled_in_order(good: Policy) -> None:
    broke, full, nearly = good.rules
    assert broke.template is RuleTemplate.NO_CREDITS
    assert (broke.mode, broke.on_store_failure) == (Mode.SHADOW, OnStoreFailure.ALLOW)
    assert broke.customers.plans == {"pro"}
    assert broke.customers.labels == {"region": "eu"}
    assert (broke.customers.ids, broke.customers.exclude) == ({"cus_1"}, {"cus_2"})
    assert broke.deny.status == 451
    assert broke.deny.headers["x-left"].text == "{{credits.available}}"
    assert broke.deny.body == {"error": "broke", "list": [1, True, None, "{{customer.id}}"]}
    assert (full.quota, full.at_percent, full.denies) == ("daily", None, True)
    assert (nearly.at_percent, nearly.denies) == (75, False)
    assert nearly.warn["x-u"].text == "{{quota.used}}"
    assert (nearly.mode, nearly.on_store_failure) == (Mode.ENFORCE, OnStoreFailure.DENY)


def test_route_patterns_are_numbered_once_and_shared(good: Policy) -> None:
    assert sorted(good.routes.patterns) == ["/x$", "^/ai/", "^/ping$"]
    number = good.routes.patterns.index("^/ai/")
    assert good.routes.match("/ai/chat") == {number}
    (match,) = good.rules[0].match
    assert match.routes == {number, good.routes.patterns.index("/x$")}
    assert good.estimates[0].match[0].routes == good.meters[0].match[0].routes == {number}
    assert good.routes.match("/nothing") == frozenset()


def test_quotas_meters_and_plans_are_compiled(good: Policy) -> None:
    quota = good.quotas["daily"]
    counter = quota.counter
    assert (counter.measure, counter.limit, quota.hard) == ("tokens", 5, False)
    assert counter.window == CalendarWindow(unit=CalendarUnit.DAY, tz="Europe/Berlin")
    tokens, calls = (rule.meter for rule in good.meters)
    assert (tokens.value, tokens.statuses) == ("usage.total", {200, 201})
    assert (tokens.on_missing, tokens.reported) == (OnMissing.BYTES, False)
    assert (calls.on_missing, calls.reported) == (OnMissing.CAPTURE_ESTIMATE, True)
    card = good.cards["pro"]
    assert (card.billing, card.currency) == (Billing.PREPAID, "credits")
    assert set(card.meters) == {"tokens", "calls"}
    assert [line.price for line in card.lines] == [
        PerUnit(amount_nano=500_000_000, per=1_000_000),
        Package(amount_nano=2_000_000_000, per=1_000, rounding=RoundPackages.DOWN),
        Package(amount_nano=0, per=10),
    ]
    assert card.lines[0].models == ("a", "b")


def test_each_meter_keeps_its_own_report_interval(
    tmp_path: Path,
) -> None:
    assert load_policy(write(tmp_path, policy=GOOD)).report_every == {
        "tokens": 90,
        "calls": 7_200,
    }
    (tmp_path / "policy.yaml").write_text("meters: [{name: calls, value: requests}]\n")
    assert load_policy(tmp_path).report_every == {}


def test_files_are_one_policy_in_the_order_of_their_names(tmp_path: Path) -> None:
    rule = "rules: [{{name: {}, template: block-on-unpaid-invoices}}]\n"
    folder = write(tmp_path, b=rule.format("second"), a=rule.format("first"), c="# nothing\n")
    (folder / "notes.txt").write_text("rules: [")
    (folder / ".hidden.yaml").write_text("rules: [")
    loaded = load_policy(folder)
    assert [rule.name for rule in loaded.policy.rules] == ["first", "second"]
    assert [path.name for path in loaded.files] == ["a.yaml", "b.yaml", "c.yaml"]


def test_names_are_unique_over_files_and_unmatched_stands_once(tmp_path: Path) -> None:
    text = "unmatched: deny\nmodels: {m: {max_output: 1}}\nmeters: [{name: n, value: requests}]\n"
    folder = write(tmp_path, a=text, b=text)
    with pytest.raises(ConfigError) as failure:
        load_policy(folder)
    assert str(failure.value).replace(f"{tmp_path}/", "").splitlines() == [
        "b.yaml:1:12: `unmatched` may stand once; it is at a.yaml:1:12 already",
        "b.yaml:2:10: model 'm' stands twice; it is at a.yaml:2:10 already",
        "b.yaml:3:17: meter 'n' stands twice; it is at a.yaml:3:10 already",
    ]


def test_problems_of_all_files_are_told_together_and_bounded(tmp_path: Path) -> None:
    folder = write(tmp_path, a="x: 1\n", b="".join(f"k{n}: 1\n" for n in range(30)))
    with pytest.raises(ConfigError) as failure:
        load_policy(folder)
    lines = str(failure.value).splitlines()
    assert len(lines) == 21
    assert lines[0].startswith(f"{folder}/a.yaml:1:1: unknown key 'x'")
    assert lines[-1] == "and 11 more"


def test_the_version_is_a_hash_of_names_and_contents(tmp_path: Path) -> None:
    folder = write(tmp_path, a="unmatched: deny\n")
    first = load_policy(folder).policy.version
    assert len(first) == 16
    assert load_policy(folder).policy.version == first
    write(folder, a="unmatched: deny\n# changed\n")
    assert load_policy(folder).policy.version != first
    write(folder, a="unmatched: deny\n")
    (folder / "a.yaml").rename(folder / "b.yaml")
    assert load_policy(folder).policy.version != first


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="missing cannot be read: No such file"):
        load_policy(tmp_path / "missing")
    with pytest.raises(ConfigError, match=r"has no \*\.yaml file"):
        load_policy(tmp_path)
    (tmp_path / "rules.yml").write_text("unmatched: deny\n")
    with pytest.raises(ConfigError, match=r"would not be read; name it rules\.yaml"):
        load_policy(tmp_path)
    (tmp_path / "rules.yml").unlink()
    (tmp_path / "rules.yaml").mkdir()
    with pytest.raises(ConfigError, match="is not a regular file"):
        load_policy(tmp_path)


def test_bytes_that_are_no_utf_8_are_told_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"unmatched: deny\n# \xff\n")
    with pytest.raises(ConfigError, match=r"a\.yaml:2:3: the file is not UTF-8 text"):
        load_policy(tmp_path)


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfunmatched: allow\n")
    assert load_policy(tmp_path).policy.allow_unmatched


def test_files_beyond_the_size_limits_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"#" * (FILE_BYTES_MAX + 1))
    with pytest.raises(ConfigError, match=f"larger than {FILE_BYTES_MAX} bytes"):
        load_policy(tmp_path)
    for name in "abcd":
        (tmp_path / f"{name}.yaml").write_bytes(b"#" * (TOTAL_BYTES_MAX // 4 + 1))
    with pytest.raises(ConfigError, match=f"larger than {TOTAL_BYTES_MAX} bytes"):
        load_policy(tmp_path)


def test_brackets_by_the_hundred_thousand_are_refused_not_fatal(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("free: " + "[" * 300_000)
    with pytest.raises(ConfigError, match="nested deeper than 20 levels"):
        load_policy(tmp_path)


UNSENDABLE = """
rules:
  - name: odd
    template: block
    users: {members: listed}
    deny:
      status: 204
      headers: {"My header": "a\\nb", "my header": "é {{0}}", host: x}
      body: [[[[[[[[[[[[[[[[1.0e+30, 12345678901234567890]]]]]]]]]]]]]]]]
members:
  users:
    "two\\nlines": [{rule: odd, values: {"0": "two\\nlines"}}]
"""


def test_answers_that_no_gateway_can_send_are_for_judging_only() -> None:
    sources = [Source(Path("odd.yaml"), UNSENDABLE.encode())]
    with pytest.raises(ConfigError) as refused:
        parse_policy(sources)
    for message in (
        "found 'My header'; expected a header name",
        "header 'host' cannot be set",
        "found 'é {{0}}'; expected a header value: one line of printable ASCII",
        "found the number 1.0e+30; expected a text, a JSON number",
        "expected a text of 1 to 200 characters without control characters",
        "found 'two\\nlines'; expected a text of one line",
    ):
        assert message in str(refused.value)
    policy = parse_policy(sources, unsendable=True).policy
    (rule,) = policy.rules
    assert rule.deny.status == 204
    assert {name: value.text for name, value in rule.deny.headers.items()} == {
        "My header": "a\nb",
        "my header": "é {{0}}",
        "host": "x",
    }
    assert "12345678901234567890" in str(rule.deny.body)
    assert policy.user_members["two\nlines"][0].values == {"0": "two\nlines"}


def test_more_route_patterns_than_the_limit_are_refused(tmp_path: Path) -> None:
    routes = ", ".join(f"^/r{number}$" for number in range(20_001))
    write(tmp_path, a=f"free: [{{routes: [{routes}]}}]\n")
    with pytest.raises(ConfigError, match="more than 20000 route patterns"):
        load_policy(tmp_path)


def test_ten_thousand_route_patterns_match_in_one_set(tmp_path: Path) -> None:
    routes = ", ".join(f"'^/api/v{number}/[a-z]+$'" for number in range(10_000))
    policy = load_policy(write(tmp_path, a=f"free: [{{routes: [{routes}]}}]\n")).policy
    assert policy.routes.match("/api/v9999/x") == {9_999}
