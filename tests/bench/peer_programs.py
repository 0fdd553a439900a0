"""The peers in `peers/`, built where there is what builds them; others are not measured."""

import asyncio
import hashlib
import hmac
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.deployment import (
    CAPTURES,
    FOLDER,
    METADATA,
    Redis,
    Worker,
    measured,
    running_server,
    secret_of,
)
from fixtures.stack import REPOSITORY

from sidecar.services.control_ports import Customer

SOURCES = FOLDER / "peers"
BUILD_SECONDS = 290.0
RUST_ASKED = "SIDECAR_BENCH_RUST"
"""The peer in Rust takes minutes to build, and Cargo chooses what it is built of."""
HASH_KEY = "key-of-the-peer"
PLENTY = 10**15
"""Of each counter; a Lua number holds it."""
ONE_CORE = {"GOMAXPROCS": "1"}
"""Go may run its code on one core at a time, as Python does. The peer in Rust has one thread."""

Command = tuple[str, ...]


class NotBuiltError(Exception):
    """Why there is no such peer here."""


@dataclass(slots=True)
class Peers:
    """The peers that could be built, and what they or their absence come from."""

    go: str = ""
    rust: str = ""
    texts: dict[str, str] = field(default_factory=dict)

    @property
    def engines(self) -> dict[str, Command]:
        """Commands of those that do nothing."""
        found: dict[str, Command] = {}
        if self.go:
            found["grpc-go"] = (self.go, "-job", "bytes")
            found["grpc-go, message read"] = (self.go, "-job", "ok")
        if self.rust:
            found["tonic"] = (self.rust, "bytes")
            found["tonic, message read"] = (self.rust, "ok")
        return found

    def checks(self, redis_url: str) -> dict[str, Command]:
        """Commands of those that check in this Redis."""
        found: dict[str, Command] = {}
        if self.go:
            job = (self.go, "-job", "redis", "-redis", redis_url, "-secret", HASH_KEY)
            found["grpc-go, pool"] = job
            found["grpc-go, pipeline"] = (*job, "-pipeline")
        if self.rust:
            found["tonic, one connection"] = (self.rust, "redis", redis_url, HASH_KEY)
        return found


async def build(folder: Path) -> Peers:
    peers = Peers()
    try:
        peers.go = str(await _build_go(folder))
        peers.texts["peer in Go"] = await _versions_of_go(peers.go)
    except NotBuiltError as reason:
        peers.texts["peer in Go"] = f"not measured: {reason}"
    try:
        peers.rust = str(await _build_rust())
        peers.texts["peer in Rust"] = await _run("rustc", "--version", folder=SOURCES / "rust")
    except NotBuiltError as reason:
        peers.texts["peer in Rust"] = f"not measured: {reason}"
    return peers


async def _build_go(folder: Path) -> Path:
    program = folder / "go-peer"
    options = ("-trimpath", "-buildvcs=false", "-o", str(program))
    await _run("go", "build", *options, ".", folder=SOURCES / "go")
    return program


async def _versions_of_go(program: str) -> str:
    words = (await _run("go", "version", "-m", program, folder=SOURCES / "go")).split()
    modules = ("google.golang.org/grpc", "github.com/redis/go-redis/v9")
    return ", ".join(
        [words[1], *(f"{name} {words[words.index(name) + 1]}" for name in modules if name in words)]
    )


async def _build_rust() -> Path:
    if not os.environ.get(RUST_ASKED):
        raise NotBuiltError(f"{RUST_ASKED} is not set")
    # In a copy, since Cargo writes beside the sources what it chose; one that is kept, since it
    # takes minutes.
    source = REPOSITORY / "build" / "rust-peer"
    shutil.copytree(SOURCES / "rust", source, dirs_exist_ok=True)
    await _run("cargo", "build", "--release", folder=source)
    return source / "target" / "release" / "sidecar-bench-peer"


async def _run(tool: str, *arguments: str, folder: Path) -> str:
    """
    What a tool says.

    Raises:
        NotBuiltError: It is not here, fails, or cannot reach what it needs.
    """
    path = shutil.which(tool)
    if path is None:
        raise NotBuiltError(f"no {tool} here")
    process = await asyncio.create_subprocess_exec(
        *(path, *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=folder,
    )
    try:
        raw, _ = await asyncio.wait_for(process.communicate(), BUILD_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise NotBuiltError(f"{tool} has not ended in {BUILD_SECONDS:.0f} s") from None
    output = raw.decode(errors="replace").strip()
    if process.returncode:
        raise NotBuiltError(f"{tool} failed: {(output.splitlines() or ['no reason'])[-1]}")
    return output


@dataclass(frozen=True, slots=True)
class Peer:
    """A running peer, and a client beside it; as `Gateway` for what is measured."""

    pid: int
    client: Worker
    redis: Redis

    async def load(self, **order: Any) -> dict[str, Any]:
        return await measured(self.client, self.pid, self.redis, order)


@asynccontextmanager
async def running_peer(
    command: Command, redis_url: str, *, customers: Sequence[Customer]
) -> AsyncIterator[Peer]:
    """
    A peer that checks against this Redis, where the customers have plenty of everything.

    Args:
        command: One of `Peers.checks`.
        redis_url: Where the counters are put.
        customers: Their keys are those that a gateway of ours is given.
    """
    secrets = [secret_of(customer) for customer in customers]
    redis = Redis(redis_url)
    names = ("credit", "month", "day", "requests")
    for secret in secrets:
        digest = hmac.new(HASH_KEY.encode(), secret.encode(), hashlib.sha256).hexdigest()
        counters = [part for name in names for part in (name, PLENTY)]
        await redis.connection.command("HSET", f"peer:{digest}", *counters)
    async with running_server(*command, environment=os.environ | ONE_CORE) as (address, pid):
        order = {
            "address": address,
            "captures": str(CAPTURES),
            "secrets": secrets,
            "metadata": METADATA,
        }
        async with Worker.run("load_client.py", order) as client:
            yield Peer(pid, client, redis)
    await redis.connection.aclose()
