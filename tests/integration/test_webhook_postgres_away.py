"""Postgres ends while webhooks come: refused so that they come again, then done once."""

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import asyncpg
import pytest
import structlog
from fixtures.fake_provider import CUSTOMER
from fixtures.stripe_world import sdk_client

from sidecar import telemetry
from sidecar.app import Application
from sidecar.outbound.embedded.postgres_server import EmbeddedPostgres
from sidecar.outbound.postgres.migrating import migrate
from sidecar.settings import load_settings
from sidecar.standins.stripe import StripeStandin

ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 60.0
KEY = "sk_test_standin"

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(autouse=True)
def quiet_logs() -> Iterator[None]:
    telemetry.setup_logging("critical")
    yield
    structlog.reset_defaults()


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sc-pg-", dir="/tmp") as name:
        place = Path(name)
        place.chmod(0o755)  # So that the server's user may enter, and its socket stays where it is.
        yield place


class Deployment:
    """One process for admin and settlement on a Postgres of its own, and the Stripe stand-in."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.folder, self.redis_url = folder, redis_url
        self.standin = StripeStandin()
        self.postgres = EmbeddedPostgres(folder / "data")

    @asynccontextmanager
    async def running(self):
        async with AsyncExitStack() as stack:
            dsn = await self.postgres.__aenter__()
            stack.push_async_callback(self.stop_postgres)
            await migrate(dsn)
            self.url = await stack.enter_async_context(self.standin.serving())
            client = await stack.enter_async_context(sdk_client(self.url))
            self.v1 = client.v1
            endpoint = await self.v1.webhook_endpoints.create_async(
                {"url": "http://127.0.0.1:9/webhooks/stripe", "enabled_events": ["*"]}
            )
            self.app = Application(self.settings(dsn, str(endpoint.secret)))
            await stack.enter_async_context(self.app)
            await self.v1.webhook_endpoints.update_async(
                endpoint.id, {"url": f"http://{self.app.admin_address}/webhooks/stripe"}
            )
            self.session = await stack.enter_async_context(aiohttp.ClientSession())
            await self.until(lambda: not self.app.problems())
            yield self

    def settings(self, dsn: str, webhook_secret: str):
        secrets = {
            "keys": "k1:a-secret-key-of-these-tests",
            "admin": "admin-token-of-tests",
            "gateway": "gateway-token-of-tests",
            "stripe": KEY,
            "hook": webhook_secret,
        }
        for name, text in secrets.items():
            path = self.folder / name
            path.touch(mode=0o600)
            path.write_text(text + "\n")
        values = {
            "roles": "admin,settlement",
            "admin_listen": "127.0.0.1:0",
            "policy_dir": ROOT / "config" / "policy",
            "data_dir": self.folder / "own",
            "store_timeout_ms": 2_000,
            "drain_seconds": 2.0,
            "redis_url": self.redis_url,
            "postgres_dsn": dsn,
            "secret_keys_file": self.folder / "keys",
            "admin_token_file": self.folder / "admin",
            "gateway_token_file": self.folder / "gateway",
            "stripe_api_key_file": self.folder / "stripe",
            "stripe_base_url": self.url,
            "stripe_webhook_secret_file": self.folder / "hook",
        }
        return load_settings(environment={}, overrides=values)

    async def stop_postgres(self) -> None:
        await self.postgres.__aexit__(None, None, None)

    async def until(self, done) -> None:
        """Wait for what sets no event; `done` may be a coroutine function."""
        begun = time.monotonic()
        while True:
            found = done()
            if await found if asyncio.iscoroutine(found) else found:
                return
            assert time.monotonic() - begun < WAIT_SECONDS, "it did not come to pass"
            await asyncio.sleep(0.05)

    async def admin(self, method: str, path: str, body: object = None) -> dict:
        headers = {"authorization": "Bearer admin-token-of-tests"}
        url = f"http://{self.app.admin_address}{path}"
        async with self.session.request(method, url, json=body, headers=headers) as response:
            answer = await response.json()
            assert response.status < 300, answer
            return answer

    async def standing(self) -> str:
        return (await self.admin("GET", "/api/v1/customers/cus_1/standing"))["standing"]

    async def fetch(self, sql: str) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.postgres.dsn)
        try:
            return list(await connection.fetch(sql))
        finally:
            await connection.close()

    async def bill(self) -> str:
        await self.v1.invoice_items.create_async(
            {"customer": CUSTOMER, "amount": 1_000, "currency": "usd"}
        )
        made = await self.v1.invoices.create_async(
            {
                "customer": CUSTOMER,
                "pending_invoice_items_behavior": "include",
                "collection_method": "send_invoice",
                "days_until_due": 1,
            }
        )
        await self.v1.invoices.finalize_invoice_async(made.id)
        return str(made.id)


async def test_webhooks_that_come_while_postgres_is_away_come_again_and_are_done_once(
    folder, redis_url
):
    async with Deployment(folder, redis_url).running() as deployment:
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
        standin = deployment.standin
        standin.add_customer(CUSTOMER)
        first = await deployment.bill()
        assert {one.status for one in await standin.deliver()} == {200}
        before = len(await deployment.fetch("SELECT 1 FROM inbox"))

        await deployment.stop_postgres()
        second = await deployment.bill()
        await deployment.v1.invoices.mark_uncollectible_async(first)
        refused = await standin.deliver()
        refused += await standin.deliver()
        assert Counter(one.status for one in refused) == {503: len(refused)}
        assert len(refused) > 4

        await deployment.postgres.__aenter__()
        await deployment.until(lambda: not deployment.app.problems())
        taken = await standin.drain()
        assert standin.account.deliveries.given_up == 0
        again = {one.event_id for one in taken if one.status == 200}
        assert again >= {one.event_id for one in refused}

        async def idle() -> bool:
            rows = await deployment.fetch("SELECT 1 FROM inbox_objects WHERE state <> 'idle'")
            return not rows

        await deployment.until(idle)
        await deployment.until(lambda: is_delinquent(deployment))
        events = await deployment.fetch("SELECT event_id, done_at FROM inbox")
        assert len(events) == before + len(again)
        assert all(row["done_at"] is not None for row in events)
        states = {
            row["invoice_id"]: row["state"]
            for row in await deployment.fetch("SELECT invoice_id, state FROM provider_invoices")
        }
        assert states == {first: "uncollectible", second: "open"}
    assert list(standin.bugs) == []


async def is_delinquent(deployment: Deployment) -> bool:
    return await deployment.standing() == "delinquent"
