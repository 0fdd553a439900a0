"""Usage intake: bytes of Envoy's OpenTelemetry logger to captures in a real Redis."""

from pathlib import Path

import pytest
from bench.deployment import BACKGROUND, Gateway, running_gateway
from bench.results import Results, row_of_loads

from sidecar.outbound.redis.scripts import CAPTURE, PLACE
from sidecar.services.control_ports import Customer

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHECK, EXPORT = "CheckRequest_json_ok", "ExportLogsServiceRequest_json"
BATCHES = {(1, 1): 300, (20, 1): 50, (20, 4): 50}
"""Batches of one run, by (records of a batch, batches under way). Envoy's buffer of 16 KiB
takes some twenty records; each of its workers sends one batch at a time."""
RUNS = 5
COUNTED = 200
CUSTOMERS = [
    Customer(customer_id=f"cus_{number:02d}", plan="prepaid", currency="USD")
    for number in range(32)
]


async def test_usage_events_a_second(redis_of_test: str, bench_folder: Path, results: Results):
    async with running_gateway(
        bench_folder / "usage", redis_of_test, customers=CUSTOMERS
    ) as gateway:
        await _export(gateway, events=400, batch=20, concurrency=1)
        for (batch, concurrency), count in BATCHES.items():
            before = await gateway.redis.usage_records()
            runs = [
                await _export(gateway, events=count * batch, batch=batch, concurrency=concurrency)
                for _ in range(RUNS)
            ]
            # Acknowledged is captured: each hold has its record on the stream, once.
            assert all(run["accepted"] == count for run in runs), runs
            assert await gateway.redis.usage_records() - before == RUNS * count * batch
            setting = f"batches of {batch}, {concurrency} at a time"
            results.add(row_of_loads("usage events, OTLP", setting, runs, events_each=batch))


async def test_an_event_asks_redis_once(redis_of_test: str, bench_folder: Path):
    async with running_gateway(
        bench_folder / "usage-count",
        redis_of_test,
        customers=CUSTOMERS,
        # Nothing may be forgotten or given up, however slow the machine is at the moment.
        settings={"SIDECAR_DIRECTORY_SECONDS": "3600", "SIDECAR_STORE_TIMEOUT_MS": "10000"},
    ) as gateway:
        await _export(gateway, events=2 * len(CUSTOMERS), batch=20, concurrency=1)
        commands = await gateway.redis.commands_during(
            _export(gateway, events=COUNTED, batch=20, concurrency=1)
        )
        asked = [
            command
            for command in commands
            # INFO is what the measurement itself asks for.
            if not BACKGROUND.match(command) and not command.startswith("INFO ")
        ]
        place, capture = f"EVALSHA {PLACE.sha}", f"EVALSHA {CAPTURE.sha}"
        assert asked == [place] * COUNTED + [capture] * COUNTED


async def _export(
    gateway: Gateway, *, events: int, batch: int, concurrency: int
) -> dict[str, float]:
    """Place holds, then measure how their usage is taken."""
    await gateway.client.ask({"do": "hold", "capture": CHECK, "count": events})
    return await gateway.load(do="export", capture=EXPORT, batch=batch, concurrency=concurrency)
