"""Grants, withdrawals and recurring grants: refused before anything is done, or done once."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from fixtures.use_cases import Grown, UseCases

from sidecar.domain.errors import Conflict, Differs, InvalidInput, NotFound, StoreUnavailable
from sidecar.domain.grants import GRANTS_ACTIVE_MAX, GrantKind, WithdrawalKind
from sidecar.domain.money import AMOUNT_NANO_MAX
from sidecar.domain.periods import CalendarUnit
from sidecar.domain.schedules import GrantSchedule
from sidecar.services.control_ports import (
    Customer,
    Grant,
    GrantState,
    Withdrawal,
    WithdrawalState,
)

CUSTOMER = Customer(customer_id="cus_1", plan="prepaid", currency="USD")
GRANT = Grant(grant_id="g_1", customer_id="cus_1", amount_nano=100, currency="USD")
VOID = Withdrawal(
    withdrawal_id="w_1", customer_id="cus_1", grant_id="g_1", kind=WithdrawalKind.VOID
)
DISPUTE = replace(VOID, kind=WithdrawalKind.DISPUTE, amount_nano=60)
PAST = datetime(2026, 1, 31, 11, tzinfo=UTC)
NEXT = datetime(2026, 2, 1, tzinfo=UTC)
MONTHLY = GrantSchedule(
    schedule_id="grs_1",
    customer_id="cus_1",
    amount_nano=100,
    currency="USD",
    unit=CalendarUnit.MONTH,
    anchor=NEXT,
    starts_at=NEXT,
    rolls_most_nano=40,
)


async def made(*grants: Grant) -> UseCases:
    cases = UseCases()
    await cases.accounts.create_customer(CUSTOMER)
    for grant in grants:
        await cases.credits.create_grant(grant)
    return cases


@pytest.mark.parametrize(
    ("changes", "kind", "field", "words"),
    [
        ({"amount_nano": 0}, InvalidInput, "amount", "above zero"),
        ({"amount_nano": -5}, InvalidInput, "amount", "above zero"),
        ({"amount_nano": AMOUNT_NANO_MAX + 1}, InvalidInput, "amount", "at most"),
        ({"amount_nano": AMOUNT_NANO_MAX - 99}, InvalidInput, "amount", "has been granted so far"),
        ({"currency": "EUR"}, Conflict, None, "currency is EUR; .* are in USD"),
        ({"expires_at": PAST}, InvalidInput, "expires_at", "has passed"),
        ({"effective_at": NEXT, "expires_at": NEXT}, InvalidInput, "expires_at", "after effective"),
        ({"priority": 101}, InvalidInput, "priority", "101"),
        ({"meters": ("input-token",)}, InvalidInput, "meters", "did you mean 'input-tokens'"),
        ({"meters": ("input-tokens",) * 2}, InvalidInput, "meters", "named twice"),
        ({"customer_id": "cus_x"}, NotFound, None, "no customer"),
    ],
)
async def test_what_cannot_be_given_is_refused_and_leaves_nothing(changes, kind, field, words):
    cases = await made(GRANT)
    with pytest.raises(kind, match=words) as caught:
        await cases.credits.create_grant(replace(GRANT, grant_id="g_2", **changes))
    assert getattr(caught.value, "field", None) == field
    assert list(cases.record.grants) == [("cus_1", "g_1")]
    assert cases.account.granted == 100


async def test_no_more_grants_are_given_than_a_check_can_look_at():
    grants = [replace(GRANT, grant_id=f"g_{n}") for n in range(GRANTS_ACTIVE_MAX)]
    cases = await made(*grants)
    refused = Grown("sidecar_grants_total", kind="paid", outcome="refused")
    with pytest.raises(Conflict, match="64 grants that are not spent or ended"):
        await cases.credits.create_grant(replace(GRANT, grant_id="one_more"))
    assert (len(cases.record.grants), refused.by) == (GRANTS_ACTIVE_MAX, 1)
    await cases.withdrawals.withdraw(replace(VOID, grant_id="g_0"))
    await cases.credits.create_grant(replace(GRANT, grant_id="one_more"))


async def test_a_repeat_with_other_content_tells_each_difference():
    cases = await made(replace(GRANT, expires_at=NEXT))
    with pytest.raises(Differs) as caught:
        await cases.credits.create_grant(
            replace(GRANT, amount_nano=5, kind=GrantKind.PROMOTIONAL, meters=("input-tokens",))
        )
    told = {one.field: (one.before, one.now) for one in caught.value.differences}
    assert told == {
        "amount": ("0.0000001", "0.000000005"),
        "kind": ("paid", "promotional"),
        "expires_at": ("2026-02-01T00:00:00+00:00", "none"),
        "meters": ("all meters", "input-tokens"),
    }
    assert cases.account.granted == 100


async def test_a_repeat_is_not_judged_by_the_clock_or_the_policy_of_today():
    grant = replace(GRANT, expires_at=NEXT, meters=("input-tokens",))
    cases = await made(grant)
    cases.clock.advance(10 * 86_400)
    cases.policies.policy = replace(cases.policy, meters=(), cards={})
    assert (await cases.credits.create_grant(grant)).grant_id == "g_1"
    assert cases.account.granted == 100


async def test_a_posted_grant_is_not_given_again_to_a_live_store_that_lost_it():
    cases = await made(GRANT)
    cases.record.grants["cus_1", "g_1"] = replace(GRANT, state=GrantState.POSTED)
    cases.state.accounts.clear()
    await cases.accounts.create_customer(CUSTOMER)
    await cases.credits.create_grant(replace(GRANT, state=GrantState.INTENT))
    assert cases.account.granted == 0


async def test_a_top_up_counts_once_for_its_reference():
    cases = await made()
    body = {"amount_nano": 70, "currency": "USD", "reference": "pi_1"}
    first = await cases.credits.top_up("cus_1", **body)
    assert await cases.credits.top_up("cus_1", **body) == first
    with pytest.raises(Differs, match=r"amount was 0.00000007, is 0.00000008"):
        await cases.credits.top_up("cus_1", **body | {"amount_nano": 80})
    assert (first.grant_id, cases.account.granted) == ("top:pi_1", 70)


@pytest.mark.parametrize("reference", ["", "a b", "x" * 129, "a\n"])
async def test_a_reference_that_can_be_none_is_refused(reference: str):
    cases = await made()
    with pytest.raises(InvalidInput, match="reference must be"):
        await cases.credits.top_up("cus_1", amount_nano=5, currency="USD", reference=reference)


async def test_a_void_takes_what_is_free_once():
    cases = await made(GRANT)
    cases.account.used, cases.account.held = 30, 20
    first = await cases.withdrawals.withdraw(VOID)
    assert (first.state, first.withdrawn_nano) == (WithdrawalState.APPLIED, 50)
    assert await cases.withdrawals.withdraw(VOID) == first
    balance = await cases.credits.read_balance("cus_1")
    assert (balance.voided_nano, balance.available_nano) == (50, 0)


@pytest.mark.parametrize(
    ("used", "asked", "words"),
    [
        (100, None, "nothing of it is left"),
        (
            70,
            31,
            "0.00000003 of it is free, 0.00 is set aside by open holds; asked for 0.000000031",
        ),
    ],
)
async def test_what_is_spent_cannot_be_voided_and_the_refusal_says_what_is_free(used, asked, words):
    cases = await made(GRANT)
    cases.account.used = used
    withdrawal = replace(VOID, amount_nano=asked)
    with pytest.raises(Conflict, match=words):
        await cases.withdrawals.withdraw(withdrawal)
    (noted,) = cases.record.withdrawals.values()
    assert (noted.state, noted.withdrawn_nano) == (WithdrawalState.REFUSED, 0)
    cases.account.used = 0  # There would be enough now: the first outcome stands all the same.
    with pytest.raises(Conflict, match="refused at its first attempt"):
        await cases.withdrawals.withdraw(withdrawal)
    assert (await cases.credits.read_balance("cus_1")).voided_nano == 0


async def test_a_dispute_takes_what_is_spent_and_never_more_than_was_given():
    cases = await made(GRANT)
    cases.account.used = 90
    await cases.withdrawals.withdraw(DISPUTE)
    assert (await cases.credits.read_balance("cus_1")).deficit_nano == 50
    assert (await cases.withdrawals.withdraw(DISPUTE)).withdrawn_nano == 60
    with pytest.raises(Conflict, match=r"of which 0\.00000006 is taken back"):
        await cases.withdrawals.withdraw(replace(DISPUTE, withdrawal_id="w_2", amount_nano=41))
    with pytest.raises(InvalidInput, match="give its amount"):
        await cases.withdrawals.withdraw(replace(DISPUTE, withdrawal_id="w_3", amount_nano=None))
    assert len(cases.record.withdrawals) == 1


@pytest.mark.parametrize("amount", [0, -1, AMOUNT_NANO_MAX + 1])
async def test_a_withdrawal_is_of_something(amount: int):
    cases = await made(GRANT)
    with pytest.raises(InvalidInput):
        await cases.withdrawals.withdraw(replace(VOID, amount_nano=amount))
    with pytest.raises(NotFound):
        await cases.withdrawals.withdraw(replace(VOID, grant_id="g_x"))
    assert cases.record.withdrawals == {}


async def test_a_withdrawal_that_met_no_live_store_is_done_afterwards():
    cases = await made(GRANT)
    cases.state.away = True
    with pytest.raises(StoreUnavailable):
        await cases.withdrawals.withdraw(VOID)
    cases.state.away = False
    assert await cases.pending.apply_withdrawals() == 1
    assert await cases.pending.apply_withdrawals() == 0
    (noted,) = cases.record.withdrawals.values()
    assert (noted.state, noted.withdrawn_nano) == (WithdrawalState.APPLIED, 100)


async def test_a_live_store_that_lost_a_grant_does_not_refuse_for_good():
    cases = await made(GRANT)
    cases.record.grants["cus_1", "g_1"] = replace(GRANT, state=GrantState.POSTED)
    cases.state.accounts.clear()
    await cases.accounts.create_customer(CUSTOMER)
    with pytest.raises(StoreUnavailable):
        await cases.withdrawals.withdraw(VOID)
    assert next(iter(cases.record.withdrawals.values())).state is WithdrawalState.INTENT


async def test_a_schedule_issues_a_period_ahead_each_grant_once():
    cases = await made()
    await cases.schedules.create(MONTHLY)
    for _ in range(3):
        await cases.schedules.issue_due()
    assert sorted(cases.record.grants) == [("cus_1", MONTHLY.grant_id(NEXT))]
    cases.clock.instant = NEXT
    assert await cases.schedules.issue_due() == 1
    following = await cases.credits.read_grant(
        "cus_1", MONTHLY.grant_id(datetime(2026, 3, 1, tzinfo=UTC))
    )
    assert following.rollover.from_grant_id == MONTHLY.grant_id(NEXT)
    assert (following.effective_at.month, following.expires_at.month) == (3, 4)


async def test_a_crash_between_a_grant_and_the_schedules_next_gives_nothing_twice():
    cases = await made()
    await cases.schedules.create(MONTHLY)
    advance = cases.record.advance_schedule

    async def crash(*_: object, **__: object):
        raise StoreUnavailable("gone")

    cases.record.advance_schedule = crash
    with pytest.raises(StoreUnavailable):
        await cases.schedules.issue_due()
    cases.record.advance_schedule = advance
    cases.clock.advance(61)  # The lease has ended.
    assert await cases.schedules.issue_due() == 1
    assert len(cases.account.given) == 1


async def test_an_occurrence_that_is_refused_for_good_keeps_no_later_one_back():
    cases = await made()
    await cases.schedules.create(MONTHLY)
    await cases.schedules.issue_due()
    first = cases.record.grants["cus_1", MONTHLY.grant_id(NEXT)]
    cases.record.grants["cus_1", first.grant_id] = replace(
        first, state=GrantState.REFUSED, refusal="it has passed"
    )
    schedule = cases.record.schedules["cus_1", "grs_1"]
    cases.record.schedules["cus_1", "grs_1"] = replace(schedule, next_start=NEXT)
    cases.clock.instant = NEXT
    assert await cases.schedules.issue_due() == 1
    assert [one.state for one in cases.record.grants.values()] == [
        GrantState.REFUSED,
        GrantState.INTENT,
    ]


async def test_an_ended_schedule_issues_no_more_and_a_refused_one_keeps_no_other_back():
    cases = await made()
    await cases.schedules.create(MONTHLY)
    await cases.schedules.create(replace(MONTHLY, schedule_id="grs_2"))
    await cases.schedules.end("cus_1", "grs_1")
    clash = replace(GRANT, grant_id=replace(MONTHLY, schedule_id="grs_3").grant_id(NEXT))
    await cases.record.create_grant(clash)
    await cases.schedules.create(replace(MONTHLY, schedule_id="grs_3"))
    failed = Grown("sidecar_worker_failures_total", worker="schedules")
    assert (await cases.schedules.issue_due(), failed.by) == (1, 1)
    issued = [one.schedule_id for one in cases.record.grants.values() if one.schedule_id]
    assert issued == ["grs_2"]


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"currency": "EUR"}, Conflict),
        ({"meters": ("nope",)}, InvalidInput),
        ({"amount_nano": 0}, InvalidInput),
        ({"ends_at": NEXT}, InvalidInput),
        ({"tz": "Mars/Base"}, InvalidInput),
        ({"every": 0}, InvalidInput),
        ({"rolls_least_nano": 50}, InvalidInput),
        ({"customer_id": "cus_x"}, NotFound),
    ],
)
async def test_a_schedule_that_cannot_be_is_refused_and_not_recorded(changes, kind):
    cases = await made()
    with pytest.raises(kind):
        await cases.schedules.create(replace(MONTHLY, **changes))
    assert cases.record.schedules == {}
    for call in (cases.schedules.read("cus_1", "x"), cases.schedules.end("cus_1", "x")):
        with pytest.raises(NotFound):
            await call


async def test_an_overdraft_is_zero_or_more():
    cases = UseCases()
    with pytest.raises(InvalidInput) as caught:
        await cases.accounts.create_customer(replace(CUSTOMER, overdraft_nano=-1))
    assert caught.value.field == "overdraft"


async def test_scheduled_grants_do_not_count_before_they_begin():
    cases = await made(replace(GRANT, effective_at=NEXT))
    (live,) = await cases.credits.list_live_grants("cus_1")
    assert (live.state, live.free_nano) == ("scheduled", 100)
    assert (await cases.credits.read_balance("cus_1")).available_nano == 0
    assert await cases.record.pending_grants(limit=9) == []
    assert cases.clock.now() < NEXT - timedelta(hours=1)
