"""
Reporting: settled quantities to the billing provider, each counted once.

A row is sealed (its quantity frozen), claimed, sent, and finished. Its identifier is a hash of
the facts, so every attempt at it is the same event for the provider.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

from sidecar import telemetry
from sidecar.services.control_ports import (
    MeterReporter,
    Outbox,
    ReportResult,
    ReportRow,
    ReportVerdict,
)
from sidecar.services.ports import Clock
from sidecar.services.rounds import run_rounds

REPORT_EVERY = timedelta(minutes=5)
"""How long usage of a meter gathers that does not say so itself."""
CALLS_IN_TURN = 4
"""Rows that are leased together for each call that may be under way: they share two commits."""
RETRY_SECONDS_FIRST = 1.0
RETRY_SECONDS_MAX = 900.0
_SEAL_BATCH = 1_000
_SEAL_ROUNDS_MAX = 1_000
_BACKOFF_SECONDS_MAX = 60.0
_DELIVERED = frozenset({ReportVerdict.DELIVERED, ReportVerdict.DUPLICATE})


class Reporter:
    """Reports what is sealed; any number may run, one at a time has a (customer, meter)."""

    def __init__(
        self,
        outbox: Outbox,
        provider: MeterReporter,
        clock: Clock,
        *,
        owner: str,
        report_every: timedelta = REPORT_EVERY,
        meters: Callable[[], Mapping[str, int]] = dict,
        concurrency_max: int = 8,
        lease_seconds: int = 120,
        poll_seconds: float = 1.0,
    ) -> None:
        """
        Wire the ports.

        Args:
            outbox, provider, clock: Ports.
            owner: Names this worker among all that run.
            report_every: How long a window gathers usage before it is sealed.
            meters: Meters that gather for another time, in seconds; asked for each round.
            concurrency_max: Calls to the provider at a time.
            lease_seconds: Must be longer than CALLS_IN_TURN of the provider's longest calls.
            poll_seconds: Pause of `run` between rounds.
        """
        self._outbox = outbox
        self._provider = provider
        self._clock = clock
        self._owner = owner
        self._report_every = report_every
        self._meters = meters
        self._concurrency_max = concurrency_max
        self._lease_seconds = lease_seconds
        self._poll_seconds = poll_seconds

    async def report_once(self, *, force: bool = False) -> int:
        """
        One round: seal what has gathered long enough, then send all that is due.

        1. Seal. *A crash:* the transaction was all or nothing.
        2. Claim: the first attempt's instant is committed before anything is sent. *A crash:*
           the lane waits until its lease ends.
        3. Send. *A crash after the provider took it:* the next attempt carries the same
           identifier, and "already exists" counts as delivered.
        4. Finish. *A crash before it:* as in 3.

        Args:
            force: Seal every open window, however young.

        Returns:
            How many rows the provider has, as of this round.

        Raises:
            StoreUnavailable: A step may or may not have happened; report again.
        """
        now = self._clock.now()
        opened_before = now + timedelta(days=1) if force else now - self._report_every
        meters = {} if force else self._meters()
        by_meter = {name: now - timedelta(seconds=every) for name, every in meters.items()}
        for _ in range(_SEAL_ROUNDS_MAX):
            if not await self._outbox.seal(
                opened_before=opened_before, limit=_SEAL_BATCH, by_meter=by_meter
            ):
                break
        delivered = 0
        while rows := await self._outbox.claim(
            self._owner,
            limit=self._concurrency_max * CALLS_IN_TURN,
            lease_seconds=self._lease_seconds,
        ):
            delivered += await self._send_all(rows)
        return delivered

    async def run(self, stop: asyncio.Event) -> None:
        """Report until stopped; failures of the store are counted and backed off."""
        await run_rounds(
            stop,
            self.report_once,
            name="reporting",
            pause_seconds=self._poll_seconds,
            backoff_seconds_max=_BACKOFF_SECONDS_MAX,
        )

    async def _send_all(self, rows: Sequence[ReportRow]) -> int:
        """Send leased rows side by side; a failure waits until the others are finished."""
        room = asyncio.Semaphore(self._concurrency_max)

        async def send(row: ReportRow) -> ReportResult:
            async with room:
                return await self._send(row)

        answers = await asyncio.gather(*(send(row) for row in rows), return_exceptions=True)
        results = [answer for answer in answers if isinstance(answer, ReportResult)]
        await self._outbox.finish(results)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return sum(result.attempt.verdict in _DELIVERED for result in results)

    async def _send(self, row: ReportRow) -> ReportResult:
        """Send one row."""
        attempt = await self._provider.report(row)
        telemetry.REPORTS.labels(attempt.verdict.value).inc()
        if attempt.verdict is ReportVerdict.REJECTED:
            telemetry.get_logger().error(
                "report_rejected",
                identifier=row.identifier,
                customer_id=row.customer_id,
                detail=attempt.detail,
            )
        retry_at = self._clock.now() + timedelta(seconds=retry_seconds(row))
        return ReportResult(row=row, attempt=attempt, retry_at=retry_at)


def retry_seconds(row: ReportRow) -> float:
    """
    How long a row waits after a failed attempt: doubling up to a cap, less up to half of it.

    The jitter is a hash of identifier and attempt, so that rows which failed together do not
    come back together, and a replay waits as long as the first time.
    """
    doubled = RETRY_SECONDS_FIRST * 2.0 ** min(max(row.attempts - 1, 0), 30)
    ceiling: float = min(RETRY_SECONDS_MAX, doubled)
    digest = hashlib.sha256(f"{row.identifier}:{row.attempts}".encode()).digest()
    fraction = int.from_bytes(digest[:4]) / 2**32
    return ceiling * (1.0 - fraction / 2)
