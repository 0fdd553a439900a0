"""
Any order of grants, holds, captures, withdrawals, sweeps and time, on the real scripts.

A model in plain Python integers (`credit_model`) says what each step must answer and leave
behind. Amounts are small, or multiples of 2^53 + 1, which a double cannot hold.
"""

import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from fixtures.credit_model import OutOfBounds, Refused
from fixtures.credit_world import (
    CUSTOMERS,
    EXACT,
    LONG_MS,
    METERS,
    QUOTA_LIMIT,
    SECOND,
    SHORT_MS,
    Account,
    CreditWorld,
    Ended,
    Open,
    model_grant,
)
from fixtures.live_store import hold_id_of, quota_lines
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sidecar.domain.errors import Conflict, InvalidInput, NotFound
from sidecar.domain.grants import GrantKind, Rollover, WithdrawalKind
from sidecar.domain.standing import Standing, StandingFact
from sidecar.services.control_ports import Grant, Withdrawal
from sidecar.services.ports import CaptureOutcome, CaptureStatus, PlaceOutcome, PlaceStatus

SHRINK = [Phase.shrink] if os.environ.get("SIDECAR_CREDIT_SHRINK") else []

customers = st.sampled_from(CUSTOMERS)
numbers = st.integers(0, 7)
grant_ids = st.integers(0, 9).map("grant-{}".format)
counts = st.integers(0, 25)
scopes = st.sampled_from([(), (), (), ("input",), ("output",), ("input", "output"), ("requests",)])
parts_of = st.dictionaries(st.sampled_from(METERS), counts, max_size=3)
mostly = st.sampled_from([True, True, True, False])


class HoldMachine(RuleBasedStateMachine):
    socket: Path

    def __init__(self) -> None:
        super().__init__()
        self.world = CreditWorld(self.socket)
        self.scale = 1

    def teardown(self) -> None:
        try:
            self.world.check_books()
        finally:
            self.world.close()

    @initialize(scale=st.sampled_from([1, EXACT]))
    def choose_scale(self, scale: int) -> None:
        self.scale = scale

    def nano(self, count: int) -> int:
        """Near its neighbours by one, where a double no longer tells them apart."""
        return max(0, count * self.scale - (count % 3 if self.scale > 1 else 0))

    def parts(self, counted: dict[str, int]) -> dict[str, int]:
        return {meter: self.nano(count) for meter, count in counted.items()}

    # Credit that comes.

    def give(self, customer: str, grant: Grant) -> None:
        world, account = self.world, self.world.accounts[customer]
        known = account.grants.get(grant.grant_id)
        try:
            world.run(world.store.accounts.apply_grant(grant))
            refused = None
        except (Conflict, InvalidInput) as error:
            refused = error
        if known is not None:
            assert isinstance(refused, Conflict) is (known != grant)
            assert refused is None or isinstance(refused, Conflict)
            return
        try:
            account.credit.give(model_grant(grant, world.now), world.now)
        except (Refused, OutOfBounds):
            assert isinstance(refused, InvalidInput)
            return
        assert refused is None
        account.grants[grant.grant_id] = grant

    @rule(
        customer=customers,
        grant_id=grant_ids,
        count=st.integers(1, 60),
        kind=st.sampled_from(GrantKind),
        priority=st.sampled_from([10, 50]),
        begins=st.none() | st.integers(-3, 8),
        lasts=st.none() | st.integers(1, 20),
        meters=scopes,
    )
    def grant(self, customer, grant_id, count, kind, priority, begins, lasts, meters) -> None:
        moment = self.world.moment
        effective = None if begins is None else moment + timedelta(seconds=begins)
        grant = Grant(
            grant_id=grant_id,
            customer_id=customer,
            amount_nano=self.nano(count),
            currency="USD",
            kind=kind,
            priority=priority,
            effective_at=effective,
            expires_at=None if lasts is None else (effective or moment) + timedelta(seconds=lasts),
            meters=meters,
        )
        self.give(customer, grant)

    @rule(customer=customers, grant_id=grant_ids)
    def grant_again(self, customer: str, grant_id: str) -> None:
        known = self.world.accounts[customer].grants.get(grant_id)
        if known is not None:
            self.give(customer, known)

    @precondition(lambda self: any(self.expiring(c) for c in CUSTOMERS))
    @rule(data=st.data(), grant_id=grant_ids, count=st.integers(1, 40), meters=scopes)
    def successor(self, data: st.DataObject, grant_id: str, count: int, meters) -> None:
        """A grant of a schedule, which takes along what is left of the one before."""
        pairs = [(c, name) for c in CUSTOMERS for name in self.expiring(c)]
        customer, before = data.draw(st.sampled_from(pairs))
        least, more = data.draw(st.tuples(st.integers(0, 30), st.integers(0, 30)))
        ends = self.world.accounts[customer].grants[before].expires_at
        assert ends is not None
        grant = Grant(
            grant_id=grant_id,
            customer_id=customer,
            amount_nano=self.nano(count),
            currency="USD",
            effective_at=ends,
            expires_at=ends + timedelta(seconds=data.draw(st.integers(1, 10))),
            meters=meters,
            rollover=Rollover(
                from_grant_id=before,
                least_nano=self.nano(least),
                most_nano=self.nano(least) + self.nano(more),
            ),
        )
        self.give(customer, grant)

    def expiring(self, customer: str) -> list[str]:
        """Grants with an end that lies ahead, the spent ones too."""
        grants = self.world.accounts[customer].grants.values()
        moment = self.world.moment
        return [g.grant_id for g in grants if g.expires_at is not None and g.expires_at > moment]

    @rule(customer=customers, count=st.integers(0, 30))
    def set_overdraft(self, customer: str, count: int) -> None:
        self.world.accounts[customer].overdraft = self.nano(count)
        self.world.put_customer(customer)

    @rule(customer=customers, delinquent=st.booleans())
    def set_standing(self, customer: str, *, delinquent: bool) -> None:
        standing = Standing.DELINQUENT if delinquent else Standing.GRACE
        world = self.world
        world.run(world.store.accounts.put_standing(customer, StandingFact(standing=standing)))
        world.accounts[customer].delinquent = delinquent

    # Credit that is taken back.

    @rule(
        customer=customers,
        number=st.integers(0, 5),
        grant_id=grant_ids,
        kind=st.sampled_from(WithdrawalKind),
        count=st.none() | st.integers(1, 40),
    )
    def withdraw(self, customer, number, grant_id, kind, count) -> None:
        world, credit = self.world, self.world.accounts[customer].credit
        if kind is WithdrawalKind.DISPUTE and count is None:
            return
        amount = None if count is None else self.nano(count)
        withdrawal = Withdrawal(
            withdrawal_id=f"wd-{number}",
            customer_id=customer,
            grant_id=grant_id,
            kind=kind,
            amount_nano=amount,
        )
        try:
            expected = credit.withdraw(f"wd-{number}", grant_id, kind.value, amount, world.now)
        except (Refused, OutOfBounds) as error:
            expected = error
        try:
            taken = world.run(world.store.accounts.apply_withdrawal(withdrawal))
        except (Conflict, InvalidInput, NotFound) as error:
            assert isinstance(expected, Exception), error
            missing = str(expected) == "no_grant"
            assert isinstance(error, NotFound) is missing
            assert isinstance(error, InvalidInput) is isinstance(expected, OutOfBounds)
            return
        assert taken == expected

    # Holds.

    @rule(
        customer=customers,
        number=numbers,
        counted=parts_of,
        stated=st.sampled_from([0, 0, 5]),
        required=mostly,
        prepaid=mostly,
        ttl_ms=st.sampled_from([SHORT_MS, LONG_MS]),
    )
    def place(self, customer, number, counted, stated, *, required, prepaid, ttl_ms) -> None:
        world, account = self.world, self.world.accounts[customer]
        parts = self.parts(counted) | {"": self.nano(stated)}
        units = sum(counted.values())
        demand = world.hold(
            *(customer, number, parts, units),
            credit_required=required,
            prepaid=prepaid,
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
        if not self.place_on_model(account, number, parts, outcome, required, prepaid, units):
            return
        account.counter += units
        account.open[number] = Open(
            units, world.now, world.now + ttl_ms, parts, prepaid=prepaid, required=required
        )
        assert outcome.expires_at_ms == world.now + ttl_ms
        assert outcome.numbers.used == {"tokens": account.counter}
        if required and prepaid:
            # No hold that needs credit goes beyond what the customer has.
            assert account.credit.exposure == seen.exposure
            assert account.credit.holds[hold_id_of(number)].beyond == 0

    def place_on_model(
        self,
        account: Account,
        number: int,
        parts: dict[str, int],
        outcome: PlaceOutcome,
        required: bool,
        prepaid: bool,
        units: int,
    ) -> bool:
        """Whether the model places it, too; compares the answers."""
        world, credit = self.world, account.credit
        over_quota = account.counter + units > QUOTA_LIMIT
        seen = credit.at(world.now)
        meters = [meter for meter, nano in parts.items() if nano]
        failed = False
        try:
            after = credit.at(world.now)
            after.place(hold_id_of(number), parts, world.now, prepaid=prepaid, required=required)
        except Refused:
            failed = True
        except OutOfBounds:
            if not (account.delinquent or over_quota):
                assert outcome.status is PlaceStatus.OUT_OF_BOUNDS
                return False
        if failed or account.delinquent or over_quota:
            assert outcome.status is PlaceStatus.DENIED
            assert outcome.numbers.failed_credit is failed
            assert bool(outcome.numbers.over) is over_quota
            available = seen.spendable(meters) if prepaid else seen.balance + seen.overdraft
            assert outcome.numbers.available_nano == available
            return False
        assert outcome.status is PlaceStatus.PLACED
        credit.place(hold_id_of(number), parts, world.now, prepaid=prepaid, required=required)
        available = credit.spendable(meters) if prepaid else credit.balance + credit.overdraft
        assert outcome.numbers.available_nano == available
        return True

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
        counted=parts_of,
        model=st.sampled_from(["m1", "m2"]),
        estimated=st.booleans(),
        prepaid=mostly,
        as_held=st.booleans(),
    )
    def capture(self, customer, number, counted, model, *, estimated, prepaid, as_held) -> None:
        world, account = self.world, self.world.accounts[customer]
        hold = account.open.get(number)
        units, parts = sum(counted.values()), self.parts(counted)
        if as_held and hold is not None:
            # Exactly what was set aside, meter by meter; what no meter named is left.
            parts = {meter: nano for meter, nano in hold.parts.items() if meter}
            prepaid = hold.prepaid
        event = world.event(customer, number, parts, units, model)
        event = replace(event, estimated=estimated)
        lines = quota_lines(world.hold(customer, number, parts, 0), units)
        step = world.store.balances.capture_hold(event, lines, prepaid=prepaid)
        outcome, owner = world.run(step), world.owner(number)
        ended = world.ended.get(number)
        if owner not in (None, customer) or (ended is not None and ended.customer != customer):
            assert outcome.status is CaptureStatus.CONFLICT
            return
        digest = (tuple((line.meter, line.quantity) for line in event.lines), units, model)
        captured = ended if ended is not None and ended.captured else None
        if captured and self.is_known(captured, digest, outcome.status, estimated=estimated):
            return
        identity = hold_id_of(number)
        try:
            if captured:
                booked = account.credit.correct(identity, parts, world.now, prepaid=prepaid)
            else:
                booked = account.credit.capture(identity, parts, world.now, prepaid=prepaid)
        except OutOfBounds:
            assert outcome.status is CaptureStatus.OUT_OF_BOUNDS
            return
        self.check_capture(account, number, parts, outcome, booked, captured, prepaid)
        account.open.pop(number, None)
        before = hold.units if hold else (ended.units if ended else 0)
        account.counter += units - before
        world.ended[number] = Ended(
            customer, captured=True, units=units, estimated=estimated, digest=digest
        )

    def check_capture(
        self,
        account: Account,
        number: int,
        parts,
        outcome: CaptureOutcome,
        booked,
        captured,
        prepaid,
    ) -> None:
        hold = account.open.get(number)
        first = CaptureStatus.CAPTURED if hold else CaptureStatus.LATE
        assert outcome.status is (CaptureStatus.CORRECTED if captured else first)
        assert outcome.booked_nano == booked.amount
        assert outcome.overspent_nano == booked.overspent
        assert outcome.held_nano == booked.held
        assert outcome.available_nano == account.credit.balance + account.credit.overdraft
        if hold and hold.required and hold.prepaid and prepaid:
            within = all(nano <= hold.parts.get(meter, 0) for meter, nano in parts.items())
            if within:
                # What was set aside is enough: nothing is overspent, whatever came between.
                assert outcome.overspent_nano == 0

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

    # Time.

    @rule(seconds=st.integers(1, 8))
    def wait(self, seconds: int) -> None:
        self.world.move_to(self.world.now + seconds * SECOND)

    @rule()
    def prune(self) -> None:
        """The sweep lets grants begin and expire where nothing else comes by."""
        world = self.world
        world.run(world.store.balances.prune_counters(0, 1_000))
        for account in world.accounts.values():
            account.credit.let_time_pass(world.now)

    @invariant()
    def both_sides_are_the_same(self) -> None:
        self.world.check()


def test_no_order_of_steps_breaks_a_balance(redis_socket: Path) -> None:
    HoldMachine.socket = redis_socket
    run_state_machine_as_test(
        HoldMachine,
        settings=settings(
            max_examples=int(os.environ.get("SIDECAR_CREDIT_EXAMPLES", "60")),
            stateful_step_count=50,
            deadline=None,
            print_blob=True,
            # Shrinking takes longer than all the examples: only where somebody waits for it.
            phases=[Phase.explicit, Phase.reuse, Phase.generate, *SHRINK],
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
