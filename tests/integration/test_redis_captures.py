"""Captures on the real scripts: exact, once, corrected, late; and running totals."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest
from fixtures.live_store import (
    CUSTOMER,
    LiveStore,
    event_of,
    hold_id_of,
    hold_of,
    quota_lines,
    quota_take,
)

from sidecar.domain.errors import InvalidInput
from sidecar.domain.holds import HoldState, QuotaLine
from sidecar.domain.money import AMOUNT_NANO_MAX
from sidecar.domain.usage import RatedLine, TokenUsage
from sidecar.services.ports import CaptureOutcome, CaptureStatus, PlaceStatus


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[LiveStore]:
    store = await LiveStore.open(redis_url)
    yield store
    await store.connection.aclose()


async def capture(store, event, lines=(), *, prepaid=True) -> CaptureOutcome:
    return await store.balances.capture_hold(event, lines, prepaid=prepaid)


async def standing(store) -> tuple[int, int]:
    """Where the customer's shard stands."""
    shard = store.keyspace.shard(store.keyspace.shard_of(CUSTOMER))
    epoch, seq = await store.connection.command("HMGET", shard, "epoch", "seq")
    return int(epoch), int(seq)


async def test_a_capture_burns_the_amount_and_frees_the_rest(store):
    facts = await store.add_customer(granted=100)
    hold = hold_of(facts, 1, 30)
    placed = await store.balances.place_hold(hold)
    outcome = await capture(store, event_of(hold, 12, placed))
    assert outcome == CaptureOutcome(
        status=CaptureStatus.CAPTURED,
        booked_nano=12,
        held_nano=30,
        available_nano=88,
        epoch=placed.epoch,
        seq=placed.seq + 1,
    )
    assert await store.numbers() == (100, 12, 0, 88)


async def test_the_stream_carries_the_decision_with_its_numbers(store):
    facts = await store.add_customer(granted=100)
    hold = hold_of(facts, 1, 30)
    placed = await store.balances.place_hold(hold)
    event = event_of(
        hold,
        12,
        placed,
        usage=TokenUsage(input=9, output=5, cache_read=0, total=14),
        client_key="k-1",
        request_id=b"\xff\x00",
        estimate_reason="none",
        team_id="team",
        user_id="user",
        credential_id="crd",
        duration_ms=5,
        request_bytes=6,
        response_bytes=7,
    )
    await capture(store, event)
    record = (await store.records())[-1]
    assert record.kind == "capture"
    assert record.event == event
    assert (record.amount_nano, record.held_nano, record.overage_nano) == (12, 30, 0)
    assert (record.available_nano, record.prepaid, record.late) == (88, True, False)
    assert record.decided_at_ms >= placed.instant_ms
    assert (record.epoch, record.seq) == (placed.epoch, placed.seq + 1)
    assert record.currency == "USD"


async def test_the_same_usage_over_another_edge_is_a_duplicate(store):
    facts = await store.add_customer(granted=100)
    hold = hold_of(facts, 1, 30)
    await store.balances.place_hold(hold)
    event = event_of(hold, 12)
    first = await capture(store, event)
    again = replace(
        event, edge="als", received_at=event.received_at + timedelta(seconds=3), status=204
    )
    again = replace(again, usage=replace(event.usage, total=8, cache_read=0))
    outcome = await capture(store, again)
    assert outcome == CaptureOutcome(
        status=CaptureStatus.DUPLICATE, available_nano=88, epoch=first.epoch, seq=first.seq
    )
    assert [record.kind for record in await store.records()] == ["grant", "capture"]


async def test_a_duplicate_is_known_by_its_usage_whatever_the_order_made_it_cost(store):
    facts = await store.add_customer(granted=100)
    event = event_of(hold_of(facts, 1, 30), 12)
    await capture(store, event)
    dearer = tuple(replace(line, amount_nano=line.amount_nano + 1) for line in event.lines)
    assert (await capture(store, replace(event, lines=dearer))).status is CaptureStatus.DUPLICATE
    assert await store.numbers() == (100, 12, 0, 88)


@pytest.mark.parametrize(
    "change",
    [
        {"usage": TokenUsage(input=3, output=6)},
        {"model": "gpt-4o"},
        {"status": 500},
        {"lines": (RatedLine(meter="output", quantity=99, amount_nano=12),)},
    ],
)
async def test_two_measured_events_that_differ_conflict_and_book_nothing(store, change):
    facts = await store.add_customer(granted=100)
    event = event_of(hold_of(facts, 1, 30), 12)
    await capture(store, event)
    outcome = await capture(store, replace(event, **change))
    assert outcome.status is CaptureStatus.CONFLICT
    assert await store.numbers() == (100, 12, 0, 88)
    assert len(await store.records()) == 2


async def test_an_id_of_another_customer_conflicts(redis_url):
    store = await LiveStore.open(redis_url, shards=1)
    facts = await store.add_customer(granted=100)
    other = await store.add_customer(granted=100, customer_id="cus_bob")
    await capture(store, event_of(hold_of(facts, 1, 30), 12))
    stolen = await capture(store, event_of(hold_of(other, 1, 30), 12))
    assert stolen.status is CaptureStatus.CONFLICT
    assert await store.numbers("cus_bob") == (100, 0, 0, 100)
    await store.connection.aclose()


@pytest.mark.parametrize(("measured", "difference"), [(12, -18), (40, 10), (30, 0)])
async def test_a_measured_event_replaces_an_estimated_one(store, measured, difference):
    facts = await store.add_customer(granted=100)
    take = quota_take(30, 50)
    hold = hold_of(facts, 1, 30, counters=(take,))
    placed = await store.balances.place_hold(hold)
    estimated = event_of(hold, 30, placed, estimated=True, usage=TokenUsage())
    await capture(store, estimated, quota_lines(hold, 30))
    real = event_of(hold, measured, placed)
    outcome = await capture(store, real, quota_lines(hold, measured))
    assert outcome.status is CaptureStatus.CORRECTED
    assert outcome.booked_nano == difference
    assert await store.numbers() == (100, measured, 0, 100 - measured)
    assert (await store.fields())[take.line.field.encode()] == str(measured).encode()
    record = (await store.records())[-1]
    assert (record.kind, record.amount_nano) == ("correction:1", difference)
    assert record.event == real
    assert (await capture(store, real)).status is CaptureStatus.DUPLICATE
    assert (await capture(store, estimated)).status is CaptureStatus.DUPLICATE
    other = await capture(store, replace(real, model="other"))
    assert other.status is CaptureStatus.CONFLICT


async def test_two_estimates_that_differ_leave_the_first_in_force(store):
    facts = await store.add_customer(granted=100)
    first = event_of(hold_of(facts, 1, 30), 30, estimated=True, usage=TokenUsage())
    await capture(store, first)
    second = replace(first, lines=(RatedLine(meter="output", quantity=1, amount_nano=1),))
    assert (await capture(store, second)).status is CaptureStatus.DUPLICATE
    assert await store.numbers() == (100, 30, 0, 70)


async def test_a_measured_event_that_confirms_an_estimate_takes_its_place(store):
    facts = await store.add_customer(granted=100)
    estimated = event_of(hold_of(facts, 1, 30), 30, estimated=True)
    await capture(store, estimated)
    confirmed = replace(estimated, estimated=False)
    assert (await capture(store, confirmed)).status is CaptureStatus.DUPLICATE
    different = replace(confirmed, model="other")
    assert (await capture(store, different)).status is CaptureStatus.CONFLICT


async def test_a_late_capture_after_an_orphan_is_charged_in_full(store):
    facts = await store.add_customer(granted=100)
    take = quota_take(30, 50)
    hold = hold_of(facts, 1, 30, counters=(take,), ttl_ms=1)
    placed = await store.balances.place_hold(hold)
    await store.expire(hold_id_of(1))
    outcome = await capture(store, event_of(hold, 12, placed), quota_lines(hold, 7))
    assert replace(outcome, epoch=0, seq=0) == CaptureOutcome(
        status=CaptureStatus.LATE, booked_nano=12, available_nano=88
    )
    assert (outcome.epoch, outcome.seq) == await standing(store)
    assert await store.numbers() == (100, 12, 0, 88)
    assert (await store.fields())[take.line.field.encode()] == b"7"
    assert [record.kind for record in await store.records()] == ["grant", "orphan", "capture"]
    assert (await store.records())[-1].late
    again = await capture(store, event_of(hold, 12, placed), quota_lines(hold, 7))
    assert again.status is CaptureStatus.DUPLICATE
    stored = await store.balances.read_hold(CUSTOMER, hold_id_of(1))
    assert stored.state is HoldState.CAPTURED
    assert stored.terms.decided_at_ms == placed.instant_ms


async def test_after_an_orphan_that_charged_only_the_difference_is_booked(store):
    facts = await store.add_customer(granted=100)
    hold = hold_of(facts, 1, 30, ttl_ms=1)
    await store.balances.place_hold(hold)
    await store.expire(hold_id_of(1))
    done = store.keyspace.done(store.keyspace.shard_of(CUSTOMER), hold_id_of(1))
    marker = await store.connection.command("HGET", done, hold_id_of(1))
    assert marker.startswith(b"orphaned\n0\n")
    charged = marker.replace(b"orphaned\n0\n", b"orphaned\n20\n", 1)
    await store.connection.command("HSET", done, hold_id_of(1), charged)
    await store.set_field("used", "20")
    await store.set_field("avail", "80")
    outcome = await capture(store, event_of(hold, 12))
    assert (outcome.status, outcome.booked_nano) == (CaptureStatus.LATE, -8)
    assert await store.numbers() == (100, 12, 0, 88)


async def test_usage_of_an_unknown_or_released_hold_is_late(store):
    facts = await store.add_customer(granted=10)
    await store.place(facts, 1, 10)
    await store.balances.release_hold(CUSTOMER, hold_id_of(1))
    released = await capture(store, event_of(hold_of(facts, 1, 10), 4))
    assert (released.status, released.booked_nano) == (CaptureStatus.LATE, 4)
    unknown = await capture(store, event_of(hold_of(facts, 2, 10), 9))
    assert (unknown.status, unknown.overspent_nano) == (CaptureStatus.LATE, 3)
    assert await store.numbers() == (10, 13, 0, -3)


async def test_overage_is_what_credit_did_not_cover_and_is_counted_once(store):
    facts = await store.add_customer(granted=100)
    first, second = hold_of(facts, 1, 50), hold_of(facts, 2, 50)
    await store.balances.place_hold(first)
    await store.balances.place_hold(second)
    assert (await capture(store, event_of(first, 60))).overspent_nano == 10
    assert (await capture(store, event_of(second, 50))).overspent_nano == 0
    assert await store.numbers() == (100, 110, 0, -10)
    assert sum(record.overage_nano for record in await store.records()) == 10


async def test_what_a_hold_covers_is_no_overage_even_when_others_overdrew(store):
    facts = await store.add_customer(granted=10)
    covered = hold_of(facts, 1, 10)
    await store.balances.place_hold(covered)
    late = await capture(store, event_of(hold_of(facts, 2, 0), 25))
    assert late.overspent_nano == 25
    assert (await capture(store, event_of(covered, 10))).overspent_nano == 0
    assert await store.numbers() == (10, 35, 0, -25)


async def test_a_hold_that_was_let_through_without_credit_is_overage_when_captured(store):
    facts = await store.add_customer(granted=4)
    hold = hold_of(facts, 1, 10, credit_required=False)
    await store.balances.place_hold(hold)
    assert (await capture(store, event_of(hold, 10))).overspent_nano == 6
    second = hold_of(facts, 2, 5, credit_required=False)
    await store.balances.place_hold(second)
    assert (await capture(store, event_of(second, 3))).overspent_nano == 3
    assert await store.numbers() == (4, 13, 0, -9)


async def test_a_correction_gives_back_at_most_the_overage_it_had_booked(store):
    facts = await store.add_customer(granted=10)
    estimated = event_of(hold_of(facts, 1, 0), 15, estimated=True, usage=TokenUsage())
    assert (await capture(store, estimated)).overspent_nano == 5
    await capture(store, event_of(hold_of(facts, 2, 0), 7))
    corrected = await capture(store, event_of(hold_of(facts, 1, 0), 2))
    assert (corrected.booked_nano, corrected.overspent_nano) == (-13, 0)
    assert await store.numbers() == (10, 9, 0, 1)


async def test_a_postpaid_capture_has_no_overage(store):
    facts = await store.add_customer()
    outcome = await capture(store, event_of(hold_of(facts, 1, 0), 5), prepaid=False)
    assert (outcome.overspent_nano, outcome.available_nano) == (0, -5)
    assert (await store.records())[-1].prepaid is False


async def test_usage_of_an_unknown_customer_books_nothing(store):
    facts = await store.add_customer()
    stranger = replace(facts, customer_id="cus_nobody")
    before = await store.dump()
    outcome = await capture(store, event_of(hold_of(stranger, 1, 0), 5))
    assert outcome.status is CaptureStatus.NO_CUSTOMER
    assert await store.dump() == before


@pytest.mark.parametrize("field", ["used", "held", "avail"])
@pytest.mark.parametrize("value", ["", "1e3", "9223372036854775807", "0x10"])
async def test_a_damaged_balance_books_nothing(store, field, value):
    facts = await store.add_customer(granted=100)
    hold = hold_of(facts, 1, 10)
    await store.balances.place_hold(hold)
    await store.set_field(field, value)
    before = await store.dump()
    assert (await capture(store, event_of(hold, 5))).status is CaptureStatus.OUT_OF_BOUNDS
    assert await store.dump() == before


async def test_a_damaged_counter_or_reservation_books_nothing(store):
    facts = await store.add_customer(granted=100)
    hold = hold_of(facts, 1, 10, counters=(quota_take(5, 50),))
    await store.balances.place_hold(hold)
    await store.set_field(hold.counters[0].line.field, "many")
    refused = await capture(store, event_of(hold, 5), quota_lines(hold, 1))
    assert refused.status is CaptureStatus.OUT_OF_BOUNDS
    await store.set_field(hold.counters[0].line.field, "5")
    await store.set_field(f"r:{hold_id_of(1)}", "rubbish")
    refused = await capture(store, event_of(hold, 5), quota_lines(hold, 1))
    assert refused.status is CaptureStatus.OUT_OF_BOUNDS
    assert await store.numbers() == (100, 0, 10, 90)


async def test_a_damaged_marker_conflicts_rather_than_booking_twice(store):
    facts = await store.add_customer(granted=100)
    done = store.keyspace.done(store.keyspace.shard_of(CUSTOMER), hold_id_of(1))
    await store.connection.command("HSET", done, hold_id_of(1), "captured\nrubbish")
    outcome = await capture(store, event_of(hold_of(facts, 1, 0), 5))
    assert outcome.status is CaptureStatus.CONFLICT
    assert (await store.place(facts, 1, 5)).status is PlaceStatus.CLOSED
    assert await store.numbers() == (100, 0, 0, 100)


async def test_usage_beyond_the_largest_balance_is_refused_and_not_wrapped(store):
    facts = await store.add_customer()
    largest = event_of(hold_of(facts, 1, 0), AMOUNT_NANO_MAX)
    assert (await capture(store, largest)).overspent_nano == AMOUNT_NANO_MAX
    refused = await capture(store, event_of(hold_of(facts, 2, 0), 1))
    assert refused.status is CaptureStatus.OUT_OF_BOUNDS
    assert await store.numbers() == (0, AMOUNT_NANO_MAX, 0, -AMOUNT_NANO_MAX)
    with pytest.raises(InvalidInput):
        await capture(store, event_of(hold_of(facts, 3, 0), -AMOUNT_NANO_MAX - 1))
    refused = await capture(store, event_of(hold_of(facts, 3, 0), -1))
    assert refused.status is CaptureStatus.OUT_OF_BOUNDS
    await store.grant(5)
    refused = await capture(store, event_of(hold_of(facts, 4, 0), 1))
    assert refused.status is CaptureStatus.OUT_OF_BOUNDS


async def test_a_quota_line_cannot_name_a_balance(store):
    facts = await store.add_customer(granted=100)
    line = QuotaLine(field="avail", meter="output", quantity=5)
    with pytest.raises(InvalidInput, match="avail"):
        await capture(store, event_of(hold_of(facts, 1, 0), 5), (line,))


async def test_the_same_event_captured_by_many_at_once_is_booked_once(store):
    facts = await store.add_customer(granted=100)
    hold = hold_of(facts, 1, 30)
    placed = await store.balances.place_hold(hold)
    event = event_of(hold, 12, placed)
    outcomes = await asyncio.gather(*(capture(store, event) for _ in range(20)))
    statuses = [outcome.status for outcome in outcomes]
    assert statuses.count(CaptureStatus.CAPTURED) == 1
    assert statuses.count(CaptureStatus.DUPLICATE) == 19
    assert await store.numbers() == (100, 12, 0, 88)


async def test_a_window_lost_with_the_store_counts_again_from_the_token(store):
    facts = await store.add_customer(granted=100)
    hold = hold_of(facts, 1, 0, counters=(quota_take(5, 50),))
    await capture(store, event_of(hold, 5), quota_lines(hold, 7))
    outcome = await store.place(facts, 2, 1, counters=(quota_take(5, 50),))
    assert outcome.numbers.used == {"tokens": 12}
