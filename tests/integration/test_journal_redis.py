"""The journal beside a real Redis: what is settled goes, what a wiped store lost comes back."""

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest
from fixtures.journal_parts import pending
from fixtures.live_store import (
    CUSTOMER,
    LiveStore,
    event_of,
    hold_id_of,
    hold_of,
    open_shards,
)
from fixtures.stream_records import DictRateCards, rate_card

from sidecar.domain.errors import StoreUnavailable
from sidecar.domain.usage import UsageReport
from sidecar.outbound.journal import FileJournal
from sidecar.outbound.redis.quarantine import RedisQuarantine
from sidecar.outbound.redis.shard_marks import RedisShardMarks
from sidecar.services.control_ports import AnyRecord, ShardLease
from sidecar.services.journal_ports import JournalRecord
from sidecar.services.journal_replay import JournalReplay
from sidecar.services.journal_watch import JournalWatch
from sidecar.services.settlement import SettlementWorker

GRANTED = 1_000


class TakingLedger:
    """Commits what it is given; the offset is all that settlement needs of it."""

    def __init__(self) -> None:
        self.offsets: dict[int, str] = {}
        self.taken: list[AnyRecord] = []

    async def claim_shard(self, shard: int, owner: str, lease_seconds: int) -> ShardLease:
        offset = self.offsets.get(shard, "0-0")
        return ShardLease(shard=shard, owner=owner, fence=1, offset=offset)

    async def settle(
        self,
        lease: ShardLease,
        records: Sequence[AnyRecord],
        reported_meters: Mapping[str, frozenset[str]],
    ) -> int:
        self.offsets[lease.shard] = records[-1].entry_id
        self.taken += records
        return len(records)


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[LiveStore]:
    store = await LiveStore.open(redis_url)
    yield store
    await store.connection.aclose()


@pytest.fixture
async def journal(store: LiveStore, tmp_path: Path) -> AsyncIterator[FileJournal]:
    async with FileJournal(tmp_path, shard_of=store.keyspace.shard_of) as journal:
        yield journal


def shard_of(store: LiveStore) -> int:
    return store.keyspace.shard_of(CUSTOMER)


def settlement(store: LiveStore, ledger: TakingLedger) -> SettlementWorker:
    cards = DictRateCards({"card": rate_card()})
    shards = range(store.keyspace.shards)
    return SettlementWorker(
        store.stream, ledger, cards, store.clock, owner="worker", shards=shards, batch_max=4
    )


def replay_into(store: LiveStore, journal: FileJournal) -> JournalReplay:
    return JournalReplay(
        journal=journal,
        marks=RedisShardMarks(store.connection, store.keyspace),
        balances=store.balances,
        quarantine=RedisQuarantine(store.connection, store.keyspace),
    )


def watch_of(store: LiveStore, journal: FileJournal) -> JournalWatch:
    return JournalWatch(journal, RedisShardMarks(store.connection, store.keyspace))


async def capture(store: LiveStore, journal: FileJournal, numbers: range) -> None:
    """Place, capture and keep, as a gateway does."""
    facts = await store.facts()
    for number in numbers:
        hold = hold_of(facts, number, 10)
        event = event_of(hold, 7, await store.balances.place_hold(hold))
        outcome = await store.balances.capture_hold(event, (), prepaid=True)
        await journal.append(
            [
                JournalRecord(
                    event=event,
                    quota_lines=(),
                    prepaid=True,
                    epoch=outcome.epoch,
                    seq=outcome.seq,
                )
            ]
        )


async def mark(store: LiveStore):
    (found,) = await RedisShardMarks(store.connection, store.keyspace).read((shard_of(store),))
    return found


async def restore(store: LiveStore, epoch: int, *, granted: int = GRANTED) -> None:
    """What a rebuild does: a new epoch, the customer, and the credit that the ledger says."""
    await open_shards(store.connection, store.keyspace, epoch)
    await store.add_customer(granted=granted)


async def test_settlement_tells_the_shard_and_the_journal_forgets(store, journal):
    await store.add_customer(granted=GRANTED)
    await capture(store, journal, range(10))
    watch, ledger = watch_of(store, journal), TakingLedger()
    await watch.look()
    assert len(await pending(journal, shard_of(store))) == 10
    assert (await mark(store)).settled_seq == 0
    await settlement(store, ledger).settle_once()
    told = await mark(store)
    assert (told.settled_epoch, told.settled_seq) == (told.epoch, told.seq)
    assert told.empty
    await watch.look()
    assert journal.newest() == {}
    assert await pending(journal, shard_of(store)) == []


async def test_captures_beyond_the_watermark_stay(store, journal):
    await store.add_customer(granted=GRANTED)
    await capture(store, journal, range(4))
    await settlement(store, TakingLedger()).settle_once()
    await capture(store, journal, range(4, 7))
    await watch_of(store, journal).look()
    left = await pending(journal, shard_of(store))
    assert [record.event.hold_id for record in left] == [hold_id_of(n) for n in range(4, 7)]


async def test_a_duplicate_behind_a_later_place_goes_once_the_stream_is_empty(store, journal):
    facts = await store.add_customer(granted=GRANTED)
    await capture(store, journal, range(1))
    await store.place(facts, 99, 5)
    event = event_of(hold_of(facts, 0, 10), 7)
    again = await store.balances.capture_hold(event, (), prepaid=True)
    assert again.status.value == "duplicate"
    await journal.append(
        [JournalRecord(event=event, quota_lines=(), prepaid=True, epoch=again.epoch, seq=again.seq)]
    )
    await settlement(store, TakingLedger()).settle_once()
    assert (await mark(store)).settled_seq < again.seq
    watch = watch_of(store, journal)
    for _ in range(3):
        assert journal.newest() == {shard_of(store): (again.epoch, again.seq)}
        await watch.look()
    assert journal.newest() == {}


async def test_the_watermark_never_goes_back(store):
    shard = 2
    tell = store.stream.tell_settled
    marks = RedisShardMarks(store.connection, store.keyspace)
    for told, kept in [((5, 9), (5, 9)), ((5, 8), (5, 9)), ((4, 99), (5, 9)), ((6, 1), (6, 1))]:
        await tell(shard, *told)
        (found,) = await marks.read((shard,))
        assert (found.settled_epoch, found.settled_seq) == kept
        assert (found.epoch, found.seq) == (1, 0), "telling is no decision"


async def test_a_crash_between_commit_and_telling_is_told_by_the_next_worker(store, journal):
    await store.add_customer(granted=GRANTED)
    await capture(store, journal, range(3))
    ledger = TakingLedger()
    worker = settlement(store, ledger)
    tell = store.stream.tell_settled

    async def crash(*_: int) -> None:
        raise StoreUnavailable("crash")

    store.stream.tell_settled = crash
    with pytest.raises(StoreUnavailable):
        await worker.settle_once()
    store.stream.tell_settled = tell
    assert (await mark(store)).settled_seq == 0
    # The same worker tells it in its next round, another one when it takes the shard over.
    await (worker if shard_of(store) % 2 else settlement(store, ledger)).settle_once()
    await settlement(store, ledger).settle_once()
    assert (await mark(store)).settled_seq == (await mark(store)).seq
    await watch_of(store, journal).look()
    assert journal.newest() == {}


async def test_after_a_flush_the_journal_has_all_that_was_not_settled_and_replays_it(
    store, journal
):
    await store.add_customer(granted=GRANTED)
    await capture(store, journal, range(5))
    await settlement(store, TakingLedger()).settle_once()
    await watch_of(store, journal).look()
    await capture(store, journal, range(5, 12))
    before = await store.numbers()
    lost = [hold_id_of(number) for number in range(5, 12)]

    await store.connection.command("FLUSHALL")
    watch = watch_of(store, journal)
    await watch.look()
    assert watch.behind == {shard_of(store)}
    assert [r.event.hold_id for r in await pending(journal, shard_of(store))] == lost

    await restore(store, 2, granted=GRANTED - 5 * 7)
    assert await replay_into(store, journal).replay(shard_of(store)) == {"late": 7}
    assert (await store.balance()).available_nano == before[3]
    assert [r.hold_id for r in await store.records() if r.kind == "capture"] == lost
    assert await replay_into(store, journal).replay(shard_of(store)) == {}
    await watch.look()
    assert watch.behind == frozenset()

    await settlement(store, TakingLedger()).settle_once()
    await watch.look()
    assert journal.newest() == {}


async def test_a_second_loss_during_the_lag_brings_the_replayed_ones_back_too(store, journal):
    await store.add_customer(granted=GRANTED)
    await capture(store, journal, range(3))
    for epoch, expected in ((2, 3), (3, 5)):
        await store.connection.command("FLUSHALL")
        await restore(store, epoch)
        counts = await replay_into(store, journal).replay(shard_of(store))
        assert counts == {"late": expected}
        assert (await store.balance()).used_nano == 7 * expected
        if expected == 3:
            await capture(store, journal, range(3, 5))


async def test_a_journal_of_a_process_that_died_is_replayed_by_the_next(store, tmp_path):
    await store.add_customer(granted=GRANTED)
    keyspace = store.keyspace
    async with FileJournal(tmp_path / "j", shard_of=keyspace.shard_of) as journal:
        await capture(store, journal, range(4))
    await store.connection.command("FLUSHALL")
    await restore(store, 2)
    async with FileJournal(tmp_path / "j", shard_of=keyspace.shard_of) as journal:
        assert await replay_into(store, journal).replay(shard_of(store)) == {"late": 4}
    assert await store.numbers() == (GRANTED, 28, 0, GRANTED - 28)


async def test_quarantined_usage_does_not_keep_settlement_from_telling(store, journal):
    """Entries that are no decisions have no number; the last decision before them has."""
    await store.add_customer(granted=GRANTED)
    await capture(store, journal, range(2))
    reach = (await mark(store)).seq
    report = UsageReport(
        edge="test",
        gateway_id="gw",
        received_at=store.clock.now(),
        usage=event_of(hold_of(await store.facts(), 0, 1), 1).usage,
        customer_id=CUSTOMER,
    )
    await RedisQuarantine(store.connection, store.keyspace).put(report, reason="x", key=CUSTOMER)
    await settlement(store, TakingLedger()).settle_once()
    assert (await mark(store)).settled_seq == reach
