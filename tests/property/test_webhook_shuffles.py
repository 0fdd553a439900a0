"""Whatever webhooks come in whatever order, the standing ends up right."""

import os
import random
import sys

from fixtures.inbox_world import InboxWorld
from fixtures.webhook_shuffles import expected, live

from sidecar.services.inbox_ports import ReceivedEvent

SHUFFLES = int(os.environ.get("SIDECAR_WEBHOOK_SHUFFLES", "1000"))
SEED = int(os.environ.get("SIDECAR_SIM_SEED", "0")) or random.SystemRandom().randrange(2**32)


async def tell(world: InboxWorld, rng: random.Random, told: tuple[ReceivedEvent, ...]) -> None:
    """Deliver webhooks; two workers take them up at any time, and one of them may die."""
    other = world.new_worker("two")
    for event in told:
        await world.inbox.receive(event)
        match rng.randrange(5):
            case 0:
                await world.worker.work_once()
            case 1:
                await other.work_once()
            case 2:  # It dies with what it has claimed.
                await world.inbox.claim("dead", limit=rng.randint(1, 3), lease_seconds=60)
            case _:
                pass
    world.clock.advance(61)
    await world.work()


async def test_shuffled_repeated_and_lost_webhooks_end_in_the_right_standing():
    wrong, lost, repeats, seen = 0, 0, 0, set()
    for number in range(SHUFFLES):
        rng = random.Random(f"{SEED}:{number}")
        world = InboxWorld()
        await world.customer()
        life = live(rng, world.provider, world.clock.now())
        await tell(world, rng, life.told)
        if not life.lost:
            # What nothing was lost of is right without any sweep.
            await world.timer.look_once()
            standing = expected(world.provider, world.clock.now())
            assert world.standing() == standing, (SEED, number)
        await world.sweep.sweep_once()
        await world.work()
        assert world.standing() == expected(world.provider, world.clock.now()), (SEED, number)
        for _ in range(8):  # And it stays right while nothing but time passes.
            await world.pass_time(days=1)
            standing = expected(world.provider, world.clock.now())
            wrong += world.standing() != standing
            seen.add(standing)
        lost += life.lost
        repeats += len(life.told) - len(set(life.told))
    told = f"seed {SEED}: {SHUFFLES} shuffles, {repeats} repeated, {lost} lost, {wrong} wrong"
    sys.stdout.write(f"{told}\n")
    assert wrong == 0, SEED
    assert seen == {"good", "grace", "delinquent"}
    assert min(lost, repeats) > 0


def naive(told: tuple[ReceivedEvent, ...]) -> dict[str, str]:
    """Last webhook wins: what this inbox must not be."""
    return {event.ref.key: event.event_type for event in told if event.ref is not None}


def test_the_shuffles_are_hard_enough_that_the_last_webhook_is_often_wrong():
    """A test whose lives no mistake could fail would prove nothing."""
    differing = 0
    for number in range(500):
        rng = random.Random(f"{SEED}:{number}")
        world = InboxWorld()
        life = live(rng, world.provider, world.clock.now())
        differing += naive(life.told) != naive(tuple(world.provider.sent))
    assert differing > 50, SEED
