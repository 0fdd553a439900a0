"""
The line between a worker and its supervisor: a socket that only they have.

The worker publishes once a second what it counted and what keeps it from being ready. Its end of
file means that the supervisor is gone, so nobody would ever stop this worker: it stops itself.
"""

import asyncio
import json
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from sidecar import telemetry
from sidecar.app.worker_metrics import text_of

if TYPE_CHECKING:
    from prometheus_client import Metric

PUBLISH_SECONDS: Final = 1.0
NEWS_BYTES_MAX: Final = 16 * 1024 * 1024
"""Of one publication."""
_STEP_METRICS: Final = 12
"""Collected before other work of the loop gets its turn: checks must not wait for all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What a worker says of itself; it is ready if there is no problem."""

    problems: tuple[str, ...]
    metrics: str

    def to_line(self) -> bytes:
        """One line."""
        return json.dumps({"problems": self.problems, "metrics": self.metrics}).encode() + b"\n"

    @classmethod
    def of_line(cls, line: bytes) -> Self:
        """Read what `to_line` wrote."""
        content = json.loads(line)
        return cls(problems=tuple(content["problems"]), metrics=content["metrics"])


async def publish(
    channel: socket.socket,
    problems: Callable[[], Sequence[str]],
    stop: asyncio.Event,
    *,
    seconds: float = PUBLISH_SECONDS,
) -> None:
    """
    Publish until stopped, and once more; sets `stop` itself when the supervisor is gone.

    Args:
        channel: The worker's end.
        problems: What keeps it from being ready.
        stop: Of the worker.
        seconds: Between two publications.
    """
    reader, writer = await asyncio.open_connection(sock=channel)
    gone = asyncio.create_task(_wait_gone(reader, stop))
    try:
        while not stop.is_set():
            await _tell(writer, problems())
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), seconds)
        await _tell(writer, ("it stops",))
    except ConnectionError:
        stop.set()
    finally:
        gone.cancel()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def _wait_gone(reader: asyncio.StreamReader, stop: asyncio.Event) -> None:
    with suppress(ConnectionError):
        await reader.read()
    if not stop.is_set():
        telemetry.get_logger().error("supervisor_gone")
        stop.set()


async def _tell(writer: asyncio.StreamWriter, problems: Sequence[str]) -> None:
    parts: list[str] = []
    batch: list[Metric] = []
    for metric in telemetry.REGISTRY.collect():
        batch.append(metric)
        if len(batch) == _STEP_METRICS:
            parts.append(text_of(batch))
            batch.clear()
            await asyncio.sleep(0)
    parts.append(text_of(batch))
    writer.write(News(problems=tuple(problems), metrics="".join(parts)).to_line())
    await writer.drain()
