"""A running application tells what happens in it: from an API call to a mailbox and a receiver."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
import structlog
from fixtures.notice_parts import SECRET, receiver
from fixtures.smtp_server import Mailbox, smtp_server

from sidecar import telemetry
from sidecar.app import Application, read_secret
from sidecar.settings import load_settings

ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 60.0


@pytest.fixture(autouse=True)
def quiet_logs() -> Iterator[None]:
    telemetry.setup_logging("error")
    yield
    structlog.reset_defaults()


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sc-notices-") as name:
        path = Path(name)
        for file, text in (
            ("keys", "k1:a-secret-key-of-these-tests"),
            ("admin", "admin-token-of-tests"),
            ("gateway", "gateway-token-of-tests"),
            ("signing", SECRET),
        ):
            (path / file).write_text(text + "\n")
        yield path


async def call(app: Application, method: str, path: str, body: object = None) -> dict:
    token = read_secret(app.secrets.admin_token_file)
    async with (
        aiohttp.ClientSession(headers={"authorization": f"Bearer {token}"}) as session,
        session.request(method, f"http://{app.admin_address}{path}", json=body) as response,
    ):
        assert response.status < 300, await response.text()
        return await response.json()


async def until_sent(app: Application, count: int) -> list[dict]:
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            items = (await call(app, "GET", "/api/v1/notices"))["items"]
            made = [fact for one in items for fact in one["deliveries"]]
            if [fact["state"] for fact in made] == ["sent"] * count:
                return items
            await asyncio.sleep(0.05)


@pytest.mark.timeout(120)
async def test_a_change_of_standing_reaches_customer_operators_and_receiver_once(
    folder: Path, redis_url: str, postgres_dsn: str
):
    mailbox = Mailbox()
    async with smtp_server(mailbox) as port, receiver() as (url, received):
        settings = load_settings(
            environment={},
            overrides={
                "grpc_listen": "127.0.0.1:0",
                "grpc_fast_listen": "127.0.0.1:0",
                "http_listen": "127.0.0.1:0",
                "admin_listen": "127.0.0.1:0",
                "policy_dir": ROOT / "config" / "policy",
                "data_dir": folder / "data",
                "drain_seconds": 2.0,
                "redis_url": redis_url,
                "postgres_dsn": postgres_dsn,
                "secret_keys_file": folder / "keys",
                "admin_token_file": folder / "admin",
                "gateway_token_file": folder / "gateway",
                "smtp_url": f"smtp://127.0.0.1:{port}",
                "notify": {
                    "operators": ["ops@example.com"],
                    "email": {"from": "billing@example.org"},
                    "webhook": {"url": url, "secret_file": folder / "signing"},
                    "look_seconds": 0.1,
                    "poll_seconds": 0.05,
                },
            },
        )
        async with Application(settings) as app:
            body = {"id": "cus_1", "plan": "prepaid", "currency": "USD"}
            body |= {"labels": {"email": "ada@example.com"}}
            await call(app, "POST", "/api/v1/customers", body)
            # The first look is over, so that what comes is a change.
            async with asyncio.timeout(WAIT_SECONDS):
                while not await app.pool.fetchval(  # noqa: ASYNC110  It sets no event.
                    "SELECT count(*) FROM notice_sources"
                    " WHERE source = 'standing' AND all_at > '-infinity'"
                ):
                    await asyncio.sleep(0.05)
            change = {"standing": "delinquent", "reason": "an invoice"}
            await call(app, "PUT", "/api/v1/customers/cus_1/standing", change)
            (item,) = await until_sent(app, 3)
            await asyncio.sleep(0.5)
    assert (item["kind"], item["facts"]) == (
        "standing.changed",
        {"before": "good", "standing": "delinquent"},
    )
    assert sorted(mailbox.recipients) == ["ada@example.com", "ops@example.com"]
    assert {message["Subject"] for message in mailbox.messages} == {
        "Sidecar: account is delinquent now (cus_1)"
    }
    (request,) = received
    assert request.is_signed()
    assert request.message_id == item["id"]
