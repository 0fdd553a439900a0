"""Metrics by the house's rules, and logs as one JSON line per fact on the right stream."""

import ast
import io
import json
import re
from pathlib import Path

import pytest
import structlog
from prometheus_client import Counter, Gauge, Histogram

from sidecar import telemetry

ROOT = Path(__file__).parents[2]
SOURCES = [path for path in (ROOT / "sidecar").rglob("*.py") if "wire" not in path.parts]
METRICS = {
    name: value
    for name, value in vars(telemetry).items()
    if isinstance(value, Counter | Gauge | Histogram)
}
FORBIDDEN_LABELS = {"customer", "customer_id", "key", "credential", "model", "user", "path"}
UNITLESS_GAUGES = {
    "sidecar_policy_reload_failing",
    "sidecar_shards_lost",
    "sidecar_allotments_open",
    "sidecar_journal_nearly_full",
    "sidecar_journal_unsettled_records",
    "sidecar_invoices_waiting",
    "sidecar_reconcile_differences",
    "sidecar_reconcile_unread_customers",
    "sidecar_provider_reads_left",
    "sidecar_report_rows",
    "sidecar_inbox_objects",
}


def full_name(metric: Counter | Gauge | Histogram) -> str:
    (family,) = metric.describe()
    return f"{family.name}_total" if isinstance(metric, Counter) else family.name


@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_metric_is_named_by_noun_unit_and_kind(name: str):
    metric = METRICS[name]
    words = full_name(metric)
    assert re.fullmatch(r"sidecar(_[a-z]+)+", words)
    assert words.endswith("_total") == isinstance(metric, Counter)
    if isinstance(metric, Histogram | Gauge) and words not in UNITLESS_GAUGES:
        assert words.endswith(("_seconds", "_bytes", "_nano")), "base units"


@pytest.mark.parametrize("name", sorted(METRICS))
def test_no_label_can_be_a_customer_a_key_or_a_model(name: str):
    assert not FORBIDDEN_LABELS & set(METRICS[name]._labelnames)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_metric_says_what_it_counts_and_is_counted_somewhere(name: str):
    assert METRICS[name]._documentation.endswith(".")
    uses = sum(f"telemetry.{name}." in path.read_text() for path in SOURCES)
    assert uses, f"{full_name(METRICS[name])} is published and never changes"


def labels_in_use() -> list[tuple[str, ast.expr]]:
    """Each argument of each `telemetry.X.labels(...)`, with the metric's name."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "labels"
            ):
                metric = ast.unparse(node.func.value).removeprefix("telemetry.")
                found += [(metric, argument) for argument in node.args]
    return found


def test_every_label_is_given_in_the_order_and_number_that_the_metric_has():
    for path in SOURCES:
        for metric, arguments in re.findall(
            r"telemetry\.([A-Z_]+)\.labels\(([^()]*(?:\([^()]*\)[^()]*)*)\)", path.read_text()
        ):
            given = len(ast.parse(f"f({arguments})").body[0].value.args)
            assert given == len(METRICS[metric]._labelnames), (path, metric)
    assert len(labels_in_use()) >= 30


def test_no_label_is_made_from_a_text_that_a_client_can_choose():
    """An f-string or a report's own field would grow the label set without an end."""
    suspicious = re.compile(r"\.(model|path|method|event_id|customer_id|user_id)\b")
    for metric, argument in labels_in_use():
        assert not suspicious.search(ast.unparse(argument)), (metric, ast.unparse(argument))
        assert not isinstance(argument, ast.JoinedStr), (metric, ast.unparse(argument))


def test_the_text_holds_every_metric_and_the_default_registry_stays_ours_alone():
    text = telemetry.metrics_text().decode()
    for metric in METRICS.values():
        assert f"# TYPE {full_name(metric)} " in text
    assert set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE)) >= {
        full_name(metric) for metric in METRICS.values()
    }
    assert "python_info" not in text


def test_the_operators_page_alarms_on_metrics_that_exist():
    page = (ROOT / "docs" / "operating.md").read_text()
    named = set(re.findall(r"`(sidecar_[a-z_]+)", page))
    assert len(named) >= 7
    assert named <= {full_name(metric) for metric in METRICS.values()}


@pytest.fixture
def restored_logging():
    yield
    structlog.reset_defaults()


def test_a_log_is_one_json_line_per_fact(restored_logging: None):
    stream = io.StringIO()
    telemetry.setup_logging("info", stream)
    telemetry.get_logger().debug("not_shown")
    telemetry.get_logger().info("hold_expired", customer_id="cus_1", text="two\nlines")
    (line,) = stream.getvalue().splitlines()
    fact = json.loads(line)
    assert fact.pop("timestamp").endswith("Z")
    assert fact == {
        "event": "hold_expired",
        "level": "info",
        "customer_id": "cus_1",
        "text": "two\nlines",
    }


@pytest.mark.parametrize(
    ("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)]
)
def test_a_level_shows_itself_and_what_is_worse(restored_logging: None, level: str, count: int):
    stream = io.StringIO()
    telemetry.setup_logging(level, stream)
    logger = telemetry.get_logger()
    for say in (logger.debug, logger.info, logger.warning, logger.error):
        say("noun_verb")
    assert len(stream.getvalue().splitlines()) == count


def test_an_errors_traceback_shows_no_variable(restored_logging: None):
    stream = io.StringIO()
    telemetry.setup_logging("info", stream)
    hidden = "secret of a frame"
    try:
        len(5)
    except TypeError as error:
        telemetry.get_logger().error("work_failed", exc_info=error)
    assert "TypeError" in stream.getvalue()
    assert hidden not in stream.getvalue()


def test_logs_go_to_standard_error(restored_logging: None, capsys: pytest.CaptureFixture[str]):
    telemetry.setup_logging("info")
    telemetry.get_logger().info("noun_verb")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err)["event"] == "noun_verb"


def test_every_event_name_is_a_noun_and_a_verb():
    names = set()
    for path in SOURCES:
        names |= set(
            re.findall(
                r"get_logger\(\)\.(?:debug|info|warning|error|exception)\(\s*f?\"([^\"]*)\"",
                path.read_text(),
            )
        )
    assert len(names) >= 20
    assert [name for name in names if not re.fullmatch(r"[a-z]+(_[a-z]+)+", name)] == []
