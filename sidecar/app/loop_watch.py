"""How long steps of the event loop keep everybody else waiting: a check's latency has it in it."""

import asyncio
from typing import Final

from sidecar import telemetry

PAUSE_SECONDS: Final = 0.02
"""Between looks: of a longer step nothing is missed, a shorter one is met by chance."""


async def watch_loop(stop: asyncio.Event, *, pause_seconds: float = PAUSE_SECONDS) -> None:
    """Observe how late this coroutine is woken, until stopped."""
    loop = asyncio.get_running_loop()
    while not stop.is_set():
        due = loop.time() + pause_seconds
        await asyncio.sleep(pause_seconds)
        telemetry.LOOP_LATENESS.observe(max(0.0, loop.time() - due))
