"""What invoices make of a customer, as properties of the pure machine."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.standing import (
    GOOD,
    InvoiceDebt,
    InvoiceState,
    Standing,
    StandingFact,
    StandingTerms,
    derive_standing,
    effective_standing,
)

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
DAY = timedelta(days=1)
RANK = {Standing.GOOD: 0, Standing.GRACE: 1, Standing.DELINQUENT: 2}

instants = st.integers(-10, 10).map(lambda days: NOW + days * DAY)
invoices = st.lists(
    st.builds(
        InvoiceDebt,
        state=st.sampled_from(InvoiceState),
        due_at=st.none() | instants,
        amount_nano=st.none() | st.integers(0, 20),
        disputed=st.booleans(),
    ),
    max_size=6,
)
terms_of = st.builds(
    StandingTerms,
    grace=st.integers(0, 5).map(lambda days: days * DAY),
    minimum_nano=st.integers(0, 15),
)


def derive(debts, *, unpaid=False, terms=StandingTerms(grace=3 * DAY), now=NOW):  # noqa: B008
    return derive_standing(debts, subscription_unpaid=unpaid, terms=terms, now=now)


def open_invoice(days: int, nano: int | None = 5, **changes) -> InvoiceDebt:
    """One that was due so many days ago."""
    debt = InvoiceDebt(state=InvoiceState.OPEN, due_at=NOW - days * DAY, amount_nano=nano)
    return replace(debt, **changes)


@pytest.mark.parametrize(
    ("debts", "standing", "reason"),
    [
        ([], "good", ""),
        ([open_invoice(-1)], "good", ""),
        ([open_invoice(0)], "grace", "invoice_overdue"),
        ([open_invoice(2)], "grace", "invoice_overdue"),
        ([open_invoice(3)], "delinquent", "invoice_overdue"),
        ([open_invoice(9, 0)], "good", ""),
        ([open_invoice(9, due_at=None)], "good", ""),
        ([open_invoice(9, None)], "delinquent", "invoice_overdue"),
        ([open_invoice(9, state=InvoiceState.PAID)], "good", ""),
        ([open_invoice(9, state=InvoiceState.VOID)], "good", ""),
        ([open_invoice(9, state=InvoiceState.DRAFT)], "good", ""),
        (
            [open_invoice(0, state=InvoiceState.UNCOLLECTIBLE)],
            "delinquent",
            "invoice_uncollectible",
        ),
        (
            [open_invoice(0, state=InvoiceState.PAID, disputed=True)],
            "delinquent",
            "payment_disputed",
        ),
        ([open_invoice(0, state=InvoiceState.VOID, disputed=True)], "good", ""),
    ],
)
def test_an_invoice_makes_a_standing(debts, standing, reason):
    fact = derive(debts).fact
    assert (fact.standing.value, fact.reason) == (standing, reason)


def test_paying_one_invoice_does_not_clear_another():
    paid, owed = open_invoice(9, state=InvoiceState.PAID), open_invoice(9)
    for order in ([paid, owed], [owed, paid]):
        assert derive(order).fact.standing is Standing.DELINQUENT


def test_an_unpaid_subscription_is_delinquent_and_says_so():
    fact = derive([open_invoice(1)], unpaid=True).fact
    assert fact.standing is Standing.DELINQUENT
    assert fact.reason == "invoice_overdue, subscription_unpaid"
    # A rule with a grace of its own must not wait for the invoice: it goes by the standing.
    assert (fact.overdue_since, fact.overdue_nano) == (None, None)


def test_what_is_below_the_minimum_is_not_owed():
    terms = StandingTerms(minimum_nano=10)
    assert derive([open_invoice(5, 9)], terms=terms).fact == GOOD
    both = derive([open_invoice(5, 9), open_invoice(4, 1)], terms=terms).fact
    assert (both.standing, both.overdue_nano) == (Standing.DELINQUENT, 10)
    assert both.overdue_since == NOW - 5 * DAY
    # What nobody knows the amount of is more than any minimum.
    assert derive([open_invoice(5, None)], terms=terms).fact.standing is Standing.DELINQUENT


@given(invoices, st.booleans(), terms_of, st.randoms())
def test_no_order_of_invoices_makes_a_difference(debts, unpaid, terms, random):
    shuffled = list(debts)
    random.shuffle(shuffled)
    assert derive(shuffled, unpaid=unpaid, terms=terms) == derive(debts, unpaid=unpaid, terms=terms)


@given(invoices, st.booleans(), terms_of)
def test_paying_or_voiding_everything_clears_what_invoices_said(debts, unpaid, terms):
    for state in (InvoiceState.PAID, InvoiceState.VOID):
        settled = [replace(one, state=state, disputed=False) for one in debts]
        assert derive(settled, terms=terms) == derive([], terms=terms)


@given(invoices, terms_of, st.integers(0, 20))
def test_time_alone_makes_no_standing_better(debts, terms, days):
    before = derive(debts, terms=terms).fact.standing
    after = derive(debts, terms=terms, now=NOW + days * DAY).fact.standing
    assert RANK[after] >= RANK[before]


@given(invoices, terms_of, st.integers(0, 24 * 20))
def test_nothing_changes_before_the_instant_that_is_told(debts, terms, hours):
    derived = derive(debts, terms=terms)
    later = NOW + timedelta(hours=hours)
    if derived.next_at is None or later < derived.next_at:
        assert derive(debts, terms=terms, now=later).fact == derived.fact
    if derived.next_at is not None:
        assert derived.next_at > NOW


@given(st.sampled_from(Standing), st.sampled_from(Standing), st.none() | instants)
def test_an_operators_word_wins_until_its_end_and_never_ends_better(said, derived, until):
    override = StandingFact(standing=said, reason="by hand", until=until)
    facts = StandingFact(standing=derived)
    effective = effective_standing(facts, override, NOW)
    lasts = until is None or until > NOW
    assert effective.standing is (said if lasts else derived)
    if lasts and until is not None:
        # The live store ends a fact in good standing by itself: only where invoices say so, too.
        assert (effective.until is None) == (derived is not Standing.GOOD)


def test_without_a_word_invoices_count():
    facts = StandingFact(standing=Standing.GRACE)
    assert effective_standing(facts, None, NOW) == facts
