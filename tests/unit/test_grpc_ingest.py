"""UsageService/Ingest: one result for each event, a bad event alone is rejected."""

import pytest
from fixtures.grpc_edges import add_customer, call_with, find_principal, placed_token, usage_events
from fixtures.http_edges import UNHELD_TOKEN, World

from sidecar.domain.errors import StoreUnavailable
from sidecar.inbound.grpc.engine import GrpcError, GrpcStatus
from sidecar.inbound.ingest import EVENTS_MAX, IngestHandler
from sidecar.wire import usage_service_pb2 as wire

UNHELD = {"x-sidecar-token": UNHELD_TOKEN}


@pytest.fixture
async def world():
    world = World()
    await add_customer(world)
    return world


def event_of(token=None, *, input_=11, **fields):
    event = wire.IngestEvent(**fields)
    if token is not None:
        event.hold_token = token.encode()
    event.usage.input = input_
    return event


def unheld(event_id=b"own-1", *, at=1_769_860_000_000):
    event = event_of(occurred_at_ms=at)
    event.unheld.customer_id, event.unheld.id = b"cus_1", event_id
    return event


async def send(world, *events, metadata=None):
    handler = IngestHandler(
        metering=world.metering, clock=world.clock, find_principal=find_principal
    )
    request = wire.IngestRequest(events=events)
    raw = await handler.ingest(request.SerializeToString(), call_with(metadata))
    return list(wire.IngestResponse.FromString(raw).results)


async def test_usage_settles_its_hold_once(world):
    token = await placed_token(world)
    (result,) = await send(world, event_of(token, status=200))
    assert (result.outcome, result.amount_nano) == (wire.IngestResult.CAPTURED, 11_000)
    assert result.id.decode() in token
    (again,) = await send(world, event_of(token, status=200))
    assert again.outcome == wire.IngestResult.DUPLICATE
    assert world.used() == 11_000


async def test_results_stand_in_the_order_sent_and_a_bad_event_is_alone(world):
    counted = usage_events("ingest", "rejected")
    token = await placed_token(world)
    results = await send(
        world,
        wire.IngestEvent(hold_id=b"\xff"),
        event_of(token),
        event_of("forged"),
        event_of(token, input_=-1),
        event_of(token, status=7),
        wire.IngestEvent(),
    )
    rejected, captured = wire.IngestResult.REJECTED, wire.IngestResult.CAPTURED
    assert [r.outcome for r in results] == [rejected, captured] + [rejected] * 4
    assert "UTF-8" in results[0].reason
    assert results[0].id == b"\xff"
    assert "usage.input" in results[3].reason
    assert "status" in results[4].reason
    assert counted.times == 5


async def test_usage_without_a_hold_needs_the_right_and_answers_the_senders_id(world):
    (refused,) = await send(world, unheld())
    assert refused.outcome == wire.IngestResult.REJECTED
    (result,) = await send(world, unheld(), metadata=UNHELD)
    assert (result.outcome, result.id) == (wire.IngestResult.UNHELD, b"own-1")
    (again,) = await send(world, unheld(), metadata=UNHELD)
    assert again.outcome == wire.IngestResult.DUPLICATE
    assert world.used() == 11_000


async def test_unheld_usage_needs_its_instant_since_now_would_bill_a_repeat(world):
    (result,) = await send(world, unheld(at=0), metadata=UNHELD)
    assert result.outcome == wire.IngestResult.REJECTED
    assert "occurred_at" in result.reason


async def test_counted_tokens_without_a_status_were_answered(world):
    await send(world, event_of(await placed_token(world)))
    assert world.state.stream[0][1].status == 200


async def test_without_a_token_nothing_is_taken(world):
    counted = usage_events("ingest", "unauthenticated")
    with pytest.raises(GrpcError) as caught:
        await send(world, event_of(await placed_token(world)), metadata={})
    assert caught.value.code is GrpcStatus.UNAUTHENTICATED
    assert (world.used(), counted.times) == (0, 1)


async def test_a_silent_store_asks_for_the_batch_again(world):
    token = await placed_token(world)
    world.state.away = True
    with pytest.raises(StoreUnavailable):
        await send(world, event_of(token))


async def test_a_batch_that_is_none_or_too_long_is_refused(world):
    handler = IngestHandler(
        metering=world.metering, clock=world.clock, find_principal=find_principal
    )
    too_long = wire.IngestRequest(events=[wire.IngestEvent()] * (EVENTS_MAX + 1))
    for data in (b"\xff\xff", too_long.SerializeToString()):
        with pytest.raises(GrpcError) as caught:
            await handler.ingest(data, call_with())
        assert caught.value.code is GrpcStatus.INVALID_ARGUMENT
