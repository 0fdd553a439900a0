"""The steps of collecting, pure: what each answer leads to."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.collecting import (
    ATTEMPTS_MAX,
    ENDED,
    CollectOutcome,
    CollectRules,
    CollectState,
    check_email,
    collect_reference,
    next_collect_step,
)
from sidecar.domain.errors import InvalidInput

RULES = CollectRules()
OUTCOMES = st.sampled_from(CollectOutcome)


def step(outcome, *, attempt=1, attempts_max=4, unclear=0, wait=None):
    return next_collect_step(
        outcome,
        attempt=attempt,
        attempts_max=attempts_max,
        unclear=unclear,
        rules=RULES,
        asked_to_wait=wait,
    )


@given(OUTCOMES, st.integers(1, ATTEMPTS_MAX + 5), st.integers(1, 200), st.integers(0, 10_000))
def test_only_a_definitive_failure_earns_a_new_reference(outcome, attempt, attempts_max, unclear):
    found = step(outcome, attempt=attempt, attempts_max=attempts_max, unclear=unclear)
    renewed = found.attempt != attempt
    assert renewed == (
        outcome is CollectOutcome.FAILED and attempt < min(attempts_max, ATTEMPTS_MAX)
    )
    assert renewed == (found.state is CollectState.DEMANDED)
    assert (found.wait is None) == (found.state in ENDED)
    assert (found.state is CollectState.PAID) == (outcome is CollectOutcome.PAID)


@given(OUTCOMES, st.integers(0, 10_000), st.timedeltas(timedelta(0), timedelta(days=9)))
def test_a_wait_is_bounded_and_never_shorter_than_asked_for(outcome, unclear, asked):
    found = step(outcome, unclear=unclear, wait=asked)
    if found.wait is not None:
        assert found.wait >= asked
        longest = max(RULES.attempt_every, RULES.look_every, RULES.retry_max, asked)
        assert timedelta(0) < found.wait <= longest


def test_unclear_answers_are_asked_about_less_and_less_often():
    waits = [step(CollectOutcome.UNKNOWN, unclear=count).wait for count in range(20)]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (RULES.retry_first, RULES.retry_max)


@given(
    st.tuples(st.text(), st.text(), st.integers(1, 50)),
    st.tuples(st.text(), st.text(), st.integers(1, 50)),
)
def test_references_are_as_different_as_what_they_name(one, other):
    first, second = collect_reference(*one), collect_reference(*other)
    assert (first == second) == (one == other)
    assert set(first) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert len(first) <= 50


def test_a_reference_never_changes_with_the_version():
    assert collect_reference("ledger", "inv_1", 1) == "sc-0effe081d124f1ca67178d161c9d6b0a-1"


@pytest.mark.parametrize("text", ["", "a", "@b.c", "a@", "a@b@c", "a b@c.d", "ä@b.c", "a@b\n.c"])
def test_an_address_that_is_none_is_refused_unseen(text):
    with pytest.raises(InvalidInput) as caught:
        check_email(text)
    assert len(text) < 3 or text not in str(caught.value)


def test_an_address_is_taken_as_it_is():
    assert check_email("Ada.L+bill@example.com") == "Ada.L+bill@example.com"
