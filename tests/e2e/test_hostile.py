"""Odd and hostile traffic through a real Envoy: refused, exact or set aside, never invented."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from fixtures.hostile import (
    USAGE,
    Front,
    chat_body,
    chunked,
    completion,
    expire_holds,
    front_of,
    gzipped,
    http_reply,
    request,
)
from fixtures.stack import Stack

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

INPUT_NANO, OUTPUT_NANO = 500, 1_500
USED_NANO = 11 * INPUT_NANO + 7 * OUTPUT_NANO
DEFAULT_NANO = 1_000 * INPUT_NANO + 1_000 * OUTPUT_NANO
LARGEST_NANO = 128_000 * INPUT_NANO + 16_384 * OUTPUT_NANO
"""The most that any model of the policy can cost: what an unreadable request is held at."""
NO_USAGE = http_reply(completion(None))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def front(make_stack: Any) -> AsyncIterator[Front]:
    stack = await make_stack(settings={"SIDECAR_SWEEP_INTERVAL_SECONDS": "0.2"})
    async with front_of(stack) as front:
        yield front


def estimate_of(body: bytes, output: int = 50) -> int:
    """A text's bytes bound its tokens."""
    return len(body) * INPUT_NANO + output * OUTPUT_NANO


HOSTILE_HEADERS = (
    [(b"x-odd", b"\xff\xfe\xc3\x28")],
    [(b"x-big", b"a" * 60_000)],
    [(b"x-big", b"\xff" * 60_000)],
    [(b"x-request-id", b"\xff\xfe"), (b"user-agent", b"\xc3" * 300)],
    [(b"x-request-id", b"r" * 30_000), (b"content-type", b"\xff/\xfe")],
    [(b"x-request-id", b"a\tb\x80"), (b"traceparent", b"\xf0\x9f")],
)


@pytest.mark.parametrize("transport", ["otlp", "als"])
async def test_one_customers_odd_headers_cost_another_nothing(front: Front, transport: str):
    stack = front.stack
    hostile = await stack.customer(f"cus_hostile_{transport}", "prepaid", grant="1")
    decent = await stack.customer(f"cus_decent_{transport}", "prepaid", grant="1")
    lost = await stack.metric("sidecar_usage_events_total", outcome="malformed")
    aside = await stack.metric("sidecar_quarantined_total")
    requests = []
    for headers in HOSTILE_HEADERS * 3:
        requests.append(request(chat_body(), key=hostile, headers=headers))
        requests.append(request(chat_body(), key=decent))
    answers = await asyncio.gather(*(front.ask(raw, transport=transport) for raw in requests))
    assert {answer.status for answer in answers} == {200}
    count = len(HOSTILE_HEADERS) * 3
    assert await front.spent(f"cus_decent_{transport}") == count * USED_NANO
    assert await front.spent(f"cus_hostile_{transport}") == count * USED_NANO
    assert await stack.metric("sidecar_usage_events_total", outcome="malformed") == lost
    assert await stack.metric("sidecar_quarantined_total") == aside


UPGRADE = b"connection: Upgrade"
REFUSED_BY_ENVOY = {
    "more than 60 KiB of headers": (431, {"headers": [(b"x-big", b"a" * 62_000)]}),
    "2,000 headers": (431, {"headers": [(b"x-h%d" % i, b"v") for i in range(2_000)]}),
    "a control character": (400, {"headers": [(b"x-request-id", b"a\x01b")]}),
    "a NUL": (400, {"headers": [(b"user-agent", b"a\x00b")]}),
    "two lengths": (400, {"headers": [(b"content-length", b"3")]}),
    "a length and chunks": (400, {"headers": [(b"transfer-encoding", b"chunked")]}),
    "a method that is none": (400, {"method": b"FOO BAR"}),
    "a tunnel": (400, {"method": b"CONNECT"}),
    "a WebSocket": (
        403,
        {"method": b"GET", "length": False, "headers": [(b"upgrade", b"websocket")]},
    ),
}


@pytest.mark.parametrize("case", REFUSED_BY_ENVOY)
async def test_envoy_refuses_by_itself(front: Front, case: str):
    status, changes = REFUSED_BY_ENVOY[case]
    customer = f"cus_envoy_{list(REFUSED_BY_ENVOY).index(case)}"
    key = await front.stack.customer(customer, "prepaid", grant="1")
    served = len(front.upstream.heads)
    checks = await front.stack.metric("sidecar_checks_total")
    raw = request(b"" if not changes.get("length", True) else chat_body(), key=key, **changes)
    answer = await front.ask(raw.replace(b"connection: close", UPGRADE) if status == 403 else raw)
    assert answer.status == status
    assert len(front.upstream.heads) == served
    assert await front.stack.metric("sidecar_checks_total") == checks
    balance = await front.stack.balance(customer)
    assert (balance["used_nano"], balance["held_nano"]) == (0, 0)


@pytest.mark.parametrize(("count", "status", "amount"), [(95, 200, USED_NANO), (100, 500, 0)])
async def test_many_headers_are_exact_or_free(front: Front, count: int, status: int, amount: int):
    """With its own headers Envoy has more than its limit after the check, and gives up itself."""
    customer = f"cus_headers_{count}"
    key = await front.stack.customer(customer, "prepaid", grant="1")
    rows = [(b"x-h%d" % i, b"v") for i in range(count - 4)]  # `request` writes four.
    answer = await front.ask(request(chat_body(), key=key, headers=rows))
    assert answer.status == status
    assert await front.spent(customer) == amount


async def test_client_copies_of_our_own_headers_change_nothing(front: Front):
    key = await front.stack.customer("cus_copies", "prepaid", grant="1")
    names = ("hold-id", "hold", "token", "gateway", "customer-id", "decision-id")
    copies = [(b"x-sidecar-" + name.encode(), b"cus_other") for name in names]
    # Were it believed, the body would count as cut, and far more would be held.
    copies += [(b"x-envoy-auth-partial-body", b"true"), (b"X-Sidecar-Token", b"\xff")]
    copies += [(b"x-tokens-used", b"1000000000"), (b"x-tokens-input", b"0")]
    body = chat_body()
    answer = await front.ask(request(body, key=key, headers=copies), reply=NO_USAGE)
    assert answer.status == 200
    seen = front.upstream.heads[-1].lower()
    assert b"x-sidecar" not in seen
    assert b"partial-body" not in seen
    assert await front.spent("cus_copies") == estimate_of(body)


@pytest.mark.parametrize(
    ("method", "named", "status", "amount"),
    [
        (b"GET", "cus", 200, USED_NANO),
        (b"DELETE", "cus", 200, USED_NANO),
        (b"OPTIONS", "cus", 200, USED_NANO),
        # Its answer has no body to count in, and the route's price is for every method.
        (b"HEAD", "cus", 200, DEFAULT_NANO),
        (b"OPTIONS", "", 401, 0),
        (b"HEAD", "", 401, 0),
    ],
)
async def test_other_methods(front: Front, method: bytes, named: str, status: int, amount: int):
    customer = f"cus_{method.decode()}_{named}"
    key = await front.stack.customer(customer, "prepaid", grant="1")
    raw = request(method=method, key=key if named else None, length=False)
    assert (await front.ask(raw)).status == status
    assert await front.spent(customer) == amount


async def test_a_chunked_body_is_read_like_any_other(front: Front):
    key = await front.stack.customer("cus_chunks", "prepaid", grant="1")
    body = chat_body()
    raw = request(key=key, length=False, headers=[(b"transfer-encoding", b"chunked")])
    raw += chunked([body[:7], body[7:30], body[30:]])
    assert (await front.ask(raw, reply=NO_USAGE)).status == 200
    assert front.upstream.bodies[-1] == len(body)
    assert await front.spent("cus_chunks") == estimate_of(body)


LONG = {"messages": [{"role": "user", "content": "x" * 1_400_000}]}


@pytest.mark.parametrize(
    ("reply", "amount"), [(None, USED_NANO), (NO_USAGE, LARGEST_NANO)], ids=["usage", "none"]
)
async def test_a_body_that_is_cut_is_held_at_the_largest_models_maximum(
    front: Front, reply: bytes | None, amount: int
):
    key = await front.stack.customer(f"cus_long_{amount}", "prepaid", grant="1")
    assert (await front.ask(request(chat_body(**LONG), key=key), reply=reply)).status == 200
    assert front.upstream.bodies[-1] > 1_400_000
    assert await front.spent(f"cus_long_{amount}") == amount


AMBIGUOUS = {
    "a limit twice": b'{"model":"gpt-4o-mini","max_tokens":1,"messages":[],"max_tokens":9000}',
    "a limit in two cases": b'{"model":"gpt-4o-mini","Max_Tokens":9000,"max_tokens":1}',
    "a model twice": b'{"model":"cheap","model":"gpt-4o","max_tokens":1,"messages":[]}',
    "no JSON": b'{"model":"gpt-4o-mini","max_tokens":1,',
    "no UTF-8": b'{"model":"gpt-4o-mini","max_tokens":1,"user":"\xff"}',
}


@pytest.mark.parametrize("case", AMBIGUOUS)
async def test_a_body_that_can_be_read_in_two_ways_is_held_at_the_most(front: Front, case: str):
    customer = f"cus_two_{list(AMBIGUOUS).index(case)}"
    key = await front.stack.customer(customer, "prepaid", grant="1")
    answer = await front.ask(request(AMBIGUOUS[case], key=key), reply=NO_USAGE)
    assert answer.status == 200
    assert await front.spent(customer) == LARGEST_NANO


@pytest.mark.parametrize("limit", [-5, "50", 1.5, 2**63, [1]])
async def test_a_limit_that_is_no_count_is_400_and_reaches_nobody(front: Front, limit: object):
    key = await front.stack.customer(f"cus_limit_{type(limit).__name__}", "prepaid", grant="1")
    served = len(front.upstream.heads)
    answer = await front.ask(request(chat_body(max_tokens=limit), key=key))
    assert (answer.status, answer.code) == (400, "invalid_request")
    assert "max_tokens" in json.loads(answer.body)["error"]["message"]
    assert len(front.upstream.heads) == served


@pytest.mark.parametrize("model", ["mystery-9", "a\x01\x1f\u202e\U0001f600" * 40, "m" * 5_000, ""])
async def test_a_model_that_nobody_knows_costs_the_default_price(front: Front, model: str):
    customer = f"cus_model_{len(model)}"
    key = await front.stack.customer(customer, "prepaid", grant="10")
    reply = http_reply(completion(USAGE, model=model))
    assert (await front.ask(request(chat_body(model=model), key=key), reply=reply)).status == 200
    assert await front.spent(customer) == USED_NANO


BODY = chat_body()
ESTIMATE = estimate_of(BODY)
ODD_ANSWERS = {
    "compressed": (gzipped(completion()), 200, USED_NANO),
    "said to be compressed": (
        http_reply(completion(), headers=[(b"content-encoding", b"gzip")]),
        200,
        ESTIMATE,
    ),
    "no usage": (NO_USAGE, 200, ESTIMATE),
    "no JSON": (http_reply(b"{not json"), 200, ESTIMATE),
    "204": (http_reply(b"", status=b"204 No Content"), 204, 0),
    "status 999": (http_reply(completion(), status=b"999 Odd"), 999, 0),
    "an interim answer first": (
        b"HTTP/1.1 100 Continue\r\n\r\n" + http_reply(completion()),
        200,
        USED_NANO,
    ),
    "no HTTP": (b"\x00\x01garbage", 502, 0),
    "zero": (
        http_reply(completion({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0})),
        200,
        0,
    ),
    "counts as text": (
        http_reply(completion({"prompt_tokens": "11", "completion_tokens": "7"})),
        200,
        ESTIMATE,
    ),
    "null counts": (
        http_reply(completion({"prompt_tokens": None, "completion_tokens": None})),
        200,
        ESTIMATE,
    ),
    "a total alone": (http_reply(completion({"total_tokens": 5})), 200, ESTIMATE),
    "input alone": (
        http_reply(completion({"prompt_tokens": 5})),
        200,
        5 * INPUT_NANO + 50 * OUTPUT_NANO,
    ),
    "usage that is a list": (http_reply(completion([1, 2])), 200, ESTIMATE),
    # The side that is a count counts, the other is estimated.
    **{
        f"input {value}": (
            http_reply(completion({"prompt_tokens": value, "completion_tokens": 7})),
            200,
            len(BODY) * INPUT_NANO + 7 * OUTPUT_NANO,
        )
        for value in (-5, 1.5, 2**53 + 1, 2**63, 2**64)
    },
}


@pytest.mark.parametrize("transport", ["otlp", "als"])
@pytest.mark.parametrize("case", ODD_ANSWERS)
async def test_an_odd_answer_costs_what_it_says_or_else_the_estimate(
    front: Front, case: str, transport: str
):
    reply, status, amount = ODD_ANSWERS[case]
    customer = f"cus_odd_{list(ODD_ANSWERS).index(case)}_{transport}"
    key = await front.stack.customer(customer, "prepaid", grant="1")
    answer = await front.ask(request(BODY, key=key), reply=reply, transport=transport)
    assert answer.status == status
    assert await front.spent(customer) == amount
    assert (await front.stack.balance(customer))["available_nano"] == 10**9 - amount


HEADER_CLAIMS = {b"1000000000": "implausible_header", b"-5": "unparsable_usage"}
HEADER_CLAIMS |= dict.fromkeys((b"1.5", b"1" * 50, b"\xff\xfe", b"0x10"), "unparsable_usage")


@pytest.mark.parametrize("transport", ["otlp", "als"])
async def test_a_response_header_that_cannot_be_true_is_set_aside_and_charged_nothing(
    front: Front, transport: str
):
    stack = front.stack
    before = {
        reason: await stack.metric("sidecar_quarantined_total", reason=reason)
        for reason in set(HEADER_CLAIMS.values())
    }
    customers = []
    for number, claim in enumerate(HEADER_CLAIMS):
        customers.append(f"cus_claim_{number}_{transport}")
        key = await stack.customer(customers[-1], "prepaid", grant="1")
        reply = http_reply(completion(None), headers=[(b"x-tokens-used", claim)])
        answer = await front.ask(request(BODY, key=key), reply=reply, transport=transport)
        assert answer.status == 200
    for reason, claims in before.items():
        wanted = claims + list(HEADER_CLAIMS.values()).count(reason)
        await stack.until(
            lambda reason=reason, wanted=wanted: _is_aside(stack, reason, wanted), "all are aside"
        )
    # The hold stays for a person to settle, until it expires; then it is given back.
    for customer in customers:
        assert (await stack.balance(customer))["held_nano"] == ESTIMATE
    assert await expire_holds(stack, customers) == len(customers)
    for customer in customers:
        assert await front.spent(customer) == 0
        assert (await stack.balance(customer))["available_nano"] == 10**9
    reasons = await stack.until(lambda: _settled(stack, customers), "the orphans are settled")
    assert reasons == sorted(HEADER_CLAIMS.values())


async def _is_aside(stack: Stack, reason: str, wanted: float) -> bool:
    return await stack.metric("sidecar_quarantined_total", reason=reason) == wanted


async def _settled(stack: Stack, customers: list[str]) -> list[str]:
    """Why each customer's usage is in quarantine, once each of their holds is an orphan."""
    connection = await asyncpg.connect(stack.environment()["SIDECAR_POSTGRES_DSN"])
    try:
        rows = await connection.fetch(
            "SELECT hold_id, amount_nano FROM usage_events"
            " WHERE customer_id = ANY($1) AND kind = 'orphan'",
            customers,
        )
        if len(rows) < len(customers):
            return []
        assert {row["amount_nano"] for row in rows} == {0}
        holds = [row["hold_id"] for row in rows]
        aside = await connection.fetch("SELECT reason FROM quarantine WHERE key = ANY($1)", holds)
        return sorted(row["reason"] for row in aside)
    finally:
        await connection.close()
