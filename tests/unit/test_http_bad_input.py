import asyncio
import io
import json
import zlib

import pytest
from fixtures.http_edges import ADMIN_TOKEN, METER_TOKEN, World, calling

from sidecar.domain.errors import (
    ConfigError,
    Conflict,
    InvalidInput,
    InvariantViolated,
    NotFound,
    SidecarError,
    StoreUnavailable,
)
from sidecar.inbound.http import bodies
from sidecar.inbound.http.listening import serve
from sidecar.inbound.http.problems import ProblemCode, problem_of
from sidecar.inbound.http.table import ROUTES
from sidecar.telemetry import HTTP_FAILURES

CUSTOMERS = "/api/v1/customers"
GOOD = b'{"id":"cus_1","plan":"prepaid","currency":"USD"}'
JSON = {"Content-Type": "application/json"}


def is_problem(reply, status: int, code: str) -> None:
    assert (reply.status, reply.body["code"]) == (status, code), reply.body
    assert reply.headers["Content-Type"].startswith("application/problem+json")
    assert reply.body["type"] == f"urn:sidecar:problem:{code}"
    assert reply.body["status"] == status
    assert reply.body["title"]
    assert reply.body["detail"]
    assert reply.body["reference"].startswith("err_")
    assert set(reply.body) <= {
        *("type", "title", "status", "detail", "code", "errors", "reference"),
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (GOOD + b"x", "is not JSON"),
        (b"\xff" + GOOD, "is not UTF-8 (at byte 0)"),
        (b"\xef\xbb\xbf" + GOOD, "is not JSON"),
        (b'{"id":"a","id":"a"}', "id: stands twice"),
        (b'{"labels":{"x":"1","x":"2"}}', "x: stands twice"),
        (b'{"id":NaN}', "NaN, which is not JSON"),
        (b'{"id":-Infinity}', "-Infinity, which is not JSON"),
        (b'{"id":"\\ud800"}', "half of a surrogate pair"),
        (b'{"\\ud800":1}', "half of a surrogate pair"),
        (b'{"id":' + b"1" * 5_000 + b"}", "too many digits"),
        (b"[" * 33 + b"]" * 33, "deeper than 32 levels"),
        (b'{"a":' * 100_000, "deeper than 32 levels"),
        (b"[" * 500_000, "deeper than 32 levels"),
        (b"[]", "body: Input should be a valid dictionary"),
        (b"null", "body: Input should be a valid dictionary"),
        (b'{"id":"cus_1"}', "plan: is required"),
    ],
)
async def test_a_body_that_is_no_strict_json_is_a_400_that_says_why(content: bytes, words: str):
    async with calling(World().admin(), token=ADMIN_TOKEN) as call:
        reply = await call("POST", CUSTOMERS, data=content, headers=JSON)
    is_problem(reply, 400, "invalid_request")
    assert words in reply.body["detail"]


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=latin-1",
        "application/jsonp",
        "application/problem+json",
    ],
)
async def test_only_json_is_taken_for_json(kind: str):
    async with calling(World().admin(), token=ADMIN_TOKEN) as call:
        reply = await call("POST", CUSTOMERS, data=GOOD, headers={"Content-Type": kind})
        bare = await call("POST", CUSTOMERS, data=GOOD, skip_auto_headers=["Content-Type"])
        good = await call(
            "POST",
            CUSTOMERS,
            data=GOOD,
            headers={"Content-Type": 'Application/JSON; charset="UTF-8"'},
        )
    is_problem(reply, 415, "unsupported_media_type")
    is_problem(bare, 415, "unsupported_media_type")
    assert good.status == 201


async def test_a_compressed_body_is_refused():
    headers = JSON | {"Content-Encoding": "deflate"}
    async with calling(World().admin(), token=ADMIN_TOKEN) as call:
        reply = await call("POST", CUSTOMERS, data=zlib.compress(GOOD), headers=headers)
    is_problem(reply, 415, "unsupported_media_type")


async def test_a_body_has_a_largest_size_stated_or_not():
    async def pieces():
        for _ in range(17):
            yield b" " * 65_536

    async with calling(World().admin(), token=ADMIN_TOKEN) as call:
        fits = GOOD + b" " * (bodies.BODY_BYTES_MAX - len(GOOD))
        full = await call("POST", CUSTOMERS, data=io.BytesIO(fits), headers=JSON)
        stated = await call("POST", CUSTOMERS, data=io.BytesIO(fits + b" "), headers=JSON)
        chunked = await call("POST", CUSTOMERS, data=pieces(), headers=JSON)
    assert full.status == 201
    is_problem(stated, 413, "body_too_large")
    is_problem(chunked, 413, "body_too_large")


async def test_a_body_that_says_it_is_too_large_is_not_waited_for():
    async with serve(World().admin(), "127.0.0.1:0", shutdown_seconds=1) as address:
        head = await raw(
            address,
            f"POST {CUSTOMERS} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ADMIN_TOKEN}"
            f"\r\nContent-Type: application/json\r\nContent-Length: {10**12}\r\n\r\n",
        )
    assert head.startswith("HTTP/1.1 413 ")


async def test_a_body_that_does_not_come_is_a_408(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bodies, "BODY_SECONDS_MAX", 0.05)
    async with serve(World().admin(), "127.0.0.1:0", shutdown_seconds=1) as address:
        head = await raw(
            address,
            f"POST {CUSTOMERS} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ADMIN_TOKEN}"
            "\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
        )
    assert head.startswith("HTTP/1.1 408 ")
    assert "request_timeout" in head


async def test_what_is_not_there_is_a_404_and_a_wrong_method_a_405_with_allow():
    async with calling(World().admin(), token=ADMIN_TOKEN) as call:
        absent = await call("GET", "/api/v2/customers")
        post = await call("POST", "/v1/check", data=b"{}", headers=JSON)
        wrong = await call("DELETE", CUSTOMERS)
        options = await call("OPTIONS", "/healthz")
    is_problem(absent, 404, "not_found")
    is_problem(post, 404, "not_found")
    is_problem(wrong, 405, "method_not_allowed")
    assert wrong.headers["Allow"] == "GET, HEAD, POST"
    is_problem(options, 405, "method_not_allowed")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:9000", 200),
        ("127.0.0.1", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:9000", 200),
        ("evil.example", 421),
        ("evil.example:9000", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example", 421),
        ("", 421),
        ("[::1", 200),
        ("user@localhost", 421),
    ],
)
async def test_on_loopback_only_its_own_names_are_answered(host: str, status: int):
    async with calling(World().gateway()) as call:
        reply = await call("GET", "/healthz", headers={"Host": host})
        if status != 200:
            is_problem(reply, 421, "unknown_host")
        assert reply.status == status


async def test_a_request_without_a_host_is_misdirected():
    async with serve(World().gateway(), "127.0.0.1:0") as address:
        assert (await raw(address, "GET /healthz HTTP/1.0\r\n\r\n")).startswith("HTTP/1.0 421")


async def test_an_expectation_other_than_continue_is_a_problem():
    async with calling(World().admin(), token=ADMIN_TOKEN) as call:
        bad = await call("GET", CUSTOMERS, headers={"Expect": "tea"})
        good = await call("POST", CUSTOMERS, data=GOOD, headers=JSON, expect100=True)
    is_problem(bad, 417, "expectation_failed")
    assert good.status == 201


async def test_every_answer_forbids_caching_and_guessing():
    async with calling(World().gateway()) as call:
        for path in ("/healthz", "/metrics", "/nothing", "/v1/usage"):
            for method in ("GET", "POST", "HEAD"):
                reply = await call(method, path)
                assert reply.headers["Cache-Control"] == "no-store", path
                assert reply.headers["X-Content-Type-Options"] == "nosniff"
                assert reply.headers["Server"] == "sidecar"


async def test_a_fault_of_ours_is_a_500_that_tells_nothing_and_is_counted():
    world = World()

    async def broken(**_: object) -> None:
        raise ValueError("postgres://user:password@10.0.0.9")

    world.accounts.list_customers = broken
    failures = HTTP_FAILURES.labels("admin", CUSTOMERS)
    before = failures._value.get()
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        reply = await call("GET", CUSTOMERS)
        health = await call("GET", "/healthz")
    is_problem(reply, 500, "internal_error")
    assert b"password" not in reply.raw
    assert b"ValueError" not in reply.raw
    assert failures._value.get() == before + 1
    assert health.status == 200


def test_each_error_of_ours_is_worded_once():
    worded = {
        InvalidInput("x", field="f"): ProblemCode.INVALID_REQUEST,
        NotFound("x"): ProblemCode.NOT_FOUND,
        Conflict("x"): ProblemCode.CONFLICT,
        StoreUnavailable("x"): ProblemCode.STORE_UNAVAILABLE,
    }
    for error, code in worded.items():
        problem = problem_of(error)
        assert problem is not None
        assert problem.code is code
    for fault in (ConfigError("x"), InvariantViolated("x"), SidecarError("x")):
        assert problem_of(fault) is None


async def test_liveness_readiness_and_metrics_are_open_on_both_roles():
    world = World()
    for app in (world.gateway(), world.admin()):
        async with calling(app) as call:
            world.problems.clear()
            ready = await call("GET", "/readyz?verbose=1")
            assert (ready.status, ready.body) == (200, {"status": "ready"})
            world.problems.append("redis: does not answer")
            unready = await call("GET", "/readyz")
            assert unready.status == 503
            assert unready.body == {
                "status": "not_ready",
                "problems": ["redis: does not answer"],
            }
            assert (await call("GET", "/healthz")).body == {"status": "ok"}
            head = await call("HEAD", "/healthz")
            assert (head.status, head.raw) == (200, b"")
            metrics = await call("GET", "/metrics")
            assert b"sidecar_checks_total" in metrics.raw
            assert metrics.headers["Content-Type"].startswith("text/plain; version=0.0.4")


async def test_the_gateways_document_has_no_admin_resources():
    world = World()
    async with calling(world.gateway()) as call:
        document = (await call("GET", "/api/v1/openapi.json")).body
    assert "/v1/check" in document["paths"]
    assert CUSTOMERS not in document["paths"]


def test_the_route_table_names_each_resource_once():
    rows = [(route.role, route.method, route.path) for route in ROUTES]
    assert len(set(rows)) == len(rows)


async def test_duplicate_parameters_of_a_resource_without_any_are_refused():
    async with calling(World().gateway(), token=METER_TOKEN) as call:
        reply = await call("POST", "/v1/usage?x=1", data=json.dumps({"events": [{}]}), headers=JSON)
    is_problem(reply, 400, "invalid_request")
    assert reply.body["errors"][0]["field"] == "x"


async def raw(address: str, request: str) -> str:
    """Send bytes as they are; the answer's first 4 KiB as text."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request.encode())
        await writer.drain()
        head = await asyncio.wait_for(reader.read(4_096), 10)
        if b"\r\n\r\n" in head and not head.rstrip().endswith(b"}"):
            head += await asyncio.wait_for(reader.read(4_096), 10)
        return head.decode()
    finally:
        writer.close()
        await writer.wait_closed()
