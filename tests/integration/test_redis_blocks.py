"""Blocks of credit on the real scripts: what goes in, what holds take out, what comes back."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fixtures.blocks import BLOCK, block_of, blocks_of, placed_from
from fixtures.counter_stores import RATE
from fixtures.live_store import CUSTOMER, LiveStore, event_of, hold_id_of, hold_of, quota_take

from sidecar.domain.customers import NOBODY
from sidecar.domain.grants import WithdrawalKind
from sidecar.domain.standing import Standing, StandingFact
from sidecar.outbound.embedded import GATEWAY_ACL_RULES
from sidecar.outbound.redis.balances import RedisBalances
from sidecar.outbound.redis.connection import RedisConnection
from sidecar.services.allotment_ports import Registered
from sidecar.services.control_ports import Credential, Grant, Withdrawal
from sidecar.services.ports import CaptureStatus, PlaceStatus

OPENED, KNOWN, DROPPED = Registered.OPENED, Registered.KNOWN, Registered.DROPPED


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[LiveStore]:
    store = await LiveStore.open(redis_url)
    yield store
    await store.connection.aclose()


async def take(store: LiveStore, facts, credit: int, quantities=(), **changes):
    block = block_of(facts, **changes)
    allotted = await blocks_of(store).allot(block, credit, quantities)
    return block, allotted


async def test_a_block_is_held_from_the_moment_that_it_is_given(store):
    facts = await store.add_customer(granted=100)
    _, allotted = await take(store, facts, 60)
    assert allotted.outcome.status is PlaceStatus.PLACED
    assert allotted.outcome.numbers.available_nano == 40
    assert allotted.changes_at_ms == 0
    assert await store.numbers() == (100, 0, 60, 40)


async def test_holds_come_out_of_their_block_and_its_rest_goes_back(store):
    facts = await store.add_customer(granted=100)
    block, _ = await take(store, facts, 60)
    first, one = placed_from(block, facts, 1, 25)
    _, two = placed_from(block, facts, 2, 10)
    words = await blocks_of(store).register(block.terms, 1, [one, two], ends=False)
    assert list(words) == [OPENED, OPENED]
    assert await store.numbers() == (100, 0, 60, 40)
    captured = await store.balances.capture_hold(event_of(first, 5), (), prepaid=True)
    assert (captured.status, captured.held_nano) == (CaptureStatus.CAPTURED, 25)
    # What the hold did not use is the customer's again, not the block's.
    assert await store.numbers() == (100, 5, 35, 60)
    await blocks_of(store).register(block.terms, 2, [], ends=True)
    assert await store.numbers() == (100, 5, 10, 85)
    fields = await store.fields()
    assert b"blocks" not in fields
    assert not [name for name in fields if name.startswith(b"b:")]


async def test_a_batch_that_comes_again_changes_nothing(store):
    facts = await store.add_customer(granted=100)
    block, _ = await take(store, facts, 60)
    hold, told = placed_from(block, facts, 1, 25)
    blocks = blocks_of(store)
    await blocks.register(block.terms, 1, [told], ends=False)
    before = await store.dump()
    assert list(await blocks.register(block.terms, 1, [told], ends=False)) == []
    assert await store.dump() == before
    await store.balances.capture_hold(event_of(hold, 5), (), prepaid=True)
    before = await store.dump()
    await blocks.register(block.terms, 1, [told], ends=False)
    assert await store.dump() == before


async def test_usage_before_its_hold_opens_it_by_its_token(store):
    facts = await store.add_customer(granted=100)
    block, _ = await take(store, facts, 60)
    hold, told = placed_from(block, facts, 1, 25)
    event, block_id = event_of(hold, 20), block.terms.block_id
    early = await store.balances.capture_hold(event, (), prepaid=True, block_id=block_id)
    assert early.status is CaptureStatus.UNREGISTERED
    assert await store.numbers() == (100, 0, 60, 40)
    await store.balances.open_from_block(hold.terms)
    captured = await store.balances.capture_hold(event, (), prepaid=True)
    assert (captured.status, captured.held_nano) == (CaptureStatus.CAPTURED, 25)
    assert captured.overspent_nano == 0
    assert await store.numbers() == (100, 20, 35, 45)
    # The owner, which knows nothing of it, tells of the hold: it has been taken out already.
    words = await blocks_of(store).register(block.terms, 1, [told], ends=False)
    assert list(words) == [KNOWN]
    assert await store.numbers() == (100, 20, 35, 45)
    await blocks_of(store).register(block.terms, 2, [], ends=True)
    assert await store.numbers() == (100, 20, 0, 80)


async def test_usage_finds_credit_in_its_block_though_all_else_is_spent(store):
    facts = await store.add_customer(granted=100)
    block, _ = await take(store, facts, 60)
    hold, _ = placed_from(block, facts, 1, 25)
    assert (await store.place(facts, 2, 40)).status is PlaceStatus.PLACED
    await store.balances.open_from_block(hold.terms)
    await store.balances.open_from_block(hold.terms)
    captured = await store.balances.capture_hold(event_of(hold, 25), (), prepaid=True)
    assert (captured.status, captured.overspent_nano) == (CaptureStatus.CAPTURED, 0)


@pytest.mark.parametrize(("later", "teller"), [(True, "second"), (False, None)])
async def test_an_id_that_another_process_placed_gives_its_part_back(store, later, teller):
    """Whoever was told of it last answers for it; nobody, where the store cannot say who."""
    facts = await store.add_customer(granted=100)
    block, _ = await take(store, facts, 60)
    placed = await store.place(facts, 1, 25)
    decided = placed.instant_ms + (1 if later else -1)
    _, told = placed_from(block, facts, 1, 25, decided=decided)
    words = await blocks_of(store, "second").register(block.terms, 1, [told], ends=False)
    assert list(words) == [KNOWN]
    assert await store.numbers() == (100, 0, 60, 40)
    for name in ("first", "second"):
        store.balances._teller = name
        assert await store.balances.release_hold(CUSTOMER, hold_id_of(1)) is (name == teller)


async def test_the_one_that_opened_a_hold_may_give_it_back_until_another_was_told(store):
    facts = await store.add_customer(granted=100)
    block, _ = await take(store, facts, 60)
    other, _ = await take(store, facts, 30, number=BLOCK + 1)
    _, one = placed_from(block, facts, 1, 25, decided=1_000)
    _, two = placed_from(other, facts, 1, 25, decided=1_001)
    _, earlier = placed_from(other, facts, 2, 5, decided=999)
    _, opened = placed_from(block, facts, 2, 5, decided=1_000)
    first, second = blocks_of(store, "first"), blocks_of(store, "second")
    await first.register(block.terms, 1, [one, opened], ends=False)
    await second.register(other.terms, 1, [two, earlier], ends=False)
    for name, number, released in [
        ("first", 1, False),
        ("second", 1, True),
        ("second", 2, False),
        ("first", 2, True),
    ]:
        store.balances._teller = name
        assert await store.balances.release_hold(CUSTOMER, hold_id_of(number)) is released


async def test_a_hold_of_another_try_opens_though_an_earlier_one_was_given_back(store):
    facts = await store.add_customer(granted=100)
    block, _ = await take(store, facts, 60)
    hold, told = placed_from(block, facts, 1, 25)
    assert not await store.balances.release_hold(CUSTOMER, hold_id_of(1))
    words = await blocks_of(store).register(block.terms, 1, [told], ends=False)
    assert list(words) == [OPENED]
    captured = await store.balances.capture_hold(event_of(hold, 25), (), prepaid=True)
    assert captured.status is CaptureStatus.CAPTURED


async def test_a_dropped_hold_goes_back_and_beats_a_late_place(store):
    facts = await store.add_customer(granted=100)
    block, _ = await take(store, facts, 60)
    _, told = placed_from(block, facts, 1, 25, dropped=True)
    assert list(await blocks_of(store).register(block.terms, 1, [told], ends=False)) == [DROPPED]
    assert await store.numbers() == (100, 0, 35, 65)
    assert (await store.place(facts, 1, 25)).status is PlaceStatus.CLOSED


async def test_a_block_grows_and_lives_on_when_it_is_renewed(store):
    facts = await store.add_customer(granted=100)
    block, first = await take(store, facts, 30)
    _, again = await take(store, facts, 20)
    assert again.outcome.expires_at_ms >= first.outcome.expires_at_ms
    assert await store.numbers() == (100, 0, 50, 50)
    holds = [placed_from(block, facts, number, 10)[1] for number in range(5)]
    words = await blocks_of(store).register(block.terms, 1, holds, ends=True)
    assert list(words) == [OPENED] * 5
    assert await store.numbers() == (100, 0, 50, 50)
    assert (await take(store, facts, 5))[1].outcome.status is PlaceStatus.CLOSED


async def test_more_than_a_block_has_is_not_taken_out_of_it(store):
    facts = await store.add_customer(granted=100)
    block, _ = await take(store, facts, 30)
    _, one = placed_from(block, facts, 1, 20)
    _, two = placed_from(block, facts, 2, 11)
    words = await blocks_of(store).register(block.terms, 1, [one, two], ends=False)
    assert list(words) == [OPENED, Registered.UNFIT]
    assert await store.numbers() == (100, 0, 30, 70)


async def test_a_block_takes_its_part_of_windows_and_gives_back_what_nobody_took(store):
    facts = await store.add_customer(granted=1_000)
    unit = quota_take(0, 100)
    block, allotted = await take(store, facts, 50, (40,), counters=(unit,))
    assert allotted.outcome.numbers.used == {"tokens": 40}
    hold, told = placed_from(block, facts, 1, 10, quantities=(15,))
    await blocks_of(store).register(block.terms, 1, [told], ends=False)
    lines = tuple(replace(line, quantity=4) for line in hold.terms.quota_lines)
    await store.balances.capture_hold(event_of(hold, 10), lines, prepaid=True)
    # 25 are the block's, 4 were used; 71 are left.
    over = hold_of(facts, 2, 1, counters=(quota_take(72, 100),))
    assert (await store.balances.place_hold(over)).status is PlaceStatus.RECALLED
    await blocks_of(store).register(block.terms, 2, [], ends=True)
    placed = await store.balances.place_hold(over)
    assert (placed.status, placed.numbers.used) == (PlaceStatus.PLACED, {"tokens": 76})


async def test_too_little_while_blocks_are_out_is_no_denial(store):
    facts = await store.add_customer(granted=100)
    block, _ = await take(store, facts, 60)
    assert (await store.place(facts, 1, 50)).status is PlaceStatus.RECALLED
    # With all of it back there would be too little, too.
    assert (await store.place(facts, 2, 101)).status is PlaceStatus.DENIED
    await blocks_of(store).register(block.terms, 1, [], ends=True)
    assert (await store.place(facts, 1, 50)).status is PlaceStatus.PLACED
    assert (await store.place(facts, 3, 51)).status is PlaceStatus.DENIED


async def test_the_rights_of_a_gateway_are_enough_for_a_recall(store, redis_socket: Path):
    facts = await store.add_customer(granted=100)
    await take(store, facts, 60)
    rules = GATEWAY_ACL_RULES.split()
    await store.connection.command("ACL", "SETUSER", "recalling", "reset", "on", ">pw", *rules)
    url = f"unix://recalling@{redis_socket}?password=pw"
    bound = RedisConnection.from_url(url, timeout_seconds=20.0)
    try:
        balances = RedisBalances(bound, store.keyspace, store.clock, store_timeout_seconds=20.0)
        outcome = await balances.place_hold(hold_of(facts, 1, 50))
        assert outcome.status is PlaceStatus.RECALLED
    finally:
        await bound.aclose()
        await store.connection.command("ACL", "DELUSER", "recalling")


async def test_what_invoices_refuse_is_refused_though_blocks_are_out(store):
    facts = await store.add_customer(granted=100)
    await take(store, facts, 60)
    await store.accounts.put_standing(CUSTOMER, StandingFact(standing=Standing.DELINQUENT))
    assert (await store.place(facts, 1, 50)).status is PlaceStatus.DENIED
    assert (await take(store, facts, 1))[1].outcome.status is PlaceStatus.DENIED


async def test_a_renewal_is_refused_once_the_key_is_revoked_or_the_customer_has_changed(store):
    facts = await store.add_customer(granted=100)
    key = Credential(credential_id="crd_1", customer_id=CUSTOMER, secret_hash="0f" * 32)
    await store.accounts.put_credential(key)
    with_key = replace(facts, credential_id="crd_1", generation=1)
    assert (await take(store, with_key, 10))[1].outcome.status is PlaceStatus.PLACED
    assert (await take(store, with_key, 0))[1].outcome.status is PlaceStatus.PLACED
    await store.accounts.put_credential(replace(key, revoked_at=datetime.now(UTC)))
    refused = (await take(store, with_key, 0))[1].outcome.status
    assert refused is PlaceStatus.UNKNOWN_CREDENTIAL
    old = replace(facts, revision=facts.revision - 1)
    assert (await take(store, old, 0))[1].outcome.status is PlaceStatus.STALE_FACTS


async def test_a_rate_is_no_reason_to_recall(store):
    facts = await store.add_customer(granted=100)
    await take(store, facts, 60)
    rate = RATE.take(NOBODY, 1_000, datetime.now(UTC), hard=True)
    assert (await store.place(facts, 1, 1, counters=(rate,))).status is PlaceStatus.DENIED


async def test_only_credit_for_every_meter_gets_into_a_block(store):
    facts = await store.add_customer(granted=100)
    scoped = Grant(
        grant_id="scoped",
        customer_id=CUSTOMER,
        amount_nano=50,
        currency="USD",
        meters=frozenset({"output"}),
    )
    await store.accounts.apply_grant(scoped)
    before = await store.dump()
    assert (await take(store, facts, 10))[1].outcome.status is PlaceStatus.DENIED
    assert await store.dump() == before


async def test_overdraft_gets_into_no_block(store):
    facts = await store.add_customer(granted=10)
    await store.set_field("overdraft", "100")
    assert (await take(store, facts, 11))[1].outcome.status is PlaceStatus.DENIED
    assert (await take(store, facts, 10))[1].outcome.status is PlaceStatus.PLACED


async def test_a_postpaid_block_needs_no_credit(store):
    facts = await store.add_customer()
    how = {"prepaid": False, "credit_required": False}
    block, allotted = await take(store, facts, 500, **how)
    assert allotted.outcome.status is PlaceStatus.PLACED
    hold, told = placed_from(block, facts, 1, 200, **how)
    await blocks_of(store).register(block.terms, 1, [told], ends=False)
    captured = await store.balances.capture_hold(event_of(hold, 150), (), prepaid=False)
    assert (captured.status, captured.booked_nano) == (CaptureStatus.CAPTURED, 150)
    await blocks_of(store).register(block.terms, 2, [], ends=True)
    assert await store.numbers() == (0, 150, 0, -150)


async def test_a_void_takes_what_no_block_has_and_the_rest_when_it_comes_back(store):
    facts = await store.add_customer(granted=100)
    block, _ = await take(store, facts, 60)
    hold, told = placed_from(block, facts, 1, 20)
    await blocks_of(store).register(block.terms, 1, [told], ends=False)
    withdrawal = Withdrawal(
        withdrawal_id="wdr_1", customer_id=CUSTOMER, grant_id="grant-1", kind=WithdrawalKind.VOID
    )
    assert await store.accounts.apply_withdrawal(withdrawal) == 40
    await store.grant(100, "grant-2")
    assert (await take(store, facts, 0))[1].outcome.status is PlaceStatus.DENIED
    await blocks_of(store).register(block.terms, 2, [], ends=True)
    assert await store.numbers() == (200, 0, 20, 100)
    captured = await store.balances.capture_hold(event_of(hold, 20), (), prepaid=True)
    assert captured.overspent_nano == 0


async def test_what_is_left_of_a_block_whose_owner_is_gone_ends_as_an_orphan(store):
    facts = await store.add_customer(granted=100)
    block, _ = await take(store, facts, 60, ttl_ms=30)
    _, told = placed_from(block, facts, 1, 25)
    await blocks_of(store).register(block.terms, 1, [told], ends=False)
    await store.expire(hold_id_of(BLOCK))
    assert await store.numbers() == (100, 0, 25, 75)
    (orphan,) = [one for one in await store.records() if one.kind == "orphan"]
    assert (orphan.hold_id, orphan.held_nano) == (hold_id_of(BLOCK), 35)
    # What it tells of afterwards has nothing behind it.
    _, late = placed_from(block, facts, 2, 5)
    words = await blocks_of(store).register(block.terms, 2, [late], ends=False)
    assert list(words) == [Registered.LOST]
    assert b"blocks" not in await store.fields()


async def test_the_next_beginning_or_end_of_a_grant_is_told(store):
    facts = await store.add_customer(granted=100)
    ends = datetime(2100, 1, 1, tzinfo=UTC)
    grant = Grant(
        grant_id="ends", customer_id=CUSTOMER, amount_nano=5, currency="USD", expires_at=ends
    )
    await store.accounts.apply_grant(grant)
    _, allotted = await take(store, facts, 10)
    assert allotted.changes_at_ms == int(ends.timestamp() * 1_000)


async def test_usage_that_needs_totals_reserves_before_its_hold_is_there(store):
    """A reservation alone does not make an id known: its hold is still to come."""
    facts = await store.add_customer(granted=100)
    block, _ = await take(store, facts, 60)
    hold, told = placed_from(block, facts, 1, 25)
    event = event_of(hold, 20)
    await store.balances.reserve_totals(CUSTOMER, hold_id_of(1), event, ())
    words = await blocks_of(store).register(block.terms, 1, [told], ends=False)
    assert list(words) == [OPENED]
    captured = await store.balances.capture_hold(event, (), prepaid=True)
    assert (captured.status, captured.held_nano) == (CaptureStatus.CAPTURED, 25)
