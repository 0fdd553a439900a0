"""`sidecar ledger` against a real database."""

import asyncio
import json

import asyncpg
import pytest
from fixtures.ledger_parts import settle_two_shards, tamper
from fixtures.shell import Shell, sidecar

from sidecar.outbound.postgres.pool import open_pool

__all__ = ["sidecar"]


@pytest.fixture
def settled_dsn(sync_postgres_dsn: str) -> str:
    asyncio.run(_with_pool(sync_postgres_dsn, settle_two_shards))
    return sync_postgres_dsn


@pytest.fixture
def sync_postgres_dsn(postgres_server, request) -> str:
    """A fresh database for commands, which run a loop of their own."""
    name = f"cli_{abs(hash(request.node.name))}"

    async def run(statement: str) -> None:
        admin = await asyncpg.connect(postgres_server.dsn("postgres"))
        await admin.execute(statement)
        await admin.close()

    asyncio.run(run(f"CREATE DATABASE {name} TEMPLATE sidecar_template"))
    yield postgres_server.dsn(name)
    asyncio.run(run(f"DROP DATABASE {name} WITH (FORCE)"))


async def _with_pool(dsn: str, use, *arguments):
    pool = await open_pool(dsn)
    try:
        return await use(pool, *arguments)
    finally:
        await pool.close()


def test_a_root_is_written_once_and_the_ledger_verifies(sidecar: Shell, settled_dsn: str):
    first = sidecar("ledger", "root", "--json", postgres_dsn=settled_dsn)
    assert first.code == 0, first.err
    root = json.loads(first.out)
    assert [(head["chain"], head["seq"]) for head in root["heads"]] == [(0, 6), (1, 2)]
    assert json.loads(sidecar("ledger", "root", "--json").out) == root
    assert f"root 1 of {root['day']}: 2 chains, 8 transactions" in sidecar("ledger", "root").out
    ended = sidecar("ledger", "verify")
    assert (ended.code, ended.out) == (0, "2 chains, 8 transactions, 21 events, 1 roots: intact\n")
    assert "0 transactions" in sidecar("ledger", "verify", "--from-root").out
    assert json.loads(sidecar("ledger", "verify", "--json", "--chain", "1").out)["intact"] is True


def test_a_broken_chain_is_exit_1_and_says_where(sidecar: Shell, settled_dsn: str):
    statement = "UPDATE ledger_transactions SET kind = 'grant' WHERE transaction_id LIKE '%1012-0'"
    asyncio.run(_with_pool(settled_dsn, tamper, statement))
    ended = sidecar("ledger", "verify", postgres_dsn=settled_dsn)
    assert ended.code == 1
    assert "chain 0, link 3 (cus_a usage:0:0:1012-0): content: " in ended.out
    assert ended.out.endswith("BROKEN: 1 breaks\n")
    (found,) = json.loads(sidecar("ledger", "verify", "--json").out)["breaks"]
    assert (found["kind"], found["chain"], found["seq"]) == ("content", 0, 3)


def test_what_cannot_be_verified_says_why(sidecar: Shell, sync_postgres_dsn: str, tmp_path):
    ended = sidecar("ledger", "verify")
    assert (ended.code, "SIDECAR_POSTGRES_DSN is not set" in ended.err) == (2, True)
    ended = sidecar("ledger", "root", postgres_dsn=sync_postgres_dsn)
    assert (ended.code, "nothing to sign" in ended.err) == (1, True)
    ended = sidecar("ledger", "verify", "--from-root")
    assert (ended.code, "no root yet" in ended.err) == (1, True)
    away = f"postgresql://sidecar@/sidecar?host={tmp_path}&port=5432"
    assert sidecar("ledger", "verify", postgres_dsn=away).code == 3
