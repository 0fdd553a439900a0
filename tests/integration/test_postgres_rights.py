"""Roles made by the grants of docs/ledger.md, on a real server."""

import re
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest
from fixtures.invoice_parts import DECEMBER, NOVEMBER, Invoicing, Rater
from fixtures.ledger_parts import AT, KEYS, settle_two_shards, verify, write_root
from fixtures.stream_records import REPORTED, DictRateCards, rate_card, usage_record

from sidecar.domain.errors import ConfigError
from sidecar.domain.grants import WithdrawalKind
from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.outbound.postgres.invoice_book import PostgresInvoiceBook
from sidecar.outbound.postgres.invoice_reading import PostgresInvoiceRecord
from sidecar.outbound.postgres.ledger import PostgresLedger
from sidecar.outbound.postgres.ledger_roots import PostgresLedgerRoots
from sidecar.outbound.postgres.outbox import PostgresOutbox
from sidecar.outbound.postgres.pool import open_pool
from sidecar.services.control_ports import Customer, Grant, Withdrawal, WithdrawalState
from sidecar.services.invoicing import InvoiceService

PAGE = Path(__file__).parents[2] / "docs" / "ledger.md"
ROLES = ("sidecar_admin", "sidecar_settlement", "sidecar_auditor")
POSTED = (
    "ledger_transactions",
    "ledger_entries",
    "grant_movements",
    "ledger_chain",
    "ledger_roots",
    "usage_events",
    "usage_lines",
    "invoice_lines",
    "invoice_parts",
    "write_offs",
)
COLUMN = {"ledger_chain": "seq", "ledger_roots": "day"}


@pytest.fixture
async def pools(postgres_pool, postgres_dsn):
    """A pool of each role, over a settled ledger whose owner is another."""
    await settle_two_shards(postgres_pool)
    await write_root(postgres_pool)
    # Roles belong to the server, which other tests share.
    suffix = "_" + await postgres_pool.fetchval("SELECT current_database()")
    (grants,) = re.findall(r"```sql\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for role in ROLES:
        await postgres_pool.execute(f"CREATE ROLE {role}{suffix} LOGIN")
    await postgres_pool.execute(re.sub(rf"\b({'|'.join(ROLES)})\b", rf"\1{suffix}", grants))
    opened = {
        role: await open_pool(postgres_dsn.replace("//sidecar@", f"//{role}{suffix}@"))
        for role in ROLES
    }
    yield opened
    for pool in opened.values():
        await pool.close()


async def test_the_settlement_role_settles_reports_and_signs(pools):
    pool = pools["sidecar_settlement"]
    ledger = PostgresLedger(pool)
    lease = await ledger.claim_shard(0, "worker", 300)
    assert await ledger.settle(lease, [usage_record(60)], REPORTED) == 1
    second = await ledger.claim_shard(1, "worker", 300)
    debt = usage_record(61, customer_id="cus_c", prepaid=True, overage_nano=7_000)
    assert await ledger.settle(second, [debt], REPORTED) == 1
    assert await PostgresOutbox(pool).seal(opened_before=AT.replace(year=2100), limit=10) > 0
    root = await PostgresLedgerRoots(pool, KEYS).write(AT.replace(day=21), daily=True)
    assert root.number == 2


async def test_the_settlement_role_invoices_and_the_admin_role_asks_for_credit(pools):
    invoicing = Invoicing(pools["sidecar_settlement"], owner="worker")
    (card,) = invoicing.cards
    record = Rater(card).capture(70, {"input-tokens": 9}, NOVEMBER)
    invoicing.rate_cards = DictRateCards({"card": rate_card(), card.version: card})
    await invoicing.settle(replace(record, entry_id="9000-0"))
    await invoicing.round_at(DECEMBER)
    invoice = next(one for one in await invoicing.invoices() if one.customer_id == "cus_a")
    admin = InvoiceService(
        record=PostgresInvoiceRecord(pools["sidecar_admin"]),
        maker=invoicing.maker,
        clock=invoicing.clock,
    )
    note = await admin.void(invoice.invoice_id, credit_note_id="cn", reason="")
    assert note.posted_at is None
    with pytest.raises(ConfigError, match="refuses this role"):
        await PostgresInvoiceBook(pools["sidecar_admin"]).post_credit_note(0, "cus_a", "cn")
    assert (await invoicing.round_at(DECEMBER)).credited == 1


async def test_the_auditor_verifies_and_writes_nothing(pools):
    pool = pools["sidecar_auditor"]
    assert (await verify(pool)).intact
    with pytest.raises(ConfigError, match="refuses this role"):
        await write_root(pool, AT.replace(day=21))


async def test_the_admin_role_keeps_accounts_and_posts_nothing(pools):
    pool = pools["sidecar_admin"]
    customer = Customer(customer_id="cus_new", plan="plan", currency="USD")
    accounts = PostgresAccounts(pool)
    await accounts.create_customer(customer)
    grant = await accounts.create_grant(
        Grant(grant_id="g9", customer_id="cus_new", amount_nano=5, currency="USD")
    )
    await accounts.note_applied(grant)
    void = Withdrawal(
        withdrawal_id="w", customer_id="cus_new", grant_id="g9", kind=WithdrawalKind.VOID
    )
    await accounts.create_withdrawal(void)
    await accounts.finish_withdrawal(void, state=WithdrawalState.APPLIED, withdrawn_nano=5)
    assert await accounts.due_schedules(AT, limit=1, lease_seconds=1) == []
    ledger = PostgresLedger(pool)
    lease = await ledger.claim_shard(0, "worker", 300)
    with pytest.raises(ConfigError, match="refuses this role"):
        await ledger.settle(lease, [usage_record(60)], REPORTED)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("table", POSTED)
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE {table} SET {column} = {column}",
        "DELETE FROM {table}",
        "TRUNCATE {table} CASCADE",
        "ALTER TABLE {table} DISABLE TRIGGER ALL",
        "DROP TABLE {table} CASCADE",
        "SELECT 1 FROM {table} FOR UPDATE",
    ],
)
async def test_no_role_changes_what_is_posted(pools, role, table, statement):
    column = COLUMN.get(table, "customer_id")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await pools[role].execute(statement.format(table=table, column=column))


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "statement",
    [
        "SET session_replication_role = replica",
        "UPDATE ledger_identity SET ledger_id = gen_random_uuid()",
        "DELETE FROM alembic_version",
    ],
)
async def test_no_role_gets_around_its_rights(pools, role, statement):
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await pools[role].execute(statement)
