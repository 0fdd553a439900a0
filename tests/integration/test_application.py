"""One process in its roles: what it starts, what it waits for, what it leaves behind."""

import asyncio
import os
import re
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

import aiohttp
import asyncpg
import pytest
import structlog
from fixtures.redis_fixture import ask_redis
from fixtures.stack import Process
from grpc import aio

from sidecar import telemetry
from sidecar.app import Application, read_secret, report_once, settle_once
from sidecar.app.parts import SystemClock
from sidecar.domain.errors import ConfigError, StoreUnavailable
from sidecar.inbound.grpc.health import HEALTH_PATH
from sidecar.outbound.embedded import find_redis_server
from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.services.control_ports import Grant
from sidecar.services.replaying import recorded_events, replay
from sidecar.settings import Role, Settings, load_settings

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
    pytest.mark.timeout(180),
]

ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 60.0
CHAT = {"method": "POST", "path": "/ai/chat"}


@pytest.fixture(autouse=True)
def quiet_logs() -> Iterator[None]:
    telemetry.setup_logging("error")
    yield
    structlog.reset_defaults()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that servers under another user can reach, with a name of its own in /proc."""
    with tempfile.TemporaryDirectory(prefix="sidecar-app-") as name:
        yield Path(name)


def settings(folder: Path, roles: str = "gateway,settlement,admin", **changes: object) -> Settings:
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
    }
    return load_settings(environment={}, overrides=values | changes)


@pytest.fixture
def external(folder: Path, redis_url: str, postgres_dsn: str) -> dict[str, object]:
    """Settings of a deployment with stores of its own."""
    for name, text in (
        ("keys", "k1:a-secret-key-of-these-tests"),
        ("admin", "admin-token-of-tests"),
        ("gateway", "# who may send usage\ngateway-token-of-tests"),
    ):
        path = folder / name
        path.touch(mode=0o600)
        path.write_text(text + "\n")
    return {
        "redis_url": redis_url,
        "postgres_dsn": postgres_dsn,
        "secret_keys_file": folder / "keys",
        "admin_token_file": folder / "admin",
        "gateway_token_file": folder / "gateway",
    }


def processes_of(folder: Path) -> list[str]:
    """Command lines of the processes that work inside the folder or name it."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            where = str((entry / "cwd").readlink())
            if str(folder) in command or where.startswith(str(folder)):
                found.append(command)
    return found


async def until(probe) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not await probe():  # noqa: ASYNC110  What is watched sets no event.
            await asyncio.sleep(0.02)


class Client:
    """Calls a running application over HTTP."""

    def __init__(self, app: Application, session: aiohttp.ClientSession) -> None:
        self._app = app
        self._session = session

    async def admin(self, method: str, path: str, body: object = None) -> tuple[int, object]:
        token = read_secret(self._app.secrets.admin_token_file)
        return await self._call(self._app.admin_address, method, path, body, token)

    async def gateway(self, method: str, path: str, body: object = None) -> tuple[int, object]:
        token = read_secret(self._app.secrets.gateway_token_file)
        return await self._call(self._app.http_address, method, path, body, token)

    async def _call(self, address: str, method: str, path: str, body: object, token: str):
        headers = {"authorization": f"Bearer {token}"}
        url = f"http://{address}{path}"
        async with self._session.request(method, url, json=body, headers=headers) as response:
            return response.status, await response.json(content_type=None)

    async def ready(self) -> bool:
        address = self._app.http_address or self._app.admin_address
        async with self._session.get(f"http://{address}/readyz") as response:
            return response.status == 200

    async def customer(self, amount: str = "1.00") -> str:
        """A prepaid customer with credit: its API key."""
        body = {"id": "cus_1", "plan": "prepaid", "currency": "USD"}
        assert (await self.admin("POST", "/api/v1/customers", body))[0] == 201
        grant = {"customer_id": "cus_1", "amount": amount, "currency": "USD", "kind": "paid"}
        assert (await self.admin("POST", "/api/v1/grants", grant))[0] == 201
        status, answer = await self.admin("POST", "/api/v1/credentials", {"customer_id": "cus_1"})
        assert status == 201
        return answer["secret"]

    async def use(self, key: str, tokens: int) -> dict[str, object]:
        """One request from check to usage; the usage's result."""
        status, decision = await self.gateway(
            "POST", "/v1/check", CHAT | {"headers": {"x-api-key": key}}
        )
        assert (status, decision["allow"]) == (200, True), decision
        event = {
            "hold_token": decision["hold_token"],
            "model": "gpt-4o-mini",
            "usage": {"input": tokens, "output": 0},
        }
        status, answer = await self.gateway("POST", "/v1/usage", {"events": [event]})
        assert status == 202, answer
        return answer["results"][0]

    async def balance(self) -> dict[str, object]:
        status, answer = await self.admin("GET", "/api/v1/customers/cus_1/balance")
        assert status == 200
        return answer


@asynccontextmanager
async def running(options: Settings, **more: object) -> AsyncIterator[tuple[Application, Client]]:
    async with (
        Application(options, **more) as app,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session,
    ):
        yield app, Client(app, session)


@asynccontextmanager
async def redis_at(path: Path) -> AsyncIterator[None]:
    """A Redis of a test's own on a unix socket."""
    command = [find_redis_server().path, "--port", "0", "--unixsocket", path, "--save", ""]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=path.parent, stdout=asyncio.subprocess.DEVNULL
    )
    try:

        async def answers() -> bool:
            with suppress(OSError):
                return ask_redis(path, b"PING") == b"+PONG"
            return False

        await until(answers)
        yield
    finally:
        process.terminate()
        async with asyncio.timeout(WAIT_SECONDS):
            await process.wait()


async def test_a_gateway_alone_needs_no_postgres_and_leaves_no_process(folder: Path):
    before = asyncio.all_tasks()
    async with running(settings(folder, "gateway")) as (app, client):
        await until(client.ready)
        assert app.admin_address == ""
        assert app.grpc_address.startswith("127.0.0.1:")
        status, decision = await client.gateway("POST", "/v1/check", CHAT)
        assert (status, decision["code"]) == (200, "unidentified")
        assert any("redis" in command for command in processes_of(folder))
        assert not any("postgres" in command for command in processes_of(folder))
        assert not (folder / "data" / "postgres").exists()
    assert processes_of(folder) == []
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_secrets_are_made_once_private_and_kept(folder: Path):
    seen = []
    for _ in range(2):
        async with running(settings(folder, "gateway")):
            seen.append({name: (folder / "data" / name).read_text() for name in SECRETS})
    assert seen[0] == seen[1]
    modes = {(folder / "data" / name).stat().st_mode & 0o777 for name in SECRETS}
    assert (modes, (folder / "data").stat().st_mode & 0o777) == ({0o600}, 0o700)


SECRETS = ("secret-keys", "gateway-token", "admin-token")


async def test_admin_alone_opens_no_listener_for_checks(external: dict[str, object], folder: Path):
    async with running(settings(folder, "admin", **external)) as (app, client):
        await until(client.ready)
        assert app.grpc_address == app.http_address == ""
        await client.customer()
        assert (await client.balance())["available"] == "1.00"
        assert not (folder / "data").exists(), "nothing of our own is started or made"


async def test_settlement_alone_listens_nowhere_and_settles(
    external: dict[str, object], folder: Path
):
    front = settings(folder, "gateway,admin", **external)
    async with (
        running(front) as (_, client),
        running(settings(folder, "settlement", settle_interval_seconds=0.05, **external)) as (
            worker,
            _,
        ),
    ):
        assert worker.grpc_address == worker.http_address == worker.admin_address == ""
        key = await client.customer()
        await client.use(key, 10)
        async with asyncio.timeout(WAIT_SECONDS):
            await worker.wait_settled()
        assert await worker.pool.fetchval("SELECT count(*) FROM usage_events") == 1


async def test_balances_and_keys_survive_a_restart(folder: Path):
    async with running(settings(folder)) as (_, client):
        key = await client.customer()
        assert (await client.use(key, 100))["amount_nano"] == 50_000
        before = await client.balance()
    assert processes_of(folder) == []
    async with running(settings(folder)) as (app, client):
        after = await client.balance()
        assert {**after, "as_of": ""} == {**before, "as_of": ""}
        assert (after["granted_nano"], after["used_nano"]) == (1_000_000_000, 50_000)
        assert (await client.use(key, 100))["outcome"] == "captured"
        async with asyncio.timeout(WAIT_SECONDS):
            await app.wait_settled()
        assert await app.pool.fetchval("SELECT count(*) FROM usage_events") == 2
    assert processes_of(folder) == []


async def test_a_gateway_with_a_data_directory_journals_until_it_is_settled(folder: Path):
    async with running(settings(folder), workers=False) as (app, client):
        key = await client.customer()
        await client.use(key, 100)
        journal = app.journaling.journal
        assert len(journal.newest()) == 1
        (shard,) = journal.newest()
        assert await app.journaling.replay.replay(shard) == {}, "the store has all of it"
    assert (folder / "data" / "journal").stat().st_mode & 0o777 == 0o700
    async with running(settings(folder)) as (app, client):
        journal = app.journaling.journal

        async def forgotten() -> bool:
            return journal.newest() == {}

        await until(forgotten)
        assert await app.pool.fetchval("SELECT count(*) FROM usage_events") == 1
        # What is settled is not written again, and new usage is kept as before.
        await client.use(key, 100)
        await until(forgotten)


@pytest.mark.parametrize("mode", ["auto", "on", "off"])
async def test_a_gateway_with_stores_elsewhere_journals_only_if_told_to(
    external: dict[str, object], folder: Path, mode: str
):
    options = settings(folder, "gateway", journal=mode, **external)
    async with running(options) as (app, _):
        assert (app.journaling.journal is not None) == (mode == "on")
    assert (folder / "data" / "journal").exists() == (mode == "on")
    chosen = settings(folder, "gateway", journal_dir=folder / "j", journal=mode, **external)
    async with running(chosen) as (app, _):
        assert (app.journaling.replay is not None) == (mode != "off")
    assert (folder / "j").exists() == (mode != "off")


async def test_a_process_that_is_no_gateway_has_no_journal(
    external: dict[str, object], folder: Path
):
    options = settings(folder, "settlement", journal_dir=folder / "j", **external)
    async with running(options) as (app, _):
        assert app.journaling.journal is None
    assert not (folder / "j").exists()


async def test_a_second_process_on_the_same_data_is_refused_and_harms_nothing(folder: Path):
    async with running(settings(folder, "gateway")) as (_, client):
        second = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sidecar", "serve", "--roles", "gateway"),
            cwd=ROOT,
            env=environment(folder),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(WAIT_SECONDS):
            out, err = await second.communicate()
        assert (second.returncode, out) == (2, b"")
        assert f"in use by the sidecar with process id {os.getpid()}" in err.decode()
        assert await client.ready()


def environment(folder: Path) -> dict[str, str]:
    kept = {name: text for name, text in os.environ.items() if not name.startswith("SIDECAR_")}
    return kept | {
        "SIDECAR_DATA_DIR": str(folder / "data"),
        "SIDECAR_GRPC_LISTEN": "127.0.0.1:0",
        "SIDECAR_GRPC_FAST_LISTEN": "127.0.0.1:0",
        "SIDECAR_HTTP_LISTEN": f"unix:{folder}/http.sock",
        "SIDECAR_ADMIN_LISTEN": "127.0.0.1:0",
    }


def variables(external: dict[str, object]) -> dict[str, str]:
    return {f"SIDECAR_{name.upper()}": str(value) for name, value in external.items()}


async def test_an_address_in_use_names_the_listener_that_is_on_by_itself(folder: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=r"grpc_fast_listen: .*or `off` to do without"):
            async with running(settings(folder, "gateway", grpc_fast_listen=address)):
                pass


async def test_the_fast_listener_serves_beside_the_other_unless_it_is_off(folder: Path):
    fast = f"unix:{folder}/fast.sock"
    async with running(settings(folder, "gateway", grpc_fast_listen=fast)) as (app, client):
        await until(client.ready)
        assert app.grpc_fast_address == fast
        for address in (app.grpc_address, fast):
            async with aio.insecure_channel(address) as channel:
                raw = await channel.unary_unary(HEALTH_PATH)(b"", timeout=30)
                assert raw == b"\x08\x01"
    assert not (folder / "fast.sock").exists()
    async with running(settings(folder, "gateway", grpc_fast_listen="off")) as (app, _):
        assert (app.grpc_fast_address, bool(app.grpc_address)) == ("", True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_serve_cleanly_with_its_servers(folder: Path, number: signal.Signals):
    process = await Process.start(
        *(sys.executable, "-m", "sidecar", "serve", "--roles", "gateway"),
        log=folder / "log",
        env=environment(folder),
    )
    connector = aiohttp.UnixConnector(str(folder / "http.sock"))
    async with aiohttp.ClientSession("http://localhost", connector=connector) as session:

        async def ready() -> bool:
            assert process.alive, (folder / "log").read_text()
            with suppress(aiohttp.ClientError):
                async with session.get("/readyz") as response:
                    return response.status == 200
            return False

        await until(ready)
    os.kill(process.pid, number)
    async with asyncio.timeout(WAIT_SECONDS):
        await process._process.wait()
    log = (folder / "log").read_text()
    assert process._process.returncode == 0, log
    assert processes_of(folder) == []
    assert not (folder / "http.sock").exists()
    assert [line for line in log.splitlines() if not line.startswith("{")] == []
    assert "sidecar_stopping" in log


async def test_a_store_that_is_away_at_the_start_is_waited_for(
    external: dict[str, object], folder: Path
):
    path = folder / "redis.sock"
    options = settings(folder, "gateway,admin", **external | {"redis_url": f"unix://{path}"})
    async with running(options) as (app, client):
        assert not await client.ready()
        assert any(problem.startswith("redis: ") for problem in await found(app, "redis"))
        assert "policy: not published yet" in app.problems()
        status, decision = await client.gateway("POST", "/v1/check", CHAT)
        assert (status, decision["allow"], decision["code"]) == (200, False, "store_unavailable")
        async with redis_at(path):
            await until(client.ready)
            assert app.problems() == []
            key = await client.customer()
            assert (await client.use(key, 10))["outcome"] == "captured"
        await until(lambda: is_away(app))
        assert not await client.ready()


async def found(app: Application, store: str) -> list[str]:
    async def told() -> bool:
        return any(problem.startswith(f"{store}: ") for problem in app.problems())

    await until(told)
    return app.problems()


async def is_away(app: Application) -> bool:
    return app.problems() != []


async def test_a_database_without_its_schema_is_not_ready_until_it_is_migrated(
    external: dict[str, object], folder: Path, empty_postgres_dsn: str
):
    options = settings(folder, "admin", **external | {"postgres_dsn": empty_postgres_dsn})
    async with running(options) as (app, client):
        assert not await client.ready()

        async def asks_to_migrate() -> bool:
            return any("run `sidecar migrate`" in problem for problem in app.problems())

        await until(asks_to_migrate)
        done = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sidecar", "migrate"),
            cwd=ROOT,
            env=environment(folder) | {"SIDECAR_POSTGRES_DSN": empty_postgres_dsn},
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await done.communicate()
        assert re.match(rb"(applied \w+\n)+$", out)
        await until(client.ready)


async def test_a_store_of_another_number_of_shards_ends_the_start(
    external: dict[str, object], folder: Path
):
    async with running(settings(folder, "gateway", shards=8, **external)):
        pass
    with pytest.raises(ConfigError, match="shards is 64, but this Redis was set up with 8"):
        async with running(settings(folder, "gateway", **external)):
            pass


async def test_a_store_that_comes_back_with_another_number_of_shards_ends_the_process(
    external: dict[str, object], folder: Path
):
    """And nothing was written to it before that was found out."""
    path, elsewhere = folder / "redis.sock", folder / "other.sock"
    options = settings(folder, **external | {"redis_url": f"unix://{path}"})

    async def serve() -> None:
        async with running(options):
            path.symlink_to(elsewhere)
            await asyncio.sleep(WAIT_SECONDS)

    async with redis_at(elsewhere):
        ask_redis(elsewhere, b"HSET sc:meta shards 8")
        with pytest.raises(ConfigError, match="shards is 64, but this Redis was set up with 8"):
            await serve()
        assert ask_redis(elsewhere, b"DBSIZE") == b":1"


async def test_a_start_that_fails_stops_what_it_had_started(folder: Path):
    taken = settings(folder, "gateway,admin", http_listen="unix:/nonexistent/x.sock")
    with pytest.raises((ConfigError, OSError)):
        async with running(taken):
            pass
    assert processes_of(folder) == []


async def test_a_grant_that_the_live_store_refuses_does_not_end_the_process(
    external: dict[str, object], folder: Path
):
    options = settings(folder, sweep_interval_seconds=0.05, **external)
    async with running(options) as (app, client):
        await client.customer(amount="4000000000")
        failed = worker_failures("grants")
        grant = {"customer_id": "cus_1", "amount": "4000000000", "currency": "USD", "kind": "paid"}
        assert (await client.admin("POST", "/api/v1/grants", grant))[0] == 400
        # As is left of what was recorded while the live store was away.
        late = Grant(grant_id="g_1", customer_id="cus_1", amount_nano=4 * 10**18, currency="USD")
        await PostgresAccounts(app.pool).create_grant(late)

        async def refused() -> bool:
            _, found = await client.admin("GET", "/api/v1/grants/g_1?customer_id=cus_1")
            return found["state"] == "refused" and "largest balance" in found["refusal"]

        await until(refused)
        assert worker_failures("grants") == failed + 1
        assert app.problems() == []
        assert (await client.balance())["granted"] == "4000000000.00"


def worker_failures(worker: str) -> float:
    name = "sidecar_worker_failures_total"
    return telemetry.REGISTRY.get_sample_value(name, {"worker": worker}) or 0.0


async def test_decisions_are_kept_listed_and_replay_as_they_were(
    external: dict[str, object], folder: Path
):
    """Through the real scripts: allows with usage, denials for credit, and callers unknown."""
    async with running(settings(folder, **external)) as (app, client):
        await until(client.ready)
        key = await client.customer("0.02")
        await until(lambda: _has_credit(client))
        for number in range(30):
            status, decision = await client.gateway(
                "POST", "/v1/check", CHAT | {"headers": {"x-api-key": key if number % 5 else "?"}}
            )
            assert status == 200
            if decision["allow"] and number % 2:
                event = {
                    "hold_token": decision["hold_token"],
                    "model": "gpt-4o-mini",
                    "usage": {"input": 10, "output": 1},
                }
                await client.gateway("POST", "/v1/usage", {"events": [event]})

        async def all_moved() -> bool:
            _, answer = await client.admin("GET", "/api/v1/decisions?limit=100")
            return len(answer["items"]) >= 30

        await until(all_moved)
        _, listed = await client.admin("GET", "/api/v1/decisions?limit=100")
        assert {item["code"] for item in listed["items"]} >= {"", "unknown_credential"}
        one = listed["items"][0]["id"]
        status, read = await client.admin("GET", f"/api/v1/decisions/{one}")
        assert (status, read["id"]) == (200, one)
        assert key not in str(listed)
        since = SystemClock().now() - timedelta(hours=1)
        events = recorded_events(app.foresight.table, since=since, until=since + timedelta(hours=2))
        report = await replay(app.policies.current(), events)
    assert report.decisions == len(listed["items"])
    assert report.reproduced + report.kept == report.decisions
    assert report.headers_changed == 0
    assert report.reproduced > 20


async def _has_credit(client: Client) -> bool:
    return (await client.balance())["available_nano"] > 0


async def test_settle_once_posts_all_that_is_there_and_says_how_much(
    external: dict[str, object], folder: Path, postgres_dsn: str
):
    async with running(settings(folder, "gateway,admin", **external)) as (_, client):
        key = await client.customer()
        for tokens in (1, 2, 3):
            await client.use(key, tokens)
    options = settings(folder, "settlement", **external)
    assert await settle_once(options) == 4, "a grant and three captures"
    assert await settle_once(options) == 0
    connection = await asyncpg.connect(postgres_dsn)
    try:
        assert await connection.fetchval("SELECT sum(quantity) FROM usage_lines") is not None
    finally:
        await connection.close()


async def test_without_workers_nothing_is_settled_unless_the_caller_does(
    external: dict[str, object], folder: Path
):
    async with running(settings(folder, "gateway,admin", **external)) as (_, client):
        await client.use(await client.customer(), 1)
    options = settings(folder, "settlement", settle_interval_seconds=0.01, **external)
    async with running(options, workers=False) as (app, _):
        await asyncio.sleep(0.5)
        left = [await app.control.stream.read(shard, "0-0", 9) for shard in range(64)]
        assert sum(map(len, left)) == 2
        assert await app.control.settlement.settle_once() == 2


async def test_what_a_command_prints_is_its_answer_and_logs_go_elsewhere(
    external: dict[str, object], folder: Path
):
    done = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sidecar", "settle", "--once"),
        cwd=ROOT,
        env=environment(folder) | variables(external),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await done.communicate()
    assert (done.returncode, out) == (0, b"settled 0 records\n"), err
    assert b"sidecar_started" in err
    assert all(line.startswith(b"{") for line in err.splitlines())


async def test_a_round_says_so_when_a_store_is_away(external: dict[str, object], folder: Path):
    away = external | {"redis_url": f"unix://{folder}/none.sock"}
    with pytest.raises(StoreUnavailable):
        await settle_once(settings(folder, "settlement", **away))


async def test_report_once_without_a_key_is_refused(external: dict[str, object], folder: Path):
    with pytest.raises(ConfigError, match="SIDECAR_STRIPE_API_KEY_FILE is not set"):
        await report_once(settings(folder, "settlement", **external))


async def test_a_plan_of_subscriptions_that_the_policy_lacks_is_found_at_start(
    external: dict[str, object], folder: Path
):
    wrong = {"plans": {"price_1": "gold"}}
    with pytest.raises(ConfigError, match=r"stripe\.plans\.price_1 is 'gold'"):
        async with running(settings(folder, "settlement", stripe=wrong, **external)):
            pass


async def test_doctor_looks_and_changes_nothing(
    external: dict[str, object], folder: Path, redis_socket: Path, redis_url: str
):
    done = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sidecar", "doctor"),
        cwd=ROOT,
        env=environment(folder) | variables(external),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await done.communicate()
    text = out.decode()
    assert done.returncode == 1, "this Redis keeps no append-only file"
    assert "appendonly is off" in text, text + err.decode()
    assert re.search(r"^ok   postgres   schema \w+$", text, re.MULTILINE)
    assert ask_redis(redis_socket, b"DBSIZE") == b":0"
    ask_redis(redis_socket, b"HSET sc:meta shards 8")
    again = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sidecar", "doctor"),
        cwd=ROOT,
        env=environment(folder) | variables(external),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await again.communicate()
    assert b"shards is 64, but this Redis was set up with 8" in out


async def test_roles_are_any_mix(folder: Path, external: dict[str, object]):
    async with running(settings(folder, "gateway,settlement", **external)) as (app, client):
        await until(client.ready)
        assert app.settings.roles == {Role.GATEWAY, Role.SETTLEMENT}
        assert app.admin_address == ""


async def test_a_change_in_one_process_reaches_a_gateway_that_remembers_what_was_before(
    external: dict[str, object], folder: Path
):
    """Denied at the very next check, and forgotten by push."""
    async with (
        running(settings(folder, "admin", **external)) as (_, admin),
        running(settings(folder, "gateway", **external)) as (gateway, client),
    ):

        async def check(key: str) -> object:
            body = CHAT | {"headers": {"x-api-key": key}}
            status, decision = await client.gateway("POST", "/v1/check", body)
            assert status == 200
            return decision["code"] if not decision["allow"] else "allowed"

        async def hears() -> bool:
            return gateway.push.trusted

        async def forgot() -> bool:
            return len(gateway.directory._credentials) == 0

        await until(hears)
        key = await admin.customer()
        assert await check(key) == "allowed"
        _, page = await admin.admin("GET", "/api/v1/credentials?customer_id=cus_1")
        (old_id,) = (item["id"] for item in page["items"])
        path = f"/api/v1/credentials/{old_id}/rotate"
        status, made = await admin.admin("POST", path, {"overlap": "1h"})
        assert status == 201
        assert [await check(one) for one in (key, made["secret"])] == ["allowed", "allowed"]
        status, _ = await admin.admin("PUT", "/api/v1/customers/cus_1", {"plan": "free"})
        assert status == 200
        assert await check(key) == "allowed"
        customer = await gateway.directory.read_customer("cus_1")
        assert customer.plan == "free"
        for one, credential_id in ((key, old_id), (made["secret"], made["id"])):
            revoke = f"/api/v1/credentials/{credential_id}/revoke"
            assert (await admin.admin("POST", revoke))[0] == 200
            assert await check(one) == "unknown_credential"
        await until(forgot)
