"""What the commands run: serving until a signal, single rounds."""

import asyncio
import signal
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack

from sidecar import telemetry
from sidecar.app.application import Application
from sidecar.app.parts import SystemClock
from sidecar.app.running import with_running_stores
from sidecar.app.supervising import Supervisor
from sidecar.app.worker_channel import publish
from sidecar.app.worker_settings import settings_of_worker
from sidecar.domain.errors import ConfigError
from sidecar.outbound.policy_files.collecting import calm_collector, freeze_start
from sidecar.services.report_ports import Reconciliation
from sidecar.settings import Settings


async def serve_until_signal(settings: Settings) -> None:
    """
    Serve until SIGTERM or SIGINT, then drain; SIGHUP looks at the policy files.

    Raises:
        ConfigError: It cannot start.
    """
    await _serve(Application(settings))


async def supervise(settings: Settings, command: Sequence[str]) -> None:
    """
    Serve by several workers until SIGTERM or SIGINT; SIGHUP has each look at the policy files.

    Args:
        settings: Of the whole.
        command: Starts a worker, once it is told its number and its channel.

    Raises:
        ConfigError: The settings are not for several workers.
    """
    await Supervisor(settings, command).run()


async def serve_as_worker(settings: Settings, number: int, channel: socket.socket) -> None:
    """
    Serve as one of several workers, until a signal or until the supervisor is gone.

    Args:
        settings: Of the whole.
        number: Of this worker, from 0.
        channel: To the supervisor.

    Raises:
        ConfigError: It cannot start.
    """
    application = Application(settings_of_worker(settings, number), is_worker=True)
    await _serve(application, channel)


async def _serve(application: Application, channel: socket.socket | None = None) -> None:
    calm_collector()
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if hasattr(signal, "SIGHUP"):
        # Before the start: until then the signal would end the process.
        loop.add_signal_handler(signal.SIGHUP, application.look_at_policy)
    async with application:
        freeze_start()
        if channel is None:
            await stop.wait()
        else:
            await publish(channel, application.problems, stop)
        telemetry.get_logger().info("sidecar_stopping")


async def settle_once(settings: Settings) -> int:
    """One round of settlement over all shards."""
    async with Application(settings, workers=False) as application:
        return await application.control.settlement.settle_once()


async def rebuild_shards(settings: Settings, shards: Sequence[int], *, force: bool) -> int:
    """
    Make shards of the live store anew from the ledger; returns how many.

    Args:
        settings: As they were read.
        shards: Which; all that lost data if none is named.
        force: Also those that have lost nothing.

    Raises:
        ConfigError: There is no such shard.
        StoreUnavailable: A store is away, or somebody else rebuilds.
    """
    wrong = [shard for shard in shards if not 0 <= shard < settings.shards]
    if wrong:
        raise ConfigError(f"there is no shard {wrong[0]}; there are 0 to {settings.shards - 1}")
    async with Application(with_running_stores(settings), workers=False) as application:
        assert application.recovery.rebuilder is not None
        return await application.recovery.rebuilder.rebuild(shards or None, force=force)


async def report_once(settings: Settings) -> int:
    """Seal and send everything that is settled."""
    async with Application(settings, workers=False) as application:
        reports = application.control.reports
        if reports.reporter is None:
            raise ConfigError("SIDECAR_STRIPE_API_KEY_FILE is not set, so nothing is reported")
        if reports.onboarding is not None:
            # Whoever has no account yet could not be reported.
            await reports.onboarding.run_once()
        return await reports.reporter.report_once(force=True)


async def reconcile_reports(
    settings: Settings, *, customer_id: str, correct: bool
) -> list[Reconciliation]:
    """
    Compare what was reported with what the billing provider has counted.

    Raises:
        ConfigError: There is no key, or a store is not named.
        BudgetSpent, StoreUnavailable: The rest was not compared.
    """
    async with AsyncExitStack() as stack:
        settings = with_running_stores(settings)
        if not settings.postgres_dsn:
            raise ConfigError(
                "SIDECAR_POSTGRES_DSN is not set, and no `sidecar serve` runs an embedded one in "
                "the data directory"
            )
        from sidecar.app.reports import make_report_reconciler  # noqa: PLC0415  Stripe comes along.
        from sidecar.outbound.postgres.pool import open_pool  # noqa: PLC0415  The driver as well.

        pool = await open_pool(settings.postgres_dsn, application_name="sidecar-reports")
        stack.push_async_callback(pool.close)
        reconciler = make_report_reconciler(settings, stack, pool, SystemClock())
        if reconciler is None:
            raise ConfigError("SIDECAR_STRIPE_API_KEY_FILE is not set, so nothing is reported")
        return await reconciler.run_once(customer_id=customer_id, correct=correct)
