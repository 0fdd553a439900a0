"""Decision records from the stream into the table, on real Redis and Postgres."""

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest
from fixtures.memory_decisions import MemoryDecisions
from fixtures.replay_world import START, World, make_policy
from fixtures.stream_records import (
    DictRateCards,
    ListStream,
    orphan_record,
    rate_card,
    usage_record,
)

from sidecar.cli.decisions import open_events
from sidecar.domain.decision_records import DecisionRecord, encode_record
from sidecar.domain.errors import InvalidInput, StoreUnavailable
from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.outbound.postgres.decisions import PostgresDecisions
from sidecar.outbound.postgres.ledger import PostgresLedger
from sidecar.outbound.redis.connection import RedisConnection
from sidecar.outbound.redis.decision_stream import RedisDecisionStream
from sidecar.outbound.redis.keys import Keyspace
from sidecar.services.control_ports import Customer
from sidecar.services.decision_moving import DecisionMover
from sidecar.services.decision_ports import EncodedDecision, StreamedDecision
from sidecar.services.replaying import recorded_events, replay
from sidecar.services.settlement import SettlementWorker
from sidecar.settings import Settings

KEYSPACE = Keyspace(8)
SINCE, UNTIL = START - timedelta(hours=1), START + timedelta(days=1)


def records(count: int, seed: int = 1) -> list[DecisionRecord]:
    events = World(seed).events(count * 2)
    return list(islice((e for e in events if isinstance(e, DecisionRecord)), count))


def encoded(decisions: list[DecisionRecord]) -> list[EncodedDecision]:
    return [
        EncodedDecision(customer_id=record.customer_id, payload=encode_record(record))
        for record in decisions
    ]


def entries(decisions: list[DecisionRecord]) -> list[StreamedDecision]:
    return [
        StreamedDecision(shard=0, entry_id=f"{n}-0", record=record, payload=encode_record(record))
        for n, record in enumerate(decisions)
    ]


@pytest.fixture
async def connection(redis_url: str):
    connection = RedisConnection.from_url(redis_url)
    yield connection
    await connection.aclose()


@pytest.fixture
def stream(connection: RedisConnection) -> RedisDecisionStream:
    return RedisDecisionStream(connection, KEYSPACE, length_max=10_000)


@pytest.fixture
def table(postgres_pool) -> PostgresDecisions:
    return PostgresDecisions(postgres_pool)


def mover(stream, table, days: int = 30) -> DecisionMover:
    return DecisionMover(stream, table, retention_days=days)


async def everything(table) -> list[DecisionRecord]:
    return [record for _, record in await table.page(since=SINCE, until=UNTIL, limit=10_000)]


async def test_records_go_from_the_stream_to_the_table_in_order(stream, table):
    made = records(700)
    await stream.append(encoded(made))
    moved = 0
    while count := await mover(stream, table).move_once():
        moved += count
    assert moved == 700
    assert sorted(await everything(table), key=lambda r: r.hold_id) == made
    assert all(not shard for shard in await stream.read(10))
    by_customer = [r for r in await everything(table) if r.customer_id == "cus_3"]
    assert by_customer == [r for r in made if r.customer_id == "cus_3"]


async def test_a_crash_between_insert_and_trim_inserts_nothing_twice(stream, table):
    class Crashes:
        def __init__(self, inner) -> None:
            self.read = inner.read

        async def trim(self, committed) -> None:
            raise StoreUnavailable("crash")

    made = records(50)
    await stream.append(encoded(made))
    with pytest.raises(StoreUnavailable):
        await mover(Crashes(stream), table).move_once()
    assert 0 < len(await everything(table)) < 50
    while await mover(stream, table).move_once():
        pass
    assert sorted(await everything(table), key=lambda r: r.hold_id) == made


async def test_two_movers_at_once_insert_each_record_once(stream, table):
    made = records(300)
    await stream.append(encoded(made))
    await asyncio.gather(*(mover(stream, table).move_once() for _ in range(3)))
    while await mover(stream, table).move_once():
        pass
    assert len(await everything(table)) == 300


async def test_a_stream_that_nobody_reads_stays_bounded(connection):
    bounded = RedisDecisionStream(connection, KEYSPACE, length_max=100)
    made = encoded(records(1))
    for _ in range(10):
        await bounded.append(made * 200)
    shard = KEYSPACE.shard_of(made[0].customer_id) if made[0].customer_id else 0
    assert await connection.command("XLEN", KEYSPACE.decisions(shard)) < 400


async def test_denials_of_nobody_are_on_shard_zero(stream, connection):
    nobody = next(record for record in records(300) if not record.customer_id)
    await stream.append(encoded([nobody]))
    assert await connection.command("XLEN", KEYSPACE.decisions(0)) == 1


async def test_what_cannot_be_read_is_counted_and_holds_up_nobody(stream, table, connection):
    made = records(20)
    await stream.append(encoded(made[:10]))
    for shard in range(KEYSPACE.shards):
        await connection.command("XADD", KEYSPACE.decisions(shard), "*", "r", "damaged")
    await stream.append(encoded(made[10:]))
    while await mover(stream, table).move_once():
        pass
    assert len(await everything(table)) == 20


async def test_retention_deletes_what_is_too_old_in_bounded_batches(table):
    made = records(40)
    await table.insert(entries(made))
    newest = replace_instant(made[0], datetime.now(UTC), hold="f" * 40)
    await table.insert(entries([newest]))
    assert await table.forget(days=30, limit=15) == 15
    left = await everything(table)
    assert left == sorted(made, key=lambda r: (*r.order, r.decision_id))[15:]
    assert await table.forget(days=30, limit=1_000) == 25
    assert await table.forget(days=30, limit=1_000) == 0
    assert await table.find(newest.decision_id) == newest


def replace_instant(record: DecisionRecord, at: datetime, hold: str) -> DecisionRecord:
    fields = {name: getattr(record, name) for name in record.__struct_fields__}
    fields |= {"instant_ms": int(at.timestamp() * 1_000), "hold_id": "6a" + hold[2:]}
    return DecisionRecord(**fields)


@pytest.mark.parametrize("kind", ["memory", "postgres"])
async def test_a_table_pages_by_time_and_finds_by_id(kind: str, postgres_pool):
    table = MemoryDecisions() if kind == "memory" else PostgresDecisions(postgres_pool)
    made = records(30)
    assert await table.insert(entries(made)) == 30
    assert await table.insert(entries(made)) == 0
    seen, after = [], ""
    while page := await table.page(since=SINCE, until=UNTIL, after=after, limit=7):
        seen += [record for _, record in page]
        after = page[-1][0]
    assert seen == sorted(made, key=lambda r: (*r.order, r.decision_id))
    middle = START + timedelta(milliseconds=made[15].instant_ms - int(START.timestamp() * 1_000))
    late = await table.page(since=middle, until=UNTIL, limit=100)
    assert {r.instant_ms >= made[15].instant_ms for _, r in late} == {True}
    mine = await table.page(since=SINCE, until=UNTIL, customer_id=made[3].customer_id, limit=100)
    assert {record.customer_id for _, record in mine} == {made[3].customer_id}
    assert await table.find(made[5].decision_id) == made[5]
    assert await table.find("dec_" + "0" * 32) is None
    with pytest.raises(InvalidInput):
        await table.page(since=SINCE, until=UNTIL, after="nonsense", limit=1)


async def test_a_denial_and_the_allow_of_its_retry_are_two_records(table):
    placed = next(record for record in records(200) if record.placed and record.allow)
    fields = {name: getattr(placed, name) for name in placed.__struct_fields__}
    denied = DecisionRecord(
        **(fields | {"allow": False, "placed": False, "code": "rate_limited", "rule": "pace"})
    )
    assert await table.insert(entries([denied, placed, denied])) == 2
    assert await table.find(placed.decision_id) == placed


async def test_a_record_of_a_newer_version_is_skipped(table, postgres_pool):
    made = records(3)
    await table.insert(entries(made))
    await postgres_pool.execute(
        "UPDATE decisions SET record = '{\"v\":9}' WHERE decision_id = $1", made[1].decision_id
    )
    assert len(await everything(table)) == 2


async def test_settled_usage_is_read_in_order_with_its_quantities(table, postgres_pool):
    await PostgresAccounts(postgres_pool).create_customer(
        Customer(customer_id="cus_a", plan="plan", currency="USD", stripe_customer_id="cus_s")
    )
    settled = [usage_record(number) for number in range(5)] + [orphan_record(9)]
    worker = SettlementWorker(
        ListStream({0: settled}),
        PostgresLedger(postgres_pool),
        DictRateCards({"card": rate_card()}),
        type("Clock", (), {"now": lambda _: datetime.now(UTC)})(),
        owner="worker",
        shards=[0],
    )
    assert await worker.settle_once() == 6
    begin, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
    used = [event async for event in table.usage(since=begin, until=end)]
    captured = {event.hold_id for event in used if event.kind == "capture"}
    assert captured == {record.hold_id for record in settled[:5]}
    assert [event.at_ms for event in used] == sorted(event.at_ms for event in used)
    first = next(event for event in used if event.kind == "capture")
    assert first.quantities == {"input-tokens": 10, "output-tokens": 4}
    assert (first.amount_nano, first.tokens, first.plan) == (7_000, 14, "plan")
    assert [e async for e in table.usage(since=begin, until=end, customer_id="cus_x")] == []


async def test_what_the_table_gives_back_replays_as_it_was(stream, table):
    made = records(400, seed=9)
    await stream.append(encoded(made))
    while await mover(stream, table).move_once():
        pass
    report = await replay(make_policy(), recorded_events(table, since=SINCE, until=UNTIL))
    assert report.decisions == 400
    assert report.reproduced + report.kept == 400


async def test_the_commands_read_the_database_that_the_settings_name(table, postgres_dsn, tmp_path):
    made = records(60)
    await table.insert(entries(made))
    # What a process beside it tells counts only where the settings name nothing.
    (tmp_path / "stores.json").write_text('{"redis_url": "", "postgres_dsn": "host=/nowhere"}')
    settings = Settings(postgres_dsn=postgres_dsn, data_dir=tmp_path)
    async with open_events(settings, None, SINCE, UNTIL, "cus_3") as events:
        found = [event async for event in events]
    assert found == [record for record in made if record.customer_id == "cus_3"]
