"""A step of the event loop that is too long is seen."""

import asyncio
import time

from sidecar import telemetry
from sidecar.app.loop_watch import watch_loop


def late() -> dict[str, float]:
    """How often the loop was late at most so long, by bucket."""
    (metric,) = telemetry.LOOP_LATENESS.collect()
    return {
        sample.labels["le"]: sample.value
        for sample in metric.samples
        if sample.name.endswith("_bucket")
    }


async def test_a_step_that_blocks_is_seen_and_waiting_is_not():
    stop, before = asyncio.Event(), late()
    watching = asyncio.ensure_future(watch_loop(stop, pause_seconds=0.001))
    await asyncio.sleep(0.05)
    time.sleep(0.3)  # noqa: ASYNC251  The fault that is looked for.
    await asyncio.sleep(0.01)
    stop.set()
    await watching
    after = late()
    longest = (after["+Inf"] - after["0.25"]) - (before["+Inf"] - before["0.25"])
    assert longest >= 1
    assert after["+Inf"] - before["+Inf"] > longest
