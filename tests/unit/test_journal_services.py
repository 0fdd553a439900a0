"""Metering answers after the journal, the watch forgets what is settled, a replay brings back."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from fixtures.http_edges import make_policy
from fixtures.journal_parts import journal_in, pending
from fixtures.use_cases import ANYONE, AWAY, UseCases

from sidecar.domain.errors import StoreUnavailable
from sidecar.outbound.journal import FileJournal
from sidecar.services.journal_ports import ShardMark
from sidecar.services.journal_replay import JournalReplay
from sidecar.services.journal_watch import JournalWatch
from sidecar.services.metering import UsageOutcome
from sidecar.services.ports import CaptureStatus


class StateMarks:
    """Marks of the in-memory store, whose only shard is 1 (`cus_1`)."""

    def __init__(self, cases: UseCases) -> None:
        self.state = cases.state
        self.settled = (0, 0)
        self.empty = False
        self.asked: list[Sequence[int]] = []

    async def read(self, shards: Sequence[int]) -> Sequence[ShardMark]:
        self.state.check()
        self.asked.append(shards)
        return [
            ShardMark(
                shard=shard,
                epoch=self.state.epoch,
                seq=self.state.seq,
                settled_epoch=self.settled[0],
                settled_seq=self.settled[1],
                empty=self.empty,
            )
            for shard in shards
        ]


@pytest.fixture
async def journal(tmp_path: Path):
    async with journal_in(tmp_path) as journal:
        yield journal


async def prepared(journal: FileJournal) -> UseCases:
    cases = UseCases(make_policy())
    await cases.customer()
    cases.account.granted = 10**9
    cases.metering._journal = journal
    return cases


def replay_of(cases: UseCases, journal: FileJournal) -> JournalReplay:
    return JournalReplay(
        journal=journal,
        marks=StateMarks(cases),
        balances=cases.balances,
        quarantine=cases.quarantine,
    )


async def captured(cases: UseCases, count: int) -> list[str]:
    """Captures in one batch; their hold ids."""
    reports = [cases.report(await cases.hold(number)) for number in range(count)]
    results = await cases.metering.capture_all(reports, ANYONE)
    return [result.id for result in results]


async def lose(cases: UseCases) -> None:
    """The store comes back with its customer, and without anything that it decided."""
    granted = cases.account.granted
    cases.state.accounts.clear()
    cases.state.stream.clear()
    cases.state.epoch, cases.state.seq = cases.state.epoch + 1, 0
    await cases.customer()
    cases.account.granted = granted


async def test_a_batch_is_kept_before_it_is_answered_and_with_its_place(journal):
    cases = await prepared(journal)
    ids = await captured(cases, 5)
    records = await pending(journal, shard=1)
    assert [record.event.hold_id for record in records] == ids
    assert {record.epoch for record in records} == {1}
    assert len({record.seq for record in records}) == 5
    assert max(record.seq for record in records) == cases.state.seq
    booked = {event.hold_id: event for _, event, _ in cases.state.stream}
    assert {record.event.hold_id: record.event for record in records} == booked
    assert all(record.prepaid for record in records)


async def test_a_batch_asks_the_journal_once(journal):
    cases = await prepared(journal)
    batches = []

    class Counting:
        async def append(self, records):
            batches.append(len(records))

    cases.metering._journal = Counting()
    await captured(cases, 7)
    assert batches == [7]


async def test_what_the_journal_refuses_is_not_acknowledged_and_its_repeat_is_a_duplicate(journal):
    cases = await prepared(journal)
    report = cases.report(await cases.hold())
    journal._queue_max = 0
    with pytest.raises(StoreUnavailable):
        await cases.metering.capture(report, ANYONE)
    with pytest.raises(StoreUnavailable):
        await cases.metering.capture_all([report], ANYONE)
    journal._queue_max = 10
    result = await cases.metering.capture(report, ANYONE)
    assert result.outcome is UsageOutcome.DUPLICATE
    assert len(await pending(journal, shard=1)) == 1
    assert cases.account.used == 7_000


async def test_what_the_store_did_not_answer_for_is_neither_kept_nor_acknowledged(journal):
    cases = await prepared(journal)
    reports = [cases.report(await cases.hold(number)) for number in range(3)]
    cases.balances.failures["capture"].append(AWAY)
    with pytest.raises(StoreUnavailable):
        await cases.metering.capture_all(reports, ANYONE)
    assert await pending(journal, shard=1) == []


async def test_what_is_set_aside_is_no_capture(journal):
    cases = await prepared(journal)
    terms = await cases.hold()
    await cases.metering.capture(cases.report(terms, 7), ANYONE)
    result = await cases.metering.capture(cases.report(terms, 8), ANYONE)
    assert result.outcome is UsageOutcome.QUARANTINED
    assert len(await pending(journal, shard=1)) == 1


async def test_the_watch_forgets_up_to_the_watermark_and_all_once_the_stream_is_empty(journal):
    cases = await prepared(journal)
    await captured(cases, 3)
    first = (await pending(journal, shard=1))[0]
    marks = StateMarks(cases)
    watch = JournalWatch(journal, marks)
    await watch.look()
    assert len(await pending(journal, shard=1)) == 3
    marks.settled = (1, first.seq)
    await watch.look()
    assert len(await pending(journal, shard=1)) == 2
    marks.empty = True
    await watch.look()
    assert len(await pending(journal, shard=1)) == 2
    await watch.look()
    assert await pending(journal, shard=1) == []
    await watch.look()
    assert marks.asked == [[1]] * 4 + [[]], "only of shards that have unsettled records"
    assert watch.behind == frozenset()


async def test_an_empty_stream_says_nothing_of_numbers_that_were_given_meanwhile(journal):
    cases = await prepared(journal)
    watch = JournalWatch(journal, marks := StateMarks(cases))
    marks.empty = True
    for number in range(3):
        # The stream was seen empty, then this was captured, before the look was over.
        await cases.metering.capture(cases.report(await cases.hold(number)), ANYONE)
        await watch.look()
        assert len(await pending(journal, shard=1)) == number + 1 - max(0, number - 1)
        assert (await pending(journal, shard=1))[-1].seq == cases.state.seq


async def test_a_store_that_was_emptied_does_not_pass_for_one_that_was_settled(journal):
    cases = await prepared(journal)
    await captured(cases, 3)
    watch = JournalWatch(journal, marks := StateMarks(cases))
    await watch.look()
    marks.empty = True  # Emptied between the answers: the numbers are still the old ones.
    await watch.look()
    cases.state.epoch, cases.state.seq = 2, 50
    for _ in range(4):
        await watch.look()
    assert len(await pending(journal, shard=1)) == 3
    assert watch.behind == {1}


async def test_the_empty_stream_of_a_replica_says_nothing_of_what_it_never_heard(journal):
    cases = await prepared(journal)
    await captured(cases, 3)
    last = (await pending(journal, shard=1))[-1]
    watch = JournalWatch(journal, marks := StateMarks(cases))
    cases.state.seq += 2  # Captured there, and on its way to the disk here.
    await watch.look()
    cases.state.seq -= 2
    marks.empty = True
    for _ in range(3):
        await watch.look()
    await journal.append([replace(last, seq=last.seq + 1)])
    assert [one.seq for one in await pending(journal, shard=1)] == [last.seq + 1]


async def test_the_watch_forgets_nothing_of_a_shard_that_went_back(journal):
    cases = await prepared(journal)
    await captured(cases, 3)
    watch = JournalWatch(journal, marks := StateMarks(cases))
    cases.state.seq -= 2
    marks.settled, marks.empty = (1, cases.state.seq), True
    await watch.look()
    assert watch.behind == {1}
    assert len(await pending(journal, shard=1)) == 3
    cases.state.epoch, cases.state.seq = 0, 0
    await watch.look()
    assert watch.behind == {1}, "a store without an epoch has lost everything"
    cases.state.epoch, cases.state.seq = 2, 9
    marks.settled = (2, 9)
    await watch.look()
    assert watch.behind == {1}, "an older epoch waits for its replay"
    assert len(await pending(journal, shard=1)) == 3


async def test_a_capture_of_this_life_does_not_hide_lost_ones_of_an_earlier_one(journal):
    """As of a process that was started since, and took usage before its first look."""
    cases = await prepared(journal)
    await captured(cases, 3)
    await lose(cases)
    report = cases.report(await cases.hold(9))
    await cases.metering.capture_all([report], ANYONE)
    watch = JournalWatch(journal, StateMarks(cases))
    await watch.look()
    assert watch.behind == {1}


async def test_what_a_life_that_is_over_settled_is_not_believed(journal):
    """A store that went back may have given the numbers of lost captures to others."""
    cases = await prepared(journal)
    ids = await captured(cases, 3)
    settled = (cases.state.epoch, cases.state.seq)
    await lose(cases)
    replay = replay_of(cases, journal)
    watch = JournalWatch(journal, marks := StateMarks(cases))
    marks.settled = replay._marks.settled = settled
    await watch.look()
    assert watch.behind == {1}
    await replay.replay(1)
    assert sorted(event.hold_id for _, event, _ in cases.state.stream) == sorted(ids)


async def test_a_replay_restores_the_balance_and_leaves_only_its_new_place_to_settle(journal):
    cases = await prepared(journal)
    await captured(cases, 600)
    used = cases.account.used
    events = sorted(event.hold_id for _, event, _ in cases.state.stream)
    await lose(cases)
    counts = await replay_of(cases, journal).replay(1)
    assert counts == {CaptureStatus.LATE.value: 600}
    assert cases.account.used == used
    assert sorted(event.hold_id for _, event, _ in cases.state.stream) == events
    assert journal.newest() == {1: (2, cases.state.seq)}
    assert await replay_of(cases, journal).replay(1) == {}, "nothing is left to present"
    watch = JournalWatch(journal, marks := StateMarks(cases))
    marks.settled = (2, cases.state.seq)
    await watch.look()
    assert await pending(journal, shard=1) == []


async def test_a_replay_that_broke_off_is_repeated_without_charging_twice(journal):
    cases = await prepared(journal)
    await captured(cases, 10)
    used = cases.account.used
    await lose(cases)
    answers = iter([None] * 6 + [AWAY] * 100)
    capture = cases.balances.capture_hold

    async def break_off(*args, **options):
        error = next(answers)
        if error:
            raise error
        return await capture(*args, **options)

    cases.balances.capture_hold = break_off
    with pytest.raises(StoreUnavailable):
        await replay_of(cases, journal).replay(1)
    cases.balances.capture_hold = capture
    counts = await replay_of(cases, journal).replay(1)
    assert counts == {"duplicate": 6, "late": 4}
    assert cases.account.used == used


async def test_captures_that_come_in_during_a_replay_are_kept_beside_it(journal):
    cases = await prepared(journal)
    await captured(cases, 4)
    await lose(cases)
    capture = cases.balances.capture_hold
    more = [cases.report(await cases.hold(100 + number)) for number in range(4)]

    async def capture_beside(*args, **options):
        if more:
            await cases.metering.capture(more.pop(), ANYONE)
        return await capture(*args, **options)

    async def capture_plainly(*args, **options):
        return await capture(*args, **options)

    replay = replay_of(cases, journal)
    cases.metering._balances = plain = type(cases.balances)(cases.state)
    plain.capture_hold = capture_plainly
    cases.balances.capture_hold = capture_beside
    assert await replay.replay(1) == {"late": 4}
    assert cases.account.used == 8 * 7_000
    assert len(await pending(journal, shard=1)) == 8
    assert await replay.replay(1) == {}


async def test_what_a_store_without_its_customers_refuses_stays_pending(journal):
    cases = await prepared(journal)
    await captured(cases, 3)
    account = cases.account
    await lose(cases)
    fresh = cases.state.accounts.pop("cus_1")
    assert await replay_of(cases, journal).replay(1) == {"no_customer": 3}
    assert len(await pending(journal, shard=1)) == 3
    cases.state.accounts["cus_1"] = fresh
    assert await replay_of(cases, journal).replay(1) == {"late": 3}
    assert fresh.used == account.used


async def test_a_store_that_is_not_restored_is_not_replayed_into(journal):
    cases = await prepared(journal)
    await captured(cases, 1)
    cases.state.epoch = 0
    with pytest.raises(StoreUnavailable, match="no epoch"):
        await replay_of(cases, journal).replay(1)
    assert len(await pending(journal, shard=1)) == 1


async def test_another_event_for_a_replayed_hold_is_set_aside_for_people(journal):
    cases = await prepared(journal)
    (hold_id,) = await captured(cases, 1)
    (record,) = await pending(journal, shard=1)
    await lose(cases)
    other = replace(record.event, usage=replace(record.event.usage, input=99))
    await cases.balances.capture_hold(other, (), prepaid=True)
    assert await replay_of(cases, journal).replay(1) == {"conflict": 1}
    report = cases.quarantine.reports[hold_id, "capture_conflict"]
    assert (report.hold_id, report.usage) == (hold_id, record.event.usage)
    assert await replay_of(cases, journal).replay(1) == {}
