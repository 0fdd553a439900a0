"""Grants, withdrawals and schedules of record, on a real Postgres."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from fixtures.memory_accounts import MemoryAccounts
from fixtures.memory_store import MemoryClock

from sidecar.domain.errors import Conflict, InvalidInput, NotFound
from sidecar.domain.grants import GrantKind, Rollover, WithdrawalKind
from sidecar.domain.periods import CalendarUnit
from sidecar.domain.schedules import GrantSchedule
from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.services.control_ports import (
    Customer,
    Grant,
    GrantState,
    Withdrawal,
    WithdrawalState,
)

CUSTOMER = Customer(customer_id="cus_a", plan="prepaid", currency="USD")
FUTURE = datetime(2100, 1, 1, tzinfo=UTC)
PLAIN = Grant(grant_id="g1", customer_id="cus_a", amount_nano=10**18, currency="USD")
FULL = replace(
    PLAIN,
    grant_id="grs_1:9",
    kind=GrantKind.PROMOTIONAL,
    priority=3,
    effective_at=FUTURE,
    expires_at=FUTURE + timedelta(days=1),
    meters=("output-tokens", "images"),
    rollover=Rollover(from_grant_id="grs_1:8", least_nano=1, most_nano=2),
    schedule_id="grs_1",
)
VOID = Withdrawal(
    withdrawal_id="w1",
    customer_id="cus_a",
    grant_id="g1",
    kind=WithdrawalKind.VOID,
    amount_nano=5,
    reason="Jo asked for it",
)
MONTHLY = GrantSchedule(
    schedule_id="grs_1",
    customer_id="cus_a",
    amount_nano=7,
    currency="USD",
    unit=CalendarUnit.MONTH,
    anchor=datetime(2026, 1, 31, tzinfo=UTC),
    starts_at=datetime(2026, 1, 31, tzinfo=UTC),
    tz="Europe/Berlin",
    meters=("images",),
    rolls_most_nano=3,
)
FEBRUARY = datetime(2026, 2, 28, tzinfo=UTC)


@pytest.fixture(params=["postgres", "memory"])
async def accounts(request, postgres_pool):
    """The record, and its in-memory twin, which must mean the same."""
    if request.param == "memory":
        accounts = MemoryAccounts(MemoryClock())
    else:
        accounts = PostgresAccounts(postgres_pool)
    await accounts.create_customer(CUSTOMER)
    return accounts


@pytest.fixture
def pass_time(accounts, postgres_pool):
    """Let the record's clock go on."""

    async def pass_(time: timedelta) -> None:
        if isinstance(accounts, MemoryAccounts):
            accounts.clock.advance(time.total_seconds())
            return
        for table in ("grants", "withdrawals"):
            await postgres_pool.execute(
                f"UPDATE {table} SET created_at = created_at - $1::interval, "
                "retry_at = retry_at - $1::interval",
                time,
            )

    return pass_


@pytest.fixture
def postgres_accounts(postgres_pool):
    return PostgresAccounts(postgres_pool)


async def test_an_overdraft_is_stored_compared_and_changed(accounts):
    with pytest.raises(Conflict):
        await accounts.create_customer(replace(CUSTOMER, overdraft_nano=5))
    stored = await accounts.update_customer(replace(CUSTOMER, overdraft_nano=5))
    assert stored.overdraft_nano == 5
    assert (await accounts.read_customer("cus_a")).overdraft_nano == 5


@pytest.mark.parametrize("grant", [PLAIN, FULL], ids=["plain", "full"])
async def test_a_grant_is_stored_and_found_as_it_was_given(accounts, grant):
    stored = await accounts.create_grant(grant)
    assert replace(stored, created_at=None) == grant
    assert await accounts.create_grant(grant) == stored
    assert await accounts.read_grant("cus_a", grant.grant_id) == stored
    assert await accounts.list_grants("cus_a", after="", limit=5) == [stored]
    assert await accounts.read_grant("cus_b", grant.grant_id) is None


@pytest.mark.parametrize(
    "change",
    [
        {"amount_nano": 1},
        {"kind": GrantKind.PAID},
        {"priority": 4},
        {"effective_at": None},
        {"expires_at": FUTURE + timedelta(days=2)},
        {"meters": ()},
        {"rollover": None},
        {"schedule_id": ""},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_a_repeat_with_other_content_is_a_conflict(accounts, change):
    stored = await accounts.create_grant(FULL)
    with pytest.raises(Conflict, match="other content"):
        await accounts.create_grant(replace(FULL, **change))
    assert await accounts.read_grant("cus_a", FULL.grant_id) == stored


async def test_a_conflict_says_what_differs_and_names_no_person(postgres_accounts):
    labelled = replace(CUSTOMER, labels={"name": "Jo"})
    await postgres_accounts.create_customer(labelled)
    await postgres_accounts.create_grant(PLAIN)
    other = replace(PLAIN, amount_nano=15 * 10**8, expires_at=FUTURE)
    with pytest.raises(Conflict) as caught:
        await postgres_accounts.create_grant(other)
    assert str(caught.value) == (
        "grant 'g1' exists with other content: amount is 1000000000.00, not 1.50; "
        "expires_at is unset, not 2100-01-01 00:00:00+00:00"
    )
    with pytest.raises(Conflict) as caught:
        await postgres_accounts.create_customer(replace(labelled, labels={"name": "Al"}))
    assert str(caught.value).endswith(": labels is another")


async def test_a_grant_that_begins_later_is_not_applied_again_until_then(accounts):
    for grant in (PLAIN, FULL):
        await accounts.create_grant(grant)
    names = [grant.grant_id for grant in await accounts.pending_grants(limit=5)]
    assert names == ["g1", FULL.grant_id]
    for grant in (PLAIN, FULL, FULL):
        await accounts.note_applied(grant)
    assert [grant.grant_id for grant in await accounts.pending_grants(limit=5)] == ["g1"]


async def test_a_grant_that_has_begun_since_is_applied_once_more(postgres_pool, postgres_accounts):
    await postgres_accounts.create_customer(CUSTOMER)
    await postgres_accounts.create_grant(FULL)
    await postgres_accounts.note_applied(FULL)
    await postgres_pool.execute("UPDATE grants SET effective_at = now()")
    assert len(await postgres_accounts.pending_grants(limit=5)) == 1


async def test_a_grant_that_was_taken_back_before_it_began_is_pending_no_more(accounts):
    await accounts.create_grant(FULL)
    void = replace(VOID, grant_id=FULL.grant_id, amount_nano=None)
    await accounts.create_withdrawal(void)
    assert len(await accounts.pending_grants(limit=5)) == 1
    await accounts.finish_withdrawal(void, state=WithdrawalState.APPLIED, withdrawn_nano=0)
    assert await accounts.pending_grants(limit=5) == []


async def test_a_refused_grant_is_pending_no_more_and_says_why(accounts):
    stored = await accounts.create_grant(PLAIN)
    await accounts.refuse_grant(stored, refusal="it would pass the largest balance")
    refused = replace(stored, state=GrantState.REFUSED, refusal="it would pass the largest balance")
    assert await accounts.read_grant("cus_a", "g1") == refused
    assert await accounts.create_grant(PLAIN) == refused
    assert await accounts.pending_grants(limit=5) == []
    await accounts.refuse_grant(stored, refusal="another word")
    await accounts.put_grant_behind(stored)
    assert await accounts.read_grant("cus_a", "g1") == refused


async def test_what_is_put_behind_keeps_nothing_else_waiting_and_comes_again(accounts, pass_time):
    first = await accounts.create_grant(PLAIN)
    await accounts.create_grant(replace(PLAIN, grant_id="g2"))
    void = await accounts.create_withdrawal(VOID)
    await accounts.create_withdrawal(replace(VOID, withdrawal_id="w2"))
    await accounts.put_grant_behind(first)
    await accounts.put_withdrawal_behind(void)
    assert [one.grant_id for one in await accounts.pending_grants(limit=1)] == ["g2"]
    assert [one.withdrawal_id for one in await accounts.pending_withdrawals(limit=1)] == ["w2"]
    await pass_time(timedelta(hours=2))
    assert [one.grant_id for one in await accounts.pending_grants(limit=5)] == ["g2", "g1"]
    found = [one.withdrawal_id for one in await accounts.pending_withdrawals(limit=5)]
    assert found == ["w2", "w1"]


@pytest.mark.parametrize(("waited", "seconds"), [(0, 10), (20, 1_200), (600, 3_600)])
async def test_what_waited_long_is_tried_less_often(accounts, pass_time, waited, seconds):
    grant = await accounts.create_grant(PLAIN)
    await pass_time(timedelta(minutes=waited))
    await accounts.put_grant_behind(grant)
    await pass_time(timedelta(seconds=seconds - 5))
    assert await accounts.pending_grants(limit=5) == []
    await pass_time(timedelta(seconds=10))
    assert len(await accounts.pending_grants(limit=5)) == 1


async def test_the_first_word_about_a_withdrawal_counts(accounts):
    await accounts.create_grant(PLAIN)
    stored = await accounts.create_withdrawal(VOID)
    assert replace(stored, created_at=None) == VOID
    assert await accounts.create_withdrawal(VOID) == stored
    assert await accounts.pending_withdrawals(limit=5) == [stored]
    done = await accounts.finish_withdrawal(VOID, state=WithdrawalState.APPLIED, withdrawn_nano=5)
    assert (done.state, done.withdrawn_nano) == (WithdrawalState.APPLIED, 5)
    late = await accounts.finish_withdrawal(
        VOID, state=WithdrawalState.REFUSED, withdrawn_nano=0, refusal="it is spent"
    )
    assert late == done
    assert await accounts.create_withdrawal(VOID) == done
    assert await accounts.pending_withdrawals(limit=5) == []
    assert await accounts.list_withdrawals("cus_a", after="", limit=5) == [done]
    assert await accounts.list_withdrawals("cus_a", after="w1", limit=5) == []


async def test_withdrawals_that_contradict_the_record_are_refused(accounts):
    with pytest.raises(NotFound):
        await accounts.create_withdrawal(VOID)
    await accounts.create_grant(PLAIN)
    await accounts.create_withdrawal(VOID)
    with pytest.raises(Conflict):
        await accounts.create_withdrawal(replace(VOID, amount_nano=6))
    with pytest.raises(Conflict):
        await accounts.create_withdrawal(replace(VOID, kind=WithdrawalKind.REFUND))
    with pytest.raises(NotFound):
        await accounts.finish_withdrawal(
            replace(VOID, withdrawal_id="w9"), state=WithdrawalState.APPLIED, withdrawn_nano=1
        )


async def test_what_the_schema_refuses_of_a_withdrawal_is_invalid(postgres_accounts):
    await postgres_accounts.create_customer(CUSTOMER)
    await postgres_accounts.create_grant(PLAIN)
    for change in ({"amount_nano": 0}, {"reason": "x" * 5_000}, {"withdrawal_id": ""}):
        with pytest.raises(InvalidInput):
            await postgres_accounts.create_withdrawal(replace(VOID, **change))


async def test_erasing_a_customer_clears_the_reasons_and_a_repeat_still_finds_them(accounts):
    await accounts.create_grant(PLAIN)
    await accounts.create_withdrawal(VOID)
    await accounts.erase_customer("cus_a")
    (stored,) = await accounts.list_withdrawals("cus_a", after="", limit=5)
    assert stored.reason == ""
    assert await accounts.create_withdrawal(VOID) == stored


async def test_a_schedule_is_stored_and_found_with_its_first_occurrence(accounts):
    stored = await accounts.create_schedule(MONTHLY)
    assert replace(stored, created_at=None) == replace(MONTHLY, next_start=MONTHLY.anchor)
    assert await accounts.create_schedule(MONTHLY) == stored
    assert await accounts.read_schedule("cus_a", "grs_1") == stored
    assert await accounts.list_schedules("cus_a", after="", limit=5) == [stored]
    assert await accounts.list_schedules("cus_a", after="grs_1", limit=5) == []
    assert await accounts.read_schedule("cus_a", "grs_2") is None


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"every": 2}, Conflict),
        ({"rolls_most_nano": 4}, Conflict),
        ({"schedule_id": "grs_2", "currency": "EUR"}, Conflict),
        ({"schedule_id": "grs_2", "customer_id": "cus_b"}, NotFound),
        ({"schedule_id": "grs_2", "amount_nano": 0}, InvalidInput),
    ],
)
async def test_schedules_that_contradict_the_record_are_refused(accounts, change, error):
    await accounts.create_schedule(MONTHLY)
    with pytest.raises(error):
        await accounts.create_schedule(replace(MONTHLY, **change))


async def test_a_due_schedule_is_leased_and_moves_on_once(accounts):
    await accounts.create_schedule(MONTHLY)
    due_at = MONTHLY.due_at(MONTHLY.anchor)
    early = due_at - timedelta(seconds=1)
    assert await accounts.due_schedules(early, limit=5, lease_seconds=60) == []
    (due,) = await accounts.due_schedules(due_at, limit=5, lease_seconds=60)
    assert await accounts.due_schedules(due_at, limit=5, lease_seconds=60) == []
    moved = await accounts.advance_schedule(due, next_start=FEBRUARY)
    assert moved.next_start == FEBRUARY
    again = await accounts.advance_schedule(due, next_start=FUTURE)
    assert again == moved
    # The next one is due as the one before it starts; the lease went with the step.
    assert await accounts.due_schedules(due_at, limit=5, lease_seconds=60) == []
    (due,) = await accounts.due_schedules(MONTHLY.anchor, limit=5, lease_seconds=60)
    ended = await accounts.advance_schedule(due, next_start=None)
    assert ended.ended
    assert await accounts.due_schedules(FUTURE, limit=5, lease_seconds=60) == []


async def test_a_lease_that_ran_out_is_taken_by_another_worker(accounts):
    await accounts.create_schedule(MONTHLY)
    for _ in range(2):
        assert len(await accounts.due_schedules(FUTURE, limit=5, lease_seconds=0)) == 1


async def test_the_earliest_end_of_a_schedule_counts_also_while_it_is_issued(accounts):
    await accounts.create_schedule(MONTHLY)
    (due,) = await accounts.due_schedules(FUTURE, limit=5, lease_seconds=60)
    ended = await accounts.end_schedule("cus_a", "grs_1", ends_at=FEBRUARY)
    assert (ended.ends_at, ended.next_start) == (FEBRUARY, MONTHLY.anchor)
    assert (await accounts.end_schedule("cus_a", "grs_1", ends_at=FUTURE)).ends_at == FEBRUARY
    assert (await accounts.advance_schedule(due, next_start=FEBRUARY)).ended
    assert await accounts.end_schedule("cus_a", "grs_9", ends_at=FUTURE) is None
    with pytest.raises(NotFound):
        await accounts.advance_schedule(replace(due, schedule_id="grs_9"), next_start=None)


async def test_workers_that_ask_at_once_share_what_is_due(postgres_accounts):
    await postgres_accounts.create_customer(CUSTOMER)
    for number in range(12):
        await postgres_accounts.create_schedule(replace(MONTHLY, schedule_id=f"grs_{number:02}"))
    shares = await asyncio.gather(
        *(postgres_accounts.due_schedules(FUTURE, limit=4, lease_seconds=60) for _ in range(6))
    )
    names = [schedule.schedule_id for share in shares for schedule in share]
    assert len(names) == len(set(names))
    rest = await postgres_accounts.due_schedules(FUTURE, limit=50, lease_seconds=60)
    assert {*names, *(schedule.schedule_id for schedule in rest)} == {
        f"grs_{number:02}" for number in range(12)
    }
