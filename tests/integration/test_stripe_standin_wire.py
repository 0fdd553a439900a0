"""The stand-in on the wire: refusals that no SDK would provoke, and the process."""

import asyncio
import re
import sys

import aiohttp
import pytest

from sidecar.standins.stripe import StripeStandin

HEADERS = {"Authorization": "Bearer sk_test_standin"}


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("GET", "/v1/nothing", {}, 404),
        ("DELETE", "/v1/billing/meters", {}, 404),
        ("POST", "/v1/billing/meter_events", {"json": {"event_name": "tokens"}}, 400),
        ("POST", "/v1/customers", {"data": {"name": "x" * 300_000}}, 413),
        ("POST", "/v1/customers", {"headers": {"Authorization": ""}}, 401),
        ("POST", "/v1/customers", {"headers": {"Stripe-Version": "new"}}, 400),
        ("POST", "/v1/customers", {"headers": {"Stripe-Account": "acct_1"}}, 501),
        ("POST", "/v1/customers", {"headers": {"Idempotency-Key": "x" * 256}}, 400),
        ("GET", "/v1/customers?limit=101", {}, 400),
        ("GET", "/v1/customers?limit=1&limit=2", {}, 400),
        ("GET", "/v1/customers?starting_after=cus_none", {}, 400),
    ],
)
async def test_every_refusal_has_stripes_shape(method, path, options, status):
    standin = StripeStandin()
    async with (
        standin.serving() as url,
        aiohttp.ClientSession(headers=HEADERS) as session,
        session.request(method, url + path, **options) as got,
    ):
        body = await got.json()
        assert got.status == status
        assert set(body["error"]) <= {"type", "message", "code", "param"}
        assert got.headers["request-id"].startswith("req_")
    assert list(standin.requests_log) == [(method, path.partition("?")[0], status)]
    assert not standin.bugs


async def test_it_runs_as_a_process_that_prints_its_url():
    command = ["-m", "sidecar.standins.stripe", "--customer=cus_1", "--meter=tokens"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.PIPE
    )
    try:
        url = (await process.stdout.readline()).decode().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:[0-9]+", url)
        async with aiohttp.ClientSession(headers=HEADERS) as session:
            form = {
                "event_name": "tokens",
                "payload[stripe_customer_id]": "cus_1",
                "payload[value]": "1",
            }
            async with session.post(f"{url}/v1/billing/meter_events", data=form) as got:
                assert (got.status, (await got.json())["payload"]["value"]) == (200, "1")
    finally:
        process.terminate()
        assert await process.wait() == 0
