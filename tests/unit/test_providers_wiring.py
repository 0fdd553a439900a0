"""Which providers a process makes of its settings, and which settings it refuses."""

import base64
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from sidecar.app.parts import SystemClock
from sidecar.app.providers import make_providers
from sidecar.domain.errors import ConfigError
from sidecar.outbound.postgres.pool import open_pool
from sidecar.outbound.webhook_provider import WebhookProvider
from sidecar.settings import Role, Settings

SIGNING = "whsec_" + base64.b64encode(bytes(range(32))).decode()
HOOK = {"webhook_provider_url": "https://billing.example.com/in?token=hush"}


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


async def made(stack: AsyncExitStack, **given: Any):
    pool = await open_pool("postgresql://nobody@/none?host=/nowhere")  # Opened at the first use.
    stack.push_async_callback(pool.close)
    settings = Settings(**given)
    return make_providers(
        settings, stack, accounts=None, clock=SystemClock(), pool=pool, shard_of=lambda _: 0
    )


async def test_what_is_not_configured_is_not_there(tmp_path: Path):
    async with AsyncExitStack() as stack:
        found = await made(stack)
    assert (found.workers, found.reporter) == ({}, None)


async def test_settlement_collects_and_the_admin_role_holds_no_providers_key(tmp_path: Path):
    given = HOOK | {
        "paystack_secret_file": written(tmp_path, "paystack", "sk_test_x"),
        "stripe_api_key_file": written(tmp_path, "stripe", "sk_test_y"),
        "webhook_provider_secret_file": written(tmp_path, "hook", SIGNING),
        "report_to": "webhook",
    }
    async with AsyncExitStack() as stack:
        settles = await made(stack, roles=frozenset({Role.SETTLEMENT}), **given)
        tells = await made(stack, roles=frozenset({Role.ADMIN}), **given)
    (run,) = settles.workers.values()
    collectors = run.__self__._collectors
    assert sorted(collectors) == ["paystack", "stripe", "webhook"]
    assert isinstance(settles.reporter, WebhookProvider)
    assert "hush" not in repr(settles.reporter) + repr(Settings(**given))
    assert (tells.workers, tells.reporter) == ({}, None)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (HOOK, "webhook_provider_secret_file"),
        ({"report_to": "webhook"}, "needs webhook_provider_url"),
        (HOOK | {"webhook_provider_secret_file": "whsec_short"}, "24 to 64 octets"),
        (
            {"webhook_provider_url": "http://far.example.com"}
            | {"webhook_provider_secret_file": SIGNING},
            "must be https",
        ),
        ({"paystack_secret_file": "pk_test_public"}, "begin with sk_"),
        (
            {"paystack_secret_file": "sk_test_x", "paystack_base_url": "http://far.example.com"},
            "paystack_base_url must be https",
        ),
    ],
)
async def test_settings_that_cannot_work_are_refused_without_their_secret(
    tmp_path: Path, given: dict[str, Any], words: str
):
    files = {
        name: written(tmp_path, name, value) if name.endswith("_file") else value
        for name, value in given.items()
    }
    async with AsyncExitStack() as stack:
        with pytest.raises(ConfigError, match=words) as caught:
            await made(stack, **files)
    secrets = [value for name, value in given.items() if name.endswith("_file")]
    assert not any(secret in str(caught.value) for secret in secrets)
