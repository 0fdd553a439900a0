"""
Several gateway processes under one: it starts them, replaces what ends, and answers for all.

It does no checks and opens no store, so that a scrape of its metrics never holds up a check.
"""

import asyncio
import signal
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge

from sidecar import telemetry
from sidecar.app.worker_channel import NEWS_BYTES_MAX, News
from sidecar.app.worker_metrics import WorkerMetrics
from sidecar.app.worker_settings import check_workers
from sidecar.inbound.http.listening import serve_plain
from sidecar.inbound.http.system import METRICS_CONTENT_TYPE
from sidecar.settings import Settings

RESTART_SECONDS_MIN: Final = 0.2
RESTART_SECONDS_MAX: Final = 10.0
"""Before a worker that ended is replaced; doubled each time, anew once one has been ready."""
SILENT_SECONDS_MAX: Final = 10.0
"""After which a worker that says nothing counts as not ready."""
_EXTRA_SECONDS: Final = 5.0
"""Beyond the time for draining, before a worker that does not stop is killed."""


class Supervisor:
    """Runs the workers of one gateway."""

    def __init__(self, settings: Settings, command: Sequence[str]) -> None:
        """
        Take the settings; starts nothing yet.

        Args:
            settings: Of the whole; each worker takes its own from them.
            command: Starts a worker once `--number` and `--channel` are added.

        Raises:
            ConfigError: The settings are not for several workers.
        """
        check_workers(settings)
        self._settings = settings
        self._command = tuple(command)
        self._metrics = WorkerMetrics()
        self._news: dict[int, tuple[News, float]] = {}
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._stop = asyncio.Event()
        self._registry = CollectorRegistry()
        self._restarts = Counter(
            "sidecar_worker_restarts_total",
            "Workers that ended and were replaced.",
            registry=self._registry,
        )
        self._ready = Gauge(
            "sidecar_workers_ready", "Workers that are ready.", registry=self._registry
        )

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT; SIGHUP goes on to the workers."""
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._signal_all, signal.SIGHUP)
        async with AsyncExitStack() as stack:
            address = await stack.enter_async_context(
                serve_plain(self._app(), self._settings.supervisor_listen)
            )
            telemetry.get_logger().info(
                "supervisor_started", listen=address, workers=self._settings.workers
            )
            async with asyncio.TaskGroup() as group:
                for number in range(self._settings.workers):
                    group.create_task(self._keep(number))
                await self._stop.wait()
                telemetry.get_logger().info("sidecar_stopping")
                self._signal_all(signal.SIGTERM)

    def problems(self) -> dict[int, tuple[str, ...]]:
        """What keeps workers from being ready, of each that is not."""
        now = asyncio.get_running_loop().time()
        found: dict[int, tuple[str, ...]] = {}
        for number in range(self._settings.workers):
            news = self._news.get(number)
            if news is None or now - news[1] > SILENT_SECONDS_MAX:
                found[number] = ("says nothing",)
            elif news[0].problems:
                found[number] = news[0].problems
        return found

    async def _keep(self, number: int) -> None:
        """Have this worker running until the end."""
        pause = RESTART_SECONDS_MIN
        while not self._stop.is_set():
            was_ready = await self._run_once(number)
            if self._stop.is_set():
                return
            self._restarts.inc()
            pause = RESTART_SECONDS_MIN if was_ready else min(pause * 2, RESTART_SECONDS_MAX)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), pause)

    async def _run_once(self, number: int) -> bool:
        """One life of a worker; whether it was ever ready."""
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                *("--number", str(number), "--channel", str(theirs.fileno())),
                pass_fds=(theirs.fileno(),),
                # A signal of the terminal is for the supervisor, which passes it on.
                start_new_session=True,
            )
        finally:
            theirs.close()
        self._processes[number] = process
        listening = asyncio.create_task(self._listen(number, ours))
        try:
            if self._stop.is_set():
                process.send_signal(signal.SIGTERM)
            code = await self._wait(process)
            was_ready = await listening
        finally:
            listening.cancel()
            del self._processes[number]
            self._news.pop(number, None)
            self._metrics.retire(number)
        if not self._stop.is_set():
            telemetry.get_logger().error("worker_ended", worker=number, code=code)
        return was_ready

    async def _wait(self, process: asyncio.subprocess.Process) -> int:
        """Until it has ended; after a stop, killed once its time to drain is over."""
        ended = asyncio.create_task(process.wait())
        stopped = asyncio.create_task(self._stop.wait())
        await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not ended.done():
            seconds = self._settings.drain_seconds + _EXTRA_SECONDS
            await asyncio.wait({ended}, timeout=seconds)
            if not ended.done():
                process.kill()
        return await ended

    async def _listen(self, number: int, channel: socket.socket) -> bool:
        """Take in what a worker says, until it hangs up."""
        reader, writer = await asyncio.open_connection(sock=channel, limit=NEWS_BYTES_MAX)
        was_ready = False
        try:
            while line := await reader.readline():
                try:
                    news = News.of_line(line)
                except (ValueError, KeyError, TypeError):
                    break  # Cut off: the worker died while it wrote.
                self._news[number] = (news, asyncio.get_running_loop().time())
                self._metrics.take(number, news.metrics)
                was_ready = was_ready or not news.problems
        except (ConnectionError, ValueError) as error:
            telemetry.get_logger().warning("worker_unheard", worker=number, error=str(error))
        finally:
            writer.close()
        return was_ready

    def _signal_all(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                process.send_signal(number)

    def _app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/metrics", self._get_metrics)
        app.router.add_get("/healthz", self._get_health)
        app.router.add_get("/readyz", self._get_ready)
        return app

    async def _get_metrics(self, _: web.Request) -> web.Response:
        self._ready.set(self._settings.workers - len(self.problems()))
        text = await asyncio.to_thread(self._metrics.text, self._registry)
        return web.Response(body=text, headers={"Content-Type": METRICS_CONTENT_TYPE})

    async def _get_health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _get_ready(self, _: web.Request) -> web.Response:
        problems = [
            f"worker {number}: {problem}"
            for number, of_worker in self.problems().items()
            for problem in of_worker
        ]
        if problems:
            return web.json_response({"status": "not_ready", "problems": problems}, status=503)
        return web.json_response({"status": "ready"})
