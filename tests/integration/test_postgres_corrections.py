from dataclasses import replace
from datetime import timedelta

import pytest
from fixtures.stream_records import NOW, REPORTED, orphan_record, usage_record

from sidecar.domain.usage import RatedLine
from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.outbound.postgres.ledger import PostgresLedger
from sidecar.outbound.postgres.outbox import PostgresOutbox
from sidecar.services.control_ports import Customer


@pytest.fixture
async def accounts(postgres_pool):
    accounts = PostgresAccounts(postgres_pool)
    for customer_id, stripe_id in (("cus_a", "cus_stripe_a"), ("cus_b", None)):
        await accounts.create_customer(
            Customer(
                customer_id=customer_id, plan="plan", currency="USD", stripe_customer_id=stripe_id
            )
        )
    return accounts


@pytest.fixture
def ledger(postgres_pool, accounts):
    return PostgresLedger(postgres_pool)


@pytest.fixture
async def lease(ledger):
    return await ledger.claim_shard(0, "worker", 30)


async def windows(pool) -> dict[tuple[str, int], int]:
    rows = await pool.fetch("SELECT meter, seq, quantity FROM report_windows")
    return {(row["meter"], row["seq"]): row["quantity"] for row in rows}


async def test_a_correction_moves_ledger_and_windows_by_the_difference(
    postgres_pool, ledger, lease
):
    estimate = usage_record(1, quantities={"input-tokens": 100, "output-tokens": 50})
    measured = usage_record(
        1,
        entry=2,
        quantities={"input-tokens": 70, "requests": 3},
        kind="correction:1",
        amount_nano=(70 + 3 - 150) * 500,
    )
    assert await ledger.settle(lease, [estimate], REPORTED) == 1
    assert await ledger.settle(lease, [measured], REPORTED) == 1
    assert await windows(postgres_pool) == {("input-tokens", 1): 70, ("output-tokens", 1): 0}
    assert await ledger.read_available("cus_a") == -(73 * 500)
    lines = await postgres_pool.fetch(
        "SELECT meter, quantity, amount_nano FROM usage_lines WHERE kind = 'correction:1'"
    )
    assert {tuple(row) for row in lines} == {
        ("input-tokens", -30, -15_000),
        ("output-tokens", -50, -25_000),
        ("requests", 3, 1_500),
    }


async def test_a_correction_in_the_batch_of_its_capture_comes_to_the_same(
    postgres_pool, ledger, lease
):
    estimate = usage_record(1, quantities={"input-tokens": 100})
    measured = usage_record(
        1, entry=2, quantities={"input-tokens": 70}, kind="correction:1", amount_nano=-15_000
    )
    assert await ledger.settle(lease, [estimate, measured], REPORTED) == 2
    assert await windows(postgres_pool) == {("input-tokens", 1): 70}
    assert await ledger.read_available("cus_a") == -35_000


async def test_a_correction_after_the_seal_opens_the_next_row(postgres_pool, ledger, lease):
    await ledger.settle(lease, [usage_record(1, quantities={"input-tokens": 100})], REPORTED)
    await seal_all(postgres_pool)
    measured = usage_record(
        1, entry=2, quantities={"input-tokens": 70}, kind="correction:1", amount_nano=-15_000
    )
    await ledger.settle(lease, [measured], REPORTED)
    assert await windows(postgres_pool) == {("input-tokens", 1): 100, ("input-tokens", 2): -30}


async def test_a_released_orphan_counts_nothing_of_what_its_hold_was_for(
    postgres_pool, ledger, lease
):
    assert await ledger.settle(lease, [orphan_record(1)], REPORTED) == 1
    assert await windows(postgres_pool) == {}
    assert await postgres_pool.fetchval("SELECT count(*) FROM usage_lines") == 0
    assert await ledger.read_available("cus_a") == 0


@pytest.mark.parametrize("batches", [1, 2])
async def test_a_late_capture_after_a_released_orphan_counts_in_full(
    postgres_pool, ledger, lease, batches
):
    records = [orphan_record(1), usage_record(1, entry=2, late=True)]
    for batch in [records] if batches == 1 else [[record] for record in records]:
        await ledger.settle(lease, batch, REPORTED)
    assert await ledger.read_available("cus_a") == -7_000
    assert await windows(postgres_pool) == {("input-tokens", 1): 10, ("output-tokens", 1): 4}
    kinds = await postgres_pool.fetch("SELECT kind FROM usage_events ORDER BY kind")
    assert [row["kind"] for row in kinds] == ["capture", "orphan"]


async def test_a_late_capture_after_a_charged_orphan_counts_the_difference(
    postgres_pool, ledger, lease
):
    charged = replace(usage_record(1, quantities={"input-tokens": 30}), kind="orphan")
    late = usage_record(
        1, entry=2, quantities={"input-tokens": 40}, late=True, amount_nano=10 * 500
    )
    await ledger.settle(lease, [charged], REPORTED)
    await ledger.settle(lease, [late], REPORTED)
    assert await windows(postgres_pool) == {("input-tokens", 1): 40}
    assert await ledger.read_available("cus_a") == -20_000


async def test_a_customer_without_a_provider_id_and_free_usage_open_no_window(
    postgres_pool, ledger, lease
):
    records = [
        usage_record(1, customer_id="cus_b"),
        usage_record(2, quantities={"input-tokens": 0}),
        usage_record(3, quantities={"requests": 5}),
    ]
    assert await ledger.settle(lease, records, REPORTED) == 3
    assert await windows(postgres_pool) == {}


async def test_a_window_is_the_utc_hour_in_which_usage_occurred(postgres_pool, ledger, lease):
    edge = NOW.replace(minute=59, second=59, microsecond=999_000)
    records = [usage_record(1, at=edge), usage_record(2, at=edge + timedelta(milliseconds=1))]
    await ledger.settle(lease, records, REPORTED)
    rows = await postgres_pool.fetch(
        "SELECT DISTINCT window_start FROM usage_lines ORDER BY window_start"
    )
    assert [row["window_start"].hour for row in rows] == [10, 11]


async def test_usage_lines_sum_to_the_events_and_to_the_windows(postgres_pool, ledger, lease):
    for number in range(1, 30):
        await ledger.settle(lease, [usage_record(number)], REPORTED)
        if number % 7 == 0:
            await seal_all(postgres_pool)
    differing = await postgres_pool.fetch(
        """
        SELECT w.row_id FROM report_windows w WHERE w.quantity <> (
            SELECT sum(l.quantity) FROM usage_lines l
            WHERE l.customer_id = w.customer_id AND l.meter = w.meter
                AND l.window_start = w.window_start AND l.window_seq = w.seq)
        """
    )
    assert differing == []
    assert await postgres_pool.fetchval("SELECT max(seq) FROM report_windows") == 5


async def test_lines_of_one_meter_are_added_up(postgres_pool, ledger, lease):
    record = usage_record(1)
    twice = (
        RatedLine(meter="input-tokens", quantity=3, amount_nano=5),
        RatedLine(meter="input-tokens", quantity=4, amount_nano=6),
    )
    record = replace(record, amount_nano=11, event=replace(record.event, lines=twice))
    await ledger.settle(lease, [record], REPORTED)
    assert await windows(postgres_pool) == {("input-tokens", 1): 7}


async def seal_all(pool) -> None:
    await PostgresOutbox(pool).seal(opened_before=NOW + timedelta(days=36_500), limit=1_000)
