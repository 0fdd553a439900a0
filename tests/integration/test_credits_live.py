"""Credit over a real Redis and Postgres: record, live store and ledger say the same."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from fixtures.http_edges import FixedPolicies, make_policy
from fixtures.live_store import CUSTOMER, LiveStore, event_of, hold_of
from fixtures.memory_top_ups import ScriptedProvider
from fixtures.stream_records import DictRateCards, rate_card

from sidecar.domain.errors import (
    Conflict,
    Differs,
    InvalidInput,
    Refused,
    StoreUnavailable,
    TooMany,
)
from sidecar.domain.grants import GRANTS_ACTIVE_MAX, GrantKind, WithdrawalKind
from sidecar.domain.money import AMOUNT_NANO_MAX
from sidecar.domain.periods import CalendarUnit, to_epoch_ms
from sidecar.domain.schedules import GrantSchedule
from sidecar.domain.top_ups import TopUpRule, TopUpState
from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.outbound.postgres.ledger import PostgresLedger
from sidecar.outbound.postgres.top_ups import PostgresTopUps
from sidecar.services.control_ports import Customer, Grant, GrantState, Withdrawal, WithdrawalState
from sidecar.services.credits import CreditService
from sidecar.services.pending_credits import PendingCredits
from sidecar.services.schedules import ScheduleService
from sidecar.services.settlement import SettlementWorker
from sidecar.services.top_ups import TopUpAnswer, TopUpWorker
from sidecar.services.withdrawals import WithdrawalService

GRANT = Grant(grant_id="g_1", customer_id=CUSTOMER, amount_nano=100, currency="USD")
VOID = Withdrawal(
    withdrawal_id="w_1", customer_id=CUSTOMER, grant_id="g_1", kind=WithdrawalKind.VOID
)
EXACT = 9_007_199_254_740_993
"""One more than the largest odd number that a Lua number can tell from its neighbours."""


@dataclass
class Parts:
    store: LiveStore
    accounts: PostgresAccounts
    credit: CreditService
    withdrawals: WithdrawalService
    schedules: ScheduleService
    pending: PendingCredits
    settlement: SettlementWorker
    ledger: PostgresLedger
    top_ups: PostgresTopUps

    async def settle(self) -> None:
        while await self.settlement.settle_once():
            pass

    async def agreed(self) -> dict[str, int]:
        """What the ledger has left of each grant, after it was compared with the live store."""
        await self.settle()
        live = {
            one.grant_id: one.free_nano + one.pinned_nano
            for one in await self.credit.list_live_grants(CUSTOMER)
            if one.state != "scheduled"
        }
        recorded = {
            one.grant_id: one.remaining_nano
            for one in await self.credit.list_grants(CUSTOMER, after="", limit=100)
            if one.remaining_nano
        }
        assert recorded == {name: nano for name, nano in live.items() if nano}
        balance = await self.store.balance()
        settled = balance.available_nano + balance.held_nano - balance.overdraft_nano
        assert await self.ledger.read_available(CUSTOMER) == settled
        return recorded


@pytest.fixture
async def parts(redis_url: str, postgres_pool) -> AsyncIterator[Parts]:
    store = await LiveStore.open(redis_url)
    accounts = PostgresAccounts(postgres_pool)
    customer = Customer(customer_id=CUSTOMER, plan="prepaid", currency="USD")
    await accounts.create_customer(customer)
    await store.accounts.put_customer(customer)
    credit = CreditService(
        accounts=accounts,
        live=store.accounts,
        policies=FixedPolicies(make_policy()),
        clock=store.clock,
    )
    withdrawals = WithdrawalService(accounts=accounts, live=store.accounts, credit=credit)
    schedules = ScheduleService(accounts=accounts, credit=credit, clock=store.clock)
    ledger = PostgresLedger(postgres_pool)
    yield Parts(
        store=store,
        accounts=accounts,
        credit=credit,
        withdrawals=withdrawals,
        schedules=schedules,
        pending=PendingCredits(
            accounts=accounts,
            credit=credit,
            withdrawals=withdrawals,
            schedules=schedules,
            interval_seconds=1,
        ),
        settlement=SettlementWorker(
            store.stream,
            ledger,
            DictRateCards({"card": rate_card()}),
            store.clock,
            owner="worker",
            shards=range(4),
        ),
        ledger=ledger,
        top_ups=PostgresTopUps(postgres_pool),
    )
    await store.connection.aclose()


async def test_grants_burn_in_their_order_and_the_ledger_follows(parts: Parts):
    await parts.credit.create_grant(replace(GRANT, amount_nano=EXACT))
    await parts.credit.create_grant(replace(GRANT, grant_id="g_2", priority=10))
    await parts.credit.create_grant(
        replace(GRANT, grant_id="g_3", priority=10, kind=GrantKind.PROMOTIONAL)
    )
    order = [one.grant_id for one in await parts.credit.list_live_grants(CUSTOMER)]
    assert order == ["g_3", "g_2", "g_1"]
    facts = await parts.store.facts()
    hold = hold_of(facts, 1, 150)
    await parts.store.balances.place_hold(hold)
    await parts.store.balances.capture_hold(event_of(hold, 130), (), prepaid=True)
    assert await parts.agreed() == {"g_1": EXACT, "g_2": 70}


async def test_a_void_leaves_what_is_pinned_and_a_second_is_refused_with_what_is_free(
    parts: Parts,
):
    await parts.credit.create_grant(GRANT)
    hold = hold_of(await parts.store.facts(), 1, 30)
    await parts.store.balances.place_hold(hold)
    with pytest.raises(Conflict, match=r"0\.00000007 of it is free, 0\.00000003 is set aside"):
        await parts.withdrawals.withdraw(replace(VOID, withdrawal_id="w_0", amount_nano=71))
    taken = await parts.withdrawals.withdraw(VOID)
    assert await parts.withdrawals.withdraw(VOID) == taken
    assert (taken.state, taken.withdrawn_nano) == (WithdrawalState.APPLIED, 70)
    await parts.store.balances.capture_hold(event_of(hold, 10), (), prepaid=True)
    assert await parts.agreed() == {}
    balance = await parts.store.balance()
    assert (balance.voided_nano, balance.used_nano, balance.available_nano) == (90, 10, 0)
    with pytest.raises(Conflict, match="nothing of it is left"):
        await parts.withdrawals.withdraw(replace(VOID, withdrawal_id="w_2"))
    states = [one.state.value for one in await parts.withdrawals.list(CUSTOMER, after="", limit=9)]
    assert states == ["refused", "applied", "refused"]


async def test_a_dispute_of_spent_credit_is_a_deficit_that_the_next_grant_pays(parts: Parts):
    await parts.credit.create_grant(GRANT)
    hold = hold_of(await parts.store.facts(), 1, 80)
    await parts.store.balances.place_hold(hold)
    await parts.store.balances.capture_hold(event_of(hold, 80), (), prepaid=True)
    dispute = replace(VOID, kind=WithdrawalKind.DISPUTE, amount_nano=100)
    await parts.withdrawals.withdraw(dispute)
    balance = await parts.credit.read_balance(CUSTOMER)
    assert (balance.deficit_nano, balance.available_nano) == (80, -80)
    await parts.credit.create_grant(replace(GRANT, grant_id="g_2", amount_nano=200))
    assert await parts.agreed() == {"g_2": 120}


async def test_what_the_live_store_has_no_room_for_is_not_recorded(parts: Parts):
    await parts.credit.create_grant(replace(GRANT, amount_nano=AMOUNT_NANO_MAX - 5))
    with pytest.raises(InvalidInput, match="has been granted so far"):
        await parts.credit.create_grant(replace(GRANT, grant_id="g_2", amount_nano=6))
    for number in range(5):
        await parts.store.grant(1, f"filler-{number}")
    with pytest.raises(InvalidInput, match="has been granted so far"):
        await parts.credit.create_grant(replace(GRANT, grant_id="g_2", amount_nano=1))
    assert [
        one.grant_id for one in await parts.credit.list_grants(CUSTOMER, after="", limit=9)
    ] == ["g_1"]


async def test_a_scheduled_grant_begins_by_itself_or_is_voided_before(parts: Parts):
    begins = datetime.now(UTC) + timedelta(hours=1)
    later = replace(GRANT, effective_at=begins, expires_at=begins + timedelta(days=1))
    await parts.credit.create_grant(later)
    await parts.credit.create_grant(replace(later, grant_id="g_2"))
    assert await parts.accounts.pending_grants(limit=9) == []
    gone = await parts.withdrawals.withdraw(replace(VOID, grant_id="g_2"))
    assert (gone.state, gone.withdrawn_nano) == (WithdrawalState.APPLIED, 0)
    assert (await parts.credit.read_balance(CUSTOMER)).granted_nano == 0
    await parts.store.set_clock(to_epoch_ms(begins) + 1)
    await parts.credit.create_grant(replace(GRANT, grant_id="g_3", amount_nano=1))
    assert await parts.agreed() == {"g_1": 100, "g_3": 1}
    assert (await parts.credit.read_grant(CUSTOMER, "g_1")).state is GrantState.POSTED


async def test_a_recurring_grant_rolls_over_what_is_left(parts: Parts):
    # The clock of the shard runs ahead of the machine's, the schedule's periods are past days.
    start = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    schedule = GrantSchedule(
        schedule_id="grs_1",
        customer_id=CUSTOMER,
        amount_nano=100,
        currency="USD",
        unit=CalendarUnit.DAY,
        anchor=start,
        starts_at=start,
        rolls_most_nano=40,
    )
    await parts.schedules.create(schedule)
    assert await parts.schedules.issue_due() == 2
    first, second = (schedule.grant_id(start + timedelta(days=n)) for n in (0, 1))
    assert await parts.agreed() == {first: 100}
    await parts.store.set_clock(to_epoch_ms(start + timedelta(days=1)) + 1)
    await parts.store.grant(1, "nudge")  # Whatever script comes next finds the new day.
    live = {one.grant_id: one.free_nano for one in await parts.credit.list_live_grants(CUSTOMER)}
    assert live == {second: 140, "nudge": 1}
    assert (await parts.store.balance()).expired_nano == 60


async def test_a_repeat_finds_the_first_and_other_content_its_difference(parts: Parts):
    first = await parts.credit.top_up(CUSTOMER, amount_nano=50, currency="USD", reference="pi_1")
    await parts.settle()
    again = await parts.credit.top_up(CUSTOMER, amount_nano=50, currency="USD", reference="pi_1")
    assert (first.grant_id, again.state, again.remaining_nano) == (
        "top:pi_1",
        GrantState.POSTED,
        50,
    )
    with pytest.raises(Differs, match="amount was"):
        await parts.credit.top_up(CUSTOMER, amount_nano=51, currency="USD", reference="pi_1")
    assert await parts.agreed() == {"top:pi_1": 50}


async def test_a_rule_tops_up_from_asking_to_the_ledger(parts: Parts):
    provider = ScriptedProvider(TopUpAnswer(paid=True, reference="pi_7"))
    worker = TopUpWorker(
        record=parts.top_ups,
        credit=parts.credit,
        provider=provider,
        clock=parts.store.clock,
        interval_seconds=1,
    )
    await parts.top_ups.put_rule(CUSTOMER, TopUpRule(threshold_nano=10, target_nano=500))
    await parts.credit.create_grant(replace(GRANT, amount_nano=3))
    assert [await worker.look_once() for _ in range(2)] == [1, 0]
    (attempt,) = await parts.top_ups.list_attempts(CUSTOMER, limit=5)
    assert (attempt.state, attempt.amount_nano) == (TopUpState.GIVEN, 497)
    assert await parts.agreed() == {"g_1": 3, f"top:{attempt.reference}": 497}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"amount_nano": AMOUNT_NANO_MAX}, "would pass the largest balance"),
        ({"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}, "expires_at has passed"),
        ({"amount_nano": 6, "grant_id": "g_known"}, "was given with other content"),
    ],
    ids=["out_of_bounds", "expired", "conflict"],
)
async def test_grants_that_are_refused_for_good_keep_no_other_waiting(
    parts: Parts, changes: dict[str, object], words: str
):
    """More than a round takes here, all older than the one that can be given."""
    await parts.store.accounts.apply_grant(replace(GRANT, grant_id="g_known", amount_nano=5))
    refused = [replace(GRANT, **({"grant_id": f"g_{n:03}"} | changes)) for n in range(3)]
    for grant in refused:
        await parts.accounts.create_grant(grant)
    await parts.accounts.create_grant(replace(GRANT, grant_id="z_last"))
    applied = [await parts.pending.apply_grants(limit=1) for _ in range(4)]
    assert applied[-1] == 1
    # It is in the ledger once it is settled; nothing else is looked at any more.
    assert [one.grant_id for one in await parts.accounts.pending_grants(limit=9)] == ["z_last"]
    noted = await parts.credit.read_grant(CUSTOMER, refused[0].grant_id)
    assert noted.state is GrantState.REFUSED
    assert words in noted.refusal
    with pytest.raises(Refused, match=words):
        await parts.credit.create_grant(refused[0])
    with pytest.raises(Conflict, match="is refused"):
        await parts.withdrawals.withdraw(replace(VOID, grant_id=refused[0].grant_id))


async def test_a_grant_too_many_waits_behind_others_until_there_is_room(
    parts: Parts, postgres_pool
):
    for number in range(GRANTS_ACTIVE_MAX):
        await parts.credit.create_grant(replace(GRANT, grant_id=f"g_{number}"))
    waiting = await parts.accounts.create_grant(replace(GRANT, grant_id="one_more"))
    await parts.settle()
    with pytest.raises(TooMany):
        await parts.credit.apply_grant(waiting)
    assert await parts.accounts.pending_grants(limit=9) == []
    await parts.withdrawals.withdraw(replace(VOID, grant_id="g_0"))
    await postgres_pool.execute("UPDATE grants SET retry_at = now() WHERE grant_id = 'one_more'")
    assert await parts.pending.apply_grants() == 1
    assert (await parts.agreed())["one_more"] == 100


async def test_a_withdrawal_whose_grant_the_live_store_lost_keeps_no_other_waiting(
    parts: Parts, postgres_pool
):
    for number in (1, 2):
        await parts.credit.create_grant(replace(GRANT, grant_id=f"g_{number}"))
    await parts.settle()
    lost = await parts.accounts.create_grant(replace(GRANT, grant_id="g_lost"))
    await postgres_pool.execute(
        "UPDATE grants SET state = 'posted', posted_at = now() WHERE grant_id = $1", lost.grant_id
    )
    record = parts.accounts
    for number, grant_id in enumerate(("g_lost", "g_2")):
        void = replace(VOID, withdrawal_id=f"w_{number}", grant_id=grant_id)
        await record.create_withdrawal(void)
    with pytest.raises(StoreUnavailable):
        await parts.pending.apply_withdrawals(limit=1)
    assert await parts.pending.apply_withdrawals(limit=1) == 1
    assert await record.pending_withdrawals(limit=9) == []


async def test_a_refused_withdrawal_says_why_at_each_repeat(parts: Parts):
    await parts.credit.create_grant(GRANT)
    for _ in range(2):
        with pytest.raises(Conflict, match=r"0\.0000001 of it is free"):
            await parts.withdrawals.withdraw(replace(VOID, amount_nano=101))
    (noted,) = await parts.withdrawals.list(CUSTOMER, after="", limit=9)
    assert noted.state is WithdrawalState.REFUSED
    assert "0.0000001 of it is free" in noted.refusal


async def test_a_withdrawal_that_was_applied_and_not_noted_is_noted_later(parts: Parts):
    await parts.credit.create_grant(GRANT)
    await parts.accounts.create_withdrawal(VOID)
    assert await parts.store.accounts.apply_withdrawal(VOID) == 100
    assert await parts.pending.apply_withdrawals() == 1
    (noted,) = await parts.withdrawals.list(CUSTOMER, after="", limit=9)
    assert (noted.state, noted.withdrawn_nano) == (WithdrawalState.APPLIED, 100)
    assert await parts.agreed() == {}
