"""
Every order of requests, a settlement and a replica that takes over: none loses or doubles usage.

All orders of one request and a settlement that stands still before its commit, or with
SIDECAR_LOSS_ORDERS also after it; and as many as that says of those with a second request, drawn by
SIDECAR_LOSS_SEED.
"""

import os
import secrets
from pathlib import Path
from random import Random

import pytest
from fixtures.loss_checks import (
    check_acknowledged,
    check_credit,
    check_repeats,
    check_usage,
    finish,
    proven_overspend,
    recover,
)
from fixtures.loss_orders import FIRST, LAGGING, SECOND, SETTLING, Order, Orders, orders_of
from fixtures.loss_parts import Stores
from fixtures.loss_world import LossWorld

from sidecar.outbound.postgres.pool import Pool

SEED = int(os.environ.get("SIDECAR_LOSS_SEED") or secrets.randbelow(2**32))
DRAWN = int(os.environ.get("SIDECAR_LOSS_ORDERS") or 0)
WORLDS = max(7, DRAWN // 40)
"""Each order makes a customer, and a rebuild reads them all: so a world has few of them."""
IN_EACH = (
    ("place:1", "stop_hearing", "capture:1", "read", "take_over", "rebuild", "commit"),
    ("place:1", "stop_hearing", "capture:1", "take_over", "rebuild"),
)
"""Orders that have all of it, so that each world shows that it is what it says."""
SEEN = {"a replica lagged", "made anew", "made anew, read"}

ONE_REQUEST = tuple(orders_of(FIRST, SETTLING if DRAWN else SETTLING[:-1], LAGGING))
TWO_REQUESTS = tuple(orders_of(FIRST, SECOND, SETTLING, LAGGING))
CHOSEN: tuple[Order, ...] = (*ONE_REQUEST, *Random(SEED).sample(TWO_REQUESTS, DRAWN or 70))


@pytest.mark.parametrize("number", range(WORLDS))
async def test_no_order_around_a_loss_loses_doubles_or_overspends(
    number: int, redis_url: str, postgres_pool: Pool, tmp_path: Path
):
    world = LossWorld(Random(SEED + number), Stores(url=redis_url, pool=postgres_pool), tmp_path)
    proven = proven_overspend()
    orders = Orders(world)
    try:
        await world.open()
        for order in (*IN_EACH, *CHOSEN[number::WORLDS]):
            world.log.clear()
            world.note(" ".join(order))
            await orders.run(order)
            await recover(world)
            await check_acknowledged(world)
        await finish(world)
        await check_usage(world)
        await check_credit(world)
        assert proven_overspend() == proven
        await check_repeats(world)
        assert orders.seen >= SEEN
    except BaseException as error:
        error.add_note(
            f"repeat it with SIDECAR_LOSS_SEED={SEED}; it went:\n" + "\n".join(world.log)
        )
        raise
    finally:
        await world.aclose()
