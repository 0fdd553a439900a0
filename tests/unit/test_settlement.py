import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from fixtures.stream_records import (
    NOW,
    DictRateCards,
    ListStream,
    StandingClock,
    entry_order,
    orphan_record,
    rate_card,
    until,
    usage_record,
)

from sidecar import telemetry
from sidecar.domain.errors import Conflict, InvalidInput, InvariantViolated, StoreUnavailable
from sidecar.domain.pricing import Billing, Meter
from sidecar.services.control_ports import AnyRecord, SetAsideRecord, ShardLease, UnreadableRecord
from sidecar.services.settlement import SettlementWorker


class MemoryLedger:
    """Keeps what is settled, refuses what it is told to, and fails on demand."""

    def __init__(self) -> None:
        self.offsets: dict[int, str] = {}
        self.owners: dict[int, str] = {}
        self.settled: list[AnyRecord] = []
        self.refused: set[str] = set()
        self.failures: list[Exception] = []
        self.batches: list[list[str]] = []
        self.claims: list[tuple[int, int]] = []
        self.left = 30.0
        """Seconds that a lease of another worker has left."""
        self.reported: dict[str, frozenset[str]] = {}

    async def claim_shard(self, shard: int, owner: str, lease_seconds: int) -> ShardLease | None:
        self.claims.append((shard, lease_seconds))
        if self.owners.setdefault(shard, owner) != owner:
            return None
        if lease_seconds == 0:
            del self.owners[shard]
        offset = self.offsets.get(shard, "0-0")
        return ShardLease(shard=shard, owner=owner, fence=1, offset=offset)

    async def lease_left(self, shard: int, owner: str) -> float:
        return 0.0 if self.owners.get(shard, owner) == owner else self.left

    async def settle(
        self,
        lease: ShardLease,
        records: Sequence[AnyRecord],
        reported_meters: Mapping[str, frozenset[str]],
    ) -> int:
        if self.owners.get(lease.shard) != lease.owner:
            raise Conflict("lost")
        if self.failures:
            raise self.failures.pop(0)
        self.batches.append([record.entry_id for record in records])
        for record in records:
            if record.entry_id in self.refused and not isinstance(record, SetAsideRecord):
                raise InvalidInput("refused")
        floor = entry_order(self.offsets.get(lease.shard, "0-0"))
        new = [record for record in records if entry_order(record.entry_id) > floor]
        self.settled += new
        self.offsets[lease.shard] = records[-1].entry_id
        self.reported |= reported_meters
        return len(new)

    async def read_available(self, customer_id: str) -> int:
        raise AssertionError(customer_id)


@pytest.fixture
def ledger():
    return MemoryLedger()


def make_worker(stream, ledger, **options) -> SettlementWorker:
    settings = {"owner": "worker", "shards": sorted(stream.records), "poll_seconds": 0.001}
    cards = options.pop("cards", None) or DictRateCards({"card": rate_card()})
    clock = options.pop("clock", StandingClock())
    return SettlementWorker(stream, ledger, cards, clock, **(settings | options))


def entries(ledger) -> list[str]:
    return [record.entry_id for record in ledger.settled]


async def test_shards_are_settled_in_batches_until_they_are_empty_and_trimmed(ledger):
    stream = ListStream({0: [usage_record(n) for n in range(25)], 3: [usage_record(99)]})
    worker = make_worker(stream, ledger, batch_max=10)
    assert await worker.settle_once() == 26
    assert [len(batch) for batch in ledger.batches if len(batch) > 1] == [10, 10, 5]
    assert stream.records == {0: [], 3: []}
    assert await worker.settle_once() == 0


async def test_a_failure_before_the_commit_settles_everything_on_the_next_try(ledger):
    stream = ListStream({0: [usage_record(n) for n in range(5)]})
    ledger.failures = [StoreUnavailable("away")]
    worker = make_worker(stream, ledger)
    with pytest.raises(StoreUnavailable):
        await worker.settle_once()
    assert len(stream.records[0]) == 5
    assert await worker.settle_once() == 5


async def test_a_crash_between_commit_and_trim_is_made_good_by_the_next_worker(ledger):
    stream = ListStream({0: [usage_record(n) for n in range(5)]})
    stream.failures = [StoreUnavailable("crash")]
    with pytest.raises(StoreUnavailable):
        await make_worker(stream, ledger).settle_once()
    assert len(stream.records[0]) == 5
    ledger.owners.clear()
    assert await make_worker(stream, ledger, owner="next").settle_once() == 0
    assert stream.records[0] == []
    assert len(ledger.settled) == 5


async def test_a_refused_batch_is_halved_down_to_the_one_record_in_order(ledger):
    records = [usage_record(n) for n in range(64)]
    ledger.refused = {records[37].entry_id}
    worker = make_worker(ListStream({0: records}), ledger)
    before = telemetry.QUARANTINED.labels("refused")._value.get()
    assert await worker.settle_once() == 64
    assert entries(ledger) == [record.entry_id for record in records]
    aside = ledger.settled[37]
    assert isinstance(aside, SetAsideRecord)
    assert (aside.reason, aside.key) == ("refused", records[37].entry_id)
    assert len(ledger.batches) <= 2 * 6 + 2
    assert telemetry.QUARANTINED.labels("refused")._value.get() == before + 1


async def test_many_refused_records_leave_the_others_settled(ledger):
    records = [usage_record(n) for n in range(50)]
    ledger.refused = {record.entry_id for record in records[::7]}
    await make_worker(ListStream({0: records}), ledger).settle_once()
    assert entries(ledger) == [record.entry_id for record in records]
    aside = [record.entry_id for record in ledger.settled if isinstance(record, SetAsideRecord)]
    assert aside == [record.entry_id for record in records[::7]]


async def test_the_quarantined_record_keeps_all_its_numbers(ledger):
    record = usage_record(1)
    ledger.refused = {record.entry_id}
    await make_worker(ListStream({0: [record]}), ledger).settle_once()
    payload = json.loads(ledger.settled[0].payload)
    assert payload["problem"] == "refused"
    kept = payload["record"]
    assert kept["amount_nano"] == record.amount_nano
    assert kept["hold_id"] == record.hold_id
    assert kept["event"]["lines"][0] == {
        "meter": "input-tokens",
        "quantity": 10,
        "amount_nano": 5_000,
        "groups": {},
        "text_hash": "",
        "observed": False,
    }
    assert kept["event"]["request_id"] == record.event.request_id.hex()
    assert kept["event"]["occurred_at"] == NOW.isoformat()


async def test_a_record_that_even_quarantine_refuses_stops_its_shard_but_no_other(ledger):
    class Hopeless(MemoryLedger):
        async def settle(self, lease, records, reported_meters):
            if any(isinstance(record, SetAsideRecord) for record in records):
                raise InvariantViolated("no")
            return await super().settle(lease, records, reported_meters)

    ledger = Hopeless()
    bad = usage_record(1)
    ledger.refused = {bad.entry_id}
    stream = ListStream({0: [bad], 1: [usage_record(2)]})
    with pytest.raises(InvariantViolated):
        await make_worker(stream, ledger).settle_once()
    assert entries(ledger) == [usage_record(2).entry_id]
    assert stream.records[0] == [bad]


async def test_a_shard_that_another_worker_has_is_left_alone(ledger):
    stream = ListStream({0: [usage_record(1)]})
    ledger.owners[0] = "other"
    worker = make_worker(stream, ledger)
    assert await worker.settle_once() == 0
    assert await worker.settle_once() == 0
    assert stream.reads == 0
    assert len(ledger.claims) == 1, "it asks again only after half a lease"


async def test_a_shard_of_a_worker_that_died_is_taken_once_its_lease_ends(ledger):
    clock = StandingClock()
    worker = make_worker(ListStream({0: [usage_record(1)]}), ledger, clock=clock, lease_seconds=30)
    ledger.owners[0], ledger.left = "other", 4.0
    assert await worker.settle_once() == 0
    clock.instant += timedelta(seconds=3.9)
    assert await worker.settle_once() == 0
    assert len(ledger.claims) == 1
    del ledger.owners[0]
    clock.instant += timedelta(seconds=0.1)
    assert await worker.settle_once() == 1


async def test_a_shard_whose_row_somebody_locked_is_asked_for_in_the_next_round(ledger):
    stream = ListStream({0: [usage_record(1)]})
    worker = make_worker(stream, ledger)
    ledger.owners[0], ledger.left = "other", 0.0
    assert await worker.settle_once() == 0
    del ledger.owners[0]
    assert await worker.settle_once() == 1


async def test_a_lost_lease_ends_the_shard_and_is_claimed_anew(ledger):
    stream = ListStream({0: [usage_record(1)]})
    clock = StandingClock()
    worker = make_worker(stream, ledger, clock=clock)
    assert await worker.settle_once() == 1
    ledger.owners[0] = "other"
    stream.records[0].append(usage_record(2))
    assert await worker.settle_once() == 0
    assert len(ledger.settled) == 1
    del ledger.owners[0]
    assert await worker.settle_once() == 1


async def test_a_lease_is_renewed_once_half_of_it_has_passed(ledger):
    clock = StandingClock()
    worker = make_worker(ListStream({0: []}), ledger, clock=clock, lease_seconds=30)
    for _ in range(3):
        await worker.settle_once()
    assert ledger.claims == [(0, 30)]
    clock.instant += timedelta(seconds=15)
    await worker.settle_once()
    assert ledger.claims == [(0, 30)] * 2


async def test_a_round_in_which_nothing_came_is_one_question(ledger):
    stream = ListStream({n: [] for n in range(8)})
    worker = make_worker(stream, ledger)
    await worker.settle_once()
    assert (stream.reads, stream.questions) == (8, []), "the first takes the leases"
    for _ in range(3):
        assert await worker.settle_once() == 0
    assert (stream.reads, len(ledger.claims)) == (8, 8)
    assert stream.questions == [list(range(8))] * 3


async def test_only_shards_that_have_something_are_read(ledger):
    stream = ListStream({n: [] for n in range(8)})
    worker = make_worker(stream, ledger)
    await worker.settle_once()
    stream.records[5].append(usage_record(1))
    assert await worker.settle_once() == 1
    assert stream.reads == 9
    assert await worker.settle_once() == 0
    assert stream.reads == 9


async def test_a_shard_whose_lease_is_to_be_renewed_is_not_asked_about(ledger):
    clock = StandingClock()
    stream = ListStream({0: [], 1: []})
    worker = make_worker(stream, ledger, clock=clock, lease_seconds=30)
    await worker.settle_shard(0)
    clock.instant += timedelta(seconds=10)
    await worker.settle_once()
    clock.instant += timedelta(seconds=5)
    await worker.settle_once()
    assert stream.questions == [[0], [1]]
    assert ledger.claims == [(0, 30), (1, 30), (0, 30)]


async def test_a_shard_that_another_worker_has_is_not_asked_about(ledger):
    stream = ListStream({0: [usage_record(1)], 1: []})
    ledger.owners[0] = "other"
    worker = make_worker(stream, ledger)
    for _ in range(3):
        assert await worker.settle_once() == 0
    assert stream.questions == [[1]] * 2
    assert stream.records[0], "it was left alone"


async def test_a_question_without_an_answer_costs_no_settlement(ledger):
    stream = ListStream({n: [] for n in range(4)})
    worker = make_worker(stream, ledger)
    await worker.settle_once()
    stream.records[2].append(usage_record(1))
    stream.question_failures = [StoreUnavailable("a node is away")]
    assert await worker.settle_once() == 1
    assert stream.reads == 8
    await worker.settle_once()
    assert len(stream.questions) == 2, "each shard had its answer, so all are asked for again"


async def test_while_a_shard_fails_the_others_are_settled_without_a_question(ledger):
    """What answers for all would wait for a node that hangs, in each round."""
    stream = ListStream({n: [] for n in range(4)})
    worker = make_worker(stream, ledger)
    await worker.settle_once()
    stream.records[1].append(usage_record(1))
    stream.failures = [StoreUnavailable("trim"), StoreUnavailable("trim")]
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await worker.settle_once()
    stream.records[2].append(usage_record(2))
    assert await worker.settle_once() == 1
    assert len(stream.questions) == 1
    await worker.settle_once()
    assert len(stream.questions) == 2


async def test_what_was_drained_is_put_back_though_its_stream_is_empty(ledger):
    class Keeps(NoClaims):
        def __init__(self):
            self.back = []

        async def put_back(self, records):
            self.back += records

    claim = replace(usage_record(0, epoch=3, seq=10), kind="claim")
    stream, claims = ListStream({0: [claim], 1: []}), Keeps()
    worker = make_worker(stream, ledger, claims=claims)
    assert await worker.drain_shard(0) == 1
    assert stream.records[0] == []
    await worker.settle_once()
    assert claims.back == [claim]
    await worker.settle_once()
    assert claims.back == [claim]
    assert stream.questions == [[0, 1]]


async def test_reported_meters_are_those_of_the_rate_card_and_read_once(ledger):
    card = rate_card()
    meters = dict(card.meters) | {
        "input-tokens": Meter(name="input-tokens", value="usage.input", reported=False)
    }
    cards = DictRateCards({"card": replace(card, meters=meters)})
    stream = ListStream({0: [usage_record(n) for n in range(20)]})
    await make_worker(stream, ledger, cards=cards, batch_max=5).settle_once()
    assert ledger.reported == {"card": frozenset({"output-tokens"})}
    assert cards.reads == 1


async def test_nothing_of_a_prepaid_card_is_reported(ledger):
    cards = DictRateCards({"card": rate_card(Billing.PREPAID)})
    await make_worker(ListStream({0: [usage_record(1)]}), ledger, cards=cards).settle_once()
    assert ledger.reported == {"card": frozenset()}


async def test_what_credit_paid_needs_no_rate_card(ledger):
    cards = DictRateCards({})
    stream = ListStream({0: [usage_record(1, prepaid=True), orphan_record(2)]})
    worker = make_worker(stream, ledger, cards=cards)
    assert await worker.settle_once() == 2
    assert not any(isinstance(record, SetAsideRecord) for record in ledger.settled)
    assert cards.reads == 0


async def test_invoiced_usage_of_an_unknown_rate_card_is_set_aside_not_left_unreported(ledger):
    stream = ListStream({0: [usage_record(1, price_version="gone"), usage_record(2)]})
    before = telemetry.QUARANTINED.labels("unknown_price_version")._value.get()
    await make_worker(stream, ledger).settle_once()
    aside, posted = ledger.settled
    assert isinstance(aside, SetAsideRecord)
    assert aside.reason == "unknown_price_version"
    assert posted == usage_record(2)
    assert telemetry.QUARANTINED.labels("unknown_price_version")._value.get() == before + 1


async def test_unreadable_records_are_settled_and_counted(ledger):
    unreadable = UnreadableRecord(entry_id="5-0", fields={}, problem="no kind")
    before = telemetry.QUARANTINED.labels("unreadable")._value.get()
    assert await make_worker(ListStream({0: [unreadable]}), ledger).settle_once() == 1
    assert telemetry.QUARANTINED.labels("unreadable")._value.get() == before + 1


async def test_the_lag_is_the_age_of_the_newest_decision(ledger):
    clock = StandingClock(NOW + timedelta(seconds=90))
    await make_worker(ListStream({0: [usage_record(1)]}), ledger, clock=clock).settle_once()
    assert telemetry.SETTLEMENT_LAG._value.get() == 90.0


async def test_run_outlives_failures_and_gives_its_leases_back(ledger):
    stream = ListStream({0: [], 1: []})
    ledger.failures = [StoreUnavailable("away"), StoreUnavailable("away")]
    stop = asyncio.Event()
    running = asyncio.create_task(make_worker(stream, ledger).run(stop))
    stream.records[1].append(usage_record(1))
    await until(lambda: ledger.settled)
    stop.set()
    await running
    assert ledger.owners == {}
    assert ledger.failures == []


async def test_the_shard_is_told_what_is_committed_before_it_is_trimmed(ledger):
    records = [usage_record(n, epoch=3, seq=10 + n) for n in range(5)]
    stream = ListStream({0: records})
    stream.failures = [StoreUnavailable("trim")]
    with pytest.raises(StoreUnavailable):
        await make_worker(stream, ledger, batch_max=3).settle_once()
    assert stream.told == [(0, 3, 12)]


async def test_what_could_not_be_told_is_told_in_the_next_round(ledger):
    stream = ListStream({0: [usage_record(n, epoch=3, seq=10 + n) for n in range(5)]})
    stream.tell_failures = [StoreUnavailable("away")]
    worker = make_worker(stream, ledger)
    with pytest.raises(StoreUnavailable):
        await worker.settle_once()
    assert stream.told == []
    assert await worker.settle_once() == 0
    assert stream.told == [(0, 3, 14)]
    await worker.settle_once()
    assert stream.told == [(0, 3, 14)]


async def test_a_shard_that_takes_no_word_is_settled_to_its_end_however_often_it_is_tried(ledger):
    """Its making anew waits for that; what was not told is not trimmed."""
    stream = ListStream({0: [usage_record(n, epoch=3, seq=10 + n) for n in range(9)]})
    stream.tell_failures = [StoreUnavailable("no epoch") for _ in range(3)]
    worker = make_worker(stream, ledger, batch_max=2)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="no epoch"):
            await worker.settle_shard(0)
        assert len(ledger.settled) == len(stream.records[0]) == 9
    stream.records[0].append(usage_record(9, epoch=3, seq=19))
    with pytest.raises(StoreUnavailable, match="no epoch"):
        await worker.settle_shard(0)
    assert len(ledger.settled) == 10
    assert await worker.settle_shard(0) == 0
    assert (stream.told, stream.records[0]) == ([(0, 3, 19)], [])


async def test_what_a_dead_worker_could_not_tell_is_told_by_the_next(ledger):
    stream = ListStream({0: [usage_record(n, epoch=3, seq=10 + n) for n in range(5)]})
    stream.tell_failures = [StoreUnavailable("crash")]
    with pytest.raises(StoreUnavailable):
        await make_worker(stream, ledger).settle_once()
    ledger.owners.clear()
    stream.records[0].append(usage_record(9, epoch=3, seq=99))
    assert await make_worker(stream, ledger, owner="next").settle_once() == 1
    assert stream.told == [(0, 3, 14), (0, 3, 99)]


async def test_nothing_from_a_claim_on_is_told_before_its_own_capture_is_settled(ledger):
    records = [usage_record(n, epoch=3, seq=10 + n) for n in range(4)]
    records[2] = replace(records[2], kind="claim")
    stream = ListStream({0: records})
    worker = make_worker(stream, ledger, claims=NoClaims())
    await worker.settle_once()
    assert stream.told == [(0, 3, 11)]
    stream.records[0].append(usage_record(9, epoch=3, seq=19))
    await worker.settle_once()
    assert stream.told == [(0, 3, 11), (0, 3, 19)]


class NoClaims:
    """Settles every claim at once."""

    async def settle(self, records):
        return {}
