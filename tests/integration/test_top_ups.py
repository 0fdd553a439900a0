"""Top-ups' record on twin and Postgres alike, and the webhook against a real server."""

import asyncio
import base64
import hashlib
import hmac
import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from fixtures.memory_accounts import MemoryAccounts
from fixtures.memory_store import MemoryClock
from fixtures.memory_top_ups import MemoryTopUps

from sidecar.domain.errors import ConfigError, NotFound, StoreUnavailable
from sidecar.domain.top_ups import TopUpAttempt, TopUpRule, TopUpState
from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.outbound.postgres.top_ups import PostgresTopUps
from sidecar.outbound.standard_webhooks import check_url, read_signing_secret
from sidecar.outbound.top_up_webhook import WebhookTopUps
from sidecar.services.control_ports import Customer
from sidecar.services.top_ups import CustomerRule, TopUpAnswer

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
RULE = TopUpRule(threshold_nano=10, amount_nano=50)
ATTEMPT = TopUpAttempt(
    customer_id="cus_a", number=1, amount_nano=50 * 10**9, currency="USD", asked_at=NOW
)
KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()


@pytest.fixture(params=["memory", "postgres"])
async def record(request, postgres_pool):
    customer = Customer(customer_id="cus_a", plan="prepaid", currency="USD")
    if request.param == "memory":
        accounts = MemoryAccounts(MemoryClock())
        await accounts.create_customer(customer)
        return MemoryTopUps(accounts)
    await PostgresAccounts(postgres_pool).create_customer(customer)
    return PostgresTopUps(postgres_pool)


async def test_a_rule_is_set_changed_claimed_once_and_deleted(record):
    with pytest.raises(NotFound):
        await record.put_rule("cus_x", RULE)
    assert await record.read_rule("cus_a") is None
    assert await record.put_rule("cus_a", RULE) == RULE
    claims = [await record.claim_rules(NOW, limit=5, look_seconds=15) for _ in range(2)]
    assert claims == [[CustomerRule(customer_id="cus_a", rule=RULE)], []]
    later = NOW + timedelta(seconds=15)
    assert len(await record.claim_rules(later, limit=5, look_seconds=15)) == 1
    target = TopUpRule(threshold_nano=10, target_nano=70)
    assert await record.put_rule("cus_a", target) == target
    assert len(await record.claim_rules(later, limit=5, look_seconds=15)) == 1
    assert [await record.delete_rule("cus_a") for _ in range(2)] == [True, False]


async def test_one_attempt_at_a_time_is_tried_by_one_worker(record):
    begun = [await record.begin_attempt(ATTEMPT) for _ in range(2)]
    second = TopUpAttempt(
        customer_id="cus_a", number=2, amount_nano=1, currency="USD", asked_at=NOW
    )
    assert [*begun, await record.begin_attempt(second)] == [True, False, False]
    tried = await record.note_try(ATTEMPT, NOW)
    assert (tried.tries, tried.tried_at) == (1, NOW)
    assert await record.note_try(ATTEMPT, NOW) is None
    assert await record.list_attempts("cus_a", limit=5) == [tried]


async def test_an_attempt_goes_forward_only(record):
    await record.begin_attempt(ATTEMPT)

    async def note(state: TopUpState, reference: str = "pi") -> TopUpAttempt:
        return await record.note_state(ATTEMPT, state=state, provider_reference=reference, now=NOW)

    assert (await note(TopUpState.GIVEN)).state is TopUpState.ASKED
    paid = await note(TopUpState.PAID)
    assert (paid.state, paid.ended_at, paid.provider_reference) == (TopUpState.PAID, None, "pi")
    assert await note(TopUpState.DECLINED, "other") == paid
    assert await record.note_try(paid, NOW) is None
    given = await note(TopUpState.GIVEN)
    assert (given.state, given.ended_at) == (TopUpState.GIVEN, NOW)
    assert await note(TopUpState.DECLINED) == given


async def test_workers_that_begin_together_begin_one(postgres_pool):
    await PostgresAccounts(postgres_pool).create_customer(
        Customer(customer_id="cus_a", plan="prepaid", currency="USD")
    )
    record = PostgresTopUps(postgres_pool)
    begun = await asyncio.gather(*(record.begin_attempt(ATTEMPT) for _ in range(8)))
    assert sum(begun) == 1
    tried = await asyncio.gather(*(record.note_try(ATTEMPT, NOW) for _ in range(8)))
    assert sum(one is not None for one in tried) == 1


async def test_erasing_a_customer_ends_its_rule(postgres_pool):
    accounts, record = PostgresAccounts(postgres_pool), PostgresTopUps(postgres_pool)
    await accounts.create_customer(Customer(customer_id="cus_a", plan="prepaid", currency="USD"))
    await record.put_rule("cus_a", RULE)
    await accounts.erase_customer("cus_a")
    assert await record.read_rule("cus_a") is None


class Clock:
    def now(self) -> datetime:
        return NOW


@asynccontextmanager
async def provider(handler, *, timeout_seconds: float = 5.0):
    """The webhook client, and a server on a free port that answers it."""
    app = web.Application()
    app.router.add_post("/pay", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    client = WebhookTopUps(
        f"http://127.0.0.1:{port}/pay", SECRET, Clock(), timeout_seconds=timeout_seconds
    )
    try:
        yield client
    finally:
        await client.close()
        await runner.cleanup()


async def test_a_request_is_signed_names_its_payment_and_is_answered():
    seen = []

    async def pay(request: web.Request) -> web.Response:
        seen.append((dict(request.headers), await request.read()))
        return web.json_response({"paid": True, "reference": "pi_9", "more": 1})

    async with provider(pay) as client:
        assert await client.ask(ATTEMPT) == TopUpAnswer(paid=True, reference="pi_9")
    ((headers, body),) = seen
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = base64.b64encode(hmac.new(KEY, content, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{digest}"
    assert (headers["webhook-id"], headers["webhook-timestamp"]) == (
        ATTEMPT.reference,
        str(int(NOW.timestamp())),
    )
    told = json.loads(body)
    assert (told["type"], told["data"]["amount"], told["data"]["amount_nano"]) == (
        "top_up.requested",
        "50.00",
        "50000000000",
    )
    assert SECRET not in repr(client)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b'{"paid": true}'),
        (402, b'{"paid": false}'),
        (302, b'{"paid": true}'),
        (200, b"paid"),
        (200, b"[]"),
        (200, b'{"paid": "true"}'),
        (200, b'{"paid": 1}'),
        (200, b'{"paid": true, "reference": 5}'),
        (200, b'{"paid": true, "x": "' + b"x" * 70_000 + b'"}'),
    ],
)
async def test_what_is_no_clear_answer_is_none(status: int, body: bytes):
    async def pay(_: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers={"Location": "/pay"})

    async with provider(pay) as client:
        with pytest.raises(StoreUnavailable, match="no clear answer"):
            await client.ask(ATTEMPT)


async def test_a_decline_is_an_answer_and_silence_is_none():
    gate = asyncio.Event()

    async def decline(_: web.Request) -> web.Response:
        return web.json_response({"paid": False})

    async def hang(_: web.Request) -> web.Response:
        await gate.wait()
        return web.Response()

    async with provider(decline) as client:
        assert await client.ask(ATTEMPT) == TopUpAnswer(paid=False)
    async with provider(hang, timeout_seconds=0.2) as client:
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await client.ask(ATTEMPT)
        gate.set()


@pytest.mark.parametrize(
    "url", ["", "pay", "ftp://x", "http://example.com/", "https://u:p@example.com/"]
)
def test_a_payment_is_asked_for_in_safe_places_only(url: str):
    with pytest.raises(ConfigError):
        check_url(url, setting="top_up_url")


@pytest.mark.parametrize("secret", ["", SECRET.removeprefix("whsec_"), "whsec_AAAA", "whsec_%%"])
def test_a_secret_that_signs_nothing_well_is_refused_unseen(secret: str):
    with pytest.raises(ConfigError) as caught:
        read_signing_secret(secret, setting="top_up_secret_file")
    assert not secret or secret not in str(caught.value)
