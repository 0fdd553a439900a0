"""Random settlements on a real Postgres: the chain is whole, and any one change breaks it."""

import itertools

from fixtures.ledger_parts import add_customers, tamper, verify
from fixtures.stream_records import REPORTED, orphan_record, usage_record
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.domain.errors import InvalidInput
from sidecar.outbound.postgres.ledger import PostgresLedger

CUSTOMERS = ("cus_a", "cus_b", "cus_c")
# What may be done to the n-th row of a shard; none is stopped by a constraint.
CHANGES = (
    ("ledger_chain", "DELETE FROM ledger_chain WHERE {row}"),
    ("ledger_chain", "UPDATE ledger_chain SET hash = content_hash WHERE {row}"),
    ("ledger_transactions", "DELETE FROM ledger_transactions WHERE {row}"),
    ("ledger_transactions", "UPDATE ledger_transactions SET kind = 'grant' WHERE {row}"),
    ("ledger_transactions", "UPDATE ledger_transactions SET posted_at = now() WHERE {row}"),
    ("usage_events", "DELETE FROM usage_events WHERE {row}"),
    ("usage_events", "UPDATE usage_events SET amount_nano = amount_nano + 1 WHERE {row}"),
)
OF_SHARD = {"ledger_chain": "chain", "ledger_transactions": "shard", "usage_events": "shard"}
records = st.tuples(
    st.sampled_from(CUSTOMERS),
    st.sampled_from(["usage", "prepaid", "orphan", "repeat", "unknown customer"]),
    st.integers(0, 10**12),
)
batches = st.lists(
    st.tuples(st.lists(records, min_size=1, max_size=8), st.booleans()), min_size=1, max_size=6
)
shards = itertools.count(100)
numbers = itertools.count(1)


def make_records(batch: list, made: list) -> list:
    out = []
    for customer, kind, quantity in batch:
        number = next(numbers)
        if kind == "repeat" and made:
            before = made[quantity % len(made)]
            out.append(usage_record(before[0], customer_id=before[1], entry=number))
            continue
        if kind == "orphan":
            out.append(orphan_record(number, customer_id=customer))
            continue
        name = "cus_nobody" if kind == "unknown customer" else customer
        prepaid = kind == "prepaid"
        if kind == "usage":
            made.append((number, customer))
            out.append(usage_record(number, customer_id=customer))
        else:
            quantities = {"input-tokens": quantity}
            out.append(
                usage_record(
                    number,
                    customer_id=name,
                    quantities=quantities,
                    prepaid=prepaid,
                    overage_nano=quantity if prepaid else 0,
                )
            )
    return out


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(plan=batches, change=st.sampled_from(CHANGES), place=st.integers(0, 100))
async def test_a_random_ledger_verifies_until_one_row_is_changed(
    postgres_pool, plan, change, place
):
    if not await postgres_pool.fetchval("SELECT count(*) FROM customers"):
        await add_customers(postgres_pool, *CUSTOMERS)
    shard, ledger, made = next(shards), PostgresLedger(postgres_pool), []
    for number, (batch, takeover) in enumerate(plan):
        owner = f"worker-{number if takeover else 0}"
        lease = await ledger.claim_shard(shard, owner, 0)
        content = make_records(batch, made)
        try:
            await ledger.settle(lease, content, REPORTED)
        except InvalidInput:
            made[:] = [
                one for one in made if not any(f"{1000 + one[0]}-0" == r.entry_id for r in content)
            ]
    verdict = await verify(postgres_pool, chain=shard)
    assert verdict.intact, verdict.breaks
    table, statement = change
    counted = f"SELECT count(*) FROM {table} WHERE {OF_SHARD[table]} = $1"
    count = await postgres_pool.fetchval(counted, shard)
    posted = "SELECT coalesce(sum(event_count), 0) FROM ledger_transactions WHERE shard = $1"
    assert verdict.chains[0].events == await postgres_pool.fetchval(posted, shard)
    if count == 0:
        return
    row = (
        f"ctid = (SELECT ctid FROM {table} WHERE {OF_SHARD[table]} = {shard}"
        f" ORDER BY 1 OFFSET {place % count} LIMIT 1)"
    )
    await tamper(postgres_pool, statement.format(row=row))
    assert not (await verify(postgres_pool, chain=shard)).intact
