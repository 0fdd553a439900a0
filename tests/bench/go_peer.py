"""The peer in `peers/go`, built where there is a Go; without one it is not measured."""

import asyncio
import hashlib
import hmac
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
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

from sidecar.services.control_ports import Customer

SOURCE = FOLDER / "peers" / "go"
BUILD_SECONDS = 300.0
HASH_KEY = "key-of-the-peer"
PLENTY = 10**15
"""Of each counter; a Lua number holds it."""
ONE_CORE = {"GOMAXPROCS": "1"}
"""Go may run its code on one core at a time, as Python does."""


class NotBuiltError(Exception):
    """Why there is no peer here."""


async def build(folder: Path) -> Path:
    """
    The peer's program, in this folder.

    Raises:
        NotBuiltError: No Go, or one that is too old or cannot reach the modules.
    """
    program = folder / "go-peer"
    await _go("build", "-trimpath", "-buildvcs=false", "-o", str(program), ".")
    return program


async def versions(program: Path) -> str:
    """What it is made of."""
    words = (await _go("version", "-m", str(program))).split()
    modules = ("google.golang.org/grpc", "github.com/redis/go-redis/v9")
    return ", ".join(
        [words[1], *(f"{name} {words[words.index(name) + 1]}" for name in modules if name in words)]
    )


async def _go(*arguments: str) -> str:
    go = shutil.which("go")
    if go is None:
        raise NotBuiltError("no go here")
    process = await asyncio.create_subprocess_exec(
        *(go, *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=SOURCE,
    )
    try:
        raw, _ = await asyncio.wait_for(process.communicate(), BUILD_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise NotBuiltError(f"go has not ended in {BUILD_SECONDS:.0f} s") from None
    output = raw.decode(errors="replace").strip()
    if process.returncode:
        raise NotBuiltError(f"go cannot build it: {(output.splitlines() or ['no reason'])[-1]}")
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
    program: Path, redis_url: str, *, customers: Sequence[Customer], pipeline: bool
) -> AsyncIterator[Peer]:
    """
    A peer that checks against this Redis, where the customers have plenty of everything.

    Args:
        program: As `build` returned it.
        redis_url: Where the counters are put.
        customers: Their keys are those that a gateway of ours is given.
        pipeline: All calls share go-redis' automatic pipeline; else each takes one of a pool.
    """
    secrets = [secret_of(customer) for customer in customers]
    redis = Redis(redis_url)
    for secret in secrets:
        digest = hmac.new(HASH_KEY.encode(), secret.encode(), hashlib.sha256).hexdigest()
        counters = [
            part for name in ("credit", "month", "day", "requests") for part in (name, PLENTY)
        ]
        await redis.connection.command("HSET", f"peer:{digest}", *counters)
    options = ("-job", "redis", "-redis", redis_url, "-secret", HASH_KEY, f"-pipeline={pipeline}")
    async with running_server(*(str(program), *options), environment=os.environ | ONE_CORE) as (
        address,
        pid,
    ):
        order = {
            "address": address,
            "captures": str(CAPTURES),
            "secrets": secrets,
            "metadata": METADATA,
        }
        async with Worker.run("load_client.py", order) as client:
            yield Peer(pid, client, redis)
    await redis.connection.aclose()
