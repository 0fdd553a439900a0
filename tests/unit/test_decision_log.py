"""The decision log between checks and the stream."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from fixtures.replay_world import World
from fixtures.stream_records import until

from sidecar import telemetry
from sidecar.domain.decision_records import decode_record
from sidecar.domain.errors import StoreUnavailable
from sidecar.services.decision_log import BATCH_MAX, BufferedDecisionLog
from sidecar.services.decision_ports import EncodedDecision
from sidecar.services.ports import MadeDecision, PlaceStatus


class Stream:
    """Takes batches; `away` refuses them."""

    def __init__(self) -> None:
        self.batches: list[list[EncodedDecision]] = []
        self.away = False

    @property
    def taken(self) -> list[EncodedDecision]:
        return [decision for batch in self.batches for decision in batch]

    async def append(self, decisions: Sequence[EncodedDecision]) -> None:
        if self.away:
            raise StoreUnavailable("away")
        self.batches.append(list(decisions))


def made(count: int, seed: int = 1) -> list[MadeDecision]:
    events = World(seed).made(count * 2)
    return list(islice((e for e in events if isinstance(e, MadeDecision)), count))


def counted(outcome: str) -> float:
    return telemetry.DECISION_RECORDS.labels(outcome)._value.get()


async def test_noted_decisions_are_written_in_order_and_in_batches():
    stream, decisions = Stream(), made(BATCH_MAX + 7)
    log = BufferedDecisionLog(stream, buffer_max=10_000)
    before = counted("kept")
    for decision in decisions:
        log.note(decision)
    await log.flush()
    assert [len(batch) for batch in stream.batches] == [BATCH_MAX, 7]
    ids = [decode_record(taken.payload).hold_id for taken in stream.taken]
    assert ids == [decision.request.hold_id for decision in decisions]
    assert counted("kept") - before == len(decisions)
    assert log.waiting == 0


async def test_a_full_buffer_drops_the_oldest_and_counts_them():
    stream, decisions = Stream(), made(30)
    log = BufferedDecisionLog(stream, buffer_max=10)
    before = counted("dropped")
    for decision in decisions:
        log.note(decision)
    await log.flush()
    ids = [decode_record(taken.payload).hold_id for taken in stream.taken]
    assert ids == [decision.request.hold_id for decision in decisions[-10:]]
    assert counted("dropped") - before == 20


async def test_while_the_store_is_away_the_newest_are_kept():
    stream, decisions = Stream(), made(40)
    log = BufferedDecisionLog(stream, buffer_max=25)
    stream.away = True
    stop = asyncio.Event()
    before = counted("dropped")
    running = asyncio.create_task(log.run(stop))
    for decision in decisions[:20]:
        log.note(decision)
    await asyncio.sleep(0.25)
    for decision in decisions[20:]:
        log.note(decision)
    await asyncio.sleep(0.25)
    assert log.waiting == 25
    stream.away = False
    stop.set()
    await running
    ids = [decode_record(taken.payload).hold_id for taken in stream.taken]
    assert ids == [decision.request.hold_id for decision in decisions[15:]]
    assert counted("dropped") - before == 15


async def test_stopping_writes_what_waits():
    stream = Stream()
    log = BufferedDecisionLog(stream, buffer_max=100)
    stop = asyncio.Event()
    running = asyncio.create_task(log.run(stop))
    await asyncio.sleep(0)
    for decision in made(5):
        log.note(decision)
    stop.set()
    await running
    assert len(stream.taken) == 5


async def test_what_is_noted_after_a_silence_is_written_without_being_asked_for():
    stream, decisions = Stream(), made(2 * BATCH_MAX)
    log = BufferedDecisionLog(stream, buffer_max=10_000)
    stop = asyncio.Event()
    running = asyncio.create_task(log.run(stop))
    written = 0
    for count in (1, BATCH_MAX + 1, 3):
        await asyncio.sleep(0.15)
        for decision in decisions[written : written + count]:
            log.note(decision)
        written += count
        await until(lambda: not log.waiting)
    assert len(stream.taken) == written
    stop.set()
    await running


async def test_a_repeated_check_is_not_a_second_decision():
    stream = Stream()
    log = BufferedDecisionLog(stream, buffer_max=1_000)
    placed = next(
        decision
        for decision in made(200)
        if decision.outcome is not None and decision.outcome.status is PlaceStatus.PLACED
    )
    repeat = replace(placed, outcome=replace(placed.outcome, status=PlaceStatus.REPEATED))
    log.note(placed)
    log.note(repeat)
    await log.flush()
    assert len(stream.taken) == 1


async def test_sampling_drops_the_detail_and_never_the_record():
    stream = Stream()
    shares = iter([0.1, 0.9] * 100)
    log = BufferedDecisionLog(
        stream, buffer_max=100, explain_sample=0.5, random_share=lambda: next(shares)
    )
    before = counted("sampled_out")
    for decision in made(50):
        log.note(decision)
    await log.flush()
    records = [decode_record(taken.payload) for taken in stream.taken]
    assert len(records) == 50
    assert not any(record.trace for record in records[1::2])
    assert any(record.trace for record in records[::2])
    assert counted("sampled_out") - before == 25


async def test_noting_costs_a_check_next_to_nothing():
    log = BufferedDecisionLog(Stream(), buffer_max=10_000)
    decision = made(1)[0]
    started = time.perf_counter()
    for _ in range(10_000):
        log.note(decision)
    print(f"{(time.perf_counter() - started) / 10_000 * 1e9:.0f} ns a note")  # noqa: T201
    assert log.waiting == 10_000
