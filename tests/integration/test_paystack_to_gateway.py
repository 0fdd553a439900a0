"""From an invoice that Paystack collects to a denial at a gateway, and from its webhook back."""

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
import structlog

from sidecar import telemetry
from sidecar.app import Application
from sidecar.settings import load_settings
from sidecar.standins.paystack import SECRET, PaystackStandin
from sidecar.standins.paystack_transactions import Card

ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 30.0
INVOICE = """
INSERT INTO invoices (customer_id, invoice_id, currency, sequence, period_start, period_end, state,
    provider, number, total_nano, due_nano, due_minor, closed_at)
VALUES ('cus_1', 'inv_1', 'USD', 0, now() - interval '2 days', now() - interval '1 day', 'closed',
    'paystack', 1, 5000000000, 5000000000, 500, now())
"""

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(autouse=True)
def quiet_logs():
    telemetry.setup_logging("critical")
    yield
    structlog.reset_defaults()


class Deployment:
    """One process for admin and settlement, one gateway, and Paystack."""

    def __init__(self, control, gateway, standin, session, pool) -> None:
        self.control, self.gateway = control, gateway
        self.standin, self.session, self.pool = standin, session, pool
        self.key = ""

    @property
    def hooks_url(self) -> str:
        return f"http://{self.control.admin_address}/webhooks/paystack"

    async def admin(self, method: str, path: str, body: object = None) -> dict:
        headers = {"authorization": "Bearer admin-token-of-tests"}
        url = f"http://{self.control.admin_address}{path}"
        async with self.session.request(method, url, json=body, headers=headers) as response:
            answer = await response.json()
            assert response.status < 300, answer
            return answer

    async def code(self) -> str | None:
        """What the gateway says to the customer now."""
        url = f"http://{self.gateway.http_address}/v1/check"
        body = {"method": "POST", "path": "/ai/chat", "headers": {"x-api-key": self.key}}
        async with self.session.post(url, json=body) as response:
            return (await response.json())["code"]

    async def until(self, expected: str | None) -> None:
        begun = time.monotonic()
        while (code := await self.code()) != expected:
            assert time.monotonic() - begun < WAIT_SECONDS, code
            await asyncio.sleep(0.02)

    async def until_sent(self) -> str:
        """The reference that the provider has been sent."""
        begun = time.monotonic()
        while not self.standin.transactions.charges:
            assert time.monotonic() - begun < WAIT_SECONDS
            await asyncio.sleep(0.02)
        (reference,) = self.standin.transactions.charges
        return str(reference)

    async def until_handled(self) -> None:
        """Nothing that came is left to do."""
        begun = time.monotonic()
        while (await self.admin("GET", "/api/v1/webhooks?state=pending"))["items"]:
            assert time.monotonic() - begun < WAIT_SECONDS
            await asyncio.sleep(0.02)


@pytest.fixture
async def deployment(redis_url, postgres_dsn, postgres_pool, tmp_path):
    def secret(name: str, text: str) -> Path:
        path = tmp_path / name
        path.touch(mode=0o600)
        path.write_text(text + "\n")
        return path

    stores = {
        "grpc_listen": "127.0.0.1:0",
        "grpc_fast_listen": "127.0.0.1:0",
        "http_listen": "127.0.0.1:0",
        "admin_listen": "127.0.0.1:0",
        "policy_dir": ROOT / "config" / "policy",
        "data_dir": tmp_path / "data",
        "store_timeout_ms": 2_000,
        "drain_seconds": 2.0,
        "redis_url": redis_url,
        "postgres_dsn": postgres_dsn,
        "secret_keys_file": secret("keys", "k1:a-secret-key-of-these-tests"),
        "admin_token_file": secret("admin", "admin-token-of-tests"),
        "gateway_token_file": secret("gateway", "gateway-token-of-tests"),
    }
    standin = PaystackStandin()
    async with AsyncExitStack() as stack:
        collecting = {
            "roles": "admin,settlement",
            "paystack_secret_file": secret("paystack", SECRET),
            "paystack_base_url": await stack.enter_async_context(standin.serving()),
            "collect_interval_seconds": 0.05,
            "collect_due_days": 0,
            "collect_attempts_max": 1,
            "standing_grace_seconds": 0,
            "standing_interval_seconds": 0.05,
        }
        control = Application(load_settings(environment={}, overrides=stores | collecting))
        gateway = Application(
            load_settings(environment={}, overrides=stores | {"roles": "gateway"})
        )
        for one in (control, gateway):
            await stack.enter_async_context(one)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        found = Deployment(control, gateway, standin, session, postgres_pool)
        for one in (control, gateway):
            while one.problems():  # noqa: ASYNC110  What is watched sets no event.
                await asyncio.sleep(0.02)
        customer = {"id": "cus_1", "plan": "postpaid", "currency": "USD"}
        await found.admin("POST", "/api/v1/customers", customer)
        issued = await found.admin("POST", "/api/v1/credentials", {"customer_id": "cus_1"})
        found.key = issued["secret"]
        yield found
    assert list(standin.bugs) == []


async def owe(deployment: Deployment, card: Card) -> str:
    """An invoice that a saved card is charged for: its reference."""
    deployment.standin.add_card("AUTH_1", "ada@example.com", card)
    payer = {"email": "ada@example.com", "authorization_code": "AUTH_1", "collect": True}
    await deployment.admin("PUT", "/api/v1/customers/cus_1/providers/paystack", payer)
    assert await deployment.code() is None
    await deployment.pool.execute(INVOICE)
    return await deployment.until_sent()


async def test_what_is_past_due_is_denied_until_paystacks_webhook_has_it_asked_about(deployment):
    reference = await owe(deployment, Card.PENDS)
    await deployment.until("invoice_overdue")
    # It would be asked about in a quarter of an hour; the webhook does it now, three times over.
    deployment.standin.transactions.settle(reference, "success")
    assert await deployment.standin.hooks.deliver(deployment.hooks_url, copies=3) == 1
    await deployment.until(None)
    listed = await deployment.admin("GET", "/api/v1/webhooks")
    (item,) = listed["items"]
    assert (item["id"], item["events"]) == (f"paystack:payment:{reference}", 1)
    assert deployment.standin.taken() == {"inv_1": [500]}


async def test_a_payment_that_failed_is_denied_and_one_that_is_made_up_changes_nothing(deployment):
    reference = await owe(deployment, Card.FAILS)
    await deployment.until("invoice_overdue")
    # A webhook that is signed and says that it was paid: Paystack itself says that it was not.
    deployment.standin.hooks.emit("charge.success", {"reference": reference, "status": "success"})
    assert await deployment.standin.hooks.deliver(deployment.hooks_url) == 1
    await deployment.until_handled()
    found = await deployment.admin("GET", "/api/v1/collections/inv_1")
    assert (found["state"], await deployment.code()) == ("failed", "invoice_overdue")
    # Now it does come, and people have it asked about.
    deployment.standin.transactions.settle(reference, "success")
    await deployment.admin("POST", "/api/v1/collections/inv_1/retry")
    await deployment.until(None)
    assert deployment.standin.taken() == {"inv_1": [500]}
