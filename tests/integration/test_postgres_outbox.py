import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from fixtures.stream_records import REPORTED, usage_record

from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.outbound.postgres.ledger import PostgresLedger
from sidecar.outbound.postgres.outbox import PostgresOutbox
from sidecar.services.control_ports import Customer, ReportAttempt, ReportResult, ReportVerdict

NOW = datetime.now(UTC)
LATER = NOW + timedelta(days=1)
DELIVERED = ReportAttempt(verdict=ReportVerdict.DELIVERED)
RETRY = ReportAttempt(verdict=ReportVerdict.RETRY, detail="timeout\0")


@pytest.fixture
async def ledger(postgres_pool):
    accounts = PostgresAccounts(postgres_pool)
    for name in ("a", "b", "c"):
        await accounts.create_customer(
            Customer(
                customer_id=f"cus_{name}",
                plan="plan",
                currency="USD",
                stripe_customer_id=f"cus_stripe_{name}",
            )
        )
    return PostgresLedger(postgres_pool)


@pytest.fixture
def outbox(postgres_pool):
    return PostgresOutbox(postgres_pool)


async def settle(ledger, *records) -> None:
    lease = await ledger.claim_shard(0, "worker", 30)
    await ledger.settle(lease, records, REPORTED)


async def states(pool) -> list[tuple[str, int, int]]:
    rows = await pool.fetch("SELECT state, seq, quantity FROM report_windows ORDER BY row_id")
    return [tuple(row) for row in rows]


async def test_sealing_freezes_a_window_and_later_usage_opens_the_next(
    postgres_pool, ledger, outbox
):
    one = {"input-tokens": 10}
    await settle(ledger, usage_record(1, at=NOW, quantities=one))
    assert await outbox.seal(opened_before=LATER, limit=10) == 1
    assert await outbox.seal(opened_before=LATER, limit=10) == 0
    await settle(ledger, usage_record(2, at=NOW, quantities=one))
    await settle(ledger, usage_record(3, at=NOW, quantities=one))
    assert await states(postgres_pool) == [("pending", 1, 10), ("open", 2, 20)]


async def test_only_windows_that_were_opened_before_the_instant_are_sealed(ledger, outbox):
    await settle(ledger, usage_record(1, at=NOW))
    assert await outbox.seal(opened_before=NOW - timedelta(hours=1), limit=10) == 0
    assert await outbox.seal(opened_before=LATER, limit=1) == 1
    assert await outbox.seal(opened_before=LATER, limit=10) == 1


async def test_an_event_time_stays_in_its_window_and_is_never_in_the_future(
    postgres_pool, ledger, outbox
):
    past = (NOW - timedelta(hours=30)).replace(minute=5)
    await settle(ledger, usage_record(1, at=past), usage_record(2, at=NOW))
    await outbox.seal(opened_before=LATER, limit=10)
    rows = await postgres_pool.fetch(
        "SELECT event_at, window_start, now() AS now FROM report_windows WHERE meter ~ 'input'"
    )
    for row in rows:
        assert row["window_start"] <= row["event_at"] <= row["now"]
        assert row["event_at"].microsecond == 0
    assert rows[0]["event_at"] == past.replace(minute=59, second=59, microsecond=0)


async def test_identifiers_are_derived_distinct_and_short_enough_for_stripe(
    postgres_pool, ledger, outbox
):
    for number, name in enumerate(("cus_a", "cus_b")):
        await settle(ledger, usage_record(number + 1, customer_id=name, at=NOW))
        await outbox.seal(opened_before=LATER, limit=10)
    rows = await outbox.claim("worker", limit=10, lease_seconds=30)
    identifiers = {row.identifier for row in rows}
    assert len(rows) == len(identifiers) == 4
    assert all(len(identifier) <= 100 for identifier in identifiers)
    derived = await postgres_pool.fetchval(
        """
        SELECT count(*) FROM report_windows, ledger_identity
        WHERE identifier = 'sc1:' || encode(sha256(convert_to(json_build_array(ledger_id,
            customer_id, provider, meter, extract(epoch FROM window_start)::bigint, seq)::text,
            'UTF8')), 'hex')
        """
    )
    assert derived == 4


async def test_a_window_that_comes_to_zero_is_done_without_a_report(postgres_pool, ledger, outbox):
    estimate = usage_record(1, at=NOW, quantities={"input-tokens": 5})
    none = replace(
        usage_record(1, entry=2, at=NOW, quantities={}), kind="correction:1", amount_nano=-2_500
    )
    await settle(ledger, estimate, none)
    assert await outbox.seal(opened_before=LATER, limit=10) == 1
    assert await states(postgres_pool) == [("sent", 1, 0)]
    assert await outbox.claim("worker", limit=10, lease_seconds=30) == []


async def test_a_lane_has_one_leased_row_over_all_workers(ledger, outbox):
    for number in range(1, 4):
        await settle(
            ledger, usage_record(number, at=NOW), usage_record(number + 10, customer_id="cus_b")
        )
        await outbox.seal(opened_before=LATER, limit=100)
    claims = await asyncio.gather(
        *(outbox.claim(f"worker-{n}", limit=10, lease_seconds=30) for n in range(6))
    )
    rows = [row for claim in claims for row in claim]
    lanes = {(row.customer_id, row.event_name) for row in rows}
    assert len(rows) == len(lanes) == 4


async def test_a_finished_row_frees_its_lane_for_the_next(postgres_pool, ledger, outbox):
    for number in range(1, 4):
        await settle(ledger, usage_record(number, at=NOW, quantities={"input-tokens": number}))
        await outbox.seal(opened_before=LATER, limit=100)
    quantities = []
    while rows := await outbox.claim("worker", limit=10, lease_seconds=30):
        (row,) = rows
        quantities.append(row.quantity)
        await outbox.finish([ReportResult(row=row, attempt=DELIVERED, retry_at=NOW)])
    assert quantities == [1, 2, 3]
    assert await states(postgres_pool) == [("sent", 1, 1), ("sent", 2, 2), ("sent", 3, 3)]


async def test_a_row_that_waits_does_not_hold_up_its_lane(ledger, outbox):
    for number in (1, 2):
        await settle(ledger, usage_record(number, at=NOW, quantities={"input-tokens": number}))
        await outbox.seal(opened_before=LATER, limit=100)
    (first,) = await outbox.claim("worker", limit=10, lease_seconds=30)
    await outbox.finish([ReportResult(row=first, attempt=RETRY, retry_at=LATER)])
    (second,) = await outbox.claim("worker", limit=10, lease_seconds=30)
    assert (first.quantity, second.quantity) == (1, 2)


async def test_retries_keep_the_identifier_and_only_a_rotation_changes_the_generation(
    ledger, outbox
):
    await settle(ledger, usage_record(1, at=NOW, quantities={"input-tokens": 1}))
    await outbox.seal(opened_before=LATER, limit=10)
    seen = []
    for verdict in (ReportVerdict.RETRY, ReportVerdict.RETRY_ROTATED, ReportVerdict.RETRY):
        (row,) = await outbox.claim("worker", limit=10, lease_seconds=30)
        seen.append((row.attempts, row.http_generation, row.identifier, row.first_attempt_at))
        await outbox.finish(
            [ReportResult(row=row, attempt=ReportAttempt(verdict=verdict), retry_at=NOW)]
        )
    assert [(attempts, generation) for attempts, generation, _, _ in seen] == [
        (1, 0),
        (2, 0),
        (3, 1),
    ]
    assert len({(identifier, first) for _, _, identifier, first in seen}) == 1


async def test_a_rejected_row_is_failed_and_never_claimed_again(postgres_pool, ledger, outbox):
    await settle(ledger, usage_record(1, at=NOW, quantities={"input-tokens": 1}))
    await outbox.seal(opened_before=LATER, limit=10)
    (row,) = await outbox.claim("worker", limit=10, lease_seconds=30)
    rejected = ReportAttempt(verdict=ReportVerdict.REJECTED, detail="no such meter")
    await outbox.finish([ReportResult(row=row, attempt=rejected, retry_at=NOW)])
    assert await states(postgres_pool) == [("failed", 1, 1)]
    assert await postgres_pool.fetchval("SELECT last_detail FROM report_windows") == "no such meter"
    assert await outbox.claim("worker", limit=10, lease_seconds=30) == []


async def test_a_dead_workers_row_is_claimed_again_and_its_own_late_word_counts_only_if_delivered(
    postgres_pool, ledger, outbox
):
    await settle(ledger, usage_record(1, at=NOW, quantities={"input-tokens": 1}))
    await outbox.seal(opened_before=LATER, limit=10)
    (stale,) = await outbox.claim("slow", limit=10, lease_seconds=0)
    (fresh,) = await outbox.claim("quick", limit=10, lease_seconds=30)
    assert fresh.identifier == stale.identifier
    assert fresh.first_attempt_at == stale.first_attempt_at
    rejected = ReportAttempt(verdict=ReportVerdict.REJECTED)
    await outbox.finish([ReportResult(row=stale, attempt=rejected, retry_at=NOW)])
    assert await states(postgres_pool) == [("pending", 1, 1)]
    assert await outbox.claim("third", limit=10, lease_seconds=30) == []
    await outbox.finish([ReportResult(row=stale, attempt=DELIVERED, retry_at=NOW)])
    await outbox.finish([ReportResult(row=fresh, attempt=RETRY, retry_at=NOW)])
    assert await states(postgres_pool) == [("sent", 1, 1)]


async def test_a_row_that_stays_ambiguous_for_23_hours_is_uncertain_and_never_sent_again(
    postgres_pool, ledger, outbox
):
    await settle(ledger, usage_record(1, at=NOW, quantities={"input-tokens": 1}))
    await outbox.seal(opened_before=LATER, limit=10)
    (row,) = await outbox.claim("worker", limit=10, lease_seconds=0)
    age = "UPDATE report_windows SET first_attempt_at = now() - $1::interval"
    await postgres_pool.execute(age, timedelta(hours=22, minutes=59))
    (row,) = await outbox.claim("worker", limit=10, lease_seconds=30)
    await postgres_pool.execute(age, timedelta(hours=23))
    assert await outbox.claim("other", limit=10, lease_seconds=30) == []
    # A send that is under way is let finish.
    assert await states(postgres_pool) == [("pending", 1, 1)]
    await outbox.finish([ReportResult(row=row, attempt=RETRY, retry_at=NOW)])
    assert await outbox.claim("other", limit=10, lease_seconds=30) == []
    assert await states(postgres_pool) == [("uncertain", 1, 1)]
    await outbox.finish([ReportResult(row=row, attempt=RETRY, retry_at=NOW)])
    assert await states(postgres_pool) == [("uncertain", 1, 1)]
    await outbox.finish([ReportResult(row=row, attempt=DELIVERED, retry_at=NOW)])
    assert await states(postgres_pool) == [("sent", 1, 1)]


async def test_sealing_while_settling_loses_nothing(postgres_pool, ledger, outbox):
    total = 600
    lease = await ledger.claim_shard(0, "worker", 30)
    done = asyncio.Event()

    async def settle_all() -> None:
        for start in range(0, total, 10):
            records = [
                usage_record(
                    number,
                    customer_id=f"cus_{'abc'[number % 3]}",
                    at=NOW,
                    quantities={"input-tokens": number, "output-tokens": 1},
                )
                for number in range(start, start + 10)
            ]
            assert await ledger.settle(lease, records, REPORTED) == 10
        done.set()

    async def seal_all() -> None:
        while not done.is_set():
            await outbox.seal(opened_before=LATER, limit=2)
            await asyncio.sleep(0)

    await asyncio.gather(settle_all(), seal_all(), seal_all())
    rows = await postgres_pool.fetch(
        "SELECT meter, sum(quantity)::bigint, max(seq) FROM report_windows GROUP BY meter"
    )
    sums = {row[0]: row[1] for row in rows}
    assert sums == {"input-tokens": sum(range(total)), "output-tokens": total}
    assert min(row[2] for row in rows) > 1, "nothing was sealed while settling"
    lines = await postgres_pool.fetch(
        """
        SELECT w.row_id FROM report_windows w WHERE w.quantity <> (
            SELECT sum(l.quantity) FROM usage_lines l
            WHERE (l.customer_id, l.meter, l.window_start, l.window_seq)
                = (w.customer_id, w.meter, w.window_start, w.seq))
        """
    )
    assert lines == []
