"""`sidecar rules replay`, `rules shadow` and `decisions export`, over an export."""

import json
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import pytest
import structlog
from fixtures.memory_decisions import MemoryDecisions
from fixtures.replay_world import START, World, make_policy
from typer.testing import CliRunner

from sidecar.cli import decisions
from sidecar.cli.commands import app
from sidecar.cli.decisions import read_span
from sidecar.domain.decision_records import DecisionRecord, encode_record
from sidecar.domain.errors import ConfigError, StoreUnavailable
from sidecar.outbound.decision_files import read_events, write_events
from sidecar.outbound.policy_files import loader
from sidecar.services.decision_ports import StreamedDecision
from sidecar.services.replaying import recorded_events

SINCE = "2026-01-31T00:00:00Z"
SPAN = ("--since", SINCE, "--until", "2026-02-02T00:00:00Z")


@pytest.fixture
async def export(tmp_path: Path) -> Path:
    path = tmp_path / "decisions.jsonl"

    async def events() -> AsyncIterator[object]:
        for event in World(6).events(600):
            yield event

    await write_events(path, events())
    return path


@pytest.fixture(autouse=True)
def logs_of_their_own() -> Iterator[None]:
    """A command sets logging up for its own standard error, which ends with it."""
    yield
    structlog.reset_defaults()


class Loaded:
    def __init__(self, policy) -> None:
        self.policy = policy


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str, policy=None):
    """Run a command; the policy files' reader answers the world's policy."""
    monkeypatch.setattr(loader, "load_policy", lambda _: Loaded(policy or make_policy()))
    result = CliRunner().invoke(app, arguments)
    assert result.exception is None, result.exception
    return result.stdout


def test_an_unchanged_policy_is_reported_as_such(monkeypatch, export):
    out = run(monkeypatch, "rules", "replay", "--log", str(export), *SPAN, "--json")
    report = json.loads(out)
    assert report["decisions"] == report["reproduced"] + report["kept"] > 300
    assert report["allow_to_deny"]["decisions"] == report["deny_to_allow"]["decisions"] == 0
    assert report["revenue"] == report["flips"] == []


def test_changed_rules_are_reported_with_who_when_and_what(monkeypatch, export):
    policy = make_policy(rules=(), version="after")
    out = run(monkeypatch, "rules", "replay", "--log", str(export), *SPAN, "--json", policy=policy)
    report = json.loads(out)
    assert report["deny_to_allow"]["decisions"] > 10
    flip = report["flips"][0]
    assert flip["customer_id"].startswith("cus_")
    assert flip["at"].startswith("2026-01-31T22:")
    words = run(monkeypatch, "rules", "replay", "--log", str(export), *SPAN, policy=policy)
    assert "deny -> allow: " in words
    assert "revenue changes for" in words


def test_one_customer_can_be_replayed_alone(monkeypatch, export):
    alone = ("rules", "replay", "--log", str(export), *SPAN, "--json", "--customer", "cus_3")
    assert 0 < json.loads(run(monkeypatch, *alone))["decisions"] < 60


def test_shadow_rules_are_reported(monkeypatch, export):
    report = json.loads(run(monkeypatch, "rules", "shadow", "--log", str(export), *SPAN, "--json"))
    names = {rule["rule"] for rule in report["rules"]}
    assert "block-beta" in names
    words = run(monkeypatch, "rules", "shadow", "--log", str(export), *SPAN)
    assert "block-beta: would deny" in words


def test_a_damaged_export_is_told_with_its_line(tmp_path: Path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"usage":5}\n')
    result = CliRunner().invoke(app, ["rules", "shadow", "--log", str(path), *SPAN])
    assert isinstance(result.exception, ConfigError)
    assert f"{path}:1: no decision record" in str(result.exception)


def test_decisions_are_exported_from_the_table(monkeypatch, tmp_path: Path):
    table = MemoryDecisions()
    events = [event for event in World(7).events(200) if isinstance(event, DecisionRecord)]
    for record in events:
        row = StreamedDecision(shard=0, entry_id="1-1", record=record, payload=b"")
        table.rows[record.decision_id, record.allow] = row.record

    @asynccontextmanager
    async def open_table(settings):
        yield table

    monkeypatch.setattr(decisions, "open_table", open_table)
    path = tmp_path / "out.jsonl"
    out = run(monkeypatch, "decisions", "export", *SPAN, "-o", str(path))
    assert out == f"{path}: {len(events)} decisions, 0 usage events\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_text().splitlines()) == len(events)


def test_a_database_that_nobody_named_is_told():
    result = CliRunner().invoke(app, ["rules", "shadow", "--since", "1d"])
    assert isinstance(result.exception, ConfigError)
    assert "--log" in str(result.exception)


async def test_an_export_reads_back_as_it_was_written(export: Path):
    written = list(World(6).events(600))
    assert [event async for event in read_events(export)] == written


async def test_usage_comes_after_its_decision_and_before_later_ones():
    table = MemoryDecisions()
    events = list(islice(World(8).events(500), 600))
    for event in events:
        if isinstance(event, DecisionRecord):
            table.rows[event.decision_id, event.allow] = event
            assert encode_record(event)
        else:
            table.used.append(event)
    begin, end = START - timedelta(hours=1), START + timedelta(days=1)
    merged = [event async for event in recorded_events(table, since=begin, until=end)]
    assert len(merged) == len(events)
    instants = [
        event.instant_ms if isinstance(event, DecisionRecord) else event.at_ms for event in merged
    ]
    assert instants == sorted(instants)


@pytest.mark.parametrize(
    "text", ["", "soon", "2d3h", "2026-01-31", "2026-01-31T10:00:00", "99999999d"]
)
def test_a_span_that_is_none_is_refused(text: str):
    with pytest.raises(ConfigError, match="--since"):
        read_span(text, "")


def test_spans_count_back_from_now_and_instants_are_taken_as_they_are():
    begin, end = read_span("2d", "")
    assert timedelta(days=2) - timedelta(seconds=1) < end - begin <= timedelta(days=2)
    begin, end = read_span("2026-01-31T10:00:00+01:00", "2026-01-31T10:00:00Z")
    assert (begin, end) == (
        datetime(2026, 1, 31, 9, tzinfo=UTC),
        datetime(2026, 1, 31, 10, tzinfo=UTC),
    )
    with pytest.raises(ConfigError, match="nothing lies between"):
        read_span("1h", "2h")


async def test_an_export_that_fails_leaves_no_half_of_it(tmp_path):
    path = tmp_path / "export.jsonl"
    path.write_text("of before\n")

    async def breaking():
        for event in islice(World(2).events(10), 3):
            yield event
        raise StoreUnavailable("away")

    with pytest.raises(StoreUnavailable):
        await write_events(path, breaking())
    assert path.read_text() == "of before\n"
    assert list(tmp_path.iterdir()) == [path]
