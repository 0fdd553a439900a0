"""All interleavings of a few requests, expiries and withdrawals, on the real scripts."""

import os
from collections.abc import AsyncIterator

import pytest
from fixtures.credit_explorer import Explorer
from fixtures.live_store import LiveStore

STATES_MAX = int(os.environ.get("SIDECAR_CREDIT_STATES", "400"))
PATHS_LEAST = 1_000
"""Interleavings below which the search would prove little."""


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[LiveStore]:
    store = await LiveStore.open(redis_url, shards=1)
    yield store
    await store.connection.aclose()


async def test_no_order_of_steps_overspends_or_loses_or_doubles_an_amount(
    store: LiveStore, capsys: pytest.CaptureFixture[str]
) -> None:
    explorer = Explorer(store, states_max=STATES_MAX)
    paths = await explorer.explore()
    with capsys.disabled():
        print(f"\n{paths} interleavings through {explorer.seen}")  # noqa: T201
    assert paths >= PATHS_LEAST
    seen = explorer.seen
    assert min(seen.placed, seen.denied, seen.captured, seen.late, seen.orphaned) > 0
    assert seen.interrupted > 0
