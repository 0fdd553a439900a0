"""Customers, keys, grants and standing: the record first, then the live store, safely repeated."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from fixtures.stream_records import until
from fixtures.use_cases import Grown, UseCases

from sidecar.domain.errors import Conflict, InvalidInput, NotFound, StoreUnavailable
from sidecar.domain.money import AMOUNT_NANO_MAX
from sidecar.domain.standing import Standing, StandingFact
from sidecar.services.control_ports import Customer, Grant, GrantState

CUSTOMER = Customer(customer_id="cus_1", plan="prepaid", currency="USD")
GRANT = Grant(grant_id="g_1", customer_id="cus_1", amount_nano=5, currency="USD")
DELINQUENT = StandingFact(standing=Standing.DELINQUENT, reason="invoice in_1")


async def made() -> UseCases:
    cases = UseCases()
    await cases.accounts.create_customer(CUSTOMER)
    return cases


async def test_a_new_customer_is_on_record_and_live():
    cases = await made()
    assert cases.record.customers["cus_1"].created_at is not None
    assert cases.account.customer.plan == "prepaid"
    assert (await cases.credits.read_balance("cus_1")).available_nano == 0


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"plan": "gold"}, "plan", "it has postpaid, prepaid"),
        ({"currency": "EUR"}, "currency", "plan prepaid is in USD"),
        ({"labels": {f"l{n}": "" for n in range(33)}}, "labels", "at most 32"),
    ],
)
async def test_a_customer_that_cannot_be_is_refused_by_field(changes, field: str, words: str):
    cases = UseCases()
    with pytest.raises(InvalidInput, match=words) as caught:
        await cases.accounts.create_customer(replace(CUSTOMER, **changes))
    assert caught.value.field == field
    assert cases.record.customers == cases.state.accounts == {}


async def test_creating_again_returns_the_same_and_other_content_is_a_conflict():
    cases = await made()
    first = cases.record.customers["cus_1"]
    cases.clock.advance(5)
    assert await cases.accounts.create_customer(CUSTOMER) == first
    with pytest.raises(Conflict):
        await cases.accounts.create_customer(replace(CUSTOMER, plan="postpaid"))


async def test_a_live_store_that_is_away_is_told_and_the_repeat_completes_it():
    cases = UseCases()
    cases.state.away = True
    with pytest.raises(StoreUnavailable):
        await cases.accounts.create_customer(CUSTOMER)
    cases.state.away = False
    await cases.accounts.create_customer(CUSTOMER)
    assert "cus_1" in cases.state.accounts


async def test_a_key_is_shown_once_and_stored_as_a_hash_only():
    cases = await made()
    issued = await cases.accounts.create_credential("cus_1", user_id="u", name="ci")
    assert issued.secret not in repr(issued)
    assert issued.secret not in repr(cases.record.credentials) + repr(cases.state.credentials)
    request = cases.request(headers={"x-api-key": (issued.secret,)}, path="/ai/x")
    cases.account.granted = 10**9
    decision = await cases.checks.check(request)
    assert decision.hold is not None
    assert cases.balances.placed[0].terms.credential_id == issued.credential.credential_id


async def test_a_key_for_nobody_is_not_found():
    cases = UseCases()
    with pytest.raises(NotFound):
        await cases.accounts.create_credential("cus_1", user_id="", name="")
    assert cases.state.credentials == {}


@pytest.mark.parametrize("amount", [0, -1, AMOUNT_NANO_MAX + 1])
async def test_a_grant_is_above_zero_and_below_the_largest_balance(amount: int):
    cases = await made()
    with pytest.raises(InvalidInput, match=r"at most 4000000000\.00") as caught:
        await cases.credits.create_grant(replace(GRANT, amount_nano=amount))
    assert caught.value.field == "amount"
    assert cases.record.grants == {}


async def test_a_grant_counts_once_however_often_it_is_sent():
    cases = await made()
    for _ in range(3):
        await cases.credits.create_grant(GRANT)
    await cases.pending.apply_grants()
    assert cases.account.granted == 5


async def test_a_grant_in_another_currency_or_with_other_content_is_a_conflict():
    cases = await made()
    await cases.credits.create_grant(GRANT)
    for changes in ({"currency": "EUR", "grant_id": "g_2"}, {"amount_nano": 6}):
        with pytest.raises(Conflict):
            await cases.credits.create_grant(replace(GRANT, **changes))
    assert cases.account.granted == 5


async def test_a_grant_whose_live_store_was_away_is_applied_afterwards():
    cases = await made()
    cases.state.away = True
    with pytest.raises(StoreUnavailable):
        await cases.credits.create_grant(GRANT)
    with pytest.raises(StoreUnavailable):
        await cases.pending.apply_grants()
    cases.state.away = False
    assert await cases.pending.apply_grants() == 1
    assert cases.account.granted == 5


async def test_pending_grants_bring_back_a_customer_that_the_live_store_lost():
    cases = await made()
    await cases.credits.create_grant(GRANT)
    cases.state.accounts.clear()
    await cases.pending.apply_grants()
    assert cases.account.granted == 5


@pytest.mark.parametrize(
    "error", [InvalidInput("past the largest balance"), Conflict("another amount"), NotFound("x")]
)
async def test_a_grant_that_the_live_store_refuses_keeps_no_other_from_being_applied(error):
    cases = await made()
    for number in range(3):
        grant = replace(GRANT, grant_id=f"g_{number}")
        await cases.record.create_grant(grant)
    apply = cases.live.apply_grant

    async def refuse_one(grant: Grant) -> None:
        if grant.grant_id == "g_0":
            raise error
        await apply(grant)

    cases.live.apply_grant = refuse_one
    failed = Grown("sidecar_worker_failures_total", worker="grants")
    assert await cases.pending.apply_grants() == 2
    assert (set(cases.account.given), failed.by) == ({"g_1", "g_2"}, 1)


async def test_posted_grants_are_not_pending_and_the_rest_goes_in_batches():
    cases = await made()
    for number in range(5):
        state = GrantState.POSTED if number == 0 else GrantState.INTENT
        await cases.record.create_grant(replace(GRANT, grant_id=f"g_{number}", state=state))
    assert await cases.pending.apply_grants(limit=3) == 3
    assert set(cases.account.given) == {"g_1", "g_2", "g_3"}


async def test_the_worker_outlives_a_record_that_is_away_and_stops_when_told():
    cases = await made()
    await cases.record.create_grant(GRANT)
    cases.record.away = True
    stop = asyncio.Event()
    failed = Grown("sidecar_worker_failures_total", worker="grants")
    work = asyncio.create_task(cases.pending.run(stop))
    await until(lambda: failed.by >= 2)
    cases.record.away = False
    await until(lambda: cases.account.granted)
    stop.set()
    async with asyncio.timeout(10):
        await work


async def test_a_standing_bites_at_the_next_check():
    cases = UseCases()
    await cases.accounts.create_customer(CUSTOMER)
    await cases.customer()
    await cases.standings.put("cus_1", DELINQUENT)
    assert (await cases.standings.read("cus_1")).fact == DELINQUENT
    assert (await cases.checks.check(cases.request())).reason.value == "invoice_overdue"
    await cases.standings.put("cus_1", StandingFact(standing=Standing.GRACE))
    assert (await cases.checks.check(cases.request())).hold is not None


READS: list[Callable[[UseCases], object]] = [
    lambda cases: cases.accounts.read_customer("cus_x"),
    lambda cases: cases.credits.read_balance("cus_x"),
    lambda cases: cases.standings.read("cus_x"),
    lambda cases: cases.standings.put("cus_x", DELINQUENT),
    lambda cases: cases.accounts.list_open_holds("cus_x", limit=5),
    lambda cases: cases.credits.list_grants("cus_x", after="", limit=5),
    lambda cases: cases.accounts.list_credentials("cus_x", after="", limit=5),
    lambda cases: cases.credits.create_grant(replace(GRANT, customer_id="cus_x")),
]


@pytest.mark.parametrize("read", READS)
async def test_what_is_asked_of_nobody_is_not_found(read):
    cases = await made()
    with pytest.raises(NotFound):
        await read(cases)


async def test_open_holds_are_listed_with_their_terms():
    cases = UseCases()
    await cases.accounts.create_customer(CUSTOMER)
    await cases.customer()
    terms = [await cases.hold(number) for number in range(3)]
    held = await cases.accounts.list_open_holds("cus_1", limit=2)
    assert [one.terms for one in held] == terms[:2]


async def test_a_plan_in_another_currency_is_a_conflict_that_says_so():
    cases = await made()
    card = replace(cases.policy.cards["prepaid"], plan="euro", currency="EUR")
    cards = {**cases.policy.cards, "euro": card}
    cases.policies.policy = replace(cases.policy, cards=cards)
    with pytest.raises(Conflict, match="in EUR; the customer's currency is USD"):
        await cases.accounts.update_customer(replace(CUSTOMER, plan="euro", currency=""))
    assert cases.account.customer.plan == "prepaid"


async def test_of_two_writers_the_one_that_is_last_in_the_record_is_live():
    """The first is slow on its way to the live store, and would overwrite the second there."""
    cases = await made()
    put, arrived, go_on = cases.live.put_customer, asyncio.Event(), asyncio.Event()

    async def slow(customer: Customer) -> None:
        if customer.labels == {"writer": "first"} and not arrived.is_set():
            arrived.set()
            await go_on.wait()
        await put(customer)

    cases.live.put_customer = slow
    first = replace(CUSTOMER, labels={"writer": "first"})
    second = replace(CUSTOMER, labels={"writer": "second"})
    late = asyncio.create_task(cases.accounts.update_customer(first))
    await arrived.wait()
    await cases.accounts.update_customer(second)
    go_on.set()
    await late
    assert cases.account.customer.labels == {"writer": "second"}


async def test_what_is_asked_of_an_unknown_credential_is_not_found():
    cases = await made()
    for call in (
        cases.accounts.rotate_credential("crd_x", overlap=timedelta(hours=1)),
        cases.accounts.revoke_credential("crd_x"),
    ):
        with pytest.raises(NotFound):
            await call


@pytest.mark.parametrize("overlap", [timedelta(seconds=-1), timedelta(days=30, seconds=1)])
async def test_an_overlap_is_bounded(overlap: timedelta):
    cases = await made()
    issued = await cases.accounts.create_credential("cus_1", user_id="", name="")
    with pytest.raises(InvalidInput, match="0 to 30d"):
        await cases.accounts.rotate_credential(issued.credential.credential_id, overlap=overlap)
