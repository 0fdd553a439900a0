import asyncio
import random
from dataclasses import replace
from datetime import timedelta

import asyncpg
import pytest
from fixtures.ledger_parts import (
    AT,
    KEYS,
    add_customers,
    settle_two_shards,
    tamper,
    verify,
    write_root,
)
from fixtures.stream_records import (
    REPORTED,
    DictRateCards,
    ListStream,
    StandingClock,
    rate_card,
    usage_record,
)

from sidecar.domain.errors import (
    ConfigError,
    Conflict,
    InvalidInput,
    InvariantViolated,
    StoreUnavailable,
)
from sidecar.domain.ledger_chain import BreakKind
from sidecar.domain.standing import Standing, StandingFact
from sidecar.outbound.keyed_hashes import KeyRing, LedgerRootKeys
from sidecar.outbound.postgres import posting as posting_module
from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.outbound.postgres.ledger import PostgresLedger
from sidecar.outbound.postgres.ledger_roots import PostgresLedgerRoots
from sidecar.services.control_ports import Credential
from sidecar.services.ledger_roots import DailyRoots
from sidecar.services.settlement import SettlementWorker

ONE = "ctid = (SELECT min(ctid) FROM {table} WHERE {where})"
FORGED = "decode(repeat('ab', 32), 'hex')"
# What each column becomes. A column that is not named here fails the test below.
COLUMNS = {
    "ledger_transactions": {
        "customer_id": "'cus_z'",
        "transaction_id": "'usage:0:0:9-9'",
        "kind": "'grant'",
        "currency": "'EUR'",
        "shard": "1",
        "first_entry_id": "'1-1'",
        "last_entry_id": "'1-1'",
        "event_count": "event_count + 1",
        "posted_at": "posted_at + interval '1 microsecond'",
    },
    "ledger_entries": {
        "customer_id": "'cus_z'",
        "transaction_id": "'usage:0:0:9-9'",
        "account": "'funding'",
        "amount_nano": "amount_nano + 1",
    },
    "ledger_chain": {
        "chain": "2",
        "seq": "seq + 1000",
        "customer_id": "'cus_z'",
        "transaction_id": "'usage:0:0:9-9'",
        "content_hash": FORGED,
        "hash": FORGED,
    },
    "ledger_roots": {
        "root_number": "root_number + 1",
        "day": "day + 1",
        "daily": "NOT daily",
        "made_at": "made_at + interval '1 microsecond'",
        "heads": "jsonb_set(heads, '{0,1}', '1')",
        "previous": "'\\x00'",
        "key_id": "'k1'",
        "signature": FORGED,
    },
}
EVENT_COLUMNS = {
    "customer_id": "'cus_z'",
    "hold_id": "left(hold_id, 8) || repeat('0', 32)",
    "kind": "'orphan'",
    "transaction_id": "'usage:0:0:9-9'",
    "shard": "1",
    "amount_nano": "amount_nano + 1",
    "overage_nano": "1",
    "prepaid": "NOT prepaid",
    "posted_at": "posted_at + interval '1 hour'",
}
CASES = [(table, column) for table, columns in COLUMNS.items() for column in columns] + [
    ("usage_events", column) for column in EVENT_COLUMNS
]


@pytest.fixture
async def pool(postgres_pool):
    await settle_two_shards(postgres_pool)
    await write_root(postgres_pool)
    return postgres_pool


async def links(pool, chain: int = 0) -> list[int]:
    return [
        row["seq"]
        for row in await pool.fetch(
            "SELECT seq FROM ledger_chain WHERE chain = $1 ORDER BY 1", chain
        )
    ]


async def test_settling_links_every_transaction_in_order(pool):
    verdict = await verify(pool)
    assert verdict.intact, verdict.breaks
    assert [(one.chain, one.last_seq, one.transactions, one.events) for one in verdict.chains] == [
        (0, 6, 6, 18),
        (1, 2, 2, 3),
    ]
    assert await links(pool) == [1, 2, 3, 4, 5, 6]
    assert verdict.roots == 1


@pytest.mark.parametrize("table", COLUMNS)
async def test_each_column_of_the_ledger_is_tampered_with_below(pool, table):
    rows = await pool.fetch(
        "SELECT column_name FROM information_schema.columns WHERE table_name = $1", table
    )
    assert {row["column_name"] for row in rows} == set(COLUMNS[table])


@pytest.mark.parametrize(("table", "column"), CASES)
async def test_a_changed_column_is_found(pool, table, column):
    value = COLUMNS.get(table, EVENT_COLUMNS)[column]
    chosen = {
        "ledger_roots": "true",
        "ledger_chain": "chain = 0 AND seq = 3",
        "ledger_transactions": "shard = 0",
        "ledger_entries": "account = 'revenue' AND customer_id = 'cus_a'",
        "usage_events": "shard = 0",
    }[table]
    await pool.execute("ALTER TABLE usage_events DROP CONSTRAINT usage_events_check3")
    where = ONE.format(table=table, where=chosen)
    await tamper(pool, f"UPDATE {table} SET {column} = {value} WHERE {where}")
    verdict = await verify(pool)
    assert not verdict.intact
    if table == "ledger_roots":
        assert {one.kind for one in verdict.breaks} == {BreakKind.ROOT}
        return
    first = next(one for one in verdict.breaks if one.chain == 0 and one.kind != BreakKind.ROOT)
    if table == "ledger_chain":
        assert first.seq == {"chain": 4, "seq": 4}.get(column, 3)
    assert [one.kind for one in verdict.breaks if one.chain == 1] in ([], [BreakKind.STRAY_EVENTS])


MOVEMENT_COLUMNS = {
    "customer_id": "'cus_z'",
    "transaction_id": "'usage:0:0:9-9'",
    "grant_id": "'g2'",
    "amount_nano": "amount_nano + 1",
}


async def test_each_column_of_the_movements_is_tampered_with_below(pool):
    rows = await pool.fetch(
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'grant_movements'"
    )
    assert {row["column_name"] for row in rows} == set(MOVEMENT_COLUMNS)


@pytest.mark.parametrize(
    "statement",
    [
        *(f"UPDATE grant_movements SET {c} = {v}" for c, v in MOVEMENT_COLUMNS.items()),
        "DELETE FROM grant_movements",
        """
        INSERT INTO grant_movements (customer_id, transaction_id, grant_id, amount_nano)
        SELECT customer_id, transaction_id, 'g' || n, n * 2 - 5 FROM ledger_transactions,
            generate_series(2, 3) n WHERE transaction_id LIKE 'usage:1:%'
        """,
    ],
)
async def test_a_change_of_a_usage_transactions_movements_is_found(pool, statement):
    if "WHERE" not in statement:
        statement += " WHERE transaction_id LIKE 'usage:1:%'"
    await tamper(pool, statement)
    found = [one for one in (await verify(pool)).breaks if one.chain == 1]
    assert [one.kind for one in found] == [BreakKind.CONTENT]


async def test_how_movements_and_credit_differ_is_told(pool):
    await tamper(
        pool,
        "UPDATE grant_movements SET amount_nano = -9 WHERE transaction_id LIKE 'usage:1:%'",
    )
    found = next(one for one in (await verify(pool)).breaks if one.chain == 1)
    assert "its grants are moved by -9, the customer's credit by -10000" in found.detail


@pytest.mark.parametrize(
    ("statements", "kind", "seq"),
    [
        (["DELETE FROM ledger_chain WHERE chain = 0 AND seq = 3"], BreakKind.GAP, 4),
        (["DELETE FROM ledger_chain WHERE chain = 0 AND seq = 6"], BreakKind.HEAD, 5),
        (["DELETE FROM ledger_entries WHERE customer_id = 'cus_a'"], BreakKind.CONTENT, 1),
        (["DELETE FROM ledger_transactions WHERE customer_id = 'cus_a'"], BreakKind.MISSING, 1),
        (["DELETE FROM usage_events WHERE customer_id = 'cus_a'"], BreakKind.CONTENT, 1),
        (
            # Both amounts: the transaction still sums to zero.
            ["UPDATE ledger_entries SET amount_nano = amount_nano * 2 WHERE customer_id = 'cus_a'"],
            BreakKind.CONTENT,
            1,
        ),
        (
            # Two links change places, hashes and all.
            [
                "UPDATE ledger_chain SET seq = 1000 WHERE chain = 0 AND seq = 2",
                "UPDATE ledger_chain SET seq = 2 WHERE chain = 0 AND seq = 3",
                "UPDATE ledger_chain SET seq = 3 WHERE chain = 0 AND seq = 1000",
            ],
            BreakKind.LINK,
            2,
        ),
    ],
)
async def test_deleted_and_swapped_rows_are_found(pool, statements, kind, seq):
    await tamper(pool, *statements)
    found = [one for one in (await verify(pool)).breaks if one.kind != BreakKind.ROOT]
    assert (found[0].kind, found[0].chain, found[0].seq) == (kind, 0, seq)


INSERT_TRANSACTION = """
INSERT INTO ledger_transactions (customer_id, transaction_id, kind, currency, shard,
    first_entry_id, last_entry_id, event_count)
VALUES ('cus_a', 'usage:0:0:5-0', 'usage', 'USD', 0, '5-0', '5-0', 1)
"""
INSERT_ENTRIES = """
INSERT INTO ledger_entries (customer_id, transaction_id, account, amount_nano)
VALUES ('cus_a', 'usage:0:0:5-0', 'funding', -5), ('cus_a', 'usage:0:0:5-0', 'promotion', 5)
"""
INSERT_MOVEMENTS = """
INSERT INTO grant_movements (customer_id, transaction_id, grant_id, amount_nano)
VALUES ('cus_c', 'usage:1:0:9-9', 'g1', -3), ('cus_c', 'usage:1:0:9-9', 'g2', 3)
"""
INSERT_EVENT = """
INSERT INTO usage_events
SELECT (jsonb_populate_record(e, '{"kind": "correction:7", "amount_nano": -3}')).*
FROM usage_events e WHERE shard = 0 LIMIT 1
"""


async def test_inserted_rows_are_found_and_never_taken_in_later(pool):
    await pool.execute(INSERT_TRANSACTION)
    await pool.execute(INSERT_ENTRIES)
    (found,) = (await verify(pool)).breaks
    assert (found.kind, found.transaction_id) == (BreakKind.UNCHAINED, "usage:0:0:5-0")
    ledger = PostgresLedger(pool)
    await pool.execute("UPDATE shards SET lease_until = now() WHERE shard = 0")
    lease = await ledger.claim_shard(0, "another", 30)
    await ledger.settle(lease, [usage_record(60)], REPORTED)
    (found,) = (await verify(pool)).breaks
    assert found.kind is BreakKind.UNCHAINED


@pytest.mark.parametrize(
    ("statements", "kind"),
    [
        ([INSERT_ENTRIES], BreakKind.STRAY_ENTRIES),
        ([INSERT_MOVEMENTS], BreakKind.STRAY_MOVEMENTS),
        (
            ["UPDATE grants SET remaining_nano = 5 WHERE grant_id = 'g1'"],
            BreakKind.REMAINING,
        ),
        ([INSERT_EVENT], BreakKind.CONTENT),
        (
            [INSERT_EVENT, "UPDATE usage_events SET posted_at = now() WHERE kind <> 'capture'"],
            BreakKind.STRAY_EVENTS,
        ),
    ],
)
async def test_inserted_entries_and_events_are_found(pool, statements, kind):
    await tamper(pool, *statements)
    assert kind in {one.kind for one in (await verify(pool)).breaks}


async def test_what_differs_is_told(pool):
    where = ONE.format(table="ledger_entries", where="account = 'revenue'")
    await tamper(pool, f"UPDATE ledger_entries SET amount_nano = 5 WHERE {where}")
    (found,) = (await verify(pool)).breaks
    assert "its entries come to -20995 USD nano, not to zero" in found.detail
    assert "its events come to customer_receivable -21000, revenue 21000" in found.detail


async def test_a_ledger_that_was_rewritten_whole_is_caught_by_its_root(pool):
    """Chain, hashes and head are made to agree; the key is what the forger has not."""
    before = await verify(pool)
    await tamper(
        pool,
        "UPDATE ledger_entries SET amount_nano = amount_nano * 2 WHERE customer_id = 'cus_a'",
        "UPDATE usage_events SET amount_nano = amount_nano * 2 WHERE customer_id = 'cus_a'",
        "DELETE FROM ledger_chain WHERE chain = 0",
        "UPDATE shards SET chain_seq = 0, chain_hash = NULL, chain_began = false WHERE shard = 0",
    )
    ledger = PostgresLedger(pool)
    lease = await ledger.claim_shard(0, "worker", 300)
    await ledger.settle(lease, [usage_record(60)], REPORTED)
    verdict = await verify(pool)
    assert verdict.chains[0].last_seq == before.chains[0].last_seq + 1
    (found,) = verdict.breaks
    assert (found.kind, found.chain, found.seq) == (BreakKind.ROOT, 0, 6)


async def test_one_chain_alone_is_verified_by_itself(pool):
    await tamper(pool, "DELETE FROM ledger_chain WHERE chain = 0 AND seq = 3")
    assert (await verify(pool, chain=1)).intact
    assert not (await verify(pool, chain=0)).intact
    with pytest.raises(InvalidInput, match="no chain 9"):
        await verify(pool, chain=9)


async def test_from_the_root_only_what_is_newer_is_walked(pool):
    ledger = PostgresLedger(pool)
    lease = await ledger.claim_shard(0, "worker", 300)
    await ledger.settle(lease, [usage_record(60)], REPORTED)
    verdict = await verify(pool, from_root=True)
    assert verdict.intact
    assert [(one.first_seq, one.last_seq, one.transactions) for one in verdict.chains] == [
        (7, 7, 1),
        (3, 2, 0),
    ]
    await tamper(
        pool, "UPDATE ledger_entries SET amount_nano = 3 WHERE transaction_id LIKE '%1060-0'"
    )
    assert not (await verify(pool, from_root=True)).intact


async def test_from_a_root_needs_a_sound_one(pool, postgres_pool):
    await tamper(pool, "UPDATE ledger_roots SET made_at = now()")
    verdict = await verify(pool, from_root=True)
    assert [one.kind for one in verdict.breaks] == [BreakKind.ROOT]
    assert verdict.chains[0].first_seq == 1
    await tamper(pool, "DELETE FROM ledger_roots")
    with pytest.raises(InvalidInput, match="no root yet"):
        await verify(pool, from_root=True)


async def test_a_day_has_one_root_and_each_signs_the_one_before(pool):
    again = await asyncio.gather(*(write_root(pool, AT + timedelta(hours=n)) for n in range(5)))
    assert {root.number for root in again} == {1}
    assert (await write_root(pool, daily=False)).number == 1  # Nothing has changed.
    next_day = await write_root(pool, AT + timedelta(days=1))
    assert (next_day.number, next_day.previous) == (2, again[0].signature)
    verdict = await verify(pool)
    assert (verdict.intact, verdict.roots) == (True, 2)
    await tamper(pool, "DELETE FROM ledger_roots WHERE root_number = 1")
    assert "root 1 is missing" in (await verify(pool)).breaks[0].detail


async def test_a_root_of_another_key_or_ledger_is_not_ours(pool):
    other = LedgerRootKeys(KeyRing([("k2", b"3" * 32)]))
    (found,) = (await verify(pool, keys=other)).breaks
    assert "is not ours" in found.detail
    unknown = LedgerRootKeys(KeyRing([("k3", b"2" * 32)]))
    assert "unknown key 'k2'" in (await verify(pool, keys=unknown)).breaks[0].detail
    rotated = LedgerRootKeys(KeyRing([("k3", b"3" * 32), ("k2", b"2" * 32)]))
    assert (await verify(pool, keys=rotated)).intact
    await tamper(pool, "UPDATE ledger_identity SET ledger_id = gen_random_uuid()")
    assert not (await verify(pool)).intact


async def test_nothing_is_signed_of_a_chain_whose_end_was_cut(pool):
    await tamper(pool, "DELETE FROM ledger_chain WHERE chain = 0 AND seq = 6")
    with pytest.raises(InvariantViolated, match="ledger verify"):
        await write_root(pool, AT + timedelta(days=1))


async def test_the_days_root_is_written_by_whichever_worker_looks_first(postgres_pool):
    clock = StandingClock(AT)
    workers = [DailyRoots(PostgresLedgerRoots(postgres_pool, KEYS), clock) for _ in range(2)]
    assert await workers[0].look_once() is None  # Nothing to sign yet.
    await settle_two_shards(postgres_pool)
    roots = [await worker.look_once() for worker in workers]
    assert [root.number for root in roots] == [1, 1]
    assert await workers[0].look_once() is None
    clock.instant += timedelta(days=1)
    assert (await workers[0].look_once()).number == 2


async def test_workers_that_crash_anywhere_leave_whole_chains(postgres_pool):
    await add_customers(postgres_pool, "cus_a", "cus_b")
    ledger = PostgresLedger(postgres_pool)
    seed = random.SystemRandom().randrange(10**6)
    dice = random.Random(seed)
    streams = {
        shard: [
            usage_record(number, customer_id=f"cus_{dice.choice('ab')}")
            for number in range(shard, 300, 2)
        ]
        for shard in (0, 1)
    }
    # One that cannot be posted: its batch is refused and halved.
    streams[0][70] = replace(streams[0][70], customer_id="cus_nobody", event=None, amount_nano=3)
    stream = ListStream(streams)

    class CrashingLedger:
        claim_shard = ledger.claim_shard
        lease_left = ledger.lease_left

        async def settle(self, lease, records, reported_meters):
            if dice.random() < 0.2:
                raise StoreUnavailable("before")
            settled = await ledger.settle(lease, records, reported_meters)
            if dice.random() < 0.2:
                raise StoreUnavailable("after")
            return settled

    async def work(name: str, crashing, rounds: int) -> None:
        for _ in range(rounds):
            worker = SettlementWorker(
                stream,
                crashing,
                DictRateCards({"card": rate_card()}),
                StandingClock(),
                owner=name,
                shards=[0, 1],
                batch_max=dice.randint(1, 30),
                lease_seconds=0,
            )
            try:
                await worker.settle_once()
            except StoreUnavailable:
                continue

    async def kill() -> None:
        for _ in range(10):
            await asyncio.sleep(0.02)
            await postgres_pool.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE query LIKE '%ledger%' AND pid <> pg_backend_pid()"
                " AND datname = current_database()"
            )

    await asyncio.gather(
        work("one", CrashingLedger(), 40), work("two", CrashingLedger(), 40), kill()
    )
    await work("last", ledger, 2)
    verdict = await verify(postgres_pool)
    assert verdict.intact, (seed, verdict.breaks)
    assert sum(one.events for one in verdict.chains) == 299
    assert stream.records == {0: [], 1: []}


async def test_a_batch_that_is_refused_or_whose_lease_is_lost_moves_no_chain(pool):
    ledger = PostgresLedger(pool)
    lease = await ledger.claim_shard(0, "worker", 0)
    with pytest.raises(InvalidInput):
        await ledger.settle(lease, [usage_record(60, customer_id="cus_nobody")], REPORTED)
    taken = await ledger.claim_shard(0, "other", 300)
    with pytest.raises(Conflict):
        await ledger.settle(lease, [usage_record(60)], REPORTED)
    assert await links(pool) == [1, 2, 3, 4, 5, 6]
    await ledger.settle(taken, [usage_record(60)], REPORTED)
    assert await links(pool) == [1, 2, 3, 4, 5, 6, 7]
    assert (await verify(pool)).intact


async def test_what_was_posted_before_chains_is_linked_by_the_next_settlement(pool, monkeypatch):
    """In pieces, in the order of posting; until then it is said to wait."""
    monkeypatch.setattr(posting_module, "_LINKED_AT_A_TIME", 2)
    await tamper(
        pool,
        "DELETE FROM ledger_chain",
        "DELETE FROM ledger_roots",
        "UPDATE shards SET chain_seq = 0, chain_hash = NULL, chain_began = false",
    )
    verdict = await verify(pool)
    assert (verdict.intact, verdict.unbegun) == (True, {0: 6, 1: 2})
    ledger = PostgresLedger(pool)
    lease = await ledger.claim_shard(0, "worker", 300)
    assert await ledger.settle(lease, [usage_record(60)], REPORTED) == 1
    order = await pool.fetch(
        "SELECT c.seq,"
        " row_number() OVER (ORDER BY posted_at, t.customer_id, transaction_id) AS place"
        " FROM ledger_chain c JOIN ledger_transactions t USING (customer_id, transaction_id)"
    )
    assert len(order) == 7
    assert all(row["seq"] == row["place"] for row in order)
    verdict = await verify(pool)
    assert (verdict.intact, verdict.unbegun) == (True, {1: 2})


async def test_settling_into_a_schema_without_chains_is_refused(pool):
    await pool.execute("DROP TABLE ledger_chain")
    ledger = PostgresLedger(pool)
    lease = await ledger.claim_shard(0, "worker", 300)
    with pytest.raises(ConfigError, match="sidecar migrate"):
        await ledger.settle(lease, [usage_record(60)], REPORTED)
    assert await pool.fetchval("SELECT stream_offset FROM shards WHERE shard = 0") == "1026-0"


@pytest.mark.parametrize("table", ["ledger_chain", "ledger_roots"])
@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM {table}", "TRUNCATE {table}", "UPDATE {table} SET {column} = {column}"],
)
async def test_chains_and_roots_are_append_only_even_for_their_owner(pool, table, statement):
    column = next(iter(COLUMNS[table]))
    with pytest.raises(asyncpg.RestrictViolationError, match="append only"):
        await pool.execute(statement.format(table=table, column=column))


async def test_an_erased_customer_leaves_the_ledger_and_its_chains_whole(pool):
    accounts = PostgresAccounts(pool)
    customer = await accounts.read_customer("cus_a")
    await accounts.update_customer(replace(customer, labels={"name": "Ada"}))
    await accounts.put_standing("cus_a", StandingFact(standing=Standing.GRACE, reason="Ada asked"))
    for number in range(2):
        await accounts.create_credential(
            Credential(
                credential_id=f"crd_{number}",
                customer_id="cus_a",
                secret_hash=f"hash-{number}",
                user_id="ada",
                team_id="ada's",
                name="Ada's laptop",
            )
        )
    ended = await accounts.revoke_credential(await accounts.find_credential("crd_0"))
    before = await verify(pool)
    erased = await accounts.erase_customer("cus_a")
    assert (dict(erased.labels), erased.stripe_customer_id) == ({}, None)
    assert await accounts.erase_customer("cus_a") == erased
    assert await accounts.erase_customer("cus_nobody") is None
    for credential in await accounts.list_credentials("cus_a", after="", limit=10):
        assert (credential.name, credential.user_id, credential.team_id) == ("", "", "")
        assert credential.revoked_at is not None
    assert (await accounts.find_credential("crd_0")).revoked_at == ended.revoked_at
    rows = await pool.fetch(
        "SELECT c::text FROM customers c UNION ALL SELECT s::text FROM standings s"
        " UNION ALL SELECT k::text FROM credentials k"
    )
    assert not any("ada" in row[0].lower() for row in rows)
    assert (await accounts.read_customer("cus_b")).stripe_customer_id == "s_cus_b"
    assert await verify(pool) == before
    assert before.intact
    assert await PostgresLedger(pool).read_available("cus_a") == -9 * 7_000
