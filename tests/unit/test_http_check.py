import asyncio
import base64
import json

import pytest
from fixtures.http_edges import METER_TOKEN, SCOPED_TOKEN, World, calling, until_idle

from sidecar import telemetry
from sidecar.domain.decisions import Allow
from sidecar.domain.errors import StoreUnavailable
from sidecar.domain.requests import AccessRequest
from sidecar.inbound.http.listening import serve

CHECK = "/v1/check"


def ask(key: str | None = None, **changes: object) -> dict[str, object]:
    headers = {"X-Api-Key": key} if key else {}
    return {"method": "POST", "path": "/ai/chat", "headers": headers} | changes


def checks_counted(decision: str, reason: str) -> float:
    labels = {"edge": "http", "decision": decision, "reason": reason}
    return telemetry.REGISTRY.get_sample_value("sidecar_checks_total", labels) or 0.0


class SeenRequests:
    """Stands in for the check service where only what the edge read matters."""

    def __init__(self) -> None:
        self.requests: list[AccessRequest] = []

    async def check(self, request: AccessRequest) -> Allow:
        self.requests.append(request)
        return Allow(decision_id=request.decision_id)


async def seen(body: dict[str, object], **headers: str) -> AccessRequest:
    world = World()
    world.checks = SeenRequests()
    async with calling(world.gateway()) as call:
        reply = await call("POST", CHECK, json=body, headers=headers)
    assert reply.status == 200, reply.body
    return world.checks.requests[0]


async def test_an_allow_carries_the_hold_and_its_token():
    world = World()
    key = await world.customer()
    before = checks_counted("allow", "")
    async with calling(world.gateway()) as call:
        reply = await call("POST", CHECK, json=ask(key))
    body = reply.body
    assert list(body) == [
        *("allow", "status", "headers", "body", "hold_id", "hold_token"),
        *("decision_id", "rule", "code"),
    ]
    assert (body["allow"], body["status"], body["code"]) == (True, 200, None)
    assert world.tokens.signed[body["hold_token"]].hold_id == body["hold_id"]
    assert world.held() == 100_000
    assert checks_counted("allow", "") == before + 1


async def test_a_denial_is_a_200_with_the_answer_for_the_client():
    world = World()
    key = await world.customer()
    world.state.accounts["cus_1"].granted = 99_999
    before = checks_counted("deny", "no_available_credits")
    async with calling(world.gateway()) as call:
        reply = await call("POST", CHECK, json=ask(key))
    assert reply.status == 200
    assert reply.body["allow"] is False
    assert (reply.body["status"], reply.body["code"]) == (402, "no_available_credits")
    assert reply.body["headers"]["content-type"] == "application/problem+json"
    assert reply.body["body"]["code"] == "no_available_credits"
    assert reply.body["rule"] == "prepaid-credit"
    assert reply.body["hold_id"] is reply.body["hold_token"] is None
    assert reply.body["body"]["reference"] == reply.body["decision_id"]
    assert checks_counted("deny", "no_available_credits") == before + 1


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"headers": {}}, 401, "unidentified"),
        ({"headers": {"x-api-key": "sk_nobody"}}, 401, "unknown_credential"),
        ({"headers": {"x-api-key": ["a", "b"]}}, 401, "unidentified"),
        ({"headers": {"X-Api-Key": "a", "x-api-key": "b"}}, 401, "unidentified"),
        ({"path": "/elsewhere"}, 403, "blocked"),
        ({"path": "/ai/%2e%2e%2fadmin"}, 400, "invalid_request"),
        ({"path": "no-slash"}, 400, "invalid_request"),
        ({"path": "/" + "a" * 9_000}, 400, "invalid_request"),
        ({"headers": {f"h{n}": "v" for n in range(257)}}, 400, "invalid_request"),
        ({"headers": {"big": "v" * 65_536}}, 400, "invalid_request"),
        ({"headers": {"many": ["v"] * 257}}, 400, "invalid_request"),
    ],
)
async def test_what_the_client_chose_is_denied_and_not_an_error(
    changes: dict[str, object], status: int, code: str
):
    world = World()
    key = await world.customer()
    async with calling(world.gateway()) as call:
        reply = await call("POST", CHECK, json=ask(key) | changes)
    assert reply.status == 200
    assert (reply.body["allow"], reply.body["status"], reply.body["code"]) == (False, status, code)
    assert world.held() == 0


async def test_a_free_route_passes_without_a_hold():
    async with calling(World().gateway()) as call:
        reply = await call("POST", CHECK, json=ask(path="/open"))
    assert reply.body["allow"] is True
    assert reply.body["hold_id"] is None


async def test_each_check_holds_anew():
    world = World()
    key = await world.customer()
    async with calling(world.gateway()) as call:
        ids = {(await call("POST", CHECK, json=ask(key))).body["hold_id"] for _ in range(3)}
    assert len(ids) == 3
    assert all(hold_id.startswith(f"{1769860800:08x}") for hold_id in ids)
    assert world.held() == 300_000


async def test_a_store_that_is_away_is_a_denial_with_503():
    world = World()
    key = await world.customer()
    world.state.away = True
    async with calling(world.gateway()) as call:
        reply = await call("POST", CHECK, json=ask(key))
    assert reply.status == 200
    assert (reply.body["allow"], reply.body["status"]) == (False, 503)
    assert reply.body["code"] == "store_unavailable"
    assert reply.body["headers"]["retry-after"] == "1"
    assert b"10.0.0.7" not in reply.raw


async def test_a_check_past_its_deadline_is_denied_and_its_hold_given_back():
    world = World(check_deadline_ms=20)
    key = await world.customer()
    world.state.gate.clear()
    async with calling(world.gateway()) as call:
        reply = await call("POST", CHECK, json=ask(key))
        assert (reply.body["allow"], reply.body["code"]) == (False, "store_unavailable")
        assert world.held() == 0
        # The store answers after all: the hold is placed, and nobody is there for it.
        world.state.gate.set()
    assert world.held() == 0
    assert [ended.state.value for ended in world.state.accounts["cus_1"].ended.values()] == [
        "released"
    ]


async def test_a_policy_that_is_not_there_yet_is_a_denial_with_503_too():
    world = World()

    class Unpublished:
        async def check(self, request: AccessRequest) -> Allow:
            raise StoreUnavailable("no policy is published yet")

    world.checks = Unpublished()
    async with calling(world.gateway()) as call:
        reply = await call("POST", CHECK, json=ask())
    assert reply.status == 200
    assert (reply.body["allow"], reply.body["code"]) == (False, "store_unavailable")


async def test_a_hold_that_nobody_has_is_given_back_before_serving_ends():
    world = World(check_deadline_ms=20)
    key = await world.customer()
    world.state.gate.clear()
    async with calling(world.gateway()) as call:
        reply = await call("POST", CHECK, json=ask(key))
        assert reply.body["code"] == "store_unavailable"
        asyncio.get_running_loop().call_later(0.5, world.state.gate.set)
    assert [ended.state.value for ended in world.state.accounts["cus_1"].ended.values()] == [
        "released"
    ]


async def test_a_client_that_goes_away_leaves_no_hold():
    world = World()
    key = await world.customer()
    world.state.gate.clear()
    reached, place = asyncio.Event(), world.balances.place_hold

    async def noticed(hold: object) -> object:
        reached.set()
        return await place(hold)

    world.balances.place_hold = noticed
    app = world.gateway()
    content = json.dumps(ask(key)).encode()
    async with serve(app, "127.0.0.1:0", shutdown_seconds=1) as address:
        host, port = address.split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"POST /v1/check HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            + f"Content-Length: {len(content)}\r\n\r\n".encode()
            + content
        )
        await reached.wait()
        writer.transport.abort()
        await until_idle(app)
        world.state.gate.set()
    ended = list(world.state.accounts["cus_1"].ended.values())
    assert [item.state.value for item in ended] == ["released"]
    assert world.held() == 0


async def test_a_fault_of_ours_is_a_500_and_counted_as_an_error():
    world = World()

    class Broken:
        async def check(self, request: AccessRequest) -> Allow:
            raise RuntimeError("secret detail")

    world.checks = Broken()
    before = checks_counted("error", "internal_error")
    async with calling(world.gateway()) as call:
        reply = await call("POST", CHECK, json=ask())
    assert (reply.status, reply.body["code"]) == (500, "internal_error")
    assert b"secret" not in reply.raw
    assert checks_counted("error", "internal_error") == before + 1


async def test_the_request_is_read_as_the_gateway_sent_it():
    request = await seen(
        {
            "method": "post",
            "path": "/ai/chat?x=1",
            "host": "api.example.com",
            "headers": {"X-Tier": "gold", "Via": ["a", "b"], "x-request-id": "r-1"},
            "source_ip": "2001:db8::1",
            "body": "grüße",
        }
    )
    assert (request.edge, request.gateway_id, request.method) == ("http", "http", "POST")
    assert (request.path, request.host) == ("/ai/chat?x=1", "api.example.com")
    assert request.headers["x-tier"] == ("gold",)
    assert request.headers["via"] == ("a", "b")
    assert request.source == "2001:db8::1"
    assert request.body == "grüße".encode()
    assert request.request_id == b"r-1"
    assert (request.deadline - request.received_at).total_seconds() == 60


async def test_a_body_comes_as_base64_too_and_its_length_tells_whether_it_is_whole():
    content = base64.b64encode(b"\x00\xff").decode()
    whole = await seen(ask(headers={"content-length": "2"}, body_base64=content))
    cut = await seen(ask(headers={"content-length": "200"}, body_base64=content))
    assert (whole.body, whole.body_complete) == (b"\x00\xff", True)
    assert cut.body_complete is False
    for headers in ({"content-length": "200"}, {"transfer-encoding": "chunked"}):
        unsent = await seen(ask(headers=headers))
        assert (unsent.body, unsent.body_complete) == (None, False)
    assert (await seen(ask(headers={"content-length": "0"}))).body_complete
    assert (await seen(ask())).body is None


async def test_a_clients_copies_of_our_own_headers_are_dropped():
    request = await seen(ask(headers={"X-Sidecar-Token": "forged", "x-sidecar-gateway": "g"}))
    assert request.headers == {}
    assert request.gateway_id == "http"


async def test_the_calling_gateway_names_itself():
    named = await seen(ask(), **{"x-sidecar-gateway": "kong-eu"})
    assert named.gateway_id == "kong-eu"
    bound = await seen(ask(), Authorization=f"Bearer {SCOPED_TOKEN}")
    assert bound.gateway_id == "kong-eu"


async def test_a_token_does_not_speak_for_other_gateways():
    async with calling(World().gateway()) as call:
        headers = {"Authorization": f"Bearer {SCOPED_TOKEN}", "x-sidecar-gateway": "kong-us"}
        reply = await call("POST", CHECK, json=ask(), headers=headers)
        bad = await call("POST", CHECK, json=ask(), headers={"x-sidecar-gateway": "a b"})
    assert (reply.status, reply.body["code"]) == (403, "forbidden")
    assert (bad.status, bad.body["errors"][0]["field"]) == (400, "x-sidecar-gateway")


async def test_checks_need_a_token_where_others_can_connect():
    world = World()
    # The application believes that it listens on all interfaces; the test serves it here.
    app = world.gateway(listen="0.0.0.0:9000")
    async with calling(app) as call:
        bare = await call("POST", CHECK, json=ask(path="/open"))
        bearer = {"Authorization": f"Bearer {METER_TOKEN}"}
        good = await call("POST", CHECK, json=ask(path="/open"), headers=bearer)
        other = await call(
            "POST", CHECK, json=ask(path="/open"), headers={"x-sidecar-token": METER_TOKEN}
        )
    assert (bare.status, bare.body["code"]) == (401, "unauthenticated")
    assert bare.headers["WWW-Authenticate"].startswith("Bearer")
    assert good.status == other.status == 200


async def test_a_wrong_token_is_refused_even_where_none_is_needed():
    async with calling(World().gateway()) as call:
        reply = await call(
            "POST", CHECK, json=ask(path="/open"), headers={"Authorization": "Bearer wrong-one"}
        )
    assert reply.status == 401


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"method": ""}, "method"),
        ({"method": "PO ST"}, "method"),
        ({"path": 5}, "path"),
        ({"source_ip": "not-an-ip"}, "source_ip"),
        ({"body": "a", "body_base64": "YQ=="}, "body_base64"),
        ({"body_base64": "not base64!"}, "body_base64"),
        ({"body_base64": "grüße"}, "body_base64"),
        ({"headers": {"a": 1}}, "headers.a"),
        ({"headers": []}, "headers"),
        ({"hedaers": {}}, "hedaers"),
    ],
)
async def test_what_the_gateway_itself_misspoke_is_a_400_that_names_the_field(
    changes: dict[str, object], field: str
):
    async with calling(World().gateway()) as call:
        reply = await call("POST", CHECK, json=ask() | changes)
    assert (reply.status, reply.body["code"]) == (400, "invalid_request")
    assert field in [error["field"] for error in reply.body["errors"]]


async def test_too_many_requests_in_progress_are_answered_503():
    world = World(in_flight_max=1)
    key = await world.customer()
    world.state.gate.clear()
    async with calling(world.gateway()) as call:
        first = asyncio.create_task(call("POST", CHECK, json=ask(key)))
        reply = await call("GET", "/healthz")
        for _ in range(1_000):
            if reply.status == 503:
                break
            reply = await call("GET", "/healthz")
        world.state.gate.set()
        assert (await first).body["allow"] is True
        assert (await call("GET", "/healthz")).status == 200
    assert (reply.body["code"], reply.headers["Retry-After"]) == ("overloaded", "1")


async def test_checks_over_a_unix_socket_need_no_token(tmp_path):
    listen = f"unix:{tmp_path}/gateway.sock"
    world = World()
    async with calling(world.gateway(listen=listen), listen=listen) as call:
        reply = await call("POST", CHECK, json=ask(path="/open"))
    assert reply.body["allow"] is True
