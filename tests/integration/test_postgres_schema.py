import asyncpg
import pytest
from fixtures.stream_records import NOW, REPORTED, grant_record, hold_id, usage_record

from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.outbound.postgres.ledger import PostgresLedger
from sidecar.services.control_ports import Customer, Grant


@pytest.fixture
async def pool(postgres_pool):
    accounts = PostgresAccounts(postgres_pool)
    await accounts.create_customer(
        Customer(
            customer_id="cus_a", plan="plan", currency="USD", stripe_customer_id="cus_stripe_a"
        )
    )
    await accounts.create_grant(
        Grant(grant_id="g1", customer_id="cus_a", amount_nano=500, currency="USD")
    )
    ledger = PostgresLedger(postgres_pool)
    lease = await ledger.claim_shard(0, "worker", 30)
    await ledger.settle(lease, [usage_record(1), grant_record("g1", 500, entry=2)], REPORTED)
    return postgres_pool


@pytest.mark.parametrize("table", ["ledger_entries", "ledger_transactions", "grant_movements"])
@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM {table}",
        "DELETE FROM {table} WHERE false",
        "TRUNCATE {table} CASCADE",
        "UPDATE {table} SET customer_id = customer_id",
    ],
)
async def test_the_ledger_is_append_only_even_for_its_owner(pool, table, statement):
    before = await pool.fetch(f"SELECT * FROM {table}")
    with pytest.raises(asyncpg.RestrictViolationError, match="append only"):
        await pool.execute(statement.format(table=table))
    assert await pool.fetch(f"SELECT * FROM {table}") == before


@pytest.mark.parametrize(
    "entries",
    [
        [("revenue", 1)],
        [("revenue", 5), ("funding", -4)],
    ],
)
async def test_entries_that_do_not_sum_to_zero_are_refused(pool, entries):
    with pytest.raises(asyncpg.CheckViolationError, match="sum to zero"):
        await insert_transaction(pool, entries)


async def test_two_unbalanced_transactions_do_not_balance_each_other(pool):
    async with pool.acquire() as connection:
        for number in (1, 2):
            await connection.execute(TRANSACTION, f"t{number}")
        with pytest.raises(asyncpg.CheckViolationError):
            await connection.execute(
                "INSERT INTO ledger_entries VALUES"
                " ('cus_a', 't1', 'revenue', 5), ('cus_a', 't2', 'revenue', -5)"
            )


async def test_a_balanced_transaction_is_accepted(pool):
    await insert_transaction(pool, [("revenue", 5), ("customer_overage", -3), ("funding", -2)])


async def test_credit_that_no_grant_moved_is_refused(pool):
    with pytest.raises(asyncpg.CheckViolationError, match="movements of grants"):
        await insert_transaction(pool, [("revenue", 5), ("customer_credit", -5)])


async def test_movements_are_not_added_to_a_transaction_later(pool):
    with pytest.raises(asyncpg.CheckViolationError, match="movements of grants"):
        await pool.execute(
            "INSERT INTO grant_movements SELECT customer_id, transaction_id, 'g1', -1"
            " FROM ledger_transactions WHERE kind = 'usage'"
        )


@pytest.mark.parametrize(
    "entries",
    [
        [("revenue", 0), ("funding", 0)],
        [("petty_cash", 1), ("revenue", -1)],
    ],
)
async def test_an_entry_of_zero_or_of_an_unknown_account_is_refused(pool, entries):
    with pytest.raises(asyncpg.CheckViolationError):
        await insert_transaction(pool, entries)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE usage_events SET day = day + 1",
        "UPDATE usage_events SET hold_id = upper(hold_id)",
        "UPDATE usage_events SET amount_nano = -1",
        "UPDATE usage_events SET overage_nano = 1",
        "UPDATE usage_events SET prepaid = true, overage_nano = amount_nano + 1",
        "UPDATE usage_events SET input_tokens = -1",
        "UPDATE usage_lines SET window_seq = NULL",
        "UPDATE account_balances SET revenue_nano = revenue_nano + 1",
        "UPDATE grants SET amount_nano = 0",
        "UPDATE grants SET state = 'intent'",
        "UPDATE grants SET remaining_nano = -1",
        "UPDATE grants SET effective_at = now(), expires_at = now()",
        "UPDATE grants SET rolls_most_nano = 5",
        "UPDATE grants SET rolls_from = 'g0', rolls_least_nano = 5, rolls_most_nano = 4",
        "UPDATE account_balances SET granted_nano = granted_nano + 1",
        "UPDATE customers SET overdraft_nano = -1",
        "UPDATE report_windows SET window_start = window_start + interval '1 minute'",
        "UPDATE report_windows SET state = 'sent'",
        "UPDATE report_windows SET identifier = 'x'",
        "UPDATE report_windows SET attempts = 1",
        "UPDATE shards SET stream_offset = '$'",
        "UPDATE customers SET currency = 'usd'",
        "UPDATE customers SET labels = '[]'",
    ],
)
async def test_each_invariant_that_the_database_can_hold_is_held(pool, statement):
    with pytest.raises(asyncpg.CheckViolationError):
        await pool.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO usage_events SELECT * FROM usage_events",
        "INSERT INTO usage_lines SELECT * FROM usage_lines",
        """
        INSERT INTO report_windows (customer_id, provider, meter, window_start, seq,
            provider_customer_id, quantity)
        SELECT customer_id, provider, meter, window_start, 2, provider_customer_id, 1
        FROM report_windows
        """,
        "INSERT INTO ledger_identity DEFAULT VALUES",
    ],
)
async def test_each_key_is_unique(pool, statement):
    with pytest.raises(asyncpg.UniqueViolationError):
        await pool.execute(statement)


async def test_the_day_is_the_holds_own_up_to_the_last_second_of_32_bits(pool):
    day = await pool.fetchrow("SELECT day, hold_id FROM usage_events")
    assert day["day"] == NOW.date()
    assert day["hold_id"] == hold_id(1)
    await pool.execute(
        "UPDATE usage_events SET hold_id = 'ffffffff' || right(hold_id, 32),"
        " day = date '2106-02-07'"
    )


TRANSACTION = """
INSERT INTO ledger_transactions (customer_id, transaction_id, kind, currency, shard,
    first_entry_id, last_entry_id, event_count)
VALUES ('cus_a', $1, 'usage', 'USD', 0, '1-0', '1-0', 1)
"""


async def insert_transaction(pool, entries: list[tuple[str, int]]) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(TRANSACTION, "t")
        await connection.execute(
            "INSERT INTO ledger_entries (customer_id, transaction_id, account, amount_nano)"
            " SELECT 'cus_a', 't', account, amount FROM unnest($1::text[], $2::bigint[])"
            " AS e (account, amount)",
            [account for account, _ in entries],
            [amount for _, amount in entries],
        )
