"""Automatic top-ups: the guards hold for any history, and a crash asks and gives once."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from fixtures.use_cases import Grown, UseCases
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.errors import InvalidInput
from sidecar.domain.top_ups import (
    ASK_PAUSE,
    ATTEMPTS_READ,
    BURST_MAX,
    BURST_SPAN,
    DECLINE_PAUSE,
    TopUpAttempt,
    TopUpRule,
    TopUpState,
    TopUpStep,
    check_top_up_rule,
    next_step,
)
from sidecar.services.control_ports import Customer
from sidecar.services.top_ups import LOOK_SECONDS, TopUpAnswer

RULE = TopUpRule(threshold_nano=100, amount_nano=500)
START = datetime(2026, 1, 31, 12, tzinfo=UTC)
PAID, DECLINED = TopUpAnswer(paid=True, reference="pi_1"), TopUpAnswer(paid=False)


async def made(*answers: TopUpAnswer, rule: TopUpRule = RULE) -> UseCases:
    cases = UseCases()
    await cases.accounts.create_customer(
        Customer(customer_id="cus_1", plan="prepaid", currency="USD")
    )
    await cases.top_ups.put_rule("cus_1", rule)
    cases.provider.answers = list(answers)
    return cases


async def look(cases: UseCases, seconds: float = LOOK_SECONDS) -> None:
    cases.clock.advance(seconds)
    await cases.top_up_worker.look_once()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"target_nano": 600}, "amount"),
        ({"amount_nano": None}, "amount"),
        ({"amount_nano": 0}, "amount"),
        ({"threshold_nano": -1}, "threshold"),
        ({"amount_nano": None, "target_nano": 100}, "target"),
        ({"amount_nano": None, "target_nano": 5 * 10**18}, "target"),
    ],
)
def test_a_rule_that_cannot_work_is_refused(changes, field: str):
    with pytest.raises(InvalidInput) as caught:
        check_top_up_rule(replace(RULE, **changes))
    assert caught.value.field == field


@given(st.lists(st.tuples(st.integers(1, 2_000), st.booleans()), max_size=60))
def test_for_any_answers_the_guards_hold(rounds):
    """Credit is always too low; each round waits so long, then may ask and is answered."""
    now, attempts = START, []
    for seconds, paid in rounds:
        now += timedelta(seconds=seconds)
        step = next_step(RULE, credit_nano=0, attempts=attempts[:ATTEMPTS_READ], now=now)
        assert step in (TopUpStep.ASK, TopUpStep.WAIT)
        begun = [one for one in attempts if one.asked_at > now - BURST_SPAN]
        declined = [
            one
            for one in attempts
            if one.state is TopUpState.DECLINED and one.ended_at > now - DECLINE_PAUSE
        ]
        assert (step is TopUpStep.ASK) == (len(begun) < BURST_MAX and not declined)
        if step is TopUpStep.ASK:
            attempt = TopUpAttempt(
                customer_id="c",
                number=len(attempts) + 1,
                amount_nano=5,
                currency="USD",
                asked_at=now,
                state=TopUpState.GIVEN if paid else TopUpState.DECLINED,
                ended_at=now,
            )
            attempts.insert(0, attempt)


async def test_credit_below_the_threshold_is_topped_up_once():
    cases = await made(PAID, PAID)
    await look(cases)
    await look(cases)
    assert (cases.account.granted, len(cases.provider.asked)) == (500, 1)
    (attempt,) = cases.top_ups.attempts.values()
    assert (attempt.state, attempt.provider_reference) == (TopUpState.GIVEN, "pi_1")
    assert list(cases.record.grants) == [("cus_1", f"top:{attempt.reference}")]


async def test_a_target_asks_for_what_is_missing_and_an_overdraft_is_no_credit():
    cases = await made(PAID, rule=TopUpRule(threshold_nano=100, target_nano=900))
    customer = await cases.accounts.read_customer("cus_1")
    await cases.accounts.update_customer(replace(customer, overdraft_nano=5_000))
    cases.account.used = 50
    await look(cases)
    assert cases.account.granted == 950


async def test_three_in_ten_minutes_then_it_rests():
    cases = await made(*[PAID] * 9)
    limited = Grown("sidecar_top_ups_total", outcome="limited")
    for _ in range(6):
        cases.account.used = cases.account.granted  # Spent at once: a runaway customer.
        await look(cases)
    assert (len(cases.provider.asked), limited.by) == (BURST_MAX, 3)
    cases.account.used = cases.account.granted
    await look(cases, BURST_SPAN.total_seconds())
    assert len(cases.provider.asked) == BURST_MAX + 1


async def test_a_decline_is_followed_by_an_hour_of_rest():
    cases = await made(DECLINED, PAID)
    await look(cases)
    await look(cases, DECLINE_PAUSE.total_seconds() - 1)
    assert (len(cases.provider.asked), cases.account.granted) == (1, 0)
    await look(cases)
    assert (len(set(cases.provider.asked)), cases.account.granted) == (2, 500)


async def test_without_an_answer_the_same_payment_is_asked_for_again():
    cases = await made()
    for _ in range(4):
        await look(cases, ASK_PAUSE.total_seconds())
    assert len(cases.provider.asked) == 3, "the pause grows"
    assert len(set(cases.provider.asked)) == 1
    cases.provider.answers = [PAID]
    await look(cases, 600)
    assert (cases.account.granted, len(cases.top_ups.attempts)) == (500, 1)


@pytest.mark.parametrize("state", [TopUpState.PAID, TopUpState.GIVEN])
async def test_a_crash_after_the_answer_gives_the_one_grant(state: TopUpState):
    cases = await made(PAID, PAID)
    note = cases.top_ups.note_state

    async def crash(attempt: TopUpAttempt, **told: object):
        if told["state"] is state:
            raise RuntimeError("the process is gone")
        return await note(attempt, **told)

    cases.top_ups.note_state = crash
    with pytest.raises(ExceptionGroup):
        await look(cases)
    cases.top_ups.note_state = note
    await look(cases, 600)
    assert cases.account.granted == 500
    assert len(set(cases.provider.asked)) == 1


async def test_nobody_is_asked_to_pay_for_what_cannot_be_given():
    cases = await made(PAID)
    for number in range(64):
        await cases.credits.top_up("cus_1", amount_nano=1, currency="USD", reference=f"r{number}")
    await look(cases)
    assert (cases.provider.asked, cases.top_ups.attempts) == ([], {})


async def test_one_customers_trouble_keeps_no_other_from_being_topped_up():
    cases = await made(PAID)
    await cases.accounts.create_customer(
        Customer(customer_id="cus_0", plan="prepaid", currency="USD")
    )
    await cases.top_ups.put_rule("cus_0", RULE)
    del cases.state.accounts["cus_0"]
    failed = Grown("sidecar_worker_failures_total", worker="top_ups")
    await look(cases)
    assert (cases.account.granted, failed.by) == (500, 1)
