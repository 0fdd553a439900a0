import asyncio
from dataclasses import replace

import asyncpg
import pytest
from fixtures.stream_records import (
    NOW,
    REPORTED,
    grant_record,
    hold_id,
    orphan_record,
    usage_record,
)

from sidecar.domain.errors import Conflict, InvalidInput, NotFound, StoreUnavailable
from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.outbound.postgres.ledger import PostgresLedger
from sidecar.services.control_ports import (
    Customer,
    Grant,
    GrantState,
    SetAsideRecord,
    UnreadableRecord,
)

TABLES = (
    "usage_events",
    "usage_lines",
    "usage_client_keys",
    "ledger_transactions",
    "ledger_entries",
    "account_balances",
    "report_windows",
    "grant_movements",
    "grants",
    "quarantine",
    "shards",
)
BALANCES_AGAINST_ENTRIES = """
SELECT b.customer_id FROM account_balances b
FULL JOIN (
    SELECT t.customer_id, t.currency,
        coalesce(sum(amount_nano) FILTER (WHERE account = 'customer_credit'), 0) AS credit,
        coalesce(sum(amount_nano) FILTER (WHERE account = 'customer_overage'), 0) AS overage,
        coalesce(sum(amount_nano) FILTER (WHERE account = 'customer_receivable'), 0) AS owed,
        coalesce(sum(amount_nano) FILTER (WHERE account = 'funding'), 0) AS funding,
        coalesce(sum(amount_nano) FILTER (WHERE account = 'promotion'), 0) AS promotion,
        coalesce(sum(amount_nano) FILTER (WHERE account = 'breakage'), 0) AS breakage,
        coalesce(sum(amount_nano) FILTER (WHERE account = 'revenue'), 0) AS revenue
    FROM ledger_entries e JOIN ledger_transactions t USING (customer_id, transaction_id)
    GROUP BY t.customer_id, t.currency
) e USING (customer_id, currency)
WHERE (customer_credit_nano, customer_overage_nano, customer_receivable_nano, funding_nano,
    promotion_nano, breakage_nano, revenue_nano)
    IS DISTINCT FROM (credit, overage, owed, funding, promotion, breakage, revenue)
"""


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


async def dump(pool) -> dict[str, list[asyncpg.Record]]:
    return {table: await pool.fetch(f"SELECT * FROM {table} ORDER BY 1, 2") for table in TABLES}


async def windows(pool) -> dict[tuple[str, int], int]:
    rows = await pool.fetch("SELECT meter, seq, quantity FROM report_windows")
    return {(row["meter"], row["seq"]): row["quantity"] for row in rows}


async def test_a_batch_posts_events_lines_a_balanced_transaction_and_windows(
    postgres_pool, ledger, lease
):
    assert await ledger.settle(lease, [usage_record(1), usage_record(2)], REPORTED) == 2
    event = await postgres_pool.fetchrow("SELECT * FROM usage_events WHERE entry_id = '1001-0'")
    assert event["hold_id"] == hold_id(1)
    assert event["day"] == NOW.date()
    assert event["request_id"] == b"\xff\x00id"
    assert event["cache_read_tokens"] is None
    assert event["amount_nano"] == 7_000
    assert event["transaction_id"] == "usage:0:0:1001-0"
    entries = await postgres_pool.fetch("SELECT account, amount_nano FROM ledger_entries")
    assert {tuple(row) for row in entries} == {
        ("customer_receivable", -14_000),
        ("revenue", 14_000),
    }
    assert await windows(postgres_pool) == {("input-tokens", 1): 20, ("output-tokens", 1): 8}
    assert await ledger.read_available("cus_a") == -14_000


async def test_the_same_batch_settled_twice_counts_once(postgres_pool, ledger, lease):
    records = [usage_record(1), usage_record(2), orphan_record(3)]
    assert await ledger.settle(lease, records, REPORTED) == 3
    before = await dump(postgres_pool)
    assert await ledger.settle(lease, records, REPORTED) == 0
    assert await dump(postgres_pool) == before


async def test_records_that_are_appended_again_count_once_though_the_offset_moves(
    postgres_pool, ledger, lease
):
    await ledger.settle(lease, [usage_record(1)], REPORTED)
    again = usage_record(1, entry=50)
    assert await ledger.settle(lease, [again, usage_record(2, entry=51)], REPORTED) == 1
    assert await ledger.read_available("cus_a") == -14_000
    assert await windows(postgres_pool) == {("input-tokens", 1): 20, ("output-tokens", 1): 8}
    assert await postgres_pool.fetchval("SELECT stream_offset FROM shards") == "1051-0"


async def test_a_record_that_stands_twice_in_one_batch_counts_once(ledger, lease):
    assert await ledger.settle(lease, [usage_record(1), usage_record(1, entry=2)], REPORTED) == 1
    assert await ledger.read_available("cus_a") == -7_000


async def test_a_replay_that_is_cut_differently_changes_nothing(postgres_pool, ledger, lease):
    records = [usage_record(number) for number in range(1, 10)]
    await ledger.settle(lease, records[:5], REPORTED)
    assert await ledger.settle(lease, records[2:], REPORTED) == 4
    assert await ledger.read_available("cus_a") == -9 * 7_000
    assert await windows(postgres_pool) == {("input-tokens", 1): 90, ("output-tokens", 1): 36}


async def test_a_repeat_with_another_amount_is_refused_and_writes_nothing(
    postgres_pool, ledger, lease
):
    await ledger.settle(lease, [usage_record(1)], REPORTED)
    before = await dump(postgres_pool)
    other = usage_record(1, entry=2, quantities={"input-tokens": 99})
    with pytest.raises(InvalidInput, match="another amount"):
        await ledger.settle(lease, [usage_record(3), other], REPORTED)
    assert await dump(postgres_pool) == before


async def test_a_lost_lease_writes_nothing(postgres_pool, ledger):
    lost = await ledger.claim_shard(0, "first", 0)
    taken = await ledger.claim_shard(0, "second", 30)
    assert taken.fence > lost.fence
    before = await dump(postgres_pool)
    with pytest.raises(Conflict):
        await ledger.settle(lost, [usage_record(1)], REPORTED)
    assert await dump(postgres_pool) == before
    assert await ledger.settle(taken, [usage_record(1)], REPORTED) == 1


async def test_an_owner_that_lost_and_regained_the_lease_cannot_use_the_old_fence(ledger):
    old = await ledger.claim_shard(0, "first", 0)
    await ledger.claim_shard(0, "second", 0)
    new = await ledger.claim_shard(0, "first", 30)
    with pytest.raises(Conflict):
        await ledger.settle(old, [usage_record(1)], REPORTED)
    assert await ledger.settle(new, [usage_record(1)], REPORTED) == 1


async def test_only_one_of_many_workers_gets_a_shard(ledger):
    leases = await asyncio.gather(
        *(ledger.claim_shard(7, f"worker-{number}", 30) for number in range(8))
    )
    assert sum(lease is not None for lease in leases) == 1


async def test_two_workers_on_one_shard_post_each_record_once(postgres_pool, ledger, lease):
    records = [usage_record(number) for number in range(1, 101)]
    results = await asyncio.gather(
        ledger.settle(lease, records, REPORTED), ledger.settle(lease, records, REPORTED)
    )
    assert sorted(results) == [0, 100]
    assert await ledger.read_available("cus_a") == -700_000


async def test_a_claim_does_not_wait_for_a_batch_that_is_under_way(postgres_pool, ledger):
    await ledger.claim_shard(0, "first", 0)
    async with postgres_pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT shard FROM shards WHERE shard = 0 FOR UPDATE")
        assert await ledger.claim_shard(0, "second", 30) is None


async def test_what_is_left_of_anothers_lease(postgres_pool, ledger, lease):
    assert 25 < await ledger.lease_left(0, "other") <= 30
    assert await ledger.lease_left(0, "worker") == 0, "its own"
    assert await ledger.lease_left(5, "worker") == 0, "nobody's"
    await postgres_pool.execute("UPDATE shards SET lease_until = now() - interval '1 minute'")
    assert await ledger.lease_left(0, "other") == 0, "it has ended"


async def test_new_events_beside_ones_that_are_there_are_posted_once(ledger, lease):
    """Some of a batch is there already, some stands twice in it, and one is not like its repeat."""
    assert await ledger.settle(lease, [usage_record(n) for n in range(5)], REPORTED) == 5
    again = [replace(usage_record(n), entry_id=f"{2_000 + n}-0") for n in range(3, 9)]
    twice = [replace(record, entry_id=f"3000-{n}") for n, record in enumerate(again)]
    assert await ledger.settle(lease, [*again, *twice], REPORTED) == 4
    assert await ledger.read_available("cus_a") == -9 * 7_000
    other = replace(usage_record(20), entry_id="4000-0")
    unlike = replace(usage_record(20, unit_nano=3), entry_id="4000-1")
    assert other.amount_nano != unlike.amount_nano
    with pytest.raises(InvalidInput, match="another amount"):
        await ledger.settle(lease, [other, unlike], REPORTED)
    assert await ledger.read_available("cus_a") == -9 * 7_000


async def test_prepaid_usage_burns_credit_and_is_never_reported(postgres_pool, ledger, lease):
    await PostgresAccounts(postgres_pool).create_grant(
        Grant(grant_id="g1", customer_id="cus_a", amount_nano=10_000, currency="USD")
    )
    records = [
        grant_record("g1", 10_000, entry=1),
        usage_record(2, prepaid=True),
        usage_record(3, prepaid=True, overage_nano=4_000),
    ]
    assert await ledger.settle(lease, records, REPORTED) == 3
    entries = await postgres_pool.fetch(
        "SELECT account, sum(amount_nano)::bigint FROM ledger_entries GROUP BY account"
    )
    assert {tuple(row) for row in entries} == {
        ("funding", -10_000),
        ("customer_overage", -4_000),
        ("revenue", 14_000),
    } | {("customer_credit", 0)}
    assert await ledger.read_available("cus_a") == -4_000
    assert await windows(postgres_pool) == {}


async def test_a_grant_is_posted_once_and_its_intent_ends(postgres_pool, accounts, ledger, lease):
    await accounts.create_grant(
        Grant(grant_id="g1", customer_id="cus_a", amount_nano=5_000, currency="USD")
    )
    assert len(await accounts.pending_grants(limit=10)) == 1
    record = grant_record("g1", 5_000, entry=1)
    assert await ledger.settle(lease, [record, replace(record, entry_id="1002-0")], {}) == 1
    assert await ledger.settle(lease, [replace(record, entry_id="1003-0")], {}) == 0
    assert await accounts.pending_grants(limit=10) == []
    (grant,) = await accounts.list_grants("cus_a", after="", limit=10)
    assert grant.state is GrantState.POSTED
    assert await ledger.read_available("cus_a") == 5_000


async def test_what_the_stream_says_was_given_wins_over_a_refusal(accounts, ledger, lease):
    grant = await accounts.create_grant(
        Grant(grant_id="g1", customer_id="cus_a", amount_nano=5_000, currency="USD")
    )
    await accounts.refuse_grant(grant, refusal="too late")
    assert await ledger.settle(lease, [grant_record("g1", 5_000, entry=1)], {}) == 1
    posted = await accounts.read_grant("cus_a", "g1")
    assert (posted.state, posted.refusal, posted.remaining_nano) == (GrantState.POSTED, "", 5_000)
    await accounts.refuse_grant(grant, refusal="too late")
    assert await accounts.read_grant("cus_a", "g1") == posted


@pytest.mark.parametrize("amount", [4_999, 5_001])
async def test_a_grant_of_another_amount_than_its_intent_is_refused(
    accounts, ledger, lease, amount
):
    await accounts.create_grant(
        Grant(grant_id="g1", customer_id="cus_a", amount_nano=5_000, currency="USD")
    )
    with pytest.raises(InvalidInput, match="no such grant"):
        await ledger.settle(lease, [grant_record("g1", amount, entry=1)], {})


async def test_an_amount_that_is_not_what_its_lines_come_to_is_refused(ledger, lease):
    with pytest.raises(InvalidInput, match="come to 7000"):
        await ledger.settle(lease, [usage_record(1, amount_nano=7_001)], REPORTED)


@pytest.mark.parametrize(
    "bad",
    [
        usage_record(2, customer_id="cus_nobody"),
        usage_record(2, currency="EUR"),
        usage_record(2, overage_nano=1),
        usage_record(2, kind="correction:0"),
        usage_record(2, hold_id="x"),
        replace(usage_record(2), event=replace(usage_record(2).event, model="nul\0")),
        replace(usage_record(2), event=replace(usage_record(2).event, model="half \ud800")),
        replace(usage_record(2), event=replace(usage_record(2).event, duration_ms=2**70)),
        usage_record(2, quantities={"input-tokens": 2**62}, unit_nano=3),
    ],
    ids=lambda record: record.entry_id,
)
async def test_what_cannot_be_posted_is_refused_and_takes_nothing_with_it(
    postgres_pool, ledger, lease, bad
):
    before = await dump(postgres_pool)
    with pytest.raises(InvalidInput):
        await ledger.settle(lease, [usage_record(1), bad], REPORTED)
    assert await dump(postgres_pool) == before


async def test_a_client_key_belongs_to_one_hold(ledger, lease):
    def keyed(number, key):
        record = usage_record(number)
        return replace(record, event=replace(record.event, client_key=key))

    assert await ledger.settle(lease, [keyed(1, "order-1"), keyed(2, "order-2")], REPORTED) == 2
    with pytest.raises(InvalidInput, match="event id"):
        await ledger.settle(lease, [keyed(3, "order-1")], REPORTED)


async def test_set_aside_and_unreadable_records_go_to_quarantine_once(postgres_pool, ledger, lease):
    aside = SetAsideRecord(entry_id="1001-0", key="hold", reason="unpriced_model", payload="{}")
    unreadable = UnreadableRecord(
        entry_id="1003-0", fields={"customer_id": "cus_a\0", "x": "\ud800"}, problem="bad \0"
    )
    records = [aside, replace(aside, entry_id="1002-0"), unreadable]
    assert await ledger.settle(lease, records, {}) == 2
    rows = await postgres_pool.fetch(
        "SELECT reason, key, customer_id, payload FROM quarantine ORDER BY reason"
    )
    assert [tuple(row) for row in rows] == [
        ("unpriced_model", "hold", None, "{}"),
        ("unreadable", "0:1003-0", "cus_a\\0", '{"customer_id": "cus_a\\u0000", "x": "\\ud800"}'),
    ]
    assert await postgres_pool.fetchval("SELECT stream_offset FROM shards") == "1003-0"


async def test_balances_are_the_sums_of_the_entries(postgres_pool, accounts, ledger, lease):
    records = []
    for place, customer_id in enumerate(("cus_a", "cus_b")):
        await accounts.create_grant(
            Grant(grant_id="g1", customer_id=customer_id, amount_nano=10**15, currency="USD")
        )
        records.append(grant_record("g1", 10**15, entry=place - 1, customer_id=customer_id))
    for number in range(1, 200):
        prepaid = number % 3 == 0
        records.append(
            usage_record(
                number,
                customer_id="cus_b" if number % 2 else "cus_a",
                prepaid=prepaid,
                overage_nano=300 * (number % 5) if prepaid else 0,
                quantities={"input-tokens": number, "output-tokens": number * 7},
            )
        )
    for start in range(0, 201, 23):
        await ledger.settle(lease, records[start : start + 23], REPORTED)
    assert await postgres_pool.fetch(BALANCES_AGAINST_ENTRIES) == []
    total = await postgres_pool.fetchval("SELECT sum(amount_nano) FROM usage_events")
    revenue = await postgres_pool.fetchval("SELECT sum(revenue_nano) FROM account_balances")
    assert revenue == total == sum(8 * number * 500 for number in range(1, 200))


async def test_the_ledger_of_an_unknown_customer_is_not_found(ledger):
    with pytest.raises(NotFound):
        await ledger.read_available("cus_nobody")
    assert await ledger.read_available("cus_b") == 0


async def test_a_database_that_is_away_is_unavailable_and_a_repeat_settles(
    postgres_pool, ledger, lease
):
    async with postgres_pool.acquire() as blocker, blocker.transaction():
        await blocker.execute("SELECT shard FROM shards WHERE shard = 0 FOR UPDATE")
        settling = asyncio.create_task(ledger.settle(lease, [usage_record(1)], REPORTED))
        waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        while (pid := await postgres_pool.fetchval(waiting)) is None:  # noqa: ASYNC110  It is polled.
            await asyncio.sleep(0.01)
        await blocker.execute("SELECT pg_terminate_backend($1)", pid)
        with pytest.raises(StoreUnavailable):
            await settling
    assert await ledger.settle(lease, [usage_record(1)], REPORTED) == 1
