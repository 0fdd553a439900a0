"""Credit folded up from decisions: what adds up, and what cannot be."""

from contextlib import suppress

import pytest
from fixtures.credit_model import CreditModel
from fixtures.credit_parts import Fact, ModelGrant, RefusedError
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.credit_replay import Credit, replay_credit
from sidecar.domain.errors import InvalidInput
from sidecar.domain.grants import Movement
from sidecar.services.control_ports import StreamRecord


def record(kind: str, amount: int, overage: int = 0, **moves: int) -> StreamRecord:
    return of_fact(Fact(kind, "any", amount, overage, moves))


def of_fact(fact: Fact) -> StreamRecord:
    return StreamRecord(
        entry_id="1-0",
        kind=fact.kind,
        customer_id="cus_ada",
        currency="USD",
        amount_nano=fact.amount,
        overage_nano=fact.overage,
        prepaid=fact.prepaid,
        decided_at_ms=1,
        movements=tuple(Movement(grant_id=g, amount_nano=nano) for g, nano in fact.moves.items()),
    )


def test_nothing_comes_of_no_records():
    assert replay_credit([]) == Credit()


def test_a_grant_pays_what_is_owed_first():
    owed = replay_credit([record("capture", 30, 30)])
    assert (owed.used_nano, owed.deficit_nano, owed.remaining) == (30, 30, {})
    paid = replay_credit([record("grant", 100, -30, a=70)], owed)
    assert paid == Credit(granted_nano=100, used_nano=30, used_prepaid_nano=30, remaining={"a": 70})
    assert paid.fits


def test_each_kind_of_decision_counts_where_it_belongs():
    credit = replay_credit(
        [
            record("grant", 100, a=100),
            record("capture", 20, a=-20),
            record("correction:1", -5, a=5),
            record("orphan", 0),
            record("void", 10, a=-10),
            record("refund", 10, a=-10),
            record("dispute", 30, 10, a=-20),
            record("rollover", 3, a=-25, b=28),
            record("expire", 15, -5, a=-20),
        ]
    )
    assert credit == Credit(
        granted_nano=103,
        used_nano=15,
        used_prepaid_nano=15,
        voided_nano=50,
        expired_nano=15,
        deficit_nano=5,
        remaining={"b": 28},
    )
    assert credit.fits


def test_what_an_invoice_bills_moves_no_credit():
    invoiced = of_fact(Fact("capture", "any", 30, prepaid=False))
    credit = replay_credit([record("grant", 100, a=100), invoiced])
    assert (credit.used_nano, credit.used_prepaid_nano, credit.remaining) == (30, 0, {"a": 100})
    assert credit.fits


def test_a_surplus_that_no_grant_owns_is_a_deficit_below_zero():
    records = [record("grant", 10, a=10), record("capture", 10, a=-10)]
    credit = replay_credit([*records, record("correction:1", -4, -4)])
    assert (credit.deficit_nano, credit.remaining) == (-4, {})
    assert credit.fits


@pytest.mark.parametrize(
    "wrong",
    [
        record("capture", 10, a=-9),
        record("capture", 10, 1, a=-10),
        record("grant", 10, b=9),
        record("expire", 10),
        record("rollover", 0, a=-5, b=6),
    ],
)
def test_movements_that_are_not_the_change_are_refused(wrong: StreamRecord):
    with pytest.raises(InvalidInput, match="moves"):
        replay_credit([record("grant", 100, a=100), wrong])


def test_no_grant_is_left_with_less_than_nothing():
    with pytest.raises(InvalidInput, match="left with -1"):
        replay_credit([record("grant", 9, a=9), record("capture", 10, a=-10)])


def test_what_it_starts_from_is_not_changed():
    start = replay_credit([record("grant", 100, a=100)])
    replay_credit([record("capture", 20, a=-20)], start)
    assert start.remaining == {"a": 100}


@given(
    st.lists(
        st.tuples(st.sampled_from("gcxw"), st.integers(1, 50), st.integers(0, 5)), max_size=25
    ),
    st.integers(0, 25),
)
def test_any_cut_of_the_records_folds_to_the_same(steps, cut):
    model = CreditModel()
    for now, (step, amount, number) in enumerate(steps, 1):
        key, name = f"{step}{now}", f"grant-{number}"
        match step:
            case "g" if name not in model.given:
                ends = now + amount if number % 2 else None
                model.give(ModelGrant(name, amount, effective_ms=now, expires_ms=ends), now)
            case "c":
                model.capture(key, {"input": amount}, now)
            case "x" if model.usage:
                model.correct(next(iter(model.usage)), {"input": amount}, now)
            case "w" if name in model.given:
                # Beyond what was given it is refused, and nothing has happened.
                with suppress(RefusedError):
                    model.withdraw(key, name, "dispute", amount, now)
    records = [of_fact(fact) for fact in model.facts]
    whole = replay_credit(records)
    assert replay_credit(records[cut:], replay_credit(records[:cut])) == whole
    assert whole.fits
    assert whole.remaining == {g.grant_id: g.free for g in model.grants if g.state == "active"}
