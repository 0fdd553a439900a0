"""
A live store that is wiped or goes back, at any moment of anything: nothing acknowledged is lost.

The real scripts on a real Redis, a real ledger, journals on a real disk. Each sequence is drawn by
its seed: SIDECAR_LOSS_SEED repeats one, SIDECAR_LOSS_SEQUENCES sets how many there are.
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
from fixtures.loss_parts import Stores
from fixtures.loss_steps import LossSteps
from fixtures.loss_world import LossWorld

from sidecar.outbound.postgres.pool import Pool

SEED = int(os.environ.get("SIDECAR_LOSS_SEED") or secrets.randbelow(2**32))
SEQUENCES = int(os.environ.get("SIDECAR_LOSS_SEQUENCES") or 24)
STEPS = int(os.environ.get("SIDECAR_LOSS_STEPS") or 120)


@pytest.mark.parametrize("number", range(SEQUENCES))
async def test_no_loss_of_the_store_loses_doubles_or_invents_usage(
    number: int, redis_url: str, postgres_pool: Pool, tmp_path: Path
):
    seed = SEED + number
    world = LossWorld(Random(seed), Stores(url=redis_url, pool=postgres_pool), tmp_path)
    proven = proven_overspend()
    try:
        await world.open()
        steps = LossSteps(world)
        for _ in range(STEPS):
            await steps.step()
        await recover(world)
        await check_acknowledged(world)
        await finish(world)
        await check_usage(world)
        await check_credit(world)
        assert proven_overspend() == proven
        await check_repeats(world)
    except BaseException as error:
        error.add_note(
            f"repeat it with SIDECAR_LOSS_SEED={seed} SIDECAR_LOSS_SEQUENCES=1"
            f" SIDECAR_LOSS_STEPS={STEPS}; it went:\n" + "\n".join(world.log)
        )
        raise
    finally:
        await world.aclose()
