"""Single stories of processes with blocks, which a machine's steps seldom come by."""

from pathlib import Path

import pytest
from fixtures.allotment_world import (
    ALLOWED,
    TTL_MS,
    AllotmentWorld,
    Allowed,
    Fault,
    settle,
    stop,
    work,
)

from sidecar.domain.allotments import PLACE_MS
from sidecar.services import allotments
from sidecar.services.ports import CaptureStatus

AMOUNT = 10


@pytest.fixture
def world(redis_socket: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(allotments, "HOT_HOLDS", 2)
    made = AllotmentWorld(redis_socket)
    made.run(made.store.grant(100_000))
    yield made
    made.close()


def ask(world: AllotmentWorld, number: int) -> Allowed:
    process = world.processes[0]
    hold = world.hold(number, AMOUNT, 0)
    outcome = world.run(process.holds.place_hold(hold))
    assert outcome.status in ALLOWED
    return Allowed(hold, 0, [process.name], outcome, outcome.expires_at_ms)


def from_block(world: AllotmentWorld) -> Allowed:
    """A hold that the store has not heard of."""
    for number in range(3):
        ask(world, number)
    world.run(settle(world.processes[0]))
    one = ask(world, 3)
    assert one.outcome.block_id
    return one


def test_usage_of_a_dead_process_finds_its_credit_for_as_long_as_its_hold_lives(world):
    one = from_block(world)
    # The last moment at which a hold may be placed from the block.
    world.move_to(world.now + PLACE_MS - 1)
    last = ask(world, 4)
    assert last.outcome.block_id == one.outcome.block_id
    world.run(stop(world.processes[0]))
    world.move_to(last.expires_ms - 1)
    world.sweep()
    outcome = world.capture(last, AMOUNT, 0)
    assert (outcome.status, outcome.held_nano) == (CaptureStatus.CAPTURED, AMOUNT)


def test_a_process_that_stood_still_tells_of_its_holds_as_long_as_they_live(world):
    one = from_block(world)
    world.move_to(one.expires_ms - 1)
    assert not ask(world, 5).outcome.block_id
    world.run(work(world.processes[0]))
    outcome = world.capture(one, AMOUNT, 0)
    assert (outcome.status, outcome.held_nano) == (CaptureStatus.CAPTURED, AMOUNT)


@pytest.mark.parametrize("fault", [Fault.NOT_SENT, Fault.NO_ANSWER])
@pytest.mark.parametrize("batches", [1, 3])
def test_a_batch_whose_answer_was_lost_is_told_again_until_it_is_known(world, fault, batches):
    holds = [from_block(world)]
    for number in range(batches):
        holds += [ask(world, 10 * (number + 1) + one) for one in range(3)]
        world.move_to(world.now + 30)
        world.processes[0].blocks.fault = fault
        world.run(work(world.processes[0]))
        world.move_to(world.now + 100)
        world.run(work(world.processes[0]))
    opened = world.run(world.store.fields())
    assert all(f"h:{one.hold.terms.hold_id}".encode() in opened for one in holds)


def test_a_block_whose_giving_was_not_heard_of_goes_back(world):
    process = world.processes[0]
    process.blocks.fault = Fault.NO_ANSWER
    for number in range(3):
        ask(world, number)
    world.run(settle(process))
    assert b"blocks" not in world.run(world.store.fields())
    assert world.run(world.store.numbers())[2] == 3 * AMOUNT


def test_what_is_left_of_a_block_stands_until_no_usage_can_come(world):
    one = from_block(world)
    world.run(stop(world.processes[0]))
    free = world.run(world.store.numbers())[3]
    world.move_to(one.expires_ms)
    world.sweep()
    # Its three neighbours had been placed by the store, and have expired with it.
    assert world.run(world.store.numbers())[3] == free + 3 * AMOUNT
    world.move_to(world.now + PLACE_MS + TTL_MS)
    world.sweep()
    assert world.run(world.store.numbers()) == (100_000, 0, 0, 100_000)
