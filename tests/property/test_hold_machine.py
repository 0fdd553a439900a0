"""
Any order of grants, holds, captures, withdrawals, sweeps and time, on the real scripts.

A model in plain Python integers (`credit_model`) says what each step must answer and leave
behind. Amounts are small, or multiples of 2^53 + 1, which a double cannot hold.
"""

from dataclasses import replace
from pathlib import Path

from fixtures.credit_model import CreditModel
from fixtures.credit_parts import Booked, OutOfBoundsError, RefusedError
from fixtures.credit_rules import CreditRules, customers, mostly, numbers, parts_of, seldom, used_of
from fixtures.credit_world import LONG_MS, QUOTA_LIMIT, SHORT_MS, Account, Ended, Open
from fixtures.live_store import hold_id_of, quota_lines
from fixtures.machines import run_machine
from hypothesis import strategies as st
from hypothesis.stateful import rule

from sidecar.domain.usage import UsageEvent
from sidecar.services.ports import (
    CaptureOutcome,
    CaptureStatus,
    PlaceHold,
    PlaceOutcome,
    PlaceStatus,
)


class HoldMachine(CreditRules):
    # Holds.

    @rule(
        customer=customers,
        number=numbers,
        counted=parts_of,
        stated=st.sampled_from([0, 0, 5]),
        required=mostly,
        prepaid=mostly,
        owes=seldom,
        ttl_ms=st.sampled_from([SHORT_MS, LONG_MS]),
    )
    def place(self, *, customer, number, counted, stated, required, prepaid, owes, ttl_ms) -> None:
        world, account = self.world, self.world.accounts[customer]
        parts = self.parts(counted) | {"": self.nano(stated)}
        units = sum(counted.values())
        demand = world.hold(
            *(customer, number, parts, units),
            credit_required=required,
            prepaid=prepaid,
            owes=owes,
            ttl_ms=ttl_ms,
        )
        outcome = world.run(world.store.balances.place_hold(demand))
        known = account.open.get(number)
        if world.owner(number) is not None:
            same = known is not None and sum(known.parts.values()) == sum(parts.values())
            assert outcome.status is (PlaceStatus.REPEATED if same else PlaceStatus.MISMATCH)
            if same:
                assert (outcome.instant_ms, outcome.expires_at_ms) == (
                    known.decided_ms,
                    known.expires_ms,
                )
            return
        if number in world.ended:
            assert outcome.status is PlaceStatus.CLOSED
            return
        seen = account.credit.at(world.now)
        if not self.placed(account, demand, parts, outcome, units):
            return
        account.counter += units
        account.open[number] = Open(
            *(units, world.now, world.now + ttl_ms, parts),
            prepaid=prepaid,
            required=required,
            owes=owes and prepaid,
        )
        assert outcome.expires_at_ms == world.now + ttl_ms
        assert outcome.numbers.used == {"tokens": account.counter}
        if required and prepaid and not owes:
            # No hold that needs credit goes beyond what the customer has.
            assert account.credit.exposure == seen.exposure
            assert account.credit.holds[hold_id_of(number)].beyond == 0

    def placed(
        self,
        account: Account,
        demand: PlaceHold,
        parts: dict[str, int],
        outcome: PlaceOutcome,
        units: int,
    ) -> bool:
        """Whether the model places it, too; compares the answers."""
        world, credit, hold_id = self.world, account.credit, demand.terms.hold_id
        how = {
            "prepaid": demand.prepaid,
            "required": demand.credit_required,
            "owes": demand.owes and demand.prepaid,
        }
        over_quota = account.counter + units > QUOTA_LIMIT
        seen = credit.at(world.now)
        meters = [meter for meter, nano in parts.items() if nano]
        failed = False
        try:
            after = credit.at(world.now)
            after.place(hold_id, parts, world.now, **how)
        except RefusedError:
            failed = True
        except OutOfBoundsError:
            if not (account.delinquent or over_quota):
                assert outcome.status is PlaceStatus.OUT_OF_BOUNDS
                return False
        if failed or account.delinquent or over_quota:
            assert outcome.status is PlaceStatus.DENIED
            assert outcome.numbers.failed_credit is failed
            assert bool(outcome.numbers.over) is over_quota
            assert outcome.numbers.available_nano == self.available(seen, meters, demand)
            return False
        assert outcome.status is PlaceStatus.PLACED
        credit.place(hold_id, parts, world.now, **how)
        assert outcome.numbers.available_nano == self.available(credit, meters, demand)
        return True

    @staticmethod
    def available(credit: CreditModel, meters: list[str], demand: PlaceHold) -> int:
        if not demand.prepaid:
            return credit.balance + credit.overdraft
        return credit.free(meters) if demand.owes else credit.spendable(meters)

    @rule(customer=customers, number=numbers)
    def release(self, customer: str, number: int) -> None:
        world = self.world
        released = world.run(world.store.balances.release_hold(customer, hold_id_of(number)))
        assert released is (number in world.accounts[customer].open)
        if released:
            self.end_hold(customer, number)
        elif number not in world.ended and world.owner(number) is None:
            world.ended[number] = Ended(customer)

    def end_hold(self, customer: str, number: int) -> None:
        account = self.world.accounts[customer]
        account.counter -= account.open.pop(number).units
        account.credit.give_back(hold_id_of(number), self.world.now)
        self.world.ended[number] = Ended(customer)

    @rule(customer=customers, number=numbers, ttl_ms=st.integers(1, 2 * SHORT_MS))
    def extend(self, customer: str, number: int, ttl_ms: int) -> None:
        world = self.world
        hold = world.accounts[customer].open.get(number)
        step = world.store.balances.extend_hold(customer, hold_id_of(number), ttl_ms)
        assert world.run(step) is (hold is not None)
        if hold is not None:
            hold.expires_ms = max(hold.expires_ms, world.now + ttl_ms)

    @rule(customer=customers, number=numbers)
    def sweep(self, customer: str, number: int) -> None:
        world = self.world
        hold = world.accounts[customer].open.get(number)
        step = world.store.balances.orphan_hold(customer, hold_id_of(number))
        assert world.run(step) is None
        if hold is not None and hold.expires_ms <= world.now:
            self.end_hold(customer, number)

    # Usage.

    @rule(
        customer=customers,
        number=numbers,
        counted=used_of,
        model=st.sampled_from(["m1", "m2"]),
        estimated=st.booleans(),
        prepaid=mostly,
        owes=seldom,
        as_held=st.booleans(),
    )
    def capture(
        self, *, customer, number, counted, model, estimated, prepaid, owes, as_held
    ) -> None:
        world, account = self.world, self.world.accounts[customer]
        hold = account.open.get(number)
        ended = world.ended.get(number)
        if ended is None or not ended.captured:
            # Only what a correction gives back of a total is worth more than what was used.
            counted = {meter: max(0, count) for meter, count in counted.items()}
        units, parts = sum(max(0, count) for count in counted.values()), self.signed(counted)
        if as_held and hold is not None:
            # Exactly what was set aside, meter by meter; what no meter named is left.
            parts = {meter: nano for meter, nano in hold.parts.items() if meter}
            prepaid, owes = hold.prepaid, hold.owes
        event = world.event(customer, number, parts, units, model)
        event = replace(event, estimated=estimated)
        lines = quota_lines(world.hold(customer, number, parts, 0), units)
        how = {"prepaid": prepaid, "owes": owes}
        step = world.store.balances.capture_hold(event, lines, **how)
        outcome, owner = world.run(step), world.owner(number)
        if owner not in (None, customer) or (ended is not None and ended.customer != customer):
            assert outcome.status is CaptureStatus.CONFLICT
            return
        # A meter that counted nothing says nothing.
        told = tuple((line.meter, line.quantity) for line in event.lines if line.quantity)
        digest = (told, units, model)
        captured = ended if ended is not None and ended.captured else None
        if captured and self.is_known(captured, digest, outcome.status, estimated=estimated):
            return
        identity = hold_id_of(number)
        try:
            if captured:
                booked = account.credit.correct(identity, parts, world.now, **how)
            else:
                booked = account.credit.capture(identity, parts, world.now, **how)
        except OutOfBoundsError:
            assert outcome.status is CaptureStatus.OUT_OF_BOUNDS
            return
        self.check_capture(account, event, outcome, booked)
        first = CaptureStatus.CAPTURED if hold else CaptureStatus.LATE
        assert outcome.status is (CaptureStatus.CORRECTED if captured else first)
        if prepaid and owes and not captured:
            # Paid and owed are the whole of it, and what is owed is nobody's deficit.
            usage = account.credit.usage[identity]
            paid = sum(nano for _, _, nano in usage.burned)
            assert (paid + usage.owed_nano, outcome.overspent_nano) == (booked.amount, 0)
        if hold and hold.required and hold.prepaid and not hold.owes and prepaid:
            within = all(nano <= hold.parts.get(meter, 0) for meter, nano in parts.items())
            # What was set aside is enough: nothing is overspent, whatever came between.
            assert outcome.overspent_nano == 0 or not within
        account.open.pop(number, None)
        before = hold.units if hold else (ended.units if ended else 0)
        account.counter += units - before
        world.ended[number] = Ended(
            customer, captured=True, units=units, estimated=estimated, digest=digest
        )

    @staticmethod
    def check_capture(
        account: Account, event: UsageEvent, outcome: CaptureOutcome, booked: Booked
    ) -> None:
        assert event.hold_id not in account.credit.holds
        assert outcome.booked_nano == booked.amount
        assert outcome.overspent_nano == booked.overspent
        assert outcome.held_nano == booked.held
        assert outcome.available_nano == account.credit.balance + account.credit.overdraft

    @staticmethod
    def is_known(captured: Ended, digest, status: CaptureStatus, *, estimated: bool) -> bool:
        """Whether the event adds nothing to what was captured; checks the answer if so."""
        if captured.digest == digest:
            assert status is CaptureStatus.DUPLICATE
            captured.estimated = captured.estimated and estimated
        elif estimated:
            assert status is CaptureStatus.DUPLICATE
        elif not captured.estimated:
            assert status is CaptureStatus.CONFLICT
        else:
            return False
        return True


def test_no_order_of_steps_breaks_a_balance(redis_socket: Path) -> None:
    HoldMachine.socket = redis_socket
    run_machine(HoldMachine)
