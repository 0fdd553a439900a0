"""A dated list of model prices: read with its lines, compared with plans, written as a policy."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sidecar.cli.commands import app
from sidecar.domain.errors import ConfigError
from sidecar.domain.model_prices import Kind
from sidecar.domain.pricing import CostPlus, FreeQuota, PerUnit
from sidecar.outbound.model_price_files import read_model_prices
from sidecar.outbound.policy_files.loader import load_policy

POLICY = """
estimates: [{match: {routes: ['^/ai/']}, from: body, default: {input: 10, output: 10}}]
models: {gpt: {max_output: 10}, listed: {max_output: 10}}
meters:
  - {name: input, match: {routes: ['^/ai/']}, value: usage.input}
  - {name: output, match: {routes: ['^/ai/']}, value: usage.output}
  - {name: cached, match: {routes: ['^/ai/']}, value: usage.cache_read}
  - {name: calls, match: {routes: ['^/ai/']}, value: requests}
plans:
  - name: pro
    billing: prepaid
    currency: USD
    prices:
      - {meter: input, model: per_unit, amount: "2.50", per: 1000000, models: [gpt, old]}
      - {meter: output, model: per_unit, amount: "10", per: 1000000, models: [gpt, old]}
      - {meter: calls, model: per_unit, amount: "0.001"}
"""
LIST = """
currency: USD
source: price page
models:
  - {model: gpt, effective: 2026-11-01, input: 2.50, output: 12}
  - {model: new, effective: 2026-11-01, input: "0.25", output: "2.00", cache_read: 0.025}
  - {model: new, effective: 2027-01-01, input: "0.20", output: "2.00"}
  - {model: euro, effective: 2026-11-01, currency: EUR, input: 1}
"""
NOW = "2026-11-28T00:00:00Z"
RUNNER = CliRunner()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    policy = tmp_path / "policy"
    policy.mkdir()
    (policy / "1.yaml").write_text(POLICY)
    return policy


def run(folder: Path, text: str, *options: str, name: str = "list.yaml"):
    listed = folder.parent / name
    listed.write_text(text)
    words = ["catalog", "import", "models", str(listed), "--policy", str(folder), "--at", NOW]
    return RUNNER.invoke(app, [*words, *options])


def changes(folder: Path, text: str, *options: str) -> list[list[tuple[str, str, str]]]:
    result = run(folder, text, "--json", *options)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    plans = json.loads(result.stdout)["plans"]
    return [
        [(one["change"], one["model"], one["meter"]) for one in plan["changes"]] for plan in plans
    ]


def test_each_price_is_new_changed_the_same_gone_or_missing(folder: Path) -> None:
    first, later = changes(folder, LIST)
    assert first == [
        ("same", "gpt", "input"),
        ("changed", "gpt", "output"),
        ("unpriced", "listed", "input"),
        ("unpriced", "listed", "output"),
        ("new", "new", "input"),
        ("new", "new", "output"),
        ("gone", "old", "input"),
        ("gone", "old", "output"),
    ]
    assert [one for one in later if one[0] in ("new", "changed")] == [("changed", "new", "input")]


def test_a_model_that_would_be_refused_ends_with_1_and_is_told(folder: Path) -> None:
    result = run(folder, LIST)
    assert result.exit_code == 1
    assert "! listed input: no price; requests for it are refused" in result.stdout
    assert "~ gpt output: 10.00 per 1000000 -> 12.00 per 1000000" in result.stdout
    assert "list.yaml:5, price page" in result.stdout
    assert "? euro: its row is in another currency" in result.stdout
    assert "? cache_read: no meter of the plan counts it" in result.stdout
    whole = LIST + "  - {model: listed, effective: 2026-11-01, input: 1, output: 1}\n"
    assert run(folder, whole).exit_code == 0


def test_what_is_written_loads_as_it_is_and_then_nothing_differs(folder: Path) -> None:
    target = folder / "2-models.yaml"
    run(folder, LIST, "--write", str(target))
    policy = load_policy(folder).policy
    for instant, price in (
        (datetime(2026, 10, 31, tzinfo=UTC), None),
        (datetime(2026, 11, 1, tzinfo=UTC), PerUnit(amount_nano=250_000_000, per=1_000_000)),
        (datetime(2027, 1, 1, tzinfo=UTC), PerUnit(amount_nano=200_000_000, per=1_000_000)),
    ):
        card = policy.card_for("pro", "cus_1", instant)
        assert card is not None
        found = card.line_for("input", "new")
        assert (None if found is None else found[1].price) == price
        assert card.line_for("calls", "any") is not None
        assert card.line_for("input", "old") is not None
    again = changes(folder, LIST)
    assert not [one for plan in again for one in plan if one[0] in ("new", "changed")]


def test_a_file_that_is_there_is_not_written_over(folder: Path) -> None:
    target = folder / "2-models.yaml"
    target.write_text("plans: []\n")
    result = run(folder, LIST, "--write", str(target))
    assert isinstance(result.exception, ConfigError)
    assert target.read_text() == "plans: []\n"


def test_a_mark_up_makes_the_list_a_cost(folder: Path) -> None:
    run(folder, LIST, "--markup", "12.5%", "--write", str(folder / "2-models.yaml"))
    policy = load_policy(folder).policy
    card = policy.card_for("pro", "", datetime(2026, 12, 1, tzinfo=UTC))
    assert card is not None
    found = card.line_for("output", "gpt")
    assert found is not None
    assert found[1].price == CostPlus(cost_nano=12_000_000_000, per=1_000_000, markup=1_250)


def test_a_meter_that_the_plan_did_not_price_leaves_other_models_without_a_price(
    folder: Path,
) -> None:
    first = changes(folder, LIST, "--meter", "cache_read=cached")[0]
    assert ("new", "new", "cached") in first
    assert ("unpriced", "gpt", "cached") in first


def test_a_price_of_another_kind_is_left_as_it_is(folder: Path) -> None:
    text = POLICY.replace(
        'model: per_unit, amount: "10", per: 1000000', 'model: package, amount: "10", per: 1000'
    ).replace('amount: "2.50", per: 1000000', 'amount: "2.50", per: 1000000, free: 5')
    (folder / "1.yaml").write_text(text)
    assert changes(folder, LIST)[0][:2] == [("kept", "gpt", "input"), ("kept", "gpt", "output")]
    card = load_policy(folder).policy.cards["pro"]
    assert isinstance(card.lines[0].price, FreeQuota)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--plan", "pr"], "unknown plan 'pr'; did you mean 'pro'"),
        (["--meter", "input=inputs"], "unknown meter 'inputs'; did you mean 'input'"),
        (["--meter", "inputs"], "expected one of input=METER"),
        (["--markup", "0.2"], "expected a percentage"),
    ],
)
def test_options_that_cannot_be_meant_are_told(folder: Path, options: list, words: str) -> None:
    result = run(folder, LIST, *options)
    assert isinstance(result.exception, ConfigError)
    assert words in str(result.exception)


def test_a_table_has_the_same_rows_as_a_tree(tmp_path: Path) -> None:
    table, tree = tmp_path / "a.csv", tmp_path / "a.json"
    table.write_text(
        "model,effective,input,output,per,source\r\n"
        'gpt,2026-11-01,2.5,10,,"a, b"\r\n'
        "\r\n"
        '"x\nnew",2026-11-01T06:00:00+06:00,,0.000000001,1000,\r\n'
        "new,2026-11-01T06:00:00+06:00,,0.000000001,1000,\r\n"
    )
    with pytest.raises(ConfigError) as failure:
        read_model_prices(table)
    assert str(failure.value) == f"{table}:4:1: the row has no `model`; it is required"
    table.write_text(
        table.read_text().replace('"x\nnew",2026-11-01T06:00:00+06:00,,0.000000001,1000,\n', "")
    )
    tree.write_text(
        '[{"model": "gpt", "effective": "2026-11-01", "input": 2.5, "output": 10, '
        '"source": "a, b"},\n'
        ' {"model": "new", "effective": "2026-11-01", "output": "0.000000001", "per": 1000}]'
    )
    rows, same = read_model_prices(table), read_model_prices(tree)
    assert [(r.model, r.effective_at, r.currency, r.per, r.prices, r.source) for r in rows] == [
        (r.model, r.effective_at, r.currency, r.per, r.prices, r.source) for r in same
    ]
    assert rows[0].prices == {Kind.INPUT: 2_500_000_000, Kind.OUTPUT: 10_000_000_000}
    assert rows[1].prices == {Kind.OUTPUT: 1}
    assert rows[1].place == f"{table}:4"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{effective: 2026-11-01, input: 1}", ":2:3: the row has no `model`"),
        ("{model: m, input: 1}", ":2:3: the row has no `effective`"),
        ("{model: m, effective: 2026-13-01, input: 1}", ":2:25: found '2026-13-01'"),
        ("{model: m, effective: 2026-11-01}", ":2:3: the row has no price"),
        ("{model: m, effective: 2026-11-01, input: 1e-6}", ":2:44: input '1e-6' is not an amount"),
        ("{model: m, effective: 2026-11-01, input: -1}", ":2:44: input '-1' is negative"),
        ("{model: m, effective: 2026-11-01, input: 1, per: 0}", ":2:52: found '0'"),
        ("{model: m, effective: 2026-11-01, inputs: 1}", ":2:37: unknown key 'inputs'"),
        ("{model: m, effective: 2026-11-01, input: [1]}", ":2:44: found a list"),
        ("{model: m, effective: 2026-11-01, input: 1, currency: usd}", ":2:57: currency 'usd'"),
        ("{model: a, effective: 2026-11-01, input: 1}", ":2:3: model 'a' has a second row"),
        ("gpt", ":2:3: found 'gpt'; expected a mapping"),
    ],
)
def test_a_bad_row_is_told_with_its_line(tmp_path: Path, row: str, words: str) -> None:
    path = tmp_path / "list.yaml"
    path.write_text(f"- {{model: a, effective: 2026-11-01, input: 1}}\n- {row}\n")
    with pytest.raises(ConfigError) as failure:
        read_model_prices(path)
    assert str(failure.value).startswith(f"{path}{words}")


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.txt", b"", "is no price list"),
        ("a.yaml", b"", "has no rows"),
        ("a.yaml", b"model: x", "unknown key 'model'"),
        ("a.csv", b"model,efective\n", ":1:2: unknown column 'efective'"),
        ("a.csv", b"model,model\n", "a column stands twice"),
        ("a.csv", b"model,effective,input\nm,2026-11-01\n", ":2:1: the row has 2 cells"),
        ("a.csv", b'model,effective,input\n"m,2026-11-01,1\n', "the file is not CSV"),
        ("a.csv", b"\xff", "not UTF-8"),
        ("gone.csv", None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_list_is_refused(
    tmp_path: Path, name: str, data: bytes | None, words: str
) -> None:
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ConfigError, match=words):
        read_model_prices(path)
