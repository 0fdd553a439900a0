"""
The decision log: what checks were decided from, on its way to the stream.

A check only appends to a queue in memory. A worker encodes and writes what is there, every
20 ms or 500 records; so a crash loses the last 20 ms of records, and no decision. Seldom and many
would hold up the checks between, here and in the store: 9 ms for one in a hundred with 100 ms.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable
from itertools import islice

from sidecar import telemetry
from sidecar.domain.decision_records import DecisionRecord, encode_record
from sidecar.domain.decisions import Deny
from sidecar.domain.errors import InvalidInput, StoreUnavailable
from sidecar.domain.periods import to_epoch_ms
from sidecar.domain.policy_reads import KnownReads
from sidecar.domain.recording import make_record
from sidecar.services.decision_ports import DecisionStream, EncodedDecision
from sidecar.services.ports import MadeDecision, PlaceStatus

FLUSH_SECONDS = 0.02
BATCH_MAX = 500
BACKOFF_SECONDS_MAX = 5.0
DRAIN_TRIES_MAX = 3
_TURN_RECORDS = 10
"""Records that are encoded before checks of the same loop get their turn."""


class BufferedDecisionLog:
    """
    Implements DecisionLog over a stream.

    While the store is away the queue goes on filling; once full, its oldest are dropped and
    counted.
    """

    def __init__(
        self,
        stream: DecisionStream,
        *,
        buffer_max: int,
        explain_sample: float = 0.0,
        random_share: Callable[[], float] = random.random,
    ) -> None:
        """
        Wire the stream.

        Args:
            stream: Where batches go.
            buffer_max: Decisions that wait at most.
            explain_sample: Share of the records that keep the detail per rule, 0 to 1.
            random_share: A number of [0, 1) for the sampling.
        """
        self._stream = stream
        self._waiting: deque[MadeDecision] = deque(maxlen=buffer_max)
        self._dropped = 0
        self._encoded: deque[EncodedDecision] = deque()
        self._reads = KnownReads()
        self._explain_sample = explain_sample
        self._random_share = random_share
        self._some = asyncio.Event()
        self._many = asyncio.Event()

    def note(self, made: MadeDecision) -> None:
        """Keep a decision; never waits and never fails."""
        waiting = self._waiting
        if len(waiting) == waiting.maxlen:
            self._dropped += 1
        waiting.append(made)
        if len(waiting) == 1:
            self._some.set()
        elif len(waiting) >= BATCH_MAX:
            self._many.set()

    @property
    def waiting(self) -> int:
        """How many decisions are not written yet."""
        return len(self._waiting) + len(self._encoded)

    async def run(self, stop: asyncio.Event) -> None:
        """Write batches until stopped, then what is left, in a few tries."""
        loop = asyncio.get_running_loop()
        pause, write_at = FLUSH_SECONDS, 0.0
        while not stop.is_set():
            await self._wait(stop)
            # Encoded even while the store is away: requests are larger than their records.
            await self._encode()
            if loop.time() >= write_at:
                pause = await self._try_write(pause)
                write_at = loop.time() + (0.0 if pause == FLUSH_SECONDS else pause)
        for _ in range(DRAIN_TRIES_MAX):
            await self._encode()
            if not self.waiting or await self._try_write(FLUSH_SECONDS) == FLUSH_SECONDS:
                break
        if self.waiting:
            self._count("dropped", self.waiting)

    async def flush(self) -> None:
        """Write all that waits now. Raises StoreUnavailable: what was not written still waits."""
        await self._encode()
        await self._write()

    async def _try_write(self, pause: float) -> float:
        """Write; returns the pause before the next try, which grows while the store is away."""
        try:
            await self._write()
        except StoreUnavailable as error:
            telemetry.WORKER_FAILURES.labels("decision_log").inc()
            telemetry.get_logger().warning("decisions_not_written", error=str(error))
            return min(pause * 2, BACKOFF_SECONDS_MAX)
        return FLUSH_SECONDS

    async def _write(self) -> None:
        while self._encoded:
            batch = tuple(islice(self._encoded, BATCH_MAX))
            await self._stream.append(batch)
            for _ in batch:
                self._encoded.popleft()
            self._count("kept", len(batch))

    async def _wait(self, stop: asyncio.Event) -> None:
        """
        Until there are many, or there are some and the time is up, or the process is to stop.

        While there are none it sleeps: an idle process need not look ten times a second.
        """
        self._many.clear()
        if not self.waiting:
            self._some.clear()
            await _first(stop, self._some)
        await _first(stop, self._many, timeout_seconds=FLUSH_SECONDS)

    async def _encode(self) -> None:
        done = 0
        while self._waiting:
            made = self._waiting.popleft()
            if made.outcome is not None and made.outcome.status is PlaceStatus.REPEATED:
                continue  # The gateway asked again; the first answer is on record.
            try:
                record = record_of(made, self._reads, with_trace=self._is_sampled())
                payload = encode_record(record)
            except InvalidInput as error:
                self._count("dropped", 1)
                telemetry.get_logger().warning("decision_not_recorded", error=str(error))
                continue
            if len(self._encoded) == self._waiting.maxlen:
                self._encoded.popleft()
                self._dropped += 1
            self._encoded.append(EncodedDecision(customer_id=record.customer_id, payload=payload))
            done += 1
            if done % _TURN_RECORDS == 0:
                await asyncio.sleep(0)
        if self._dropped:
            self._count("dropped", self._dropped)
            self._dropped = 0

    def _is_sampled(self) -> bool:
        sampled = self._random_share() < self._explain_sample
        if not sampled and self._explain_sample:
            self._count("sampled_out", 1)
        return sampled

    def _count(self, outcome: str, count: int) -> None:
        telemetry.DECISION_RECORDS.labels(outcome).inc(count)


async def _first(*events: asyncio.Event, timeout_seconds: float | None = None) -> None:
    """Wait until one of them is set, or for so long."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def record_of(made: MadeDecision, reads: KnownReads, *, with_trace: bool = False) -> DecisionRecord:
    """The record of a decision as it was handed over."""
    outcome = made.outcome
    now_ms = to_epoch_ms(made.now)
    instant_ms = now_ms if outcome is None else outcome.instant_ms or now_ms
    placed = outcome is not None and outcome.status is PlaceStatus.PLACED
    return make_record(
        reads.of(made.policy),
        made.policy,
        made.request,
        made.decision,
        instant_ms,
        view=made.view,
        customer=made.customer,
        facts=made.facts,
        plan=made.plan,
        judgement=made.judgement,
        numbers=made.numbers,
        answered=outcome is not None,
        placed=placed,
        epoch=0 if outcome is None else outcome.epoch,
        seq=0 if outcome is None else outcome.seq,
        hold_ttl_ms=outcome.expires_at_ms - outcome.instant_ms if outcome and placed else 0,
        trace=_trace(made) if with_trace else (),
    )


def _trace(made: MadeDecision) -> tuple[str, ...]:
    """Each rule that was for the check, in order, with what became of it."""
    if made.plan is None:
        return ()
    decision, judgement = made.decision, made.judgement
    lines = []
    for matched in made.plan.rules:
        name, word = matched.rule.name, "passed"
        if isinstance(decision, Deny) and decision.rule == name:
            word = "denied"
        elif judgement is not None and name in judgement.shadow_denials:
            word = "would deny"
        elif judgement is not None and name in judgement.failed_conditions:
            word = "condition failed"
        lines.append(f"{name}: {word}")
    return tuple(lines)
