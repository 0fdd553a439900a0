"""Start everything, tell the story, read the numbers, stop everything."""

import asyncio
import json
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from aiohttp import web

from sidecar.app import Application, read_secret
from sidecar.app.envoy_settings import envoy_options
from sidecar.demo.billing import price_at_stripe, read_billing
from sidecar.demo.gateway import Envoy
from sidecar.demo.numbers import UNSENT, disagreements, read_numbers, read_settled
from sidecar.demo.paying import begin, endpoint_secret, pay_all
from sidecar.demo.screen import Screen
from sidecar.demo.story import CUSTOMERS, Story, Tally
from sidecar.demo.upstream import build_upstream
from sidecar.domain.errors import ConfigError
from sidecar.outbound.admin_api import AdminApi
from sidecar.settings import EnvoyDefaults, Settings
from sidecar.standins.stripe import StripeStandin
from sidecar.standins.stripe_settings import RunningClock

CATCH_UP_SECONDS_MAX = 30.0
REPORTED_METERS = ("input-tokens", "output-tokens")


async def run_demo(*, as_json: bool, keep: bool, upstream: str) -> bool:
    """
    Tell the story once.

    Args:
        as_json: Print one JSON object and nothing else on standard output.
        keep: Go on serving until a signal, so that a person can try things.
        upstream: A real upstream's URL, or "" for the demo's own.

    Returns:
        Whether every number agrees with the others.
    """
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    screen = Screen(quiet=as_json)
    verdict: list[bool] = []
    try:
        await _run(screen, verdict, as_json=as_json, keep=keep, upstream=upstream)
    except asyncio.CancelledError:
        screen.say("\nstopped; every server it started has ended")
    return verdict == [True]


async def _run(
    screen: Screen, verdict: list[bool], *, as_json: bool, keep: bool, upstream: str
) -> None:
    """Tell the story; the verdict gets whether the numbers agree, as soon as that is known."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(_temporary_folder())
        stripe = StripeStandin(clock=RunningClock(), automatic=True)
        stripe_url = await stripe.start()
        stack.push_async_callback(stripe.stop)
        for _, stripe_id in CUSTOMERS.values():
            if stripe_id is not None:
                stripe.add_customer(stripe_id, card="pm_card_visa")
        for meter in REPORTED_METERS:
            stripe.add_meter(meter)
        screen.say("starting Redis, Postgres, Sidecar and Envoy ...")
        endpoint_id, webhook_secret = endpoint_secret(stripe, folder)
        settings = _settings(folder, stripe_url, webhook_secret)
        await price_at_stripe(settings)
        application = await stack.enter_async_context(Application(settings))
        hook = f"http://{application.admin_address}/webhooks/stripe"
        stripe.account.endpoints.update(endpoint_id, {"url": hook})
        upstream_url = upstream or await stack.enter_async_context(_serve_upstream())
        envoy = await stack.enter_async_context(
            Envoy(
                folder,
                lambda listen: envoy_options(
                    settings,
                    EnvoyDefaults(
                        listen=listen, upstream=upstream_url, authz=application.grpc_fast_address
                    ),
                ),
            )
        )
        token_file = application.secrets.admin_token_file
        assert token_file is not None
        admin = await stack.enter_async_context(
            AdminApi(application.admin_address, read_secret(token_file))
        )
        screen.started(application, envoy)
        tally = Tally()
        story = Story(gateway_url=envoy.url, admin=admin, tally=tally)
        await story.prepare()
        overdue = await begin(settings, admin)
        await screen.show(story.tell(), admin)
        await _catch_up(application)
        numbers = await read_numbers(
            application, admin=admin, stripe=stripe, tally=tally, envoy_version=envoy.version
        )
        problems = disagreements(numbers, await read_settled(application))
        billing = await read_billing(application, settings, admin)
        paid = await pay_all(
            application,
            settings,
            admin,
            stripe,
            overdue=overdue,
            due_minor=billing.total_minor,
        )
        problems += (*billing.problems, *paid.problems)
        if as_json:
            print(json.dumps(numbers))
        screen.billing(billing)
        screen.paid(paid)
        screen.summary(numbers, problems, application, envoy, story.keys, keep=keep)
        verdict.append(not problems)
        if keep:
            await asyncio.Event().wait()


def _settings(folder: Path, stripe_url: str, webhook_secret: Path) -> Settings:
    key_file = folder / "stripe-key"
    key_file.touch(mode=0o600)
    key_file.write_text("sk_test_demo\n")
    return Settings(
        grpc_listen="127.0.0.1:0",
        grpc_fast_listen="127.0.0.1:0",
        http_listen="127.0.0.1:0",
        admin_listen="127.0.0.1:0",
        policy_dir=find_policy(),
        data_dir=folder / "data",
        stripe_api_key_file=key_file,
        stripe_base_url=stripe_url,
        stripe_webhook_secret_file=webhook_secret,
        # What is overdue is to bite within the story.
        standing_grace_seconds=0,
        # Generous, because the story must be the same on a machine that is busy otherwise.
        check_timeout_ms=10_000,
        store_timeout_ms=5_000,
        # A period that ends within the story is to be invoiced within it.
        invoice_interval_seconds=0.2,
        log_level="warning",
    )


def find_policy() -> Path:
    """The example policy of the repository. Raises ConfigError if this is not a checkout."""
    folder = Path(__file__).resolve().parents[2] / "config" / "policy"
    if not folder.is_dir():
        raise ConfigError(f"the demo uses the repository's example policy; {folder} is not there")
    return folder


@asynccontextmanager
async def _serve_upstream() -> AsyncIterator[str]:
    runner = web.AppRunner(build_upstream(), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """A folder of the demo's own, removed at the end whatever happens."""
    path = Path(tempfile.mkdtemp(prefix=f"sidecar-demo-{os.getpid()}-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


async def _catch_up(application: Application) -> None:
    """Wait until the workers have settled and reported everything."""
    assert application.control.reports.reporter is not None
    async with asyncio.timeout(CATCH_UP_SECONDS_MAX):
        await application.wait_settled()
        while await application.pool.fetchval(UNSENT):
            await application.control.reports.reporter.report_once(force=True)
            await asyncio.sleep(0.05)
