"""A month of settled usage, written by Postgres itself as settlement would have left it."""

import asyncio
import itertools
import sys
from datetime import datetime

import asyncpg
from bench.invoice_card import CARD

CONNECTIONS = 2
SHARDS = 64
INPUT, OUTPUT = 11, 7
AMOUNT = INPUT * 500 + OUTPUT * 1_500
_CUSTOMERS = """
INSERT INTO customers (customer_id, plan, currency)
SELECT 'cus_' || lpad(n::text, 5, '0'), 'postpaid', 'USD' FROM generate_series(0, $1::integer - 1) n
"""
# Of one slice of the month: all customers in turn, in the order of time, as usage comes in.
_FACTS = """
SELECT 'cus_' || lpad(c::text, 5, '0') AS customer_id, n,
    lpad(to_hex(at), 8, '0') || md5(c || ':' || n) AS hold_id,
    date '1970-01-01' + (at / 86400)::integer AS day, to_timestamp(at) AS at
FROM generate_series($1::bigint, $2::bigint - 1) AS n
CROSS JOIN generate_series(0, $3::integer - 1) AS c
CROSS JOIN LATERAL (SELECT ($4::bigint + n * $5::bigint / $6::bigint) AS at) t
"""
_EVENTS = f"""
INSERT INTO usage_events (
    customer_id, day, hold_id, kind, transaction_id, shard, entry_id, currency,
    amount_nano, overage_nano, held_nano, prepaid, late,
    plan, price_version, model, user_id, credential_id, route, edge, gateway_id, status,
    input_tokens, output_tokens, cache_read_tokens, total_tokens,
    duration_ms, request_bytes, response_bytes, estimated, estimate_reason,
    client_key, request_id, occurred_at, received_at, decided_at)
SELECT customer_id, day, hold_id, 'capture', 'usage:filled:' || n, 0, n || '-0', 'USD',
    {AMOUNT}, 0, 2000000, false, false,
    'postpaid', $7, 'gpt-fake-1', '', 'crd_' || customer_id,
    '^/v1/chat/completions$', 'otlp', 'gateway-1', 200,
    {INPUT}, {OUTPUT}, 4, {INPUT + OUTPUT},
    8, 81, 378, false, '',
    '', '18a18ea0-e234-433e-a85a-95fdc853d70b', at, at, at
FROM ({_FACTS}) f
"""
_LINES = f"""
INSERT INTO usage_lines (customer_id, day, hold_id, kind, meter, quantity, amount_nano)
SELECT customer_id, day, hold_id, 'capture', l.meter, l.quantity, l.amount_nano
FROM ({_FACTS}) f
CROSS JOIN (VALUES ('input-tokens', {INPUT}, {INPUT} * 500), ('output-tokens', {OUTPUT},
    {OUTPUT} * 1500)) AS l (meter, quantity, amount_nano)
"""
_BEGIN_CHAINS = """
INSERT INTO shards (shard, chain_began) SELECT n, true FROM generate_series(0, $1::integer - 1) n
"""


async def fill_month(
    dsn: str, *, customers: int, each: int, start: datetime, end: datetime, slices: int = 30
) -> None:
    """Give each customer so many events between two instants, two meters each."""
    begin, seconds = int(start.timestamp()), int((end - start).total_seconds())
    pool = await asyncpg.create_pool(
        dsn, min_size=1, max_size=CONNECTIONS, server_settings={"synchronous_commit": "off"}
    )
    try:
        await pool.execute(_CUSTOMERS, customers)
        await pool.execute(_BEGIN_CHAINS, SHARDS)
        bounds = [each * number // slices for number in range(slices + 1)]
        for low, high in itertools.pairwise(bounds):
            facts = (low, high, customers, begin, seconds, each)
            await asyncio.gather(
                pool.execute(_EVENTS, *facts, CARD.version), pool.execute(_LINES, *facts)
            )
            sys.stdout.write(f"\rfilled {high * customers:,} of {each * customers:,} events")
            sys.stdout.flush()
        sys.stdout.write("\n")
    finally:
        await pool.close()
