"""Decision records: what the log's worker spends on each."""

import time

import pytest
from bench.results import Results, Row
from fixtures.replay_world import World

from sidecar.domain.decision_records import encode_record
from sidecar.domain.policy_reads import KnownReads
from sidecar.services.decision_log import record_of
from sidecar.services.ports import MadeDecision

pytestmark = pytest.mark.asyncio(loop_scope="session")

RUNS, EVENTS = 9, 600


async def test_making_and_encoding_a_record(results: Results):
    made = [event for event in World(12).made(EVENTS) if isinstance(event, MadeDecision)]
    assert len(made) > EVENTS // 2
    reads = KnownReads()
    record_of(made[0], reads)
    seconds, size = [], 0
    for _ in range(RUNS):
        began = time.perf_counter()
        size = sum(len(encode_record(record_of(event, reads))) for event in made)
        seconds.append((time.perf_counter() - began) / len(made))
    middle = sorted(seconds)[RUNS // 2]
    results.add(
        Row(
            what="decision records, made and encoded",
            setting=f"{len(made)} decisions of all kinds",
            runs=RUNS,
            per_second=1 / middle,
            low=1 / max(seconds),
            high=1 / min(seconds),
            cpu_us=middle * 1e6,
            note=f"{size / len(made):.0f} characters each",
        )
    )
