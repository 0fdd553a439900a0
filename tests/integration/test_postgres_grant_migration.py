"""A ledger from before grants had remainders, brought to the newest schema."""

from pathlib import Path

import asyncpg
import pytest
from fixtures.ledger_parts import verify
from fixtures.stream_records import REPORTED, grant_record, moved, usage_record

from sidecar.outbound.postgres.ledger import PostgresLedger
from sidecar.outbound.postgres.migrating import migrate
from sidecar.outbound.postgres.migrations import versions
from sidecar.outbound.postgres.pool import open_pool

BEFORE = "0008"
FILES = [
    path
    for path in sorted(Path(versions.__file__).parent.glob("r*.sql"))
    if path.name[1:5] <= BEFORE
]
# Customer a has used 130 of what it was given; b owes; c was never settled.
OLD = """
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
INSERT INTO alembic_version VALUES ('0008');
INSERT INTO customers (customer_id, plan, currency)
SELECT 'cus_' || c, 'plan', 'USD' FROM unnest(ARRAY['a', 'b', 'c']) c;
INSERT INTO grants (
    customer_id, grant_id, amount_nano, currency, kind, state, posted_at, created_at)
VALUES ('cus_a', 'paid-1', 100, 'USD', 'paid', 'posted', now(), '2026-01-01Z'),
    ('cus_a', 'paid-2', 100, 'USD', 'paid', 'posted', now(), '2026-01-02Z'),
    ('cus_a', 'gift', 50, 'USD', 'promotional', 'posted', now(), '2026-01-03Z'),
    ('cus_b', 'paid-1', 70, 'USD', 'paid', 'posted', now(), '2026-01-01Z'),
    ('cus_c', 'paid-1', 60, 'USD', 'paid', 'intent', NULL, '2026-01-01Z');
INSERT INTO ledger_transactions (customer_id, transaction_id, kind, currency, shard,
    first_entry_id, last_entry_id, event_count)
SELECT customer_id, 'grant:' || grant_id, 'grant', 'USD', 0, '1-0', '1-0', 1
FROM grants WHERE state = 'posted';
INSERT INTO ledger_entries (customer_id, transaction_id, account, amount_nano)
SELECT customer_id, 'grant:' || grant_id, account, sign * amount_nano
FROM grants, (VALUES ('funding', -1), ('customer_credit', 1)) AS e (account, sign)
WHERE state = 'posted';
INSERT INTO ledger_transactions (customer_id, transaction_id, kind, currency, shard,
    first_entry_id, last_entry_id, event_count)
VALUES ('cus_a', 'usage:0:0:2-0', 'usage', 'USD', 0, '2-0', '2-0', 1);
INSERT INTO usage_events (customer_id, day, hold_id, kind, transaction_id, shard, entry_id,
    currency, amount_nano, overage_nano, held_nano, prepaid, late, plan, price_version, model,
    user_id, credential_id, route, edge, gateway_id, duration_ms, request_bytes, response_bytes,
    estimated, estimate_reason, client_key, request_id, occurred_at, received_at, decided_at)
VALUES ('cus_a', '1970-01-01', repeat('0', 40), 'capture', 'usage:0:0:2-0', 0, '2-0', 'USD', 130,
    0, 0, true, false, 'plan', 'card', '', '', '', '', '', '', 0, 0, 0, false, '', '', '', now(),
    now(), now());
INSERT INTO ledger_entries (customer_id, transaction_id, account, amount_nano)
VALUES ('cus_a', 'usage:0:0:2-0', 'customer_credit', -130),
    ('cus_a', 'usage:0:0:2-0', 'revenue', 130);
INSERT INTO account_balances (customer_id, currency, customer_credit_nano, customer_overage_nano,
    customer_receivable_nano, funding_nano, revenue_nano)
VALUES ('cus_a', 'USD', 120, 0, 0, -250, 130), ('cus_b', 'USD', 0, -5, -9, -70, 84);
"""


@pytest.fixture
async def pool(empty_postgres_dsn):
    connection = await asyncpg.connect(empty_postgres_dsn)
    for path in FILES:
        await connection.execute(path.read_text())
    await connection.execute(OLD)
    await connection.close()
    assert (await migrate(empty_postgres_dsn))[0] == "0009"
    pool = await open_pool(empty_postgres_dsn)
    yield pool
    await pool.close()


async def test_what_is_left_belongs_to_the_last_in_burn_order(pool):
    rows = await pool.fetch(
        "SELECT grant_id, remaining_nano, opening_nano FROM grants WHERE customer_id = 'cus_a'"
    )
    assert {row["grant_id"]: row["remaining_nano"] for row in rows} == {
        "gift": 0,
        "paid-1": 20,
        "paid-2": 100,
    }
    assert all(row["remaining_nano"] == row["opening_nano"] for row in rows)
    left = await pool.fetch(
        "SELECT customer_id, sum(remaining_nano)::bigint FROM grants GROUP BY 1"
    )
    assert {tuple(row) for row in left} == {("cus_a", 120), ("cus_b", 0), ("cus_c", 0)}


async def test_the_sums_of_balances_follow_from_the_accounts(pool):
    rows = await pool.fetch(
        "SELECT granted_nano, used_nano, used_prepaid_nano, voided_nano, expired_nano"
        " FROM account_balances ORDER BY customer_id"
    )
    assert [tuple(row) for row in rows] == [(250, 130, 130, 0, 0), (70, 84, 75, 0, 0)]


async def test_settlement_goes_on_from_there_and_old_and_new_links_verify(pool):
    ledger = PostgresLedger(pool)
    lease = await ledger.claim_shard(0, "worker", 300)
    records = [
        usage_record(
            5,
            quantities={"input-tokens": 70},
            unit_nano=1,
            prepaid=True,
            movements=(*moved("paid-1", -20), *moved("paid-2", -50)),
        ),
        grant_record("paid-1", 60, entry=6, customer_id="cus_c"),
        grant_record("paid-2", 50, entry=7, kind="expire"),
    ]
    assert await ledger.settle(lease, records, REPORTED) == 3
    left = await pool.fetch(
        "SELECT customer_id, sum(remaining_nano)::bigint FROM grants GROUP BY 1"
    )
    assert {tuple(row) for row in left} == {("cus_a", 0), ("cus_b", 0), ("cus_c", 60)}
    verdict = await verify(pool)
    assert verdict.intact, verdict.breaks
    assert verdict.chains[0].transactions == 8
