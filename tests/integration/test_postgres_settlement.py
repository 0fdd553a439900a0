import asyncio
import random
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from fixtures.stream_records import (
    DictRateCards,
    ListStream,
    grant_record,
    orphan_record,
    rate_card,
    until,
    usage_record,
)

from sidecar.domain.errors import StoreUnavailable
from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.outbound.postgres.ledger import PostgresLedger
from sidecar.services.control_ports import Customer, Grant
from sidecar.services.settlement import SettlementWorker


class RealClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


@pytest.fixture
async def ledger(postgres_pool):
    accounts = PostgresAccounts(postgres_pool)
    for name in ("a", "b"):
        await accounts.create_customer(
            Customer(
                customer_id=f"cus_{name}",
                plan="plan",
                currency="USD",
                stripe_customer_id=f"cus_stripe_{name}",
            )
        )
    return PostgresLedger(postgres_pool)


def make_worker(stream, ledger, owner="worker", **options) -> SettlementWorker:
    return SettlementWorker(
        stream,
        ledger,
        DictRateCards({"card": rate_card()}),
        RealClock(),
        owner=owner,
        shards=[0, 1],
        **options,
    )


async def test_a_bad_record_is_quarantined_and_its_neighbours_are_posted(postgres_pool, ledger):
    records = [usage_record(number) for number in range(40)]
    records[17] = replace(records[17], customer_id="cus_nobody", event=None, amount_nano=3)
    worker = make_worker(ListStream({0: records}), ledger)
    assert await worker.settle_once() == 40
    assert await postgres_pool.fetchval("SELECT count(*) FROM usage_events") == 39
    rows = await postgres_pool.fetch("SELECT reason, entry_id, payload FROM quarantine")
    assert [(row["reason"], row["entry_id"]) for row in rows] == [("refused", "1017-0")]
    assert '"amount_nano": 3' in rows[0]["payload"]
    assert await ledger.read_available("cus_a") == -39 * 7_000


def make_streams(dice: random.Random) -> tuple[dict[int, list], dict[str, int]]:
    """Two shards with captures, orphans, a grant and repeats; and what each customer has left."""
    streams = {0: [], 1: [grant_record("g1", 10**12, entry=0, customer_id="cus_b")]}
    left = {"cus_a": 0, "cus_b": 10**12}
    for number in range(1, 300):
        shard = number % 2
        customer = f"cus_{'ab'[shard]}"
        quantity = dice.randint(0, 1_000)
        record = usage_record(
            number,
            customer_id=customer,
            quantities={"input-tokens": quantity},
            prepaid=customer == "cus_b",
        )
        if dice.random() < 0.1:
            record = orphan_record(number, customer_id=customer)
        else:
            left[customer] -= quantity * 500
        streams[shard].append(record)
        if dice.random() < 0.2:
            streams[shard].append(replace(record, entry_id=f"{1_000 + number}-1"))
    return streams, left


async def test_workers_that_crash_anywhere_post_every_record_exactly_once(postgres_pool, ledger):
    seed = random.SystemRandom().randrange(10**6)
    dice = random.Random(seed)
    await PostgresAccounts(postgres_pool).create_grant(
        Grant(grant_id="g1", customer_id="cus_b", amount_nano=10**12, currency="USD")
    )
    streams, expected = make_streams(dice)
    stream = ListStream(streams)

    class CrashingLedger:
        """Loses answers: before anything happened, or after the commit."""

        claim_shard = ledger.claim_shard
        lease_left = ledger.lease_left

        async def settle(self, lease, records, reported_meters):
            if dice.random() < 0.2:
                raise StoreUnavailable("before")
            settled = await ledger.settle(lease, records, reported_meters)
            if dice.random() < 0.2:
                raise StoreUnavailable("after")
            return settled

        async def read_available(self, customer_id):
            return await ledger.read_available(customer_id)

    async def work(name: str) -> None:
        for _ in range(60):
            stream.failures = [StoreUnavailable("trim")] if dice.random() < 0.2 else []
            worker = make_worker(
                stream, CrashingLedger(), owner=name, lease_seconds=0, batch_max=dice.randint(1, 40)
            )
            try:
                await worker.settle_once()
            except StoreUnavailable:
                continue

    await asyncio.gather(work("one"), work("two"))
    stream.failures = []
    await make_worker(stream, ledger, owner="last").settle_once()
    assert {name: await ledger.read_available(name) for name in expected} == expected, seed
    assert await postgres_pool.fetchval("SELECT count(*) FROM usage_events") == 299
    assert await postgres_pool.fetchval("SELECT count(*) FROM quarantine") == 0
    reported = await postgres_pool.fetchval("SELECT sum(quantity)::bigint FROM report_windows")
    assert reported * 500 == -expected["cus_a"]
    assert stream.records == {0: [], 1: []}


async def test_workers_share_the_shards_and_take_over_from_one_that_stops(postgres_pool, ledger):
    stream = ListStream({0: [], 1: []})
    stop_first, stop_second = asyncio.Event(), asyncio.Event()
    first = asyncio.create_task(make_worker(stream, ledger, "first").run(stop_first))
    second = asyncio.create_task(
        make_worker(stream, ledger, "second", lease_seconds=1, poll_seconds=0.01).run(stop_second)
    )
    stream.records[0].append(usage_record(1))
    await until(lambda: not stream.records[0])
    stop_first.set()
    await first
    stream.records[0].append(usage_record(2))
    stream.records[1].append(usage_record(3, customer_id="cus_b"))
    await until(lambda: not stream.records[0] and not stream.records[1])
    stop_second.set()
    await second
    assert await ledger.read_available("cus_a") == -14_000
    owners = await postgres_pool.fetch("SELECT lease_until <= now() AS ended FROM shards")
    assert all(row["ended"] for row in owners)
