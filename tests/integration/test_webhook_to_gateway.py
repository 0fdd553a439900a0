"""From a webhook to a denial at every gateway, on real stores and real listeners."""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest
import structlog
from fixtures.fake_provider import CUSTOMER, FakeProvider
from fixtures.fake_stripe import FakeStripe, serving
from fixtures.memory_store import MemoryClock
from stripe import WebhookSignature

from sidecar import telemetry
from sidecar.app import Application
from sidecar.app.parts import SystemClock
from sidecar.domain.standing import InvoiceState
from sidecar.settings import load_settings

ROOT = Path(__file__).parents[2]
SECRET = "whsec_of_these_tests"
WAIT_SECONDS = 30.0
CHAT = {"method": "POST", "path": "/ai/chat"}

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(autouse=True)
def quiet_logs() -> Iterator[None]:
    telemetry.setup_logging("error")
    yield
    structlog.reset_defaults()


@pytest.fixture
def settings(redis_url: str, postgres_dsn: str):
    """Makes the settings of one process of a deployment."""
    with tempfile.TemporaryDirectory(prefix="sidecar-hook-") as name:
        folder = Path(name)
        secrets = {
            "keys": "k1:a-secret-key-of-these-tests",
            "admin": "admin-token-of-tests",
            "gateway": "gateway-token-of-tests",
            "stripe": "sk_test_of_tests",
            "hook": f"# the older one goes in a week\n{SECRET}\nwhsec_before",
        }
        for secret, text in secrets.items():
            path = folder / secret
            path.touch(mode=0o600)
            path.write_text(text + "\n")

        def make(roles: str, **changes: object):
            values = {
                "roles": roles,
                "grpc_listen": "127.0.0.1:0",
                "grpc_fast_listen": "127.0.0.1:0",
                "http_listen": "127.0.0.1:0",
                "admin_listen": "127.0.0.1:0",
                "policy_dir": ROOT / "config" / "policy",
                "data_dir": folder / "data",
                "store_timeout_ms": 2_000,
                "drain_seconds": 2.0,
                "redis_url": redis_url,
                "postgres_dsn": postgres_dsn,
                "secret_keys_file": folder / "keys",
                "admin_token_file": folder / "admin",
                "gateway_token_file": folder / "gateway",
            }
            return load_settings(environment={}, overrides=values | changes)

        make.folder = folder
        yield make


class Deployment:
    """One process for admin and settlement, two gateways, and Stripe."""

    def __init__(self, control: Application, gateways: list[Application], provider, session):
        self.control, self.gateways = control, gateways
        self.provider, self.session = provider, session
        self.key = ""

    async def admin(self, method: str, path: str, body: object = None) -> dict:
        headers = {"authorization": "Bearer admin-token-of-tests"}
        url = f"http://{self.control.admin_address}{path}"
        async with self.session.request(method, url, json=body, headers=headers) as response:
            answer = await response.json()
            assert response.status < 300, answer
            return answer

    async def hook(self, event: dict) -> int:
        body = json.dumps(event)
        header = WebhookSignature.generate_signature_header(body, SECRET)
        url = f"http://{self.control.admin_address}/webhooks/stripe"
        async with self.session.post(
            url, data=body, headers={"stripe-signature": header}
        ) as response:
            return response.status

    async def codes(self) -> list[str | None]:
        """What each gateway says to the customer now."""
        found = []
        for gateway in self.gateways:
            url = f"http://{gateway.http_address}/v1/check"
            body = CHAT | {"headers": {"x-api-key": self.key}}
            async with self.session.post(url, json=body) as response:
                found.append((await response.json())["code"])
        return found

    async def until(self, expected: list[str | None]) -> float:
        """Seconds until the gateways say so."""
        begun = time.monotonic()
        while (codes := await self.codes()) != expected:
            assert time.monotonic() - begun < WAIT_SECONDS, (codes, expected)
            await asyncio.sleep(0.005)
        return time.monotonic() - begun


@pytest.fixture
async def deployment(settings):
    provider = FakeProvider(MemoryClock(SystemClock().now()))
    async with AsyncExitStack() as stack:
        stripe_url = await stack.enter_async_context(serving(FakeStripe(provider)))
        stripe = {
            "stripe_api_key_file": settings.folder / "stripe",
            "stripe_base_url": stripe_url,
            "stripe_webhook_secret_file": settings.folder / "hook",
            "standing_grace_seconds": 0,
            "stripe": {"plans": {"price_pro": "postpaid"}, "ended_plan": "prepaid"},
        }
        control = Application(settings("admin,settlement", **stripe))
        await stack.enter_async_context(control)
        gateways = [Application(settings("gateway")) for _ in range(2)]
        for gateway in gateways:
            await stack.enter_async_context(gateway)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        deployment = Deployment(control, gateways, provider, session)
        for one in (control, *gateways):
            while one.problems():  # noqa: ASYNC110  What is watched sets no event.
                await asyncio.sleep(0.02)
        await deployment.admin(
            "POST",
            "/api/v1/customers",
            {
                "id": "cus_1",
                "plan": "postpaid",
                "currency": "USD",
                "stripe_customer_id": CUSTOMER,
            },
        )
        issued = await deployment.admin("POST", "/api/v1/credentials", {"customer_id": "cus_1"})
        deployment.key = issued["secret"]
        yield deployment


def event(number: int, event_type: str, **thing: object) -> dict:
    return {
        "id": f"evt_live_{number}",
        "object": "event",
        "type": event_type,
        "livemode": False,
        "data": {"object": thing},
    }


async def test_a_webhook_reaches_every_gateway(deployment):
    provider = deployment.provider
    # All gateways know the customer before, so that what they remember has to go.
    assert await deployment.codes() == [None, None]
    took = []
    for number in range(3):
        provider.bill("in_1", SystemClock().now())
        assert await deployment.hook(event(2 * number, "invoice.payment_failed", id="in_1")) == 200
        took.append(await deployment.until(["invoice_overdue"] * 2))
        provider.move("in_1", InvoiceState.PAID)
        assert await deployment.hook(event(2 * number + 1, "invoice.paid", id="in_1")) == 200
        took.append(await deployment.until([None, None]))
    shown = ", ".join(f"{seconds * 1_000:.0f}" for seconds in took)
    sys.stdout.write(f"from the webhook's answer to both gateways: {shown} ms\n")


async def test_an_invoice_becomes_overdue_by_our_clock_at_every_gateway(deployment):
    soon = SystemClock().now().replace(microsecond=0) + timedelta(seconds=3)
    deployment.provider.bill("in_1", soon)
    assert await deployment.hook(event(1, "invoice.finalized", id="in_1")) == 200
    assert await deployment.codes() == [None, None]
    await deployment.until(["invoice_overdue"] * 2)


async def test_an_operators_word_and_its_end_reach_every_gateway(deployment):
    path = "/api/v1/customers/cus_1/standing"
    await deployment.admin("PUT", path, {"standing": "delinquent", "reason": "by hand"})
    assert await deployment.codes() == ["invoice_overdue"] * 2
    cleared = await deployment.admin("DELETE", path)
    assert (cleared["standing"], cleared["source"]) == ("good", "invoices")
    assert await deployment.codes() == [None, None]


async def test_subscriptions_and_top_ups_come_through_the_same_door(deployment):
    provider = deployment.provider
    provider.subscribe("sub_1", "canceled", "price_pro")
    assert await deployment.hook(event(1, "customer.subscription.deleted", id="sub_1")) == 200
    # The plan that is left burns credit, and there is none.
    await deployment.until(["no_available_credits"] * 2)
    # Far more than the checks of this test hold.
    paid = {"amount_minor": 1_000_000, "credit_minor": 1_000_000}
    provider.pay("pi_1", metadata={"sidecar_top_up": ""}, **paid)
    assert await deployment.hook(event(2, "payment_intent.succeeded", id="pi_1")) == 200
    await deployment.until([None, None])
    provider.dispute("pi_1", "dp_1", 1_000_000)
    hooked = event(3, "charge.dispute.created", id="dp_1", payment_intent="pi_1")
    assert await deployment.hook(hooked) == 200
    await deployment.until(["no_available_credits"] * 2)
    listed = await deployment.admin("GET", "/api/v1/webhooks")
    assert {item["reason"] for item in listed["items"]} == {""}
    assert len(listed["items"]) == 2
