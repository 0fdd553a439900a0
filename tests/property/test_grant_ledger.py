"""Any sequence of decisions about grants leaves a ledger that says the same as they did."""

import itertools

from fixtures.grant_model import GrantModel
from fixtures.ledger_parts import add_customers, verify
from fixtures.stream_records import REPORTED
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.domain.grants import GrantKind, WithdrawalKind
from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.outbound.postgres.ledger import PostgresLedger
from sidecar.services.control_ports import Grant, Withdrawal

GRANTS = 5
steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["grant", "use", "use", "correct", "expire", "roll", "void", "refund", "dispute"]
        ),
        st.integers(0, GRANTS - 1),
        st.integers(0, 10**15),
    ),
    max_size=30,
)
customers = itertools.count(1)
numbers = itertools.count(1)
PROJECTION = """
SELECT customer_credit_nano, customer_overage_nano, granted_nano, used_nano, used_prepaid_nano,
    voided_nano, expired_nano
FROM account_balances WHERE customer_id = $1
"""
BY_MOVEMENTS = """
SELECT g.grant_id, g.remaining_nano, coalesce(sum(m.amount_nano), 0)::bigint AS moved
FROM grants g LEFT JOIN grant_movements m USING (customer_id, grant_id)
WHERE g.customer_id = $1 GROUP BY g.grant_id, g.remaining_nano
"""


def play(model: GrantModel, plan: list, amounts: dict[str, int]) -> list:
    """Turn a plan into records; what makes no sense now is left out."""
    records = []
    for step, place, amount in plan:
        name, other = f"g{place}", f"g{(place + 1) % GRANTS}"
        given = name in model.free
        match step:
            case "use":
                records.append(model.use(next(numbers), amount))
            case "correct" if model.burned:
                number = sorted(model.burned)[amount % len(model.burned)]
                records.append(model.correct(number, model.burned[number] // 2, name))
            case "grant" if not given:
                records.append(model.grant(name, amounts[name]))
            case "expire" if given:
                records.append(model.expire(name))
            case "roll" if given and other in model.free:
                records.append(model.roll(name, other, amount // 3, amount))
            case "void" | "refund" | "dispute" if given:
                records.append(model.withdraw(name, step, amount))
    return records


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    plan=steps,
    amounts=st.lists(st.integers(1, 10**15), min_size=GRANTS, max_size=GRANTS),
    kinds=st.lists(st.sampled_from(list(GrantKind)), min_size=GRANTS, max_size=GRANTS),
    batch=st.integers(1, 12),
)
async def test_the_ledger_ends_where_the_decisions_did(postgres_pool, plan, amounts, kinds, batch):
    customer_id = f"cus_{next(customers)}"
    await add_customers(postgres_pool, customer_id)
    accounts, model = PostgresAccounts(postgres_pool), GrantModel(customer_id)
    names = [f"g{place}" for place in range(GRANTS)]
    for name, amount, kind in zip(names, amounts, kinds, strict=True):
        model.kinds[name] = kind
        await accounts.create_grant(
            Grant(
                grant_id=name,
                customer_id=customer_id,
                amount_nano=amount,
                currency="USD",
                kind=kind,
            )
        )
        for withdrawal in WithdrawalKind:
            await accounts.create_withdrawal(
                Withdrawal(
                    withdrawal_id=f"{withdrawal}-{name}",
                    customer_id=customer_id,
                    grant_id=name,
                    kind=withdrawal,
                )
            )
    records = play(model, plan, dict(zip(names, amounts, strict=True)))
    shard = next(numbers)
    ledger = PostgresLedger(postgres_pool)
    lease = await ledger.claim_shard(shard, "worker", 300)
    for start in range(0, len(records), batch):
        part = records[start : start + batch]
        assert await ledger.settle(lease, part, REPORTED) == len(part)
        assert await ledger.settle(lease, records[: start + batch], REPORTED) == 0
    # Whoever had no amount at all has no row.
    row = await postgres_pool.fetchrow(PROJECTION, customer_id) or (0,) * 7
    assert tuple(row) == (
        sum(model.free.values()),
        -model.deficit,
        model.granted,
        model.used,
        model.used,
        model.voided,
        model.expired,
    )
    for row in await postgres_pool.fetch(BY_MOVEMENTS, customer_id):
        assert row["remaining_nano"] == row["moved"] == model.free.get(row["grant_id"], 0)
    assert (await verify(postgres_pool, chain=shard)).intact
