"""Processes of workers: how they begin and end, and what waits for others after their death."""

import asyncio
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from chaos.doomed import run
from chaos.points import Task

JOB_SECONDS_MAX = 120.0
TIME_PASSES = (
    "UPDATE shards SET lease_until = now() WHERE lease_owner IS NOT NULL",
    "UPDATE report_lanes SET lease_until = now() WHERE lease_owner IS NOT NULL",
    "UPDATE report_windows SET next_attempt_at = now() WHERE state = 'pending'",
    "UPDATE inbox_objects SET lease_until = '-infinity' WHERE lease_owner <> ''",
    "UPDATE inbox_objects SET retry_at = now() WHERE state = 'pending'",
    "UPDATE invoice_cursors SET leased_until = NULL WHERE leased_until IS NOT NULL",
    "UPDATE invoices SET leased_until = NULL WHERE state = 'draft'",
    "UPDATE collections SET lease_until = NULL WHERE lease_until IS NOT NULL",
    "UPDATE provider_customers SET next_attempt_at = now() WHERE next_attempt_at IS NOT NULL",
    "UPDATE report_lanes SET checked_at = '-infinity'",
    "UPDATE top_up_rules SET looked_at = '-infinity'",
    """
    UPDATE top_up_attempts SET asked_at = asked_at - interval '30 minutes',
        tried_at = tried_at - interval '30 minutes', ended_at = ended_at - interval '30 minutes'
    """,
)
"""Leases of the dead end, and what waits for another attempt is due."""


@dataclass(frozen=True, slots=True)
class End:
    """How a worker ended: `died` says where, `came_by` what it saw if it came to its end."""

    died: str = ""
    came_by: Counter[str] | None = None


class Workers:
    """Forks of one process that has imported everything."""

    def __init__(self) -> None:
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(["chaos.doomed"])
        with _importable(Path(__file__).parents[1]):
            forkserver.ensure_running()

    async def live(self, task: Task, kill_after: float) -> End:
        """One worker's life; it is killed after so many seconds, if that is not 0."""
        ours, theirs = self._processes.Pipe(duplex=False)
        process = self._processes.Process(target=run, args=(task, theirs), daemon=True)
        # Never in threads: what starts and what waits read from the same descriptors.
        process.start()
        theirs.close()
        if kill_after and not await _has_ended(process, kill_after):
            process.kill()
        if not await _has_ended(process, JOB_SECONDS_MAX):
            process.kill()
            raise AssertionError(f"{task.job} did not end")
        answer: str | Counter[str] = "at any moment"
        with suppress(EOFError):
            answer = ours.recv() if ours.poll() else answer
        ours.close()
        if process.exitcode == -signal.SIGKILL:
            return End(died=answer if isinstance(answer, str) else "at its end")
        assert process.exitcode in (0, 1), process.exitcode
        if process.exitcode == 1:
            return End()
        assert isinstance(answer, Counter)
        return End(came_by=answer)


async def _has_ended(process: Any, seconds: float) -> bool:
    """Whether a process ends in that time."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(process.sentinel, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), seconds)
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(process.sentinel)
    process.join()
    return True


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """A server of forks imports what its children need once, if it can find it."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder), before)))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
