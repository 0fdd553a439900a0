"""Millions of settled events, written by Postgres itself as settlement would have left them."""

import sys

import asyncpg

CUSTOMERS_A_CHUNK = 100
EVENTS_A_TRANSACTION = 10
SPREAD_SECONDS = 30 * 86_400
"""The events are of the thirty days before."""

# 11 input and 7 output tokens at 500 and 1,500 nano, as in the records that are settled later.
AMOUNT = 11 * 500 + 7 * 1_500
# Events stand in the order of their keys, which is the fastest to write. `n` counts within the
# customer; the first eight digits of the hold id are the event's second, as its key demands.
_FACTS = f"""
SELECT c.customer_id, c.plan = 'prepaid' AS prepaid, c.plan, e.n, e.at,
    lpad(to_hex(e.at), 8, '0') || md5(c.customer_id || ':' || e.n) AS hold_id,
    date '1970-01-01' + (e.at / 86400)::integer AS day,
    'usage:filled:' || (e.n / {EVENTS_A_TRANSACTION}) AS transaction_id
FROM (SELECT customer_id, plan FROM customers WHERE customer_id > $1 AND customer_id <= $2) c
CROSS JOIN LATERAL (
    SELECT n, (extract(epoch FROM now())::bigint - {SPREAD_SECONDS} - 86400)
        + n * {SPREAD_SECONDS} / $3::bigint AS at
    FROM generate_series(0, $3::bigint - 1) AS n) e
ORDER BY c.customer_id, e.n
"""
_EVENTS = f"""
INSERT INTO usage_events (
    customer_id, day, hold_id, kind, transaction_id, shard, entry_id, currency,
    amount_nano, overage_nano, held_nano, prepaid, late,
    plan, price_version, model, user_id, credential_id, route, edge, gateway_id, status,
    input_tokens, output_tokens, cache_read_tokens, total_tokens,
    duration_ms, request_bytes, response_bytes, estimated, estimate_reason,
    client_key, request_id, occurred_at, received_at, decided_at)
SELECT customer_id, day, hold_id, 'capture', transaction_id, 0, at || '000-' || n, 'USD',
    {AMOUNT}, 0, 2000000, prepaid, false,
    plan, 'b706a0db1323df6bcde738be', 'gpt-fake-1', '', 'crd_' || customer_id,
    '^/v1/chat/completions$', 'otlp', 'gateway-1', 200,
    11, 7, 4, 18,
    8, 81, 378, false, '',
    '', '18a18ea0-e234-433e-a85a-95fdc853d70b', to_timestamp(at), to_timestamp(at),
    to_timestamp(at)
FROM ({_FACTS}) f
"""
_LINES = f"""
INSERT INTO usage_lines (customer_id, day, hold_id, kind, meter, quantity, amount_nano)
SELECT f.customer_id, f.day, f.hold_id, 'capture', l.meter, l.quantity, l.amount_nano
FROM ({_FACTS}) f
CROSS JOIN (VALUES ('input-tokens', 11, 11 * 500), ('output-tokens', 7, 7 * 1500),
    ('requests', 1, 0), ('total-tokens', 18, 0)) AS l (meter, quantity, amount_nano)
"""
# What follows is made from the events, so that all sums agree.
_EVENTS_OF_CHUNK = """
SELECT customer_id, transaction_id, prepaid, count(*) AS events, sum(amount_nano) AS amount,
    min(entry_id) AS first_id, max(entry_id) AS last_id
FROM usage_events WHERE customer_id > $1 AND customer_id <= $2
GROUP BY customer_id, transaction_id, prepaid
"""
_TRANSACTIONS = f"""
INSERT INTO ledger_transactions (
    customer_id, transaction_id, kind, currency, shard, first_entry_id, last_entry_id, event_count)
SELECT customer_id, transaction_id, 'usage', 'USD', 0, first_id, last_id, events
FROM ({_EVENTS_OF_CHUNK}) t
"""
_ENTRIES = f"""
WITH moved AS (
    INSERT INTO grant_movements (customer_id, transaction_id, grant_id, amount_nano)
    SELECT customer_id, transaction_id, 'g_' || customer_id, -amount
    FROM ({_EVENTS_OF_CHUNK}) t WHERE prepaid)
INSERT INTO ledger_entries (customer_id, transaction_id, account, amount_nano)
SELECT t.customer_id, t.transaction_id, e.account, e.sign * t.amount
FROM ({_EVENTS_OF_CHUNK}) t
CROSS JOIN LATERAL (VALUES ('revenue', 1),
    (CASE WHEN t.prepaid THEN 'customer_credit' ELSE 'customer_receivable' END, -1))
    AS e (account, sign)
"""
_BALANCES = """
INSERT INTO account_balances (
    customer_id, currency, customer_credit_nano, customer_overage_nano,
    customer_receivable_nano, funding_nano, revenue_nano, used_nano, used_prepaid_nano)
SELECT customer_id, 'USD',
    coalesce(sum(amount_nano) FILTER (WHERE account = 'customer_credit'), 0), 0,
    coalesce(sum(amount_nano) FILTER (WHERE account = 'customer_receivable'), 0), 0,
    sum(amount_nano) FILTER (WHERE account = 'revenue'),
    sum(amount_nano) FILTER (WHERE account = 'revenue'),
    coalesce(-sum(amount_nano) FILTER (WHERE account = 'customer_credit'), 0)
FROM ledger_entries GROUP BY customer_id
"""
_REMAINING = """
UPDATE grants g SET remaining_nano = opening_nano + m.amount_nano
FROM (SELECT customer_id, grant_id, sum(amount_nano) AS amount_nano
    FROM grant_movements GROUP BY customer_id, grant_id) m
WHERE g.customer_id = m.customer_id AND g.grant_id = m.grant_id
"""
# Else the first measured batch would link all that is filled in, as an upgrade would, once.
_BEGIN_CHAIN = "INSERT INTO shards (shard, chain_began) VALUES (0, true)"


async def fill_ledger(dsn: str, events: int) -> None:
    """
    Give each customer its share of settled events, with lines, ledger and balances.

    Args:
        dsn: A migrated database that holds the customers and nothing of their usage.
        events: How many in all; each customer must get the same number.
    """
    connection = await asyncpg.connect(dsn)
    try:
        ids = [row[0] for row in await connection.fetch("SELECT customer_id FROM customers")]
        ids.sort()
        each, rest = divmod(events, len(ids))
        assert rest == 0, "each customer must get the same number"
        lower = ""
        for start in range(0, len(ids), CUSTOMERS_A_CHUNK):
            upper = ids[min(start + CUSTOMERS_A_CHUNK, len(ids)) - 1]
            for statement in (_EVENTS, _LINES):
                await connection.execute(statement, lower, upper, each)
            for statement in (_TRANSACTIONS, _ENTRIES):
                await connection.execute(statement, lower, upper)
            lower = upper
            done = min(start + CUSTOMERS_A_CHUNK, len(ids)) * each
            sys.stdout.write(f"\rfilled {done:,} of {events:,} events")
            sys.stdout.flush()
        sys.stdout.write("\n")
        await connection.execute(_BALANCES)
        await connection.execute(_REMAINING)
        await connection.execute(_BEGIN_CHAIN)
    finally:
        await connection.close()


async def settle_down(dsn: str) -> None:
    """Do now what Postgres would else do behind a measurement: statistics, clean-up, writes."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("VACUUM (ANALYZE)")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


async def size_gib(dsn: str) -> float:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval("SELECT pg_database_size(current_database())") / 1024**3
    finally:
        await connection.close()
