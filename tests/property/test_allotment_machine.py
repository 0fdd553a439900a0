"""
Four processes place holds from blocks of one customer's credit, in any order of checks, repeats,
usage, recalls, lost calls, deaths and time, on the real scripts.

Whatever happens: what was let pass finds its credit, nothing is spent twice, nobody is denied what
is there, and when all is over every nano is used or free.
"""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from fixtures.allotment_world import (
    ALLOWED,
    CUSTOMER,
    LIMIT,
    PROCESSES,
    TTL_MS,
    AllotmentWorld,
    Allowed,
    Fault,
    settle,
    stop,
    work,
)
from fixtures.machines import run_machine
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from sidecar.domain.allotments import PLACE_MS
from sidecar.domain.errors import StoreUnavailable
from sidecar.domain.grants import WithdrawalKind
from sidecar.services import allotments
from sidecar.services.control_ports import Withdrawal
from sidecar.services.ports import CaptureStatus, PlaceStatus

which = st.integers(0, PROCESSES - 1)
asked = st.lists(st.integers(0, 12), min_size=1, max_size=8)


class AllotmentMachine(RuleBasedStateMachine):
    socket: Path

    def __init__(self) -> None:
        super().__init__()
        self.world = AllotmentWorld(self.socket)
        self.numbers = 0
        self.grants: list[str] = []

    @initialize(amount=st.sampled_from([60, 300, 2_000, 6_000]))
    def begin(self, amount: int) -> None:
        self.give(amount)

    def teardown(self) -> None:
        try:
            self.check_end()
        finally:
            self.world.close()

    @rule(amount=st.integers(1, 500))
    def give(self, amount: int) -> None:
        world = self.world
        self.grants.append(f"grant-{len(self.grants)}")
        world.run(world.store.grant(amount, self.grants[-1]))
        world.granted += amount

    @rule(at=st.integers(0, 10))
    def void(self, at: int) -> None:
        """Takes what nobody has set aside; what blocks have of it comes off when they return it."""
        world = self.world
        withdrawal = Withdrawal(
            withdrawal_id=f"wdr-{at}",
            customer_id=CUSTOMER,
            grant_id=self.grants[at % len(self.grants)],
            kind=WithdrawalKind.VOID,
        )
        if self.grants and at < len(self.grants) and at % 3 == 0:
            world.run(world.store.accounts.apply_withdrawal(withdrawal))

    # Checks.

    @rule(at=which, first=asked, then=asked)
    def check(self, at: int, first: list[int], then: list[int]) -> None:
        """Requests, one after the other, at one process; it may get a block in between."""
        for amounts in (first, then):
            for amount in amounts:
                self.numbers += 1
                number, units = self.numbers, amount // 2
                self.ask(at, number, self.world.hold(number, amount, units), units)
            self.world.run(settle(self.world.processes[at]))

    @rule(at=which, back=st.integers(0, 12))
    def repeat(self, at: int, back: int) -> None:
        """A check comes again, anywhere."""
        known = self.world.allowed.get(self.numbers - back)
        if known is not None:
            again = replace(known.hold, deadline=self.world.deadline())
            self.ask(at, self.numbers - back, again, known.units)

    def ask(self, at: int, number: int, hold, units: int) -> None:
        world, process = self.world, self.world.processes[at]
        amount = hold.terms.amount_nano
        outcome = world.run(process.holds.place_hold(hold))
        known = world.allowed.get(number)
        if outcome.status in ALLOWED:
            if known is None:
                world.allowed[number] = Allowed(
                    hold, units, [process.name], outcome, outcome.expires_at_ms
                )
            elif not known.gone:
                known.told.append(process.name)
                known.outcome = outcome
                known.ended, known.expires_ms = False, outcome.expires_at_ms
            return
        assert known is None or outcome.status in {
            PlaceStatus.CLOSED,
            PlaceStatus.DENIED,
            PlaceStatus.RECALLED,
            PlaceStatus.MISMATCH,
        }
        if outcome.status is PlaceStatus.DENIED:
            held = world.maybe_held()
            balance = world.run(world.store.balance())
            free = balance.granted_nano - balance.voided_nano - world.used
            free -= sum(one.amount for one in held)
            left = LIMIT - world.used_units - sum(one.units for one in held)
            assert amount > free or units > left, "denied what is there"

    @rule(at=which, back=st.integers(0, 6))
    def release(self, at: int, back: int) -> None:
        """A process' answer did not reach the gateway."""
        world, one = self.world, self.world.allowed.get(self.numbers - back)
        name = world.processes[at].name
        if one is None or one.ended or name not in one.told:
            return
        hold_id = one.hold.terms.hold_id
        # It may be on its way to the store: whoever asks tries again, or lets it expire.
        with suppress(StoreUnavailable):
            world.run(world.processes[at].holds.release_hold(CUSTOMER, hold_id))
        # What an earlier try gives back, the last one may have let pass.
        one.ended = one.told[-1] == name

    # Usage.

    @rule(back=st.integers(0, 20), part=st.integers(0, 4))
    def use(self, back: int, part: int) -> None:
        world, one = self.world, self.world.allowed.get(self.numbers - back)
        if one is None or one not in world.outstanding():
            return
        amount, units = one.amount * part // 4, one.units * part // 4
        outcome = world.capture(one, amount, units)
        assert outcome.status is CaptureStatus.CAPTURED
        assert outcome.overspent_nano == 0
        assert outcome.held_nano == one.amount
        world.used += amount
        world.used_units += units
        one.ended = one.gone = True

    # What processes do, and what is done to them.

    @rule(at=which)
    def look(self, at: int) -> None:
        self.world.run(work(self.world.processes[at]))

    @rule(at=which, fault=st.sampled_from([Fault.NOT_SENT, Fault.NO_ANSWER]))
    def lose_a_call(self, at: int, fault: Fault) -> None:
        process = self.world.processes[at]
        process.blocks.fault = fault
        self.world.run(work(process))

    @rule(at=which)
    def recall(self, at: int) -> None:
        process = self.world.processes[at]
        process.holds.recall(CUSTOMER)
        self.world.run(work(process))

    @rule(at=which)
    def die(self, at: int) -> None:
        world = self.world
        world.run(stop(world.processes[at]))
        world.processes[at] = world.process(f"{at} again {self.numbers}")

    @rule(ms=st.sampled_from([5, 30, 30, 200, 650, 1_100, 2_500, TTL_MS + PLACE_MS]))
    def wait(self, ms: int) -> None:
        self.world.move_to(self.world.now + ms)

    @rule()
    def sweep(self) -> None:
        self.world.sweep()

    # What must hold.

    @invariant()
    def nothing_is_promised_twice(self) -> None:
        world = self.world
        balance = world.run(world.store.balance())
        assert balance.used_nano == world.used
        promised = world.used + sum(one.amount for one in world.outstanding())
        assert promised <= balance.granted_nano - balance.voided_nano
        assert balance.available_nano >= 0
        assert world.used_units + sum(one.units for one in world.outstanding()) <= LIMIT
        fields = world.run(world.store.fields())
        parts = ("granted", "used", "held", "avail", "voided", "expired", "deficit", "uncov")
        granted, used, held, avail, voided, expired, deficit, uncovered = (
            int(fields.get(name.encode(), b"0")) for name in parts
        )
        assert avail == granted - used - held - voided - expired
        assert (deficit, uncovered) == (0, 0)
        amounts = [
            int(value.split(b"\n")[1]) for name, value in fields.items() if name.startswith(b"h:")
        ]
        assert held == sum(amounts)

    def check_end(self) -> None:
        """Processes stop, what is open expires: all that is not used is free."""
        world = self.world
        for process in world.processes:
            process.holds.drop_all()
            for _ in range(50):
                world.run(work(process))
                world.move_to(world.now + 100)
                if not process.holds._blocks and not process.holds._leaving:
                    break
            world.run(settle(process))
            assert not process.holds._blocks
        for _ in range(3):
            world.move_to(world.now + TTL_MS + 2 * PLACE_MS)
            world.sweep()
        fields = world.run(world.store.fields())
        assert not [name for name in fields if name[:2] in {b"h:", b"b:", b"o:", b"r:"}]
        assert b"blocks" not in fields
        assert int(fields.get(b"held", b"0")) == 0
        assert int(fields.get(b"used", b"0")) == world.used
        counted = [int(value) for name, value in fields.items() if name.startswith(b"q:")]
        assert counted in ([], [world.used_units])


def test_no_order_of_steps_spends_a_block_twice(redis_socket: Path, monkeypatch) -> None:
    AllotmentMachine.socket = redis_socket
    # A block for the second hold alike, so that few steps reach what blocks do.
    monkeypatch.setattr(allotments, "HOT_HOLDS", 2)
    run_machine(AllotmentMachine)
