import asyncio
import json
import os
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import pytest
import redis.asyncio
from redis.exceptions import NoPermissionError

import sidecar
from sidecar.domain.errors import ConfigError, StoreUnavailable
from sidecar.outbound.embedded import (
    EmbeddedRedis,
    PostgresBinaries,
    find_postgres_binaries,
)
from sidecar.outbound.embedded.directories import (
    is_readable,
    unprivileged_account,
)
from sidecar.outbound.embedded.postgres_data import remove_stale_pid_file
from sidecar.outbound.embedded.postgres_server import EmbeddedPostgres

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="about what root may do")

# Starts both servers, adds one to a number in each, tells what it knows, waits for stdin's end.
SCRIPT = """
import asyncio, json, os, sys
from pathlib import Path
import asyncpg
from sidecar.outbound.embedded import EmbeddedRedis, default_data_dir
from sidecar.outbound.embedded.postgres_server import EmbeddedPostgres

async def main():
    data_dir = Path(sys.argv[1]) if sys.argv[1] else default_data_dir()
    redis_server, postgres = EmbeddedRedis(data_dir), EmbeddedPostgres(data_dir)
    async with redis_server as url, postgres as dsn:
        # Spelled out: redis-py asks more of a Python that may not be the one under test.
        reader, writer = await asyncio.open_unix_connection(url.removeprefix("unix://"))
        writer.write(b"INCR number\\r\\n")
        number = int((await reader.readline())[1:])
        writer.close()
        connection = await asyncpg.connect(dsn)
        await connection.execute("CREATE TABLE IF NOT EXISTS marks (mark int)")
        await connection.execute("INSERT INTO marks VALUES (1)")
        marks = await connection.fetchval("SELECT count(*) FROM marks")
        await connection.close()
        print(json.dumps({
            "pids": [redis_server.pid, postgres.pid], "number": number, "marks": marks,
            "data_dir": str(data_dir), "user": os.geteuid(),
        }), flush=True)
        await asyncio.to_thread(sys.stdin.read)

if sys.argv[2] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory with a short path that every user may enter, as /var/lib is."""
    path = Path(tempfile.mkdtemp(prefix="embedded-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(params=["open", "closed"])
def data_dir(request, home: Path) -> Path:
    """A data directory that the server's user can walk to, and one that only its owner can."""
    (home / "parent").mkdir(mode=0o755 if request.param == "open" else 0o700)
    return home / "parent" / "data"


def processes_of(data_dir: Path) -> list[int]:
    """The processes whose current directory lies below the data directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if (entry / "cwd").readlink().is_relative_to(data_dir):
                    found.append(int(entry.name))
    return found


async def leftovers(data_dir: Path) -> list[int]:
    """What is still there after servers had 20 s to end."""
    for _ in range(400):
        if not processes_of(data_dir):
            break
        await asyncio.sleep(0.05)
    return processes_of(data_dir)


@asynccontextmanager
async def other_sidecar(
    data_dir: Path | str, loop: str = "asyncio", **options
) -> AsyncIterator[tuple[asyncio.subprocess.Process, dict]]:
    python = options.pop("python", sys.executable)
    process = await asyncio.create_subprocess_exec(
        *(python, "-c", SCRIPT, str(data_dir), loop),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        **options,
    )
    try:
        line = await process.stdout.readline()
        assert line, "it ended instead of starting its servers"
        yield process, json.loads(line)
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(30):
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def count_up(data_dir: Path) -> tuple[int, int]:
    """Start both servers, count as SCRIPT does, stop them."""
    async with other_sidecar(data_dir) as (_, told):
        return told["number"], told["marks"]


def fake_server(path: Path, version: str, body: str) -> str:
    path.write_text(
        "#!/bin/sh\n"
        f'if [ "$1" = --version ]; then echo "Redis server v={version} sha=0"; exit; fi\n'
        f"{body}\n"
    )
    path.chmod(0o755)
    return str(path)


async def test_servers_keep_their_data_and_leave_nothing_else(
    monkeypatch, home: Path, data_dir: Path
) -> None:
    temporary = home / "tmp"
    temporary.mkdir()
    temporary.chmod(0o755)
    monkeypatch.setenv("TMPDIR", str(temporary))
    mode = stat.S_IMODE(data_dir.parent.stat().st_mode)
    async with other_sidecar(data_dir) as (_, told):
        assert (told["number"], told["marks"]) == (1, 1)
        assert len(list(temporary.iterdir())) == (1 if IS_ROOT and mode == 0o700 else 0)
    assert processes_of(data_dir) == []
    assert not list(data_dir.glob("*/run/*"))
    assert list(temporary.iterdir()) == []
    assert stat.S_IMODE(data_dir.parent.stat().st_mode) == mode
    # A directory may turn from one kind of place into the other.
    data_dir.parent.chmod(0o711 if mode == 0o700 else 0o700)
    assert await count_up(data_dir) == (2, 2)


async def test_only_the_owner_reaches_sockets_and_secrets(data_dir: Path) -> None:
    os.environ["SIDECAR_TEST_MARK"] = "seen"
    try:
        redis_server, postgres = EmbeddedRedis(data_dir), EmbeddedPostgres(data_dir)
        async with redis_server as url, postgres as dsn:
            sockets = [Path(url.removeprefix("unix://")), Path(dsn.split("host=")[1].split("&")[0])]
            for folder in (sockets[0].parent, sockets[1]):
                assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            for file in ("gateway-password", "users.acl", "redis.conf", "server.log"):
                assert stat.S_IMODE((data_dir / "redis" / file).stat().st_mode) == 0o600
            for pid in (redis_server.pid, postgres.pid):
                assert b"SIDECAR_TEST_MARK" not in Path(f"/proc/{pid}/environ").read_bytes()
                assert b"\0:" not in Path(f"/proc/{pid}/net/tcp").read_bytes()
            assert Path(f"/proc/{postgres.pid}").stat().st_uid != 0
            connection = await asyncpg.connect(dsn)
            settings = [
                await connection.fetchval(f"SHOW {name}")
                for name in ("fsync", "synchronous_commit", "listen_addresses", "timezone")
            ]
            await connection.close()
            assert settings == ["on", "on", "", "UTC"]
    finally:
        del os.environ["SIDECAR_TEST_MARK"]


async def test_redis_is_durable_and_its_gateway_user_is_limited(home: Path) -> None:
    server = EmbeddedRedis(home / "data", acl_lines=["user reader on nopass ~* +get"])
    async with server as url:
        async with redis.asyncio.Redis.from_url(url) as admin:
            for name, value in {
                "appendonly": "yes",
                "appendfsync": "everysec",
                "maxmemory-policy": "noeviction",
                "save": "",
                "port": "0",
            }.items():
                assert await admin.config_get(name) == {name: value}
            assert await admin.execute_command("ACL", "USERS") == [
                b"default",
                b"gateway",
                b"reader",
            ]
            await admin.set("other", 1)
        async with redis.asyncio.Redis.from_url(server.gateway_url) as gateway:
            assert await gateway.eval("return redis.call('INCR', KEYS[1])", 1, "sc:{s01}:n") == 1
            assert await gateway.script_exists(await gateway.script_load("return 1")) == [True]
            assert await gateway.publish("sc:news", "x") == 0
            assert await gateway.info("server")
            for command in (
                *("FLUSHALL", "FLUSHDB", "KEYS *", "CONFIG GET *", "SCRIPT FLUSH", "ACL LIST"),
                *("GET other", "PUBLISH other x", "SHUTDOWN", "CLIENT KILL a:1", "SWAPDB 0 1"),
            ):
                with pytest.raises(NoPermissionError):
                    await gateway.execute_command(*command.split())


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_killed_sidecar_leaves_no_process_and_no_loss(data_dir: Path, loop: str) -> None:
    async with other_sidecar(data_dir, loop) as (process, told):
        assert set(told["pids"]) <= set(processes_of(data_dir))
        process.kill()
        await process.wait()
        # At once, while the servers may still be ending: the start has to wait for them.
        assert await count_up(data_dir) == (2, 2)
    assert await leftovers(data_dir) == []


async def test_a_server_that_outlives_its_sidecar_keeps_the_data_locked(
    monkeypatch, home: Path
) -> None:
    monkeypatch.setattr("sidecar.outbound.embedded.directory_lock.LEFTOVER_SECONDS_MAX", 0.3)
    data_dir = home / "data"
    async with other_sidecar(data_dir) as (process, told):
        os.kill(told["pids"][0], signal.SIGSTOP)  # It cannot heed the signal to end.
        process.kill()
        await process.wait()
        try:
            with pytest.raises(ConfigError, match="outlived its sidecar"):
                await EmbeddedRedis(data_dir).__aenter__()
        finally:
            os.kill(told["pids"][0], signal.SIGCONT)
    assert await leftovers(data_dir) == []
    assert await count_up(data_dir) == (2, 2)


async def test_a_kill_of_sidecar_and_both_servers_is_recovered_from(data_dir: Path) -> None:
    async with other_sidecar(data_dir) as (process, told):
        for pid in (process.pid, *told["pids"]):
            os.kill(pid, signal.SIGKILL)
        await process.wait()
        assert await leftovers(data_dir) == []
    assert await count_up(data_dir) == (2, 2)
    assert not (data_dir / "postgres" / "short-directory").exists()


async def test_a_second_sidecar_on_the_same_data_is_refused_by_pid(data_dir: Path) -> None:
    async with other_sidecar(data_dir) as (process, told):
        for server in (EmbeddedRedis(data_dir), EmbeddedPostgres(data_dir)):
            with pytest.raises(ConfigError, match=f"in use by .* process id {process.pid}"):
                await server.__aenter__()
        assert set(told["pids"]) <= set(processes_of(data_dir))
    async with EmbeddedRedis(data_dir):
        with pytest.raises(ConfigError, match=f"process id {os.getpid()}"):
            await EmbeddedRedis(data_dir).__aenter__()


async def test_a_long_path_gets_a_short_socket(home: Path) -> None:
    data_dir = home / ("long" * 30) / "data"
    redis_server, postgres = EmbeddedRedis(data_dir), EmbeddedPostgres(data_dir)
    async with redis_server as url, postgres as dsn:
        assert len(url) < 107
        assert str(home) not in url + dsn
    assert await count_up(data_dir) == (1, 1)


async def test_data_of_another_postgres_version_is_refused(data_dir: Path) -> None:
    await count_up(data_dir)
    (version := data_dir / "postgres" / "data" / "PG_VERSION").write_text("13\n")
    with pytest.raises(ConfigError, match=r"made by Postgres 13; .* carries 16.*pg_dump"):
        await EmbeddedPostgres(data_dir).__aenter__()
    version.unlink()
    with pytest.raises(ConfigError, match="no Postgres data directory"):
        await EmbeddedPostgres(data_dir).__aenter__()


async def test_an_unfinished_initdb_is_begun_anew(data_dir: Path) -> None:
    draft = data_dir / "postgres" / "data.new"
    draft.mkdir(parents=True)
    (draft / "PG_VERSION").write_text("16\n")
    async with EmbeddedPostgres(data_dir):
        assert not draft.exists()


async def test_a_server_that_ends_at_once_is_reported_with_its_log(home: Path) -> None:
    fails = fake_server(home / "fails", "7.0.0", "echo 'Fatal: the moon is full'; exit 3")
    with pytest.raises(ConfigError, match=r"Redis ended with 3(.|\n)*the moon is full"):
        await EmbeddedRedis(home / "data", fails).__aenter__()
    assert await count_up(home / "data") == (1, 1)


async def test_a_server_that_never_answers_is_given_up_and_ended(home: Path) -> None:
    hangs = fake_server(home / "hangs", "7.0.0", "echo 'counting sheep'; exec sleep 600")
    with pytest.raises(StoreUnavailable, match=r"not ready after 0.5 s(.|\n)*counting sheep"):
        await EmbeddedRedis(home / "data", hangs, start_seconds=0.5).__aenter__()
    assert processes_of(home) == []


async def test_a_cancelled_start_leaves_no_process(home: Path) -> None:
    hangs = fake_server(home / "hangs", "7.0.0", "exec sleep 600")
    start = asyncio.create_task(EmbeddedRedis(home / "data", hangs).__aenter__())
    for _ in range(1_000):
        if processes_of(home):
            break
        await asyncio.sleep(0.01)
    assert processes_of(home) != []
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert processes_of(home) == []


async def test_a_server_that_dies_in_use_is_noticed(home: Path) -> None:
    server = EmbeddedRedis(home / "data")
    async with server:
        os.kill(server.pid, signal.SIGKILL)
        assert "Redis ended by SIGKILL" in await server.wait_ended()


async def test_the_lock_file_of_a_living_postgres_is_left_alone(home: Path) -> None:
    data = home / "data" / "postgres" / "data"
    async with EmbeddedPostgres(home / "data"):
        remove_stale_pid_file(data / "postmaster.pid", data)
        assert (data / "postmaster.pid").exists()


@needs_root
async def test_programs_in_a_closed_directory_are_copied(data_dir: Path, home: Path) -> None:
    wheel = find_postgres_binaries()
    package = wheel.bin_dir.parent.parent
    closed = home / "root-only"
    closed.mkdir(mode=0o700)
    shutil.copytree(package, closed / package.name, ignore=shutil.ignore_patterns("pginstall18"))
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, closed / libraries.name)
    shutil.rmtree(closed / package.name / "pginstall" / "include")
    bin_dir = closed / package.name / "pginstall" / "bin"
    binaries = PostgresBinaries(bin_dir=bin_dir, version=wheel.version)
    account = unprivileged_account("nobody")
    for _ in range(2):
        async with EmbeddedPostgres(data_dir, account="nobody", binaries=binaries) as dsn:
            await (await asyncpg.connect(dsn)).close()
            assert (data_dir / "postgres" / "data").stat().st_uid == account.uid
    assert not is_readable(bin_dir / "postgres", account)
    assert closed.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_an_ordinary_user_runs_both_in_the_home_directory(home: Path, loop: str) -> None:
    options = {"env": {"HOME": str(home), "PYTHONPATH": os.pathsep.join(packages())}}
    if IS_ROOT:
        account = unprivileged_account("nobody")
        os.chown(home, account.uid, account.gid)
        options |= {"user": account.uid, "group": account.gid, "extra_groups": []}
        options["python"] = python_for(account)
    async with other_sidecar("", loop, cwd="/", **options) as (process, told):
        data_dir = home / ".local" / "state" / "sidecar"
        assert told["data_dir"] == str(data_dir)
        assert told["user"] == home.stat().st_uid != 0
        assert {Path(f"/proc/{pid}").stat().st_uid for pid in told["pids"]} == {told["user"]}
        assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
        process.kill()
        await process.wait()
    assert await leftovers(data_dir) == []
    async with other_sidecar("", loop, cwd="/", **options) as (_, told):
        assert (told["number"], told["marks"]) == (2, 2)


def packages() -> list[str]:
    return [str(Path(module.__file__).parent.parent) for module in (sidecar, asyncpg)]


def python_for(account) -> str:
    """A Python of our version that the account can run; ours may lie in root's home."""
    for directory in (Path(sys.executable).parent, Path("/usr/bin"), Path("/usr/local/bin")):
        python = directory / f"python3.{sys.version_info.minor}"
        if python.exists() and is_readable(python.resolve(), account):
            return str(python)
    pytest.skip(f"no Python 3.{sys.version_info.minor} that {account.name} can run")
    raise AssertionError
