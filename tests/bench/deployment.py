"""What is measured, in processes of its own: `sidecar serve` as a gateway, and who drives it."""

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp
from fixtures.live_store import open_shards
from fixtures.stack import REPOSITORY, Process, free_port

from sidecar.outbound.embedded import read_key_file
from sidecar.outbound.keyed_hashes import KeyedDigests, KeyRing
from sidecar.outbound.redis.accounts import RedisLiveAccounts
from sidecar.outbound.redis.connection import RedisConnection, fix_shards
from sidecar.outbound.redis.keys import Keyspace
from sidecar.services.control_ports import Credential, Customer, Grant

FOLDER = Path(__file__).parent
CAPTURES = FOLDER.parent / "data" / "envoy" / "captures"
LINE_BYTES_MAX = 4 * 1024 * 1024
START_SECONDS = 60.0
POLL_SECONDS = 0.01
MEMORY_TARGET = "120 MB (114 MiB)"
"""Of a gateway, with 100,000 customers known."""
ACCOUNTS_AT_A_TIME = 100
CREDIT_NANO = 10**18
TICKS = os.sysconf("SC_CLK_TCK")
SHARDS = 64
GATEWAY_TOKEN = "gateway-token-of-the-bench"
METADATA = {"x-sidecar-token": GATEWAY_TOKEN, "x-sidecar-gateway": "gateway-1"}
# What the process does beside the checks: set-up, rate cards, its heartbeat, decisions it keeps.
BACKGROUND = re.compile(
    r"PING|SCRIPT |HSETNX sc:meta|H(GET|EXISTS) sc:meta|SET sc:card:|XADD sc:\{s\d+\}:decisions"
)
_MONITORED = re.compile(rb'\+[\d.]+ \[\d+ (\S+)\] "([^"]*)"(?: "([^"]*)")?')


def processor_seconds(pid: int) -> float:
    """What all threads of a process have used of the processors, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident_mib(pid: int) -> float:
    """Memory of a process that is in RAM."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1_024


class Redis:
    """A look at the server from outside of what is measured."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.connection = RedisConnection.from_url(url, timeout_seconds=60.0)

    async def info(self, section: str) -> dict[str, str]:
        raw = await self.connection.command("INFO", section)
        return dict(line.split(":", 1) for line in raw.decode().splitlines() if ":" in line)

    async def processor_seconds(self) -> float:
        cpu = await self.info("cpu")
        return float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"])

    async def command_calls(self, name: str) -> int:
        """How often the server ran a command, from clients and from scripts."""
        stats = await self.info("commandstats")
        found = re.match(r"calls=(\d+)", stats.get(f"cmdstat_{name}", ""))
        return int(found[1]) if found else 0

    async def usage_records(self) -> int:
        """Records on all streams of usage, the customers' grants among them."""
        keyspace = Keyspace(SHARDS)
        lengths = await self.connection.commands(
            [("XLEN", keyspace.usage(shard)) for shard in range(SHARDS)]
        )
        return sum(int(length) for length in lengths)

    async def commands_during(self, work: Awaitable[Any]) -> list[str]:
        """
        Every command that clients sent while the work was done, with its first argument.

        What scripts call inside the server is left out: it costs no round trip.
        """
        socket = unquote(urlsplit(self.url).path)
        reader, writer = await asyncio.open_unix_connection(socket, limit=LINE_BYTES_MAX)
        writer.write(b"MONITOR\r\n")
        assert await reader.readline() == b"+OK\r\n"
        reading = asyncio.ensure_future(_read_commands(reader))
        await work
        await self.connection.command("ECHO", "the-work-is-done")
        commands = await reading
        writer.close()
        return commands


async def _read_commands(reader: asyncio.StreamReader) -> list[str]:
    commands = []
    while True:
        line = await reader.readline()
        found = _MONITORED.match(line)
        assert found is not None, line[:200]
        client, name, first = (part.decode() for part in (found[1], found[2], found[3] or b""))
        if name == "ECHO":
            return commands
        if client != "lua":
            commands.append(f"{name.upper()} {first}")


class Worker:
    """A script of this folder that answers each line (JSON) with a line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    @asynccontextmanager
    async def run(cls, script: str, order: dict[str, Any]) -> AsyncIterator["Worker"]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(FOLDER / script)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=REPOSITORY,
            limit=LINE_BYTES_MAX,
        )
        try:
            worker = cls(process)
            await worker.ask(order)
            yield worker
            assert process.stdin is not None
            process.stdin.close()
            await asyncio.wait_for(process.wait(), START_SECONDS)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        line = await self._process.stdout.readline()
        assert line, f"the worker ended; asked was {order}"
        answer = json.loads(line)
        assert isinstance(answer, dict)
        return answer


@asynccontextmanager
async def running_server(
    *command: str, environment: dict[str, str] | None = None
) -> AsyncIterator[tuple[str, int]]:
    """Address and pid of a program that says where it serves, and does so until its input ends."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=REPOSITORY,
        env=environment,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield (await process.stdout.readline()).decode().strip(), process.pid
    finally:
        process.stdin.close()
        await process.wait()


def python_script(name: str, *arguments: str) -> tuple[str, ...]:
    """The command that runs a script of this folder."""
    return sys.executable, str(FOLDER / name), *arguments


async def measured(client: Worker, pid: int, redis: Redis, order: dict[str, Any]) -> dict[str, Any]:
    """One run: the client's numbers, and the processor time of who served it and of Redis."""
    own, stored = processor_seconds(pid), await redis.processor_seconds()
    result = await client.ask(order)
    return result | {
        "cpu_seconds": processor_seconds(pid) - own,
        "redis_seconds": await redis.processor_seconds() - stored,
    }


@dataclass(slots=True)
class Gateway:
    """`sidecar serve --roles gateway` with the shipped policy, and a client beside it."""

    process: Process
    client: Worker
    redis: Redis
    log: Path
    address: str
    """Of the listener that is measured."""
    http: str
    environment: dict[str, str]
    ready_seconds: float
    """From its begin until /readyz answered 200."""
    ready_cpu_seconds: float

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{self.http}/metrics") as response,
        ):
            lines = (await response.text()).splitlines()
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith((f"{name}{{", f"{name} ")) and all(part in line for part in wanted)
        )

    async def load(self, **order: Any) -> dict[str, float]:
        return await measured(self.client, self.process.pid, self.redis, order)


@asynccontextmanager
async def running_gateway(
    folder: Path,
    redis_url: str,
    *,
    customers: Sequence[Customer],
    listen_setting: str = "SIDECAR_GRPC_LISTEN",
    settings: dict[str, str] | None = None,
    python_options: Sequence[str] = (),
    shards: int = SHARDS,
) -> AsyncIterator[Gateway]:
    """
    Start a gateway whose customers have credit and a key each, and a client with these keys.

    Args:
        folder: For its files; made if it is not there.
        redis_url: Where it keeps its holds.
        customers: Who pays; the client sends as each of them in turn.
        listen_setting: Names the listener that is measured.
        settings: On top of the defaults.
        python_options: Before `-m sidecar`.
        shards: Fixed in this Redis.
    """
    folder.mkdir(parents=True, exist_ok=True)
    address, http = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    environment = _environment(folder) | {
        "SIDECAR_REDIS_URL": redis_url,
        "SIDECAR_SHARDS": str(shards),
        "SIDECAR_HTTP_LISTEN": http,
        listen_setting: address,
        **(settings or {}),
    }
    redis = Redis(redis_url)
    secrets = await _open_accounts(
        redis, shards, KeyRing(read_key_file(folder / "keys")), customers
    )
    began = time.perf_counter()
    process = await Process.start(
        *(sys.executable, *python_options, "-m", "sidecar", "serve"),
        log=folder / "gateway.log",
        env=environment,
    )
    try:
        await until_ready(process, http)
        ready, used = time.perf_counter() - began, processor_seconds(process.pid)
        order = {
            "address": address,
            "captures": str(CAPTURES),
            "secrets": secrets,
            "metadata": METADATA,
        }
        async with Worker.run("load_client.py", order) as client:
            yield Gateway(
                process=process,
                client=client,
                redis=redis,
                log=process.log,
                address=address,
                http=http,
                environment=environment,
                ready_seconds=ready,
                ready_cpu_seconds=used,
            )
    finally:
        await process.stop()
        await redis.connection.aclose()


def _environment(folder: Path) -> dict[str, str]:
    """Of a gateway whose secrets are in this folder, which is written."""
    for name, text in {"keys": "k1:key-of-the-bench", "gateway-token": GATEWAY_TOKEN}.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(text + "\n")
    inherited = {name: v for name, v in os.environ.items() if not name.startswith("SIDECAR_")}
    return inherited | {
        "SIDECAR_ROLES": "gateway",
        "SIDECAR_GRPC_LISTEN": "127.0.0.1:0",
        "SIDECAR_GRPC_FAST_LISTEN": "off",
        "SIDECAR_POLICY_DIR": str(REPOSITORY / "config" / "policy"),
        "SIDECAR_SECRET_KEYS_FILE": str(folder / "keys"),
        "SIDECAR_GATEWAY_TOKEN_FILE": str(folder / "gateway-token"),
        "SIDECAR_LOG_LEVEL": "error",
    }


def secret_of(customer: Customer) -> str:
    return f"sk_{customer.customer_id}_of_the_bench"


def asked_over_http(secret: str) -> dict[str, Any]:
    """What /v1/check is posted for a priced request with this key."""
    return {
        "method": "POST",
        "path": "/v1/chat/completions",
        "host": "api.example.com",
        "headers": {"authorization": f"Bearer {secret}", "content-type": "application/json"},
        "body": json.dumps({"model": "gpt-4o-mini", "max_tokens": 50, "messages": []}),
    }


async def checked_over_http(address: str, asked: dict[str, Any]) -> dict[str, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://{address}/v1/check", json=asked) as response,
    ):
        answer = await response.json()
        assert isinstance(answer, dict)
        return answer


async def _open_accounts(
    redis: Redis, shards: int, ring: KeyRing, customers: Sequence[Customer]
) -> list[str]:
    keyspace = await fix_shards(redis.connection, shards)
    await open_shards(redis.connection, keyspace)
    accounts, digests = RedisLiveAccounts(redis.connection, keyspace), KeyedDigests(ring)

    async def open_account(customer: Customer) -> None:
        name = customer.customer_id
        await accounts.put_customer(customer)
        await accounts.put_credential(
            Credential(
                credential_id=f"crd_{name}",
                customer_id=name,
                secret_hash=digests.credential_hashes(secret_of(customer))[0],
            )
        )
        await accounts.apply_grant(
            Grant(
                grant_id=f"g_{name}",
                customer_id=name,
                amount_nano=CREDIT_NANO,
                currency=customer.currency,
            )
        )

    for first in range(0, len(customers), ACCOUNTS_AT_A_TIME):
        some = customers[first : first + ACCOUNTS_AT_A_TIME]
        await asyncio.gather(*map(open_account, some))
    return [secret_of(customer) for customer in customers]


async def until_ready(process: Process, http: str) -> None:
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    async with aiohttp.ClientSession() as session:
        while True:
            assert process.alive, process.log.read_text()[-2_000:]
            assert asyncio.get_running_loop().time() < deadline, "the gateway is not ready"
            try:
                async with session.get(f"http://{http}/readyz") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(POLL_SECONDS)
