"""`sidecar catalog apply`, killed while it works."""

import asyncio
import os
import signal
import sys

import pytest
from fixtures.catalog_account import KEY, account_settings, write_policy

from sidecar.outbound.stripe.catalog import StripeCatalog
from sidecar.outbound.stripe.client import StripeConnection
from sidecar.standins.stripe import StripeStandin
from sidecar.standins.stripe_settings import StripeSettings

KEYS = [
    "sidecar:my-ai-api-plan:input-tokens",
    "sidecar:my-ai-api-plan:output-tokens",
    "sidecar:three-tier:@fee",
    "sidecar:three-tier:input-tokens",
]
CALLS = 9
"""Two meters, three products, four prices."""


@pytest.mark.parametrize("kill_at", [1, 4, 8])
async def test_killed_at_any_point_a_repeat_ends_in_the_same_catalog(tmp_path, kill_at):
    # Slow enough that the kill finds a call under way.
    standin = StripeStandin(settings=StripeSettings(latency_seconds=0.02))
    write_policy(tmp_path / "policy")

    def posts() -> int:
        return sum(record.method == "POST" for record in standin.requests_log)

    async with standin.serving() as url:
        kept = {name: value for name, value in os.environ.items() if "SIDECAR_" not in name}
        own = account_settings(url, tmp_path)
        env = {**kept, **{f"SIDECAR_{name.upper()}": value for name, value in own.items()}}

        async def begin() -> asyncio.subprocess.Process:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "sidecar", "catalog", "apply", "--yes"),
                env=env,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )

        process = await begin()
        try:
            while posts() < kill_at and process.returncode is None:  # noqa: ASYNC110 - No event tells.
                await asyncio.sleep(0.002)
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGKILL)
            await process.communicate()
        assert process.returncode == -signal.SIGKILL, "it was killed while it worked"
        again = await begin()
        out, err = await asyncio.wait_for(again.communicate(), 60)
        assert again.returncode == 0, err
        assert b"the catalog is what the policy says" in out
        connection = StripeConnection(KEY, base_url=url)
        found = await StripeCatalog(connection).read()
        await connection.close()
    assert sorted(product.name for product in found.products) == [
        "My AI API Plan",
        "credit",
        "three-tier",
    ]
    assert sorted(meter.event_name for meter in found.meters) == ["input-tokens", "output-tokens"]
    assert sorted(price.lookup_key for price in found.prices) == KEYS
    assert all(one.active for one in (*found.products, *found.meters, *found.prices))
    # The call that was under way is at most asked for again.
    assert CALLS <= posts() <= CALLS + 1
    assert list(standin.bugs) == []
