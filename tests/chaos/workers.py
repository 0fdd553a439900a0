"""Processes of workers: how they begin and end, and what waits for others after their death."""

import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from chaos.doomed import run
from chaos.points import Task
from fixtures.forks import Fork, Forks

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
    """
    How a worker ended.

    `died` and `stood` say where it did, `came_by` what it saw if it came to its end.
    """

    died: str = ""
    stood: str = ""
    came_by: Counter[str] | None = None


class Workers:
    """Forks of one process that has imported everything."""

    def __init__(self) -> None:
        self._forks = Forks("chaos.doomed")

    async def live(self, task: Task, kill_after: float) -> End:
        """One worker's life; it is killed after so many seconds, if that is not 0."""
        worker = self._forks.start(run, task)
        if kill_after and not await worker.has_ended(kill_after):
            worker.kill()
        if not await worker.has_ended(JOB_SECONDS_MAX):
            worker.kill()
            raise AssertionError(f"{task.job} did not end")
        return _end_of(worker)

    async def outlive(self, task: Task, meanwhile: Callable[[], Awaitable[None]]) -> End:
        """A worker that stands still at its point, as in a long pause, and then goes on."""
        worker = self._forks.start(run, replace(task, stands_still=True))
        stands = ""
        if await worker.has_spoken(JOB_SECONDS_MAX):
            answer = worker.take_answer()
            if not isinstance(answer, str):
                await worker.has_ended(JOB_SECONDS_MAX)
                return _end_of(worker, answer)
            stands = answer
            try:
                await meanwhile()
            finally:
                worker.go_on()
        if not await worker.has_ended(JOB_SECONDS_MAX):
            worker.kill()
            raise AssertionError(f"{task.job} did not end after it stood {stands}")
        return replace(_end_of(worker), stood=stands)


def _end_of(worker: Fork, answer: Any = None) -> End:
    answer = worker.take_answer() if answer is None else answer
    worker.close()
    if worker.exit_code == -signal.SIGKILL:
        if isinstance(answer, str):
            return End(died=answer)
        return End(died="at any moment" if answer is None else "at its end")
    assert worker.exit_code in (0, 1), worker.exit_code
    if worker.exit_code == 1:
        return End()
    assert isinstance(answer, Counter)
    return End(came_by=answer)
