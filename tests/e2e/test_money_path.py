"""From a request through a real Envoy to an exact balance."""

import asyncio

import pytest
from fixtures.stack import Stack

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

INPUT_NANO = 500  # $0.50 per million
OUTPUT_NANO = 1_500  # $1.50 per million
USED_NANO = 11 * INPUT_NANO + 7 * OUTPUT_NANO


async def test_a_json_response_is_captured_to_the_nano(stack: Stack):
    key = await stack.customer("cus_json", "prepaid", grant="1")
    status, headers, body = await stack.ask(key)
    assert (status, body["usage"]["total_tokens"]) == (200, 18)
    assert not [name for name in headers if name.startswith("x-sidecar")]
    balance = await stack.until_captured("cus_json")
    assert balance["used_nano"] == USED_NANO
    assert balance["available_nano"] == 10**9 - USED_NANO


async def test_a_stream_is_captured_to_the_nano(stack: Stack):
    key = await stack.customer("cus_sse", "prepaid", grant="1")
    status, _, body = await stack.ask(key, script={"kind": "sse"}, stream=True)
    assert status == 200
    assert b"[DONE]" in body
    balance = await stack.until_captured("cus_sse")
    assert balance["used_nano"] == USED_NANO


async def test_the_upstream_sees_neither_the_credential_nor_our_ids(stack: Stack):
    key = await stack.customer("cus_private", "prepaid", grant="1")
    forged = {"x-sidecar-hold": "forged", "x-sidecar-customer-id": "cus_other"}
    await stack.ask(key, headers=forged)
    seen = stack.upstream.headers[-1]
    assert "authorization" not in seen
    assert not [name for name in seen if name.startswith("x-sidecar")]
    assert not [value for value in seen.values() if "sidecar" in value or key in value]
    await stack.until_captured("cus_private")


async def test_a_client_that_hangs_up_is_charged_its_estimate_once(stack: Stack):
    key = await stack.customer("cus_cut", "prepaid", grant="1")
    url = f"{stack.gateway_url}/v1/chat/completions"
    body = {
        "model": "gpt-4o-mini",
        "max_tokens": 40,
        "stream": True,
        "script": {"kind": "sse", "chunks": 50, "pause": 0.2},
    }
    async with stack.session.post(
        url, json=body, headers={"authorization": f"Bearer {key}"}
    ) as response:
        assert response.status == 200
        await response.content.readany()
        held = (await stack.balance("cus_cut"))["held_nano"]
        response.close()
    balance = await stack.until_captured("cus_cut")
    assert held > 40 * OUTPUT_NANO
    assert balance["used_nano"] == held


async def test_a_failed_response_costs_nothing(stack: Stack):
    key = await stack.customer("cus_500", "prepaid", grant="1")
    status, _, _ = await stack.ask(key, script={"status": 500})
    assert status == 500
    balance = await stack.until_captured("cus_500")
    assert balance["used_nano"] == 0
    assert balance["available_nano"] == 10**9


async def test_200_requests_at_once_against_credit_for_20_let_exactly_20_pass(stack: Stack):
    key = await stack.customer("cus_burst", "per-request", grant="0.02")
    before = await stack.metric("sidecar_overspend_nano_total")
    answers = await asyncio.gather(*(stack.ask(key) for _ in range(200)))
    statuses = [status for status, _, _ in answers]
    assert statuses.count(200) == 20
    assert statuses.count(402) == 180
    balance = await stack.until_captured("cus_burst")
    assert balance["used_nano"] == 20_000_000
    assert balance["available_nano"] == 0
    assert await stack.metric("sidecar_overspend_nano_total") == before


async def test_a_burst_with_token_prices_never_overspends(stack: Stack):
    key = await stack.customer("cus_token_burst", "prepaid", grant="0.005")
    answers = await asyncio.gather(*(stack.ask(key) for _ in range(200)))
    allowed = sum(status == 200 for status, _, _ in answers)
    assert {status for status, _, _ in answers} == {200, 402}
    balance = await stack.until_captured("cus_token_burst")
    assert balance["used_nano"] == allowed * USED_NANO
    assert balance["available_nano"] >= 0


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        ("/ai/chat?x=1", "/ai/chat?x=1"),
        ("//ai/chat", "/ai/chat"),
        ("/ai/./chat", "/ai/chat"),
        ("/%61i/chat", "/ai/chat"),
    ],
)
async def test_a_path_is_priced_however_it_is_spelt(stack: Stack, path: str, normal: str):
    customer = f"cus_path_{abs(hash(path))}"
    key = await stack.customer(customer, "prepaid", grant="1")
    status = await _raw_post(stack, path, key)
    assert status == 200
    assert stack.upstream.paths[-1] == normal
    balance = await stack.until_captured(customer)
    assert balance["used_nano"] == USED_NANO


async def test_the_same_request_id_twice_is_two_requests(stack: Stack):
    key = await stack.customer("cus_same_id", "prepaid", grant="1")
    for _ in range(2):
        status, _, _ = await stack.ask(key, headers={"x-request-id": "client-chosen-id"})
        assert status == 200
    balance = await stack.until_captured("cus_same_id")
    assert balance["used_nano"] == 2 * USED_NANO


async def test_a_header_that_counts_tokens_is_believed_where_the_body_says_nothing(stack: Stack):
    key = await stack.customer("cus_header", "prepaid", grant="1")
    script = {"usage": None, "headers": {"x-tokens-input": "20", "x-tokens-output": "10"}}
    status, _, _ = await stack.ask(key, script=script)
    assert status == 200
    balance = await stack.until_captured("cus_header")
    assert balance["used_nano"] == 20 * INPUT_NANO + 10 * OUTPUT_NANO


async def test_used_amounts_arrive_in_the_ledger(stack: Stack):
    key = await stack.customer("cus_ledger", "prepaid", grant="1")
    for _ in range(3):
        await stack.ask(key)
    live = await stack.until_captured("cus_ledger")
    ledger = await stack.until(lambda: _ledger_available(stack, "cus_ledger"), "settlement")
    assert live["used_nano"] == 3 * USED_NANO
    assert ledger == live["available_nano"]


async def _ledger_available(stack: Stack, customer_id: str) -> int | None:
    import asyncpg  # noqa: PLC0415  Only this test asks the database directly.

    connection = await asyncpg.connect(stack.environment()["SIDECAR_POSTGRES_DSN"])
    try:
        count = await connection.fetchval(
            "SELECT count(*) FROM usage_events WHERE customer_id = $1 AND kind = 'capture'",
            customer_id,
        )
        if count < 3:
            return None
        return int(
            await connection.fetchval(
                "SELECT sum(amount_nano) FROM ledger_entries WHERE customer_id = $1 AND account"
                " IN ('customer_credit', 'customer_overage', 'customer_receivable')",
                customer_id,
            )
        )
    finally:
        await connection.close()


async def _raw_post(stack: Stack, path: str, key: str) -> int:
    """Send the path exactly as it is written; a client library would tidy it."""
    import yarl  # noqa: PLC0415  Only this helper needs it.

    url = yarl.URL(f"{stack.gateway_url}{path}", encoded=True)
    body = {"model": "gpt-4o-mini", "max_tokens": 50, "messages": []}
    headers = {"authorization": f"Bearer {key}"}
    async with stack.session.post(url, json=body, headers=headers) as response:
        await response.read()
        return response.status
