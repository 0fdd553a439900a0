"""Decisions about grants as settlement posts or refuses them, on a real Postgres."""

from dataclasses import replace

import pytest
from fixtures.ledger_parts import verify
from fixtures.stream_records import (
    REPORTED,
    DictRateCards,
    ListStream,
    StandingClock,
    grant_record,
    moved,
    rate_card,
    usage_record,
)

from sidecar.domain.errors import InvalidInput
from sidecar.domain.grants import GrantKind, Movement, WithdrawalKind
from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.outbound.postgres.ledger import PostgresLedger
from sidecar.services.control_ports import Customer, Grant, GrantState, Withdrawal
from sidecar.services.settlement import SettlementWorker

GRANT = grant_record("g1", 100, entry=1)
SMALL = grant_record("g2", 30, entry=2, grant_kind=GrantKind.PROMOTIONAL)
WIDS = {kind: f"w-{kind}" for kind in WithdrawalKind}
UNKNOWN_GRANT = Movement(grant_id="g9", amount_nano=-7_000)
TABLES = (
    "usage_events",
    "ledger_transactions",
    "ledger_entries",
    "ledger_chain",
    "account_balances",
    "grant_movements",
    "grants",
    "shards",
)


@pytest.fixture
async def accounts(postgres_pool):
    accounts = PostgresAccounts(postgres_pool)
    for customer_id in ("cus_a", "cus_b"):
        await accounts.create_customer(
            Customer(customer_id=customer_id, plan="plan", currency="USD")
        )
    for grant_id, amount, kind in (("g1", 100, "paid"), ("g2", 30, "promotional")):
        await accounts.create_grant(
            Grant(
                grant_id=grant_id,
                customer_id="cus_a",
                amount_nano=amount,
                currency="USD",
                kind=GrantKind(kind),
            )
        )
    for kind, wid in WIDS.items():
        await accounts.create_withdrawal(
            Withdrawal(withdrawal_id=wid, customer_id="cus_a", grant_id="g1", kind=kind)
        )
    return accounts


@pytest.fixture
def ledger(postgres_pool, accounts):
    return PostgresLedger(postgres_pool)


@pytest.fixture
async def lease(ledger):
    return await ledger.claim_shard(0, "worker", 30)


async def dump(pool):
    return {table: await pool.fetch(f"SELECT * FROM {table} ORDER BY 1, 2") for table in TABLES}


async def entries(pool, kind):
    rows = await pool.fetch(
        "SELECT account, amount_nano FROM ledger_entries JOIN ledger_transactions"
        " USING (customer_id, transaction_id) WHERE kind = $1",
        kind,
    )
    return {row["account"]: row["amount_nano"] for row in rows}


async def remaining(accounts):
    grants = await accounts.list_grants("cus_a", after="", limit=9)
    return {grant.grant_id: grant.remaining_nano for grant in grants}


def used(number, amount, *, overage=0, grant_id="g1", entry=None):
    return usage_record(
        number,
        quantities={"input-tokens": amount},
        unit_nano=1,
        prepaid=True,
        overage_nano=overage,
        grant_id=grant_id,
        entry=entry,
    )


def withdrawn(kind, amount, *, overage=0, entry=9):
    return grant_record(
        "g1",
        amount,
        entry=entry,
        kind=kind,
        overage_nano=overage,
        withdrawal_id=WIDS[kind],
        movements=moved("g1", overage - amount),
    )


async def test_a_grant_pays_what_was_owed_first(postgres_pool, accounts, ledger, lease):
    debt = used(1, 40, overage=40)
    grant = grant_record("g1", 100, entry=2, repaid_nano=40)
    assert await ledger.settle(lease, [debt, grant], REPORTED) == 2
    assert await entries(postgres_pool, "grant") == {
        "funding": -100,
        "customer_credit": 60,
        "customer_overage": 40,
    }
    assert await remaining(accounts) == {"g1": 60, "g2": 0}
    assert await ledger.read_available("cus_a") == 60
    states = {g.grant_id: g.state for g in await accounts.list_grants("cus_a", after="", limit=9)}
    assert states == {"g1": GrantState.POSTED, "g2": GrantState.INTENT}


async def test_a_grant_that_is_owed_whole_has_nothing_left(postgres_pool, accounts, ledger, lease):
    debt = used(1, 140, overage=140)
    grant = grant_record("g1", 100, entry=2, repaid_nano=100)
    await ledger.settle(lease, [debt, grant], REPORTED)
    assert await entries(postgres_pool, "grant") == {"funding": -100, "customer_overage": 100}
    assert (await remaining(accounts))["g1"] == 0


@pytest.mark.parametrize("grant", [GRANT, SMALL], ids=["paid", "promotional"])
async def test_what_expires_is_breakage_if_it_was_paid_for(
    postgres_pool, accounts, ledger, lease, grant
):
    account = "breakage" if grant is GRANT else "promotion"
    name, amount = grant.grant_id, grant.amount_nano
    expiry = grant_record(name, amount - 10, entry=4, kind="expire", grant_kind=grant.grant_kind)
    records = [grant, used(3, 10, grant_id=name), expiry]
    assert await ledger.settle(lease, records, REPORTED) == 3
    assert await entries(postgres_pool, "expire") == {
        "customer_credit": 10 - amount,
        account: amount - 10,
    }
    assert (await remaining(accounts))[name] == 0
    ids = await postgres_pool.fetch(
        "SELECT transaction_id FROM ledger_transactions WHERE kind = 'expire'"
    )
    assert [row[0] for row in ids] == ["expire:0:0:1004-0"]


async def test_what_expires_pays_what_is_owed_first(postgres_pool, accounts, ledger, lease):
    expiry = grant_record("g1", 60, entry=4, kind="expire", repaid_nano=40)
    await ledger.settle(lease, [GRANT, used(3, 40, overage=40), expiry], REPORTED)
    assert await entries(postgres_pool, "expire") == {
        "customer_credit": -100,
        "customer_overage": 40,
        "breakage": 60,
    }
    assert await ledger.read_available("cus_a") == 0


@pytest.mark.parametrize("extra", [0, 7])
async def test_a_rollover_moves_credit_and_may_add_some(
    postgres_pool, accounts, ledger, lease, extra
):
    roll = grant_record(
        "g2",
        extra,
        entry=4,
        kind="rollover",
        grant_kind=GrantKind.PROMOTIONAL,
        movements=(*moved("g1", -5), *moved("g2", 5 + extra)),
    )
    assert await ledger.settle(lease, [GRANT, SMALL, roll], REPORTED) == 3
    wanted = {"promotion": -extra, "customer_credit": extra} if extra else {}
    assert await entries(postgres_pool, "rollover") == wanted
    assert await remaining(accounts) == {"g1": 95, "g2": 35 + extra}
    assert await ledger.read_available("cus_a") == 130 + extra


@pytest.mark.parametrize("kind", list(WithdrawalKind))
async def test_a_withdrawal_goes_back_where_the_grant_came_from(
    postgres_pool, accounts, ledger, lease, kind
):
    assert await ledger.settle(lease, [GRANT, withdrawn(kind, 30)], REPORTED) == 2
    assert await entries(postgres_pool, kind) == {"customer_credit": -30, "funding": 30}
    assert (await remaining(accounts))["g1"] == 70


async def test_a_dispute_of_spent_credit_is_owed(postgres_pool, accounts, ledger, lease):
    records = [GRANT, used(3, 80), withdrawn("dispute", 100, overage=80)]
    await ledger.settle(lease, records, REPORTED)
    assert await entries(postgres_pool, "dispute") == {
        "customer_credit": -20,
        "customer_overage": -80,
        "funding": 100,
    }
    assert await ledger.read_available("cus_a") == -80


async def test_the_parts_of_one_withdrawal_are_posted_each(accounts, ledger, lease):
    """What holds had pinned of a voided grant comes back later, and is withdrawn then."""
    first, second = withdrawn("void", 60), withdrawn("void", 25, entry=10)
    assert await ledger.settle(lease, [GRANT, first], REPORTED) == 2
    assert await ledger.settle(lease, [second], REPORTED) == 1
    assert (await remaining(accounts))["g1"] == 15


async def test_the_sums_of_a_live_balance_are_kept(postgres_pool, ledger, lease):
    records = [
        GRANT,
        used(3, 50),
        usage_record(4, quantities={"input-tokens": 9}, unit_nano=1),
        withdrawn("refund", 20, entry=5),
        grant_record("g1", 30, entry=6, kind="expire"),
    ]
    await ledger.settle(lease, records, REPORTED)
    row = await postgres_pool.fetchrow(
        "SELECT granted_nano, used_nano, used_prepaid_nano, voided_nano, expired_nano"
        " FROM account_balances"
    )
    assert tuple(row) == (100, 59, 50, 20, 30)


async def test_a_replay_of_every_kind_changes_nothing(postgres_pool, ledger, lease):
    records = [
        GRANT,
        SMALL,
        used(3, 50),
        withdrawn("void", 20, entry=5),
        grant_record("g1", 30, entry=6, kind="expire"),
    ]
    assert await ledger.settle(lease, records, REPORTED) == 5
    before = await dump(postgres_pool)
    for start in range(len(records)):
        assert await ledger.settle(lease, records[start:], REPORTED) == 0
    assert await dump(postgres_pool) == before
    assert (await verify(postgres_pool)).intact


BAD = {
    "usage that names no grant": replace(used(5, 7), movements=()),
    "usage that moves too little": replace(used(5, 7), movements=moved("g1", -6)),
    "usage that moves what is overage": replace(used(5, 7, overage=3), movements=moved("g1", -7)),
    "postpaid usage that moves a grant": usage_record(5, movements=moved("g1", -1)),
    "usage of an unknown grant": used(5, 7, grant_id="g9"),
    "usage of a grant that has not begun": used(5, 7, grant_id="g2"),
    "more than is left": used(5, 101),
    "movements that cancel out over an unknown grant": replace(
        used(5, 7), movements=(*moved("g1", -8), *moved("g9", 1))
    ),
    "a grant that moves too much": replace(SMALL, movements=moved("g2", 31)),
    "a grant that moves another": replace(SMALL, movements=moved("g1", 30)),
    "a grant that repays more than it is": replace(SMALL, overage_nano=-31, movements=()),
    "a grant of another kind": replace(SMALL, grant_kind=GrantKind.PAID),
    "an expiry of too much": grant_record("g1", 101, entry=5, kind="expire"),
    "an expiry of less than nothing": grant_record("g1", -5, entry=5, kind="expire"),
    "an expiry that makes debt": grant_record(
        "g1", 5, entry=5, kind="expire", overage_nano=1, movements=moved("g1", -4)
    ),
    "an expiry of an unknown grant": grant_record("g9", 5, entry=5, kind="expire"),
    "an expiry of another kind of grant": grant_record(
        "g1", 5, entry=5, kind="expire", grant_kind=GrantKind.PROMOTIONAL
    ),
    "a rollover with debt": grant_record(
        "g1", 5, entry=5, kind="rollover", overage_nano=1, movements=moved("g1", 5)
    ),
    "a rollover that loses some": grant_record(
        "g1", 0, entry=5, kind="rollover", movements=moved("g1", -5)
    ),
    "an unknown withdrawal": replace(withdrawn("void", 5), withdrawal_id="w-9"),
    "a withdrawal of another kind": replace(
        withdrawn("void", 5), withdrawal_id=WIDS[WithdrawalKind.REFUND]
    ),
    "a withdrawal of more than is left": withdrawn("refund", 101),
    "a withdrawal with more debt than it is": withdrawn("dispute", 5, overage=6),
    "another customer's grant": replace(
        used(5, 7), customer_id="cus_b", event=replace(used(5, 7).event, customer_id="cus_b")
    ),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
async def test_a_record_that_contradicts_is_refused_and_nothing_of_it_is_posted(
    postgres_pool, ledger, lease, bad
):
    bad = replace(bad, entry_id="1005-0")
    await ledger.settle(lease, [GRANT], REPORTED)
    before = await dump(postgres_pool)
    with pytest.raises(InvalidInput):
        await ledger.settle(lease, [used(3, 1), bad], REPORTED)
    assert await dump(postgres_pool) == before


async def test_a_refused_record_goes_to_quarantine_alone_and_with_its_movements(
    postgres_pool, accounts, ledger
):
    bad = replace(used(4, 7), movements=(UNKNOWN_GRANT,))
    stream = ListStream({0: [GRANT, used(3, 10), bad, used(5, 10)]})
    worker = SettlementWorker(
        stream,
        ledger,
        DictRateCards({"card": rate_card()}),
        StandingClock(),
        owner="worker",
        shards=[0],
    )
    assert await worker.settle_once() == 4
    assert (await remaining(accounts))["g1"] == 80
    (row,) = await postgres_pool.fetch("SELECT entry_id, payload FROM quarantine")
    assert row["entry_id"] == "1004-0"
    assert '{"grant_id": "g9", "amount_nano": -7000}' in row["payload"]


async def test_prepaid_usage_that_no_grant_paid_needs_no_movement(ledger, lease):
    assert await ledger.settle(lease, [used(3, 7, overage=7), used(4, 0)], REPORTED) == 2
    assert await ledger.read_available("cus_a") == -7


async def test_a_correction_may_take_from_another_grant_than_the_one_that_is_gone(
    postgres_pool, accounts, ledger, lease
):
    """The amount stays, g1 is spent and takes nothing back, g2 pays anew: less is owed."""
    fixed = replace(
        used(3, 10, entry=9),
        kind="correction:1",
        amount_nano=0,
        overage_nano=-10,
        movements=moved("g2", -10),
    )
    assert await ledger.settle(lease, [GRANT, SMALL, used(3, 10), fixed], REPORTED) == 4
    assert await remaining(accounts) == {"g1": 90, "g2": 20}
    assert await ledger.read_available("cus_a") == 120
    assert (await verify(postgres_pool)).intact
