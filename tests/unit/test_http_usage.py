import asyncio

import pytest
from fixtures.http_edges import (
    METER_TOKEN,
    SCOPED_TOKEN,
    UNHELD_TOKEN,
    Call,
    World,
    calling,
    until_idle,
)

from sidecar import telemetry

USAGE = "/v1/usage"


async def held(call: Call, key: str) -> dict[str, object]:
    body = {"method": "POST", "path": "/ai/chat", "headers": {"x-api-key": key}}
    reply = await call("POST", "/v1/check", json=body)
    assert reply.body["allow"] is True, reply.body
    return reply.body


def event(**fields: object) -> dict[str, object]:
    return {"usage": {"input": 7, "output": 2}} | fields


async def send(call: Call, *events: object, token: str = METER_TOKEN):
    headers = {"Authorization": f"Bearer {token}"}
    return await call("POST", USAGE, json={"events": list(events)}, headers=headers)


def rejected_count() -> float:
    labels = {"edge": "http", "outcome": "rejected"}
    return telemetry.REGISTRY.get_sample_value("sidecar_usage_events_total", labels) or 0.0


async def test_usage_settles_its_hold_by_token_and_by_id():
    world = World()
    key = await world.customer()
    async with calling(world.gateway()) as call:
        first, second = await held(call, key), await held(call, key)
        reply = await send(
            call, event(hold_token=first["hold_token"]), event(hold_id=second["hold_id"])
        )
    assert reply.status == 202
    assert reply.body == {
        "results": [
            {"id": h["hold_id"], "outcome": "captured", "amount_nano": 7_000, "reason": ""}
            for h in (first, second)
        ]
    }
    assert (world.held(), world.used()) == (0, 14_000)


async def test_a_repeat_is_a_duplicate_and_costs_nothing():
    world = World()
    key = await world.customer()
    async with calling(world.gateway()) as call:
        hold = await held(call, key)
        await send(call, event(hold_id=hold["hold_id"]))
        reply = await send(call, event(hold_token=hold["hold_token"]))
    assert reply.body["results"][0]["outcome"] == "duplicate"
    assert world.used() == 7_000


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"usage": {"input": -1}}, "usage.input"),
        ({"usage": {"input": 1.5}}, "usage.input"),
        ({"usage": {"output": "7"}}, "usage.output"),
        ({"usage": {"input": True}}, "usage.input"),
        ({"usage": {"input": 10**16}}, "usage.input"),
        ({"usage": {"input": 1, "cache_read": 2}}, "usage.input is 1, less than its cache"),
        ({"usage": {"inputs": 1}}, "usage.inputs: is not a known field; allowed: input, output"),
        ({"usage": None}, "usage"),
        ({"status": 99}, "status"),
        ({"status": "200"}, "status"),
        ({"occurred_at": "2026-01-31T12:00:00"}, "occurred_at: must be an RFC 3339 instant"),
        ({"occurred_at": "2026-02-30T12:00:00Z"}, "occurred_at: is no instant"),
        ({"occurred_at": "1969-01-01T00:00:00Z"}, "occurred_at: must lie in the years"),
        ({"occurred_at": 1769860800}, "occurred_at"),
        ({"hold_id": "A" * 40}, "hold_id"),
        ({"model": "a\u0000b"}, "model"),
        ({"hold_token": "forged"}, "hold_token has a wrong signature"),
        ({"extra": 1}, "extra: is not a known field"),
        ({}, "usage without a hold needs a sender with the scope usage:unheld"),
    ],
)
async def test_a_bad_event_is_rejected_by_name_and_its_neighbours_go_on(
    bad: dict[str, object], words: str
):
    world = World()
    key = await world.customer()
    before = rejected_count()
    async with calling(world.gateway()) as call:
        hold = await held(call, key)
        reply = await send(call, event(id="e-1") | bad, event(hold_id=hold["hold_id"]))
    assert reply.status == 202
    first, second = reply.body["results"]
    assert (first["outcome"], first["amount_nano"]) == ("rejected", 0)
    assert words in first["reason"]
    assert (second["id"], second["outcome"]) == (hold["hold_id"], "captured")
    assert rejected_count() == before + 1


async def test_a_rejected_event_is_named_by_the_id_that_it_came_with():
    async with calling(World().gateway()) as call:
        reply = await send(call, {"id": "mine", "x": 1}, {"hold_id": "zz"}, 5, {"id": 7})
    assert [result["id"] for result in reply.body["results"]] == ["mine", "zz", "", ""]


async def test_an_unknown_hold_is_quarantined_and_kept():
    world = World()
    async with calling(world.gateway()) as call:
        reply = await send(call, event(hold_id="0" * 40))
    assert reply.body["results"][0]["outcome"] == "quarantined"
    assert reply.body["results"][0]["reason"] == "unknown_hold"
    assert list(world.quarantine.reports) == [("0" * 40, "unknown_hold")]


async def test_unheld_usage_needs_its_scope_and_is_known_by_the_senders_id():
    world = World()
    await world.customer()
    unheld = event(customer_id="cus_1", id="evt-1", occurred_at="2026-01-31T11:59:59.123456789Z")
    async with calling(world.gateway()) as call:
        refused = await send(call, unheld)
        first = await send(call, unheld, token=UNHELD_TOKEN)
        second = await send(call, unheld, token=UNHELD_TOKEN)
    assert refused.body["results"][0]["outcome"] == "rejected"
    assert first.body["results"][0]["id"] == "evt-1"
    assert first.body["results"][0]["outcome"] == "unheld"
    assert second.body["results"][0]["outcome"] == "duplicate"


async def test_a_scoped_token_does_not_report_for_others():
    world = World()
    key = await world.customer()
    async with calling(world.gateway()) as call:
        hold = await held(call, key)
        reply = await send(call, event(hold_id=hold["hold_id"]), token=SCOPED_TOKEN)
    assert reply.body["results"][0]["outcome"] == "rejected"
    assert world.used() == 0


async def test_the_status_is_200_unless_the_event_says_another():
    world = World()
    key = await world.customer()
    async with calling(world.gateway()) as call:
        one, two = await held(call, key), await held(call, key)
        await send(call, event(hold_id=one["hold_id"]), event(hold_id=two["hold_id"], status=500))
    assert [captured.status for _, captured, _ in world.state.stream] == [200, 500]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"events": []}, "events"),
        ({"events": [{}] * 1_001}, "events"),
        ({"events": {}}, "events"),
        ({}, "events"),
        ({"events": [{}], "more": 1}, "more"),
        ([], "body"),
    ],
)
async def test_a_batch_that_is_none_is_a_400(body: object, field: str):
    async with calling(World().gateway(), token=METER_TOKEN) as call:
        reply = await call("POST", USAGE, json=body)
    assert (reply.status, reply.body["errors"][0]["field"]) == (400, field)


async def test_usage_always_needs_a_token():
    async with calling(World().gateway()) as call:
        bare = await call("POST", USAGE, json={"events": [{}]})
        wrong = await send(call, {}, token="not-a-token-of-ours")
    assert bare.status == wrong.status == 401


async def test_without_a_token_file_usage_is_refused_to_everybody():
    async with calling(World().gateway(tokens="")) as call:
        reply = await send(call, {})
    assert reply.status == 401


async def test_a_store_that_is_away_is_a_503_and_the_repeat_settles_once():
    world = World()
    key = await world.customer()
    async with calling(world.gateway()) as call:
        hold = await held(call, key)
        world.state.away = True
        away = await send(call, event(hold_token=hold["hold_token"]))
        world.state.away = False
        again = await send(call, event(hold_token=hold["hold_token"]))
    assert (away.status, away.headers["Retry-After"]) == (503, "1")
    assert away.body["code"] == "store_unavailable"
    assert b"10.0.0.7" not in away.raw
    assert again.body["results"][0]["outcome"] == "captured"
    assert world.used() == 7_000


async def test_a_client_that_goes_away_does_not_stop_a_capture():
    world = World()
    key = await world.customer()
    reached, gate = asyncio.Event(), asyncio.Event()
    capture = world.metering.capture_all

    async def slow(*args: object) -> object:
        reached.set()
        await gate.wait()
        return await capture(*args)

    world.metering.capture_all = slow
    app = world.gateway()
    async with calling(app) as call:
        hold = await held(call, key)
        sending = asyncio.create_task(send(call, event(hold_id=hold["hold_id"])))
        await reached.wait()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await until_idle(app)
        gate.set()
    assert world.used() == 7_000
