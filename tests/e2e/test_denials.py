"""Each way to be refused, as a client behind a real Envoy sees it."""

import json

import pytest
from fixtures.stack import Stack, code_of

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]


async def test_without_a_key_it_is_401(stack: Stack):
    status, headers, body = await stack.ask(None, path="/ai/chat")
    assert (status, body["code"]) == (401, "unidentified")
    assert headers["content-type"].startswith("application/problem+json")


async def test_a_route_of_openai_speaks_its_error_format(stack: Stack):
    status, headers, body = await stack.ask(None)
    assert (status, body["error"]["code"]) == (401, "unidentified")
    assert body["error"]["type"] == "authentication_error"
    assert headers["content-type"] == "application/json"


async def test_with_an_unknown_key_it_is_401(stack: Stack):
    status, _, body = await stack.ask("sk-nobody-has-this-key")
    assert (status, code_of(body)) == (401, "unknown_credential")


async def test_a_repeated_credential_is_401(stack: Stack):
    key = await stack.customer("cus_twice", "prepaid", grant="1")
    from multidict import CIMultiDict  # noqa: PLC0415  Only here a header repeats.

    headers = CIMultiDict([("x-api-key", key), ("x-api-key", "sk-other")])
    url = f"{stack.gateway_url}/v1/chat/completions"
    async with stack.session.post(url, json={"model": "gpt-4o-mini"}, headers=headers) as response:
        body = json.loads(await response.read())
    assert (response.status, code_of(body)) == (401, "unidentified")


async def test_without_credit_it_is_402_and_shows_no_amounts(stack: Stack):
    key = await stack.customer("cus_poor", "prepaid", grant="0.000001")
    status, _, body = await stack.ask(key)
    assert (status, code_of(body)) == (402, "no_available_credits")
    assert body["error"]["reference"].startswith("dec_")
    assert "nano" not in json.dumps(body)


async def test_with_an_overdue_invoice_it_is_402_until_the_standing_is_good_again(stack: Stack):
    key = await stack.customer("cus_owes", "postpaid")
    path = "/api/v1/customers/cus_owes/standing"
    await stack.api("PUT", path, {"standing": "delinquent", "reason": "in_1", "until": None})
    status, _, body = await stack.ask(key)
    assert (status, code_of(body)) == (402, "invoice_overdue")
    await stack.api("PUT", path, {"standing": "good", "reason": "paid", "until": None})
    status, _, _ = await stack.ask(key)
    assert status == 200


async def test_a_hard_quota_ends_in_429_with_limits_and_retry_after(stack: Stack):
    key = await stack.customer("cus_quota", "free")
    usage = {"prompt_tokens": 10, "completion_tokens": 16_000, "total_tokens": 16_010}
    statuses = []
    for _ in range(8):
        status, headers, body = await stack.ask(key, max_tokens=16_000, script={"usage": usage})
        statuses.append(status)
        await stack.until_captured("cus_quota")
    # 6 x 16,010 tokens fit into 100,000; a seventh would need more than is left.
    assert statuses == [200] * 6 + [429] * 2
    assert code_of(body) == "quota_exceeded"
    assert headers["x-ratelimit-limit"] == "100000"
    assert headers["x-ratelimit-remaining"] == str(100_000 - 6 * 16_010)
    assert int(headers["retry-after"]) > 0


async def test_a_route_that_nothing_covers_is_403(stack: Stack):
    key = await stack.customer("cus_lost", "prepaid", grant="1")
    served = stack.upstream.served
    status, _, body = await stack.ask(key, path="/not/covered")
    assert (status, code_of(body)) == (403, "blocked")
    assert stack.upstream.served == served


async def test_a_free_route_needs_nobody(stack: Stack):
    async with stack.session.get(f"{stack.gateway_url}/healthz") as response:
        assert response.status == 200


@pytest.mark.parametrize("max_tokens", [-1, 1.5, "many", True, 10**30])
async def test_an_absurd_max_tokens_is_400(stack: Stack, max_tokens: object):
    key = await stack.customer(
        f"cus_absurd_{type(max_tokens).__name__}{max_tokens}"[:40].replace("+", ""),
        "prepaid",
        grant="1",
    )
    status, _, body = await stack.ask(key, max_tokens=max_tokens)
    assert (status, code_of(body)) == (400, "invalid_request")
    assert "max_tokens" in body["error"]["message"]


async def test_an_encoded_slash_is_400(stack: Stack):
    import yarl  # noqa: PLC0415  Only here a path must stay as written.

    key = await stack.customer("cus_slash", "prepaid", grant="1")
    url = yarl.URL(f"{stack.gateway_url}/v1%2fchat/completions", encoded=True)
    async with stack.session.post(
        url, json={}, headers={"authorization": f"Bearer {key}"}
    ) as response:
        assert response.status == 400
    balance = await stack.balance("cus_slash")
    assert balance["held_nano"] == 0


async def test_a_denial_moves_no_counter(stack: Stack):
    key = await stack.customer("cus_still", "prepaid", grant="0.000001")
    before = await stack.balance("cus_still")
    for _ in range(3):
        await stack.ask(key)
    after = await stack.balance("cus_still")
    assert {k: v for k, v in before.items() if k != "as_of"} == {
        k: v for k, v in after.items() if k != "as_of"
    }
