"""
Envoy's Check: bytes in, an answer that Envoy cannot misread out.

Behaviours of Envoy 1.40 that a server must know, each with a test here: an empty response
and code 0 with a denial allow (`answer_of` asserts on every answer); a denial without
denied_response is an empty 403; a newline in a header is a 503; append_action is ignored for
upstream headers; an answer can rewrite :path and host; retries repeat a check with the same id;
encode_raw_headers empties the header map; a cut body has a size above its length; http.id is
Envoy's own and x-request-id the client's choice; our own failure must be a gRPC error; a timed-
out check may have placed a hold.
"""

import asyncio
import json
from datetime import UTC, datetime

import pytest
from fixtures.grpc_edges import (
    CHECK_NANO,
    KEY,
    add_customer,
    allows,
    answer_of,
    call_with,
    capture,
    check_handler,
    check_request,
    checks_counted,
    metadata_of,
)
from fixtures.http_edges import METER_TOKEN, SCOPED_TOKEN, World

from sidecar.domain.decisions import Allow, Deny, DenyReason, PlacedHold
from sidecar.domain.errors import InvariantViolated
from sidecar.inbound.envoy.authz_answer import clean_header_value, encode_allow, encode_deny
from sidecar.inbound.envoy.authz_request import CheckLimits
from sidecar.inbound.grpc.engine import GrpcError, GrpcStatus
from sidecar.wire import envoy_authz_pb2 as wire


class ScriptedChecks:
    """Answers what it is told to, and remembers what it was asked and what was abandoned."""

    def __init__(self, answer=None):
        self.answer = answer
        self.asked = []
        self.abandoned = []

    async def check(self, request):
        self.asked.append(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer or Allow(decision_id=request.decision_id)

    async def abandon(self, decision):
        self.abandoned.append(decision)


@pytest.fixture
async def world():
    world = World()
    await add_customer(world)
    return world


async def asked(request, **changes):
    """The access request that a check makes."""
    checks = ScriptedChecks()
    handler = check_handler(World(), checks=checks, **changes)
    await handler.check(request.SerializeToString(), call_with())
    return checks.asked[0]


async def refused(request, **changes):
    checks = ScriptedChecks()
    handler = check_handler(World(), checks=checks, **changes)
    answer = answer_of(await handler.check(request.SerializeToString(), call_with()))
    assert checks.asked == []
    assert answer.denied_response.status.code == 400
    body = json.loads(answer.denied_response.body)
    assert body["code"] == "invalid_request"
    return body["detail"]


async def settled(handler):
    await handler.drain(5)


def headers_of(rows):
    return {row.header.key: row.header.value for row in rows}


async def test_an_allow_carries_the_hold_to_the_log_and_the_key_away_from_the_upstream(world):
    counted = checks_counted("allow", "")
    raw = await check_handler(world).check(check_request().SerializeToString(), call_with())
    answer = answer_of(raw)
    assert answer.status.code == 0
    assert list(answer.ok_response.headers_to_remove) == ["authorization"]
    assert len(answer.ok_response.headers) == 0
    found = metadata_of(answer)
    (hold_id,) = world.state.accounts["cus_1"].open
    assert found["sidecar_hold_id"] == hold_id
    assert found["sidecar_token"] == f"token-{hold_id}"
    assert found["sidecar_customer_id"] == "cus_1"
    assert found["sidecar_policy"] == "policy-1"
    assert found["sidecar_decision_id"].startswith("dec_")
    assert world.held() == CHECK_NANO
    assert counted.times == 1


async def test_a_free_route_is_allowed_without_a_hold(world):
    raw = await check_handler(world).check(check_request("/open").SerializeToString(), call_with())
    answer = answer_of(raw)
    assert answer.status.code == 0
    assert set(metadata_of(answer)) == {"sidecar_decision_id", "sidecar_policy"}
    assert world.held() == 0


async def test_a_denial_has_status_headers_body_and_no_hold(world):
    counted = checks_counted("deny", "no_available_credits")
    world.state.accounts["cus_1"].granted = 1
    raw = await check_handler(world).check(check_request().SerializeToString(), call_with())
    answer = answer_of(raw)
    assert answer.status.code == GrpcStatus.PERMISSION_DENIED
    denied = answer.denied_response
    assert denied.status.code == 402
    assert headers_of(denied.headers)["content-type"] == "application/problem+json"
    body = json.loads(denied.body)
    assert (body["code"], body["status"]) == ("no_available_credits", 402)
    found = metadata_of(answer)
    assert found["sidecar_customer_id"] == "cus_1"
    assert body["reference"] == found["sidecar_decision_id"]
    assert "sidecar_token" not in found
    assert "sidecar_hold_id" not in found
    assert counted.times == 1


async def test_an_unknown_key_is_a_401_with_its_challenge(world):
    request = check_request(headers={"authorization": "Bearer nobody"})
    answer = answer_of(await check_handler(world).check(request.SerializeToString(), call_with()))
    assert answer.status.code == GrpcStatus.UNAUTHENTICATED
    assert answer.denied_response.status.code == 401
    assert headers_of(answer.denied_response.headers)["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("reason", list(DenyReason))
def test_each_deny_reason_reads_as_a_denial(reason):
    deny = Deny(decision_id="dec_1", reason=reason, rule="r", retry_after_seconds=7)
    answer = answer_of(encode_deny(deny))
    assert answer.status.code != 0
    assert headers_of(answer.denied_response.headers)["retry-after"] == "7"


def test_an_allow_with_nothing_to_say_is_still_no_empty_message():
    raw = encode_allow(Allow(decision_id=""), ())
    answer = answer_of(raw)
    assert answer.HasField("ok_response")
    assert raw != b""


@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_allow_in_parts_reads_as_one_message(number):
    """Parts are remembered: what another answer had is not in this one."""
    hold = PlacedHold(
        hold_id=f"{number:040x}",
        token=f"token-{number}",
        amount_nano=5,
        currency="USD",
        expires_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    allow = Allow(
        decision_id=f"dec_{number}",
        customer_id="cus_1",
        policy_version="v1",
        hold=None if number == 3 else hold,
        headers={"x-plan": "pro", "x-left": str(number)},
        remove_headers=("authorization",),
    )
    answer = answer_of(encode_allow(allow, ("x-sidecar-customer",)))
    assert answer.status.code == GrpcStatus.OK
    assert list(answer.ok_response.headers_to_remove) == ["authorization", "x-sidecar-customer"]
    added = answer.ok_response.response_headers_to_add
    assert headers_of(added) == {"x-plan": "pro", "x-left": str(number)}
    fields = answer.dynamic_metadata.fields
    assert {name: fields[name].string_value for name in fields} == {
        "sidecar_customer_id": "cus_1",
        "sidecar_policy": "v1",
        "sidecar_decision_id": f"dec_{number}",
        **(
            {}
            if number == 3
            else {"sidecar_hold_id": f"{number:040x}", "sidecar_token": f"token-{number}"}
        ),
    }


@pytest.mark.parametrize("status", [200, 302, 403, 599])
def test_a_denial_has_the_status_that_its_rule_asks_for(status):
    deny = Deny(decision_id="d", reason=DenyReason.BLOCKED, rule="odd", status=status)
    answer = answer_of(encode_deny(deny))
    assert answer.denied_response.status.code == status
    assert answer.status.code == GrpcStatus.PERMISSION_DENIED


def test_a_denial_without_a_status_of_its_own_has_that_of_its_reason():
    deny = Deny(decision_id="d", reason=DenyReason.BLOCKED, rule="odd", status=None)
    assert answer_of(encode_deny(deny)).denied_response.status.code == 403


@pytest.mark.parametrize("status", [101, 199, 600])
def test_a_denial_with_a_status_that_no_rule_can_have_is_our_bug(status):
    deny = Deny(decision_id="d", reason=DenyReason.BLOCKED, rule="odd", status=status)
    with pytest.raises(InvariantViolated, match="odd"):
        encode_deny(deny)


async def test_a_method_is_read_in_capitals_as_rules_write_it():
    request = check_request()
    request.attributes.request.http.method = b"post"
    assert (await asked(request)).method == "POST"


def test_warn_headers_go_to_the_client_and_overwrite_what_is_there():
    allow = Allow(decision_id="d", headers={"X-Quota-Used": "85", "content-length": "3"})
    answer = answer_of(encode_allow(allow, ()))
    assert len(answer.ok_response.headers) == 0
    (row,) = answer.ok_response.response_headers_to_add
    assert (row.header.key, row.header.value) == ("x-quota-used", "85")
    assert row.append_action == wire.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


@pytest.mark.parametrize("name", [":path", ":status", "host", "bad name", "x\r\ny", "", "Ünicode"])
def test_a_header_that_would_break_or_redirect_the_answer_is_left_out(name):
    allow = Allow(
        decision_id="d", headers={name: "v"}, remove_headers=(name,) if name != "host" else ()
    )
    answer = answer_of(encode_allow(allow, ()))
    assert len(answer.ok_response.response_headers_to_add) == 0
    assert len(answer.ok_response.headers_to_remove) == 0


@pytest.mark.parametrize(
    ("value", "clean"),
    [
        ("a\r\nset-cookie: b", "a??set-cookie: b"),
        ("tab\there", "tab?here"),
        ("caf\xe9\x85\x7f\x00", "caf????"),
        ("\ud800", "?"),
        ("plain", "plain"),
        ("x" * 5_000, "x" * 4_096),
    ],
)
def test_a_header_value_cannot_end_its_header(value, clean):
    assert clean_header_value(value) == clean
    deny = Deny(decision_id="d", reason=DenyReason.BLOCKED, rule="r", headers={"x-a": value})
    assert headers_of(answer_of(encode_deny(deny)).denied_response.headers)["x-a"] == clean


async def test_a_retry_of_envoys_repeats_the_decision_and_holds_once(world):
    handler, data = check_handler(world), check_request().SerializeToString()
    first = await handler.check(data, call_with())
    again = await handler.check(data, call_with())
    assert metadata_of(answer_of(first)) == metadata_of(answer_of(again))
    assert world.held() == CHECK_NANO


@pytest.mark.parametrize("change", ["stream", "second", "request_id", "gateway", "port"])
async def test_another_request_of_the_same_client_holds_anew(world, change):
    request, call = check_request(), call_with()
    await check_handler(world).check(request.SerializeToString(), call)
    match change:
        case "stream":
            request = check_request(stream=b"78")
        case "second":
            request = check_request(second=1_795_180_798)
        case "request_id":
            request = check_request(headers={"x-request-id": "req-2"})
        case "port":
            request.attributes.source.address.socket_address.port_value = 40_002
        case "gateway":
            call = call_with({"x-sidecar-gateway": "gateway-2"})
    assert allows(await check_handler(world).check(request.SerializeToString(), call))
    assert world.held() == 2 * CHECK_NANO


async def test_a_hold_id_begins_with_the_second_of_the_request():
    request = await asked(check_request())
    assert int(request.hold_id[:8], 16) == 1_795_180_797
    assert len(request.hold_id) == 40


@pytest.mark.parametrize("absent", ["id", "time", "negative", "far"])
async def test_without_the_gateways_facts_each_check_has_an_id_of_its_own(absent):
    request = check_request()
    match absent:
        case "id":
            request.attributes.request.http.id = b""
        case "time":
            request.attributes.request.ClearField("time")
        case "negative":
            request.attributes.request.time.seconds = -5
        case "far":
            request.attributes.request.time.seconds = 2**40
    world, checks = World(), ScriptedChecks()
    handler = check_handler(world, checks=checks)
    for _ in range(2):
        await handler.check(request.SerializeToString(), call_with())
    first, second = (request.hold_id for request in checks.asked)
    assert first != second
    now = int(world.clock.now().timestamp())
    assert int(first[:8], 16) == int(second[:8], 16) == now


async def test_both_forms_of_headers_are_read_alike():
    plain = check_request(headers={"x-tier": "gold"})
    raw = check_request(headers={"x-tier": "gold"})
    http = raw.attributes.request.http
    for row in http.headers:
        http.header_map.headers.add(key=row.key, raw_value=row.value)
    http.ClearField("headers")
    assert (await asked(plain)).headers == (await asked(raw)).headers
    assert (await asked(raw)).headers["x-tier"] == ("gold",)


async def test_names_are_lower_case_repeats_stay_and_pseudo_headers_are_no_headers():
    request = check_request(headers={":path": "/x", ":authority": "h"})
    http = request.attributes.request.http
    http.headers.add(key=b"X-Api-Key", value=b"one")
    http.headers.add(key=b"x-api-key", value=b"two")
    found = await asked(request)
    assert found.headers["x-api-key"] == ("one", "two")
    assert not any(name.startswith(":") for name in found.headers)


async def test_a_clients_copies_of_our_headers_reach_neither_the_rules_nor_the_upstream():
    checks = ScriptedChecks()
    handler = check_handler(World(), checks=checks)
    request = check_request(
        headers={"X-Sidecar-Customer": "cus_evil", "x-sidecar-gateway": "other", "x-plain": "1"}
    )
    answer = answer_of(await handler.check(request.SerializeToString(), call_with()))
    assert sorted(answer.ok_response.headers_to_remove) == [
        "x-sidecar-customer",
        "x-sidecar-gateway",
    ]
    (seen,) = checks.asked
    assert seen.gateway_id == "gateway-1"
    assert [name for name in seen.headers if name.startswith("x-sidecar-")] == []
    assert seen.headers["x-plain"] == ("1",)


async def test_a_header_that_is_not_utf8_does_not_fail_the_check(world):
    request = check_request(headers={"x-name": b"caf\xe9\xff"})
    handler = check_handler(world)
    assert allows(await handler.check(request.SerializeToString(), call_with()))
    value = (await asked(request)).headers["x-name"][0]
    value.encode()  # Stores and regular expressions take it.


async def test_a_credential_that_is_not_utf8_is_refused_and_not_guessed_at(world):
    request = check_request(headers={"authorization": b"Bearer " + KEY.encode() + b"\xff"})
    answer = answer_of(await check_handler(world).check(request.SerializeToString(), call_with()))
    assert answer.denied_response.status.code == 401


async def test_what_a_check_says_of_the_request():
    request = check_request("/ai/chat?x=1")
    request.attributes.context_extensions["product"] = "llm"
    found = await asked(request)
    assert (found.edge, found.gateway_id, found.method) == ("envoy", "gateway-1", "POST")
    assert (found.path, found.host, found.source) == ("/ai/chat?x=1", "api.test", "203.0.113.9")
    assert (found.body, found.request_id) == (None, b"req-1")
    assert found.context == {"product": "llm"}
    assert (found.deadline - found.received_at).total_seconds() == 0.5


async def test_a_gateway_that_says_nothing_is_called_envoy():
    checks = ScriptedChecks()
    handler = check_handler(World(), checks=checks)
    await handler.check(check_request().SerializeToString(), call_with({}))
    assert checks.asked[0].gateway_id == "envoy"


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "-a", "ü"])
async def test_a_gateway_name_that_is_none_is_an_error(name):
    with pytest.raises(GrpcError) as caught:
        await check_handler(World()).check(
            check_request().SerializeToString(), call_with({"x-sidecar-gateway": name})
        )
    assert caught.value.code is GrpcStatus.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("body", "size", "headers", "complete"),
    [
        (b"{}", 2, {"x-envoy-auth-partial-body": "false"}, True),
        (b"{}", 2, {"x-envoy-auth-partial-body": "false", "content-length": "2"}, True),
        (b"{}", -1, {"x-envoy-auth-partial-body": "false"}, True),
        (b"{}", 2, {"x-envoy-auth-partial-body": "true"}, False),
        (b"{}", 65_536, {"x-envoy-auth-partial-body": "false"}, False),
        (b"{}", 2, {"content-length": "9"}, False),
        (b"{}", 2, {"content-length": "2x"}, False),
    ],
)
async def test_a_body_counts_as_whole_only_if_nothing_speaks_against_it(
    body, size, headers, complete
):
    request = check_request(headers=headers)
    request.attributes.request.http.raw_body = body
    request.attributes.request.http.size = size
    found = await asked(request)
    assert (found.body, found.body_complete) == (body, complete)
    assert "x-envoy-auth-partial-body" not in found.headers


@pytest.mark.parametrize(
    ("size", "headers", "complete"),
    [
        (0, {}, True),
        (-1, {"content-length": "0"}, True),
        (0, {"x-envoy-auth-partial-body": "false"}, True),
        (0, {"x-envoy-auth-partial-body": "true"}, False),
        (0, {"content-length": "9"}, False),
        (0, {"transfer-encoding": "chunked"}, False),
        (9, {}, False),
    ],
)
async def test_a_body_that_was_not_sent_along_is_told_from_none_at_all(size, headers, complete):
    request = check_request(headers=headers)
    request.attributes.request.http.size = size
    found = await asked(request)
    assert (found.body, found.body_complete) == (None, complete)


@pytest.mark.parametrize("words", [(b"false", b"true"), (b"true", b"false")])
async def test_a_clients_word_that_the_body_is_whole_does_not_outweigh_envoys(words):
    request = check_request()
    http = request.attributes.request.http
    http.raw_body, http.size = b"{}", 2
    for said in words:
        http.headers.add(key=b"x-envoy-auth-partial-body", value=said)
    assert (await asked(request)).body_complete is False


async def test_a_body_above_the_limit_counts_as_cut():
    request = check_request()
    request.attributes.request.http.body = b"x" * 11
    found = await asked(request, limits=CheckLimits(body_bytes_max=10))
    assert found.body_complete is False


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.ClearField("attributes"), "method"),
        (lambda r: setattr(r.attributes.request.http, "method", b""), "method"),
        (lambda r: setattr(r.attributes.request.http, "method", b"GE T"), "method"),
        (lambda r: setattr(r.attributes.request.http, "method", b"\xff"), "method"),
        (lambda r: setattr(r.attributes.request.http, "path", b""), "no path"),
        (lambda r: setattr(r.attributes.request.http, "path", b"/\xff"), "not UTF-8"),
        (lambda r: setattr(r.attributes.request.http, "path", b"/" + b"a" * 8_192), "8192"),
        (
            lambda r: [r.attributes.request.http.headers.add(key=b"x-%d" % n) for n in range(129)],
            "128 headers",
        ),
        (
            lambda r: r.attributes.request.http.headers.add(key=b"x", value=b"v" * 65_536),
            "65536 bytes",
        ),
    ],
)
async def test_what_cannot_be_judged_is_denied_with_its_reason(change, words):
    request = check_request()
    change(request)
    assert words in await refused(request)


async def test_an_empty_check_is_denied():
    assert not allows(await check_handler(World()).check(b"", call_with()))


async def test_a_message_that_is_no_check_is_an_error_and_no_answer():
    counted = checks_counted("error", "invalid_argument")
    with pytest.raises(GrpcError) as caught:
        await check_handler(World()).check(b"\xff\xff\xff", call_with())
    assert caught.value.code is GrpcStatus.INVALID_ARGUMENT
    assert counted.times == 1


async def test_a_silent_store_is_a_grpc_error_so_that_envoys_own_setting_applies(world):
    counted = checks_counted("error", "store_unavailable")
    world.state.away = True
    with pytest.raises(GrpcError) as caught:
        await check_handler(world).check(check_request().SerializeToString(), call_with())
    assert caught.value.code is GrpcStatus.UNAVAILABLE
    assert "10.0.0.7" not in caught.value.message
    assert counted.times == 1


async def test_elsewhere_a_check_needs_the_gateways_token(world):
    handler, data = check_handler(world, checks_open=False), check_request().SerializeToString()
    for metadata in ({}, {"x-sidecar-token": "wrong"}, {"x-sidecar-token": b"\xff"}):
        with pytest.raises(GrpcError) as caught:
            await handler.check(data, call_with(metadata))
        assert caught.value.code is GrpcStatus.UNAUTHENTICATED
    assert world.held() == 0
    assert allows(await handler.check(data, call_with({"x-sidecar-token": METER_TOKEN})))
    bearer = {"authorization": f"Bearer {METER_TOKEN}"}
    assert allows(await handler.check(data, call_with(bearer)))


async def test_a_token_of_other_gateways_may_not_check(world):
    handler, data = check_handler(world, checks_open=False), check_request().SerializeToString()
    scoped = {"x-sidecar-token": SCOPED_TOKEN}
    with pytest.raises(GrpcError) as caught:
        await handler.check(data, call_with(scoped | {"x-sidecar-gateway": "gateway-1"}))
    assert caught.value.code is GrpcStatus.PERMISSION_DENIED
    assert allows(await handler.check(data, call_with(scoped | {"x-sidecar-gateway": "kong-eu"})))


async def test_a_check_that_comes_too_late_asks_nothing_of_the_store(world):
    counted = checks_counted("error", "deadline_exceeded")
    with pytest.raises(GrpcError) as caught:
        await check_handler(world).check(check_request().SerializeToString(), call_with(seconds=-1))
    assert caught.value.code is GrpcStatus.DEADLINE_EXCEEDED
    assert world.state.accounts["cus_1"].open == {}
    assert counted.times == 1


async def test_the_gateways_timeout_bounds_the_decisions_deadline():
    checks = ScriptedChecks()
    handler = check_handler(World(), checks=checks, wait_seconds_max=100.0)
    await handler.check(check_request().SerializeToString(), call_with(seconds=50))
    (request,) = checks.asked
    assert 40 < (request.deadline - request.received_at).total_seconds() <= 50 - 0.02


async def test_a_cancelled_call_gives_its_hold_back_even_while_it_is_being_placed(world):
    counted = checks_counted("error", "cancelled")
    handler = check_handler(world)
    world.state.gate.clear()
    call = asyncio.create_task(handler.check(check_request().SerializeToString(), call_with()))
    for _ in range(5):
        await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    world.state.gate.set()
    await settled(handler)
    account = world.state.accounts["cus_1"]
    assert (account.held, account.open) == (0, {})
    assert len(account.ended) == 1, "the hold was placed, then released"
    assert counted.times == 1


async def test_an_answer_that_comes_after_the_deadline_is_none_and_its_hold_goes_back(world):
    handler = check_handler(world, wait_seconds_max=0.01)
    world.state.gate.clear()
    with pytest.raises(GrpcError) as caught:
        await handler.check(check_request().SerializeToString(), call_with())
    assert caught.value.code is GrpcStatus.DEADLINE_EXCEEDED
    world.state.gate.set()
    await settled(handler)
    assert world.held() == 0
    assert len(world.state.accounts["cus_1"].ended) == 1


async def test_a_store_that_never_answers_does_not_keep_the_process(world):
    handler = check_handler(world, wait_seconds_max=0.01, abandon_seconds_max=0.01)
    world.state.gate.clear()
    with pytest.raises(GrpcError):
        await handler.check(check_request().SerializeToString(), call_with())
    await settled(handler)
    assert len(handler._tasks) == 0
    assert world.held() == 0


async def test_more_checks_than_the_limit_are_refused_and_not_queued(world):
    counted = checks_counted("error", "resource_exhausted")
    handler = check_handler(world, checks_max=1)
    world.state.gate.clear()
    first = asyncio.create_task(handler.check(check_request().SerializeToString(), call_with()))
    for _ in range(3):
        await asyncio.sleep(0)
    with pytest.raises(GrpcError) as caught:
        await handler.check(check_request(stream=b"78").SerializeToString(), call_with())
    assert caught.value.code is GrpcStatus.RESOURCE_EXHAUSTED
    world.state.gate.set()
    assert allows(await first)
    assert counted.times == 1


async def test_a_bug_behind_the_edge_is_no_allow_and_abandons_nothing_unknown():
    counted = checks_counted("error", "internal_error")
    checks = ScriptedChecks(answer=KeyError("bug"))
    handler = check_handler(World(), checks=checks)
    with pytest.raises(KeyError):
        await handler.check(check_request().SerializeToString(), call_with())
    await settled(handler)
    assert checks.abandoned == []
    assert counted.times == 1


@pytest.mark.parametrize("case", ["json_ok", "sse_ok", "rawheaders_and_body", "spoofed_headers"])
async def test_what_envoy_really_sent_is_read(case):
    request = wire.CheckRequest.FromString(capture(f"CheckRequest_{case}"))
    found = await asked(request)
    assert (found.method, found.path) == ("POST", "/v1/chat/completions")
    assert found.headers["authorization"] == ("Bearer sk-alice",)
    assert found.source == "127.0.0.1"
    if case == "rawheaders_and_body":
        assert (found.body, found.body_complete) == (b'{"model":"m","messages":[]}', True)
    else:
        assert found.body is None
