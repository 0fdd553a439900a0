"""`sidecar meters test`: what each meter takes of a captured event, and why not."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sidecar.cli.commands import app

DATA = Path(__file__).parents[1] / "data" / "meters"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(DATA / "policy.yaml", tmp_path)
    return tmp_path


def run(folder: Path, event: Path, *options: str):
    return CliRunner().invoke(
        app, ["meters", "test", str(event), "--policy", str(folder), *options]
    )


def test_a_chat_is_metered_by_its_providers_own_counts(folder: Path) -> None:
    result = run(folder, DATA / "anthropic.json")
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [
        "+ calls: 1; by response.status=200, label:tier=gold; prepaid 0.001 USD",
        "- images: match.routes does not fit",
        "+ weighted-tokens: 680; by model=claude-4; prepaid 0.000034 USD",
        "- gpu-minutes: match.routes does not fit (nor any of 1 alternatives)",
        "- gpu-ms: match.routes does not fit",
        "+ egress: 113; postpaid 0.000000011 USD",
        "+ slowest-ms: 1200; by route=-",
        "+ active-users: 1; distinct value 49915e0d...",
        "- stored-files: its value is not there",
    ]


def test_a_job_is_metered_by_headers_and_metadata(folder: Path) -> None:
    result = run(folder, DATA / "gpu_job.json", "--json")
    assert result.exit_code == 0, result.output
    meters = {meter["meter"]: meter for meter in json.loads(result.output)["meters"]}
    minutes = meters["gpu-minutes"]
    assert (minutes["quantity"], minutes["groups"]) == (2, {"metadata.gpu.kind": "l4"})
    assert minutes["prices"] == [{"plan": "prepaid", "currency": "USD", "amount_nano": 200_000_000}]
    assert meters["gpu-ms"]["quantity"] == 61_000
    assert meters["egress"]["quantity"] == 512
    assert meters["stored-files"]["quantity"] == 7
    assert meters["weighted-tokens"]["reason"] == "match.routes does not fit"


def test_what_would_be_set_aside_is_told(folder: Path) -> None:
    result = run(folder, DATA / "images_no_count.json")
    assert result.exit_code == 0, result.output
    assert "! images: unusable_quantity: " in result.output


def test_an_event_that_cannot_be_used_is_named(folder: Path, tmp_path: Path) -> None:
    event = tmp_path / "event.json"
    event.write_text('{"request": {"path": "/x", "colour": 1}}')
    result = run(folder, event)
    assert "request.colour" in str(result.exception)
    assert "cannot be read" in str(run(folder, tmp_path / "absent.json").exception)
