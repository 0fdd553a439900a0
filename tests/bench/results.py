"""What was measured, on which machine: one table on the screen, one JSON file."""

import json
import os
import platform
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

RATE_WHOLE = 10
"""From here on a rate is shown without decimals."""
RESULTS = Path(__file__).resolve().parents[2] / "build" / "bench-results.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """
    Medians over the runs of one measurement.

    `low` and `high` are the slowest and fastest run's rate. Processor time is in microseconds
    for each check or event: of the measured process, of Redis, and of Envoy. Resident memory is
    that of the measured process at the end.
    """

    what: str
    setting: str
    runs: int
    per_second: float
    low: float
    high: float
    cpu_us: float
    redis_us: float | None = None
    envoy_us: float | None = None
    resident_mib: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    note: str = ""


@dataclass(slots=True)
class Results:
    machine: dict[str, str]
    rows: list[Row] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        self.rows.append(row)

    def write(self, path: Path = RESULTS) -> Path:
        """Keep the file's rows that were not measured anew, each with its own machine."""
        kept: dict[str, Any] = {}
        if path.exists():
            kept = json.loads(path.read_text())
        measured = {f"{row.what}, {row.setting}": asdict(row) for row in self.rows}
        for row in measured.values():
            row["machine"] = self.machine
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(kept | measured | self.texts, indent=1) + "\n")
        return path

    def show(self, console: Console) -> None:
        console.print()
        for name, value in self.machine.items():
            console.print(f"{name}: {value}", highlight=False)
        shown = [
            (heading, write)
            for heading, is_measured, write in _NUMBERS
            if any(is_measured(row) for row in self.rows)
        ]
        table = Table(title="Medians")
        table.add_column("what")
        table.add_column("setting")
        for heading, _ in shown:
            table.add_column(heading, justify="right")
        table.add_column("note")
        for row in self.rows:
            table.add_row(row.what, row.setting, *(write(row) for _, write in shown), row.note)
        console.print(table)
        for name, text in self.texts.items():
            console.print(f"\n{name}\n{text}", highlight=False, markup=False)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= RATE_WHOLE else f"{value:.2f}"


def _always(_: Row) -> bool:
    return True


_NUMBERS: list[tuple[str, Callable[[Row], bool], Callable[[Row], str]]] = [
    ("per second", _always, lambda row: _rate(row.per_second)),
    ("(low-high)", _always, lambda row: f"{_rate(row.low)}-{_rate(row.high)}"),
    ("p50 ms", _always, lambda row: _number(row.p50_ms, 2)),
    ("p99 ms", _always, lambda row: _number(row.p99_ms, 2)),
    ("CPU us", _always, lambda row: _number(row.cpu_us, 0)),
    ("Redis us", _always, lambda row: _number(row.redis_us, 0)),
    ("Envoy us", lambda row: row.envoy_us is not None, lambda row: _number(row.envoy_us, 0)),
    ("MiB", lambda row: row.resident_mib is not None, lambda row: _number(row.resident_mib, 0)),
    ("runs", _always, lambda row: str(row.runs)),
]
"""Columns of the table: heading, of which rows it is shown, and what stands in it."""


def medians(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    """Each number's median over the runs."""
    return {name: median(run[name] for run in runs) for name in runs[0]}


def row_of_loads(
    what: str, setting: str, runs: Sequence[dict[str, Any]], *, events_each: int = 1
) -> Row:
    """
    Runs of the load client as a row; only what was accepted counts as done.

    Args:
        what, setting: Name the measurement.
        runs: As `Gateway.load` returned them.
        events_each: Checks or events in one message.
    """
    numbers = [
        {
            "rate": run["accepted"] * events_each / run["seconds"],
            "p50": run["p50_ms"],
            "p99": run["p99_ms"],
            "cpu": run["cpu_seconds"] / (run["sent"] * events_each) * 1e6,
            "redis": run["redis_seconds"] / (run["sent"] * events_each) * 1e6,
            "client": run["client_cpu_seconds"] / (run["sent"] * events_each) * 1e6,
        }
        for run in runs
    ]
    middle = medians(numbers)
    failed: Counter[str] = Counter()
    for run in runs:
        failed.update(run["failed"])
    sent = sum(run["sent"] for run in runs)
    return Row(
        what=what,
        setting=setting,
        runs=len(runs),
        per_second=middle["rate"],
        low=min(run["rate"] for run in numbers),
        high=max(run["rate"] for run in numbers),
        p50_ms=middle["p50"],
        p99_ms=middle["p99"],
        cpu_us=middle["cpu"],
        redis_us=middle["redis"],
        note=", ".join(
            [
                f"client {middle['client']:.0f} us",
                *(f"{code} {count} of {sent}" for code, count in sorted(failed.items())),
            ]
        ),
    )


def describe_machine(redis_version: str, postgres_version: str) -> dict[str, str]:
    """What the numbers depend on; the load is that before anything was measured."""
    memory = _field(Path("/proc/meminfo"), "MemTotal", lambda text: int(text.split()[0]))
    return {
        "CPU": f"{os.cpu_count()} x {_field(Path('/proc/cpuinfo'), 'model name', str)}, "
        f"{_field(Path('/proc/cpuinfo'), 'cpu MHz', float):.0f} MHz",
        "RAM": f"{memory / 1024**2:.1f} GiB",
        "Linux": platform.release(),
        "Python": f"{platform.python_version()}, grpcio {version('grpcio')}, "
        f"uvloop {version('uvloop')}, protobuf {version('protobuf')}",
        "Redis": redis_version,
        "Postgres": postgres_version,
        "load before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }


def _field(path: Path, name: str, read: Callable[[str], Any]) -> Any:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return read(value.strip())
    return read("0")
