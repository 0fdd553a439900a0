"""Queries of meters over what settlement wrote: corrections, orphans, windows, groups."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from fixtures.stream_records import NOW, REPORTED, orphan_record, usage_record

from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.outbound.postgres.ledger import PostgresLedger
from sidecar.outbound.postgres.meter_usage import PostgresMeterUsage
from sidecar.services.control_ports import Customer
from sidecar.services.meter_queries import MeterQuery, WindowSize

DAY = datetime(2026, 11, 20, tzinfo=UTC)


@pytest.fixture
async def ledger(postgres_pool):
    for name in ("a", "b"):
        await PostgresAccounts(postgres_pool).create_customer(
            Customer(customer_id=f"cus_{name}", plan="plan", currency="USD")
        )
    return PostgresLedger(postgres_pool)


def told(record, *, model="m", hashed="", quantity=None, observed=False):
    """The record with its first line's group, hash and quantity; other lines go."""
    line = replace(
        record.event.lines[0],
        groups={"model": model},
        text_hash=hashed,
        observed=observed,
        **({} if quantity is None else {"quantity": quantity, "amount_nano": 0}),
    )
    event = replace(record.event, lines=(line,))
    return replace(record, event=event, amount_nano=event.amount_nano)


async def settle(ledger, *records):
    lease = await ledger.claim_shard(0, "worker", 60)
    assert lease is not None
    return await ledger.settle(lease, records, REPORTED)


async def ask(pool, *, limit=100, groups_max=1_000, **changes):
    query = MeterQuery(
        **({"meter": "input-tokens", "start": DAY, "end": DAY + timedelta(days=1)} | changes)
    )
    groups = [name for name in query.group_by if name != "subject"]
    return await PostgresMeterUsage(pool).query(query, groups, groups_max=groups_max, limit=limit)


async def test_sums_are_per_window_subject_and_group(postgres_pool, ledger):
    await settle(
        ledger,
        told(usage_record(1), model="x"),
        told(usage_record(2), model="y"),
        told(usage_record(3, at=NOW + timedelta(hours=1)), model="x"),
        told(usage_record(4, customer_id="cus_b"), model="x"),
        orphan_record(5),
    )
    (whole,) = await ask(postgres_pool)
    assert (whole.total, whole.subject, whole.window_start, whole.groups) == (40, "", DAY, ())
    rows = await ask(postgres_pool, window_size=WindowSize.HOUR, group_by=("subject", "model"))
    assert [(r.window_start.hour, r.subject, r.groups, r.total) for r in rows] == [
        (10, "cus_a", ("x",), 10),
        (10, "cus_a", ("y",), 10),
        (10, "cus_b", ("x",), 10),
        (11, "cus_a", ("x",), 10),
    ]
    only = await ask(postgres_pool, subjects=("cus_a",), filters={"model": ("x",)})
    assert [(row.subject, row.total) for row in only] == [("cus_a", 20)]


async def test_a_correction_moves_its_hold_to_its_own_group(postgres_pool, ledger):
    estimate = told(usage_record(1, quantities={"input-tokens": 100}), model="asked")
    right = replace(
        told(usage_record(1, quantities={"input-tokens": 30}), model="served"),
        entry_id="2000-0",
        kind="correction:1",
        amount_nano=-70 * 500,
    )
    await settle(ledger, estimate, right)
    (row,) = await ask(postgres_pool, group_by=("model",))
    assert (row.groups, row.total) == (("served",), 30)


async def test_a_correction_of_the_group_alone_is_seen(postgres_pool, ledger):
    estimate = told(usage_record(1), model="asked")
    right = replace(
        told(usage_record(1), model="served"),
        entry_id="2000-0",
        kind="correction:1",
        amount_nano=0,
    )
    await settle(ledger, estimate, right)
    (row,) = await ask(postgres_pool, group_by=("model",))
    assert (row.groups, row.total) == (("served",), 10)


async def test_largest_newest_and_distinct_are_worked_out_when_asked(postgres_pool, ledger):
    later = NOW + timedelta(minutes=5)
    await settle(
        ledger,
        told(usage_record(1), quantity=7, hashed="a" * 32, observed=True),
        told(usage_record(2), quantity=9, hashed="b" * 32, observed=True),
        told(usage_record(3, at=later), quantity=0, hashed="a" * 32, observed=True),
    )
    (row,) = await ask(postgres_pool)
    assert (row.largest, row.newest, row.total) == (9, 0, 16)
    assert row.distinct == 2
    rows = await ask(postgres_pool, window_size=WindowSize.MINUTE)
    assert [(row.window_start.minute, row.largest, row.distinct) for row in rows] == [
        (30, 9, 2),
        (35, 0, 0),
    ]


async def test_groups_beyond_the_limit_are_joined_as_other(postgres_pool, ledger):
    records = [
        told(usage_record(number, at=NOW + timedelta(seconds=number)), model=f"m{number}")
        for number in range(5)
    ]
    await settle(ledger, *records)
    rows = await ask(postgres_pool, group_by=("model",), groups_max=3)
    assert {row.groups[0]: row.total for row in rows} == {
        "m0": 10,
        "m1": 10,
        "m2": 10,
        "other": 20,
    }
    assert len(await ask(postgres_pool, group_by=("model",), limit=2)) == 2


async def test_days_begin_in_the_zone_that_is_asked_for(postgres_pool, ledger):
    await settle(ledger, told(usage_record(1, at=datetime(2026, 11, 20, 23, 30, tzinfo=UTC))))
    query = {"window_size": WindowSize.DAY, "time_zone": "Europe/Berlin"}
    (row,) = await ask(postgres_pool, end=DAY + timedelta(days=2), **query)
    assert row.window_start == datetime(2026, 11, 20, 23, tzinfo=UTC)
    assert await ask(postgres_pool, meter="nothing") == []
