"""Push on a real Redis: what a change drops, and what a gateway does that no longer hears."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog
from fixtures.live_store import CUSTOMER, LiveStore
from fixtures.use_cases import Grown

from sidecar import telemetry
from sidecar.domain.standing import Standing, StandingFact
from sidecar.outbound.embedded.redis_server import GATEWAY_ACL_RULES
from sidecar.outbound.redis import push as module
from sidecar.outbound.redis.connection import RedisConnection
from sidecar.outbound.redis.directory import RedisDirectory
from sidecar.outbound.redis.keys import PUSH_CHANNEL
from sidecar.outbound.redis.push import PushListener, RedisPolicyNotices
from sidecar.services.control_ports import Credential, Customer

KEY = Credential(credential_id="crd_1", customer_id=CUSTOMER, secret_hash="ab12")
DISTRUSTS = "sidecar_push_distrusts_total"
MESSAGES = "sidecar_push_messages_total"


class Gateway:
    """A directory that hears, over a connection of its own."""

    def __init__(self, store: LiveStore, url: str) -> None:
        self.connection = RedisConnection.from_url(url, timeout_seconds=20.0)
        self.directory = RedisDirectory(self.connection, store.keyspace)
        self.listener = PushListener(self.connection, self.directory)

    async def warm(self) -> None:
        assert await self.directory.find_credential(["ab12"]) is not None
        assert await self.directory.find_credential(["guess"]) is None

    @property
    def remembered(self) -> tuple[int, int]:
        """How many credentials and customers."""
        return len(self.directory._credentials), len(self.directory._customers)


@pytest.fixture(autouse=True)
def quiet_logs() -> Iterator[None]:
    telemetry.setup_logging("error")
    yield
    structlog.reset_defaults()


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[LiveStore]:
    store = await LiveStore.open(redis_url)
    await store.add_customer(granted=100)
    await store.accounts.put_credential(KEY)
    yield store
    await store.connection.aclose()


@asynccontextmanager
async def listening(store: LiveStore, url: str) -> AsyncIterator[Gateway]:
    gateway, stop = Gateway(store, url), asyncio.Event()
    work = asyncio.create_task(gateway.listener.run(stop))
    try:
        await until(lambda: gateway.listener.trusted)
        await gateway.warm()
        assert gateway.remembered == (1, 1)
        yield gateway
    finally:
        stop.set()
        await work
        await gateway.connection.aclose()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  What is watched sets no event.
            await asyncio.sleep(0.005)


async def subscribers(store: LiveStore) -> int:
    return (await store.connection.command("PUBSUB", "NUMSUB", PUSH_CHANNEL))[1]


async def test_a_revocation_drops_the_credential_and_nothing_else(store, redis_url: str):
    async with listening(store, redis_url) as gateway:
        heard, distrusts = Grown(MESSAGES, kind="credential"), Grown(DISTRUSTS)
        await store.accounts.put_credential(replace(KEY, revoked_at=datetime.now(UTC)))
        await until(lambda: gateway.remembered == (0, 1))
        assert await gateway.directory.find_credential(["ab12"]) is None
        assert (heard.by, distrusts.by) == (1, 0)


async def test_a_new_credential_is_known_although_it_was_just_unknown(store, redis_url: str):
    async with listening(store, redis_url) as gateway:
        assert len(gateway.directory._unknown) == 1
        await store.accounts.put_credential(
            replace(KEY, credential_id="crd_2", secret_hash="guess")
        )
        await until(lambda: len(gateway.directory._unknown) == 0)
        assert await gateway.directory.find_credential(["guess"]) is not None


@pytest.mark.parametrize("change", ["plan", "standing", "repeat"])
async def test_a_changed_customer_is_read_anew(store, redis_url: str, change: str):
    async with listening(store, redis_url) as gateway:
        heard = Grown(MESSAGES, kind="customer")
        if change == "standing":
            await store.accounts.put_standing(CUSTOMER, StandingFact(standing=Standing.GRACE))
        else:
            # A repeat changes nothing, but its first attempt may have died before its push.
            plan = "free" if change == "plan" else "prepaid"
            customer = Customer(customer_id=CUSTOMER, plan=plan, currency="USD")
            await store.accounts.put_customer(customer)
        await until(lambda: gateway.remembered == (1, 0))
        assert heard.by == 1
        facts = await gateway.directory.find_credential(["ab12"])
        assert facts.plan == ("free" if change == "plan" else "prepaid")


@pytest.mark.parametrize(
    "message", ["", "{", "[]", '{"kind":"weather"}', '{"kind":"customer","id":5}', "x" * 5_000]
)
async def test_a_message_that_cannot_be_read_may_mean_anything(store, redis_url: str, message: str):
    async with listening(store, redis_url) as gateway:
        distrusts = Grown(DISTRUSTS)
        await store.connection.command("PUBLISH", PUSH_CHANNEL, message)
        await until(lambda: gateway.remembered == (0, 0))
        assert distrusts.by == 1
        assert gateway.listener.trusted


async def test_a_lost_subscription_is_distrusted_and_comes_back(store, redis_url: str):
    async with listening(store, redis_url) as gateway:
        distrusts = Grown(DISTRUSTS)
        await store.connection.command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: distrusts.by == 1)
        assert gateway.remembered == (0, 0)
        await until(lambda: gateway.listener.trusted)
        await gateway.warm()
        await store.accounts.put_credential(replace(KEY, revoked_at=datetime.now(UTC)))
        await until(lambda: gateway.remembered == (0, 1))
        assert distrusts.by == 1


async def test_what_is_read_while_nothing_is_heard_is_dropped_when_the_subscription_stands(
    store, redis_url: str, monkeypatch
):
    monkeypatch.setattr(module, "RECONNECT_SECONDS", 2.0)
    async with listening(store, redis_url) as gateway:
        await store.connection.command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: not gateway.listener.trusted)
        await gateway.warm()
        await store.connection.command("HSET", "sc:cred:ab12", "user_id", "changed unheard")
        await until(lambda: gateway.listener.trusted)
        facts = await gateway.directory.find_credential(["ab12"])
        assert facts.user_id == "changed unheard"


async def test_silence_is_distrusted(store, redis_url: str):
    async with listening(store, redis_url) as gateway:
        distrusts = Grown(DISTRUSTS)
        # The server stops answering; its connection stays open.
        await store.connection.command("CLIENT", "PAUSE", 4_000)
        await until(lambda: distrusts.by == 1)
        assert gateway.remembered == (0, 0)
        assert not gateway.listener.trusted
        await until(lambda: gateway.listener.trusted)
        assert distrusts.by == 1


async def test_a_quiet_channel_stays_trusted(store, redis_url: str):
    async with listening(store, redis_url) as gateway:
        distrusts = Grown(DISTRUSTS)
        await asyncio.sleep(1.6)
        assert gateway.listener.trusted
        assert gateway.remembered == (1, 1)
        assert distrusts.by == 0


async def test_the_subscription_ends_with_its_listener(store, redis_url: str):
    async with listening(store, redis_url):
        assert await subscribers(store) == 1

    async def gone() -> bool:
        return await subscribers(store) == 0

    async with asyncio.timeout(30):
        while not await gone():  # noqa: ASYNC110  Redis sets no event.
            await asyncio.sleep(0.01)


async def test_what_is_read_while_something_is_dropped_is_not_remembered(store, redis_url: str):
    """A read may have seen what was before the change whose push overtook its answer."""
    gateway = Gateway(store, redis_url)
    reads = gateway.connection.commands

    async def overtaken(*batch: object, **options: object) -> list[object]:
        replies = await reads(*batch, **options)
        gateway.directory.drop_credential("ab12")
        gateway.directory.drop_customer(CUSTOMER)
        return replies

    gateway.connection.commands = overtaken
    assert await gateway.directory.find_credential(["ab12"]) is not None
    assert gateway.remembered == (0, 0)
    await gateway.connection.aclose()


async def test_a_gateway_that_may_not_subscribe_says_so_once_and_is_not_trusted(
    store, redis_url: str, redis_socket: Path, capsys
):
    rules = GATEWAY_ACL_RULES.replace("&sc:*", "").split()
    await store.connection.command("ACL", "SETUSER", "deaf", "on", ">pw", *rules)
    gateway, stop = Gateway(store, f"unix://deaf@{redis_socket}?password=pw"), asyncio.Event()
    telemetry.setup_logging("warning")
    work = asyncio.create_task(gateway.listener.run(stop))
    try:
        await asyncio.sleep(0.8)
        assert not gateway.listener.trusted
        await gateway.warm()
    finally:
        stop.set()
        await work
        await gateway.connection.aclose()
        await store.connection.command("ACL", "DELUSER", "deaf")
    told = capsys.readouterr().err
    assert told.count("push_unavailable") == 1
    assert "permission" in told


async def test_a_gateway_may_subscribe_to_our_channel_and_to_no_other(
    store, redis_url: str, redis_socket: Path
):
    rules = GATEWAY_ACL_RULES.split()
    await store.connection.command("ACL", "SETUSER", "gateway", "on", ">pw", *rules)
    try:
        async with listening(store, f"unix://gateway@{redis_socket}?password=pw") as gateway:
            await store.accounts.put_credential(replace(KEY, revoked_at=datetime.now(UTC)))
            await until(lambda: gateway.remembered == (0, 1))
            async with gateway.connection.dedicated() as other:
                await other.send_command("SUBSCRIBE", "other")
                with pytest.raises(Exception, match="permission"):
                    await other.read_response()
    finally:
        await store.connection.command("ACL", "DELUSER", "gateway")


async def test_gateways_hear_that_policy_files_have_changed(store: LiveStore, redis_url: str):
    connection = RedisConnection.from_url(redis_url, timeout_seconds=20.0)
    heard = asyncio.Event()
    directory = RedisDirectory(connection, store.keyspace)
    listener = PushListener(connection, directory, on_policy=heard.set)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks, asyncio.timeout(20):
        tasks.create_task(listener.run(stop))
        while not listener.trusted:  # noqa: ASYNC110  What is watched sets no event.
            await asyncio.sleep(0.01)
        await RedisPolicyNotices(store.connection).tell()
        await heard.wait()
        stop.set()
    await connection.aclose()
