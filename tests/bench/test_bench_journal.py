"""What the journal costs an event: the same usage intake with it and without, in turn."""

from pathlib import Path
from statistics import median

import pytest
from bench.deployment import Gateway, running_gateway
from bench.results import Results, row_of_loads

from sidecar.outbound.journal.folder import list_segments, segment_path
from sidecar.outbound.journal.frames import Frame, read_frames
from sidecar.services.control_ports import Customer

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHECK, EXPORT = "CheckRequest_json_ok", "ExportLogsServiceRequest_json"
BATCHES = {(1, 1): 200, (20, 1): 40, (20, 4): 40}
"""Batches of one run, by (records of a batch, batches under way)."""
RUNS = 5
CUSTOMERS = [
    Customer(customer_id=f"cus_{number:02d}", plan="prepaid", currency="USD")
    for number in range(32)
]


async def test_the_cost_of_the_journal(redis_of_test: str, bench_folder: Path, results: Results):
    journal = bench_folder / "journal"
    off = {"SIDECAR_JOURNAL": "off"}
    on = {"SIDECAR_JOURNAL": "on", "SIDECAR_JOURNAL_DIR": str(journal)}
    sent = 0
    async with (
        running_gateway(
            bench_folder / "off", redis_of_test, customers=CUSTOMERS, settings=off
        ) as without,
        running_gateway(
            bench_folder / "on", redis_of_test, customers=CUSTOMERS, settings=on
        ) as with_it,
    ):
        for gateway in (without, with_it):
            await _export(gateway, events=200, batch=20, concurrency=1)
        sent += 200
        for (batch, concurrency), count in BATCHES.items():
            runs: dict[str, list] = {"off": [], "on": []}
            for _ in range(RUNS):
                for name, gateway in (("off", without), ("on", with_it)):
                    run = await _export(
                        gateway, events=count * batch, batch=batch, concurrency=concurrency
                    )
                    assert run["accepted"] == count, run
                    runs[name].append(run)
            sent += RUNS * count * batch
            setting = f"batches of {batch}, {concurrency} at a time"
            for name, measured in runs.items():
                results.add(
                    row_of_loads(
                        f"usage events, OTLP, journal {name}",
                        setting,
                        measured,
                        events_each=batch,
                    )
                )
            ratios = [
                on["seconds"] / off["seconds"]
                for off, on in zip(runs["off"], runs["on"], strict=True)
            ]
            cpu = [
                on["cpu_seconds"] / off["cpu_seconds"]
                for off, on in zip(runs["off"], runs["on"], strict=True)
            ]
            results.texts[f"journal on over off, {setting}"] = (
                f"time {median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}), "
                f"CPU {median(cpu):.2f}"
            )
        # Acknowledged is on the disk: nothing settles here, so the journal has every event once.
        assert _frames(journal) == sent


def _frames(folder: Path) -> int:
    return sum(
        isinstance(found, Frame)
        for number in list_segments(folder)
        for found in read_frames(segment_path(folder, number).read_bytes())
    )


async def _export(
    gateway: Gateway, *, events: int, batch: int, concurrency: int
) -> dict[str, float]:
    """Place holds, then measure how their usage is taken."""
    await gateway.client.ask({"do": "hold", "capture": CHECK, "count": events})
    return await gateway.load(do="export", capture=EXPORT, batch=batch, concurrency=concurrency)
