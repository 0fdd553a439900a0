"""
Any order of grants, holds, captures and sweeps, on the real scripts in a real Redis.

A model in plain Python integers says what each step must answer and leave behind. Amounts
are small, or multiples of 2^53 + 1, which a double cannot hold.
"""

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path

from fixtures.live_store import LiveStore, event_of, hold_id_of, hold_of, quota_lines, quota_take
from fixtures.redis_fixture import ask_redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sidecar.domain.errors import Conflict, InvalidInput
from sidecar.domain.money import AMOUNT_NANO_MAX
from sidecar.domain.standing import Standing, StandingFact
from sidecar.domain.usage import TokenUsage
from sidecar.services.control_ports import StreamRecord
from sidecar.services.ports import CaptureStatus, PlaceStatus

CUSTOMERS = ("cus_ada", "cus_bob")
QUOTA_LIMIT = 120
EXACT = 9_007_199_254_740_993

customers = st.sampled_from(CUSTOMERS)
numbers = st.integers(0, 7)
units = st.integers(0, 40)


@dataclass(slots=True)
class Open:
    amount: int
    units: int
    uncovered: int
    short: bool
    instants: tuple[int, int]


@dataclass(slots=True)
class Ended:
    customer: str
    captured: bool = False
    amount: int = 0
    units: int = 0
    overage: int = 0
    estimated: bool = False
    digest: tuple[int, str] = (0, "")


@dataclass(slots=True)
class Account:
    granted: int = 0
    used: int = 0
    counter: int = 0
    overage: int = 0
    delinquent: bool = False
    grants: dict[int, int] = field(default_factory=dict)
    open: dict[int, Open] = field(default_factory=dict)

    @property
    def held(self) -> int:
        return sum(hold.amount for hold in self.open.values())

    @property
    def available(self) -> int:
        return self.granted - self.used - self.held

    def burn(self, new: int, old: int, hold: Open | None, old_overage: int) -> int:
        """Move the amount booked for an id from old to new; returns the overage of it."""
        before = self.available + (hold.uncovered if hold else 0)
        after = self.available + (hold.amount if hold else 0) + old - new
        self.used += new - old
        debt_before, debt_after = max(0, -before), max(0, -after)
        if new >= old:
            overage = max(0, debt_after - debt_before)
        else:
            overage = -min(max(0, debt_before - debt_after), old_overage)
        self.overage += overage
        return overage


class HoldMachine(RuleBasedStateMachine):
    socket: Path

    def __init__(self) -> None:
        super().__init__()
        ask_redis(self.socket, b"FLUSHALL")
        self.runner = asyncio.Runner()
        self.store = self.run(LiveStore.open(f"unix://{self.socket}", shards=1))
        self.facts = {
            customer: self.run(self.store.add_customer(customer_id=customer))
            for customer in CUSTOMERS
        }
        self.accounts = {customer: Account() for customer in CUSTOMERS}
        self.ended: dict[int, Ended] = {}
        self.scale = 1

    def run(self, step):
        return self.runner.run(step)

    def teardown(self) -> None:
        self.run(self.check_replay())
        self.run(self.store.connection.aclose())
        self.runner.close()

    @initialize(scale=st.sampled_from([1, EXACT]))
    def choose_scale(self, scale: int) -> None:
        self.scale = scale

    def amount_of(self, count: int) -> int:
        """Near its neighbours by one, where a double no longer tells them apart."""
        return count * self.scale - (count % 3 if self.scale > 1 else 0)

    def owner(self, number: int) -> str | None:
        return next((c for c, a in self.accounts.items() if number in a.open), None)

    def hold(self, customer: str, number: int, count: int, **changes: object):
        take = quota_take(count, QUOTA_LIMIT)
        changes = {"counters": (take,), "fingerprint": "POST /"} | changes
        return hold_of(self.facts[customer], number, self.amount_of(count), **changes)

    @rule(customer=customers, number=st.integers(0, 9), count=st.integers(1, 40))
    def grant(self, customer: str, number: int, count: int) -> None:
        account, amount = self.accounts[customer], self.amount_of(count)
        step = self.store.grant(amount, f"grant-{number}", customer)
        known = account.grants.get(number)
        try:
            self.run(step)
        except Conflict:
            assert known is not None
            assert known != amount
            return
        except InvalidInput:
            assert known is None
            assert account.granted + amount > AMOUNT_NANO_MAX
            return
        assert known in (None, amount)
        if known is None:
            account.grants[number] = amount
            account.granted += amount

    @rule(customer=customers, delinquent=st.booleans())
    def set_standing(self, customer: str, *, delinquent: bool) -> None:
        standing = Standing.DELINQUENT if delinquent else Standing.GRACE
        self.run(self.store.accounts.put_standing(customer, StandingFact(standing=standing)))
        self.accounts[customer].delinquent = delinquent

    @rule(
        customer=customers,
        number=numbers,
        count=units,
        required=st.sampled_from([True, True, True, False]),
        short=st.booleans(),
    )
    def place(self, customer: str, number: int, count: int, *, required: bool, short: bool) -> None:
        account, owner = self.accounts[customer], self.owner(number)
        demand = self.hold(
            customer, number, count, credit_required=required, ttl_ms=1 if short else 60_000
        )
        available, amount = account.available, self.amount_of(count)
        outcome = self.run(self.store.balances.place_hold(demand))
        if owner is not None:
            known = account.open.get(number)
            if known is not None and known.amount == amount:
                assert outcome.status is PlaceStatus.REPEATED
                assert (outcome.instant_ms, outcome.expires_at_ms) == known.instants
                assert outcome.numbers.available_nano == available
            else:
                assert outcome.status is PlaceStatus.MISMATCH
            return
        if number in self.ended:
            assert outcome.status is PlaceStatus.CLOSED
            return
        if account.held + amount > AMOUNT_NANO_MAX or available - amount < -AMOUNT_NANO_MAX:
            assert outcome.status is PlaceStatus.OUT_OF_BOUNDS
            return
        no_credit = required and available < amount
        over_quota = account.counter + count > QUOTA_LIMIT
        if no_credit or account.delinquent or over_quota:
            assert outcome.status is PlaceStatus.DENIED
            assert outcome.numbers.failed_credit is no_credit
            assert (outcome.numbers.standing is Standing.DELINQUENT) is account.delinquent
            assert bool(outcome.numbers.over) is over_quota
            assert outcome.numbers.used == {"tokens": account.counter}
            return
        assert outcome.status is PlaceStatus.PLACED
        account.counter += count
        account.open[number] = Open(
            amount=amount,
            units=count,
            uncovered=max(0, amount - available) - max(0, -available),
            short=short,
            instants=(outcome.instant_ms, outcome.expires_at_ms),
        )
        assert outcome.numbers.available_nano == account.available
        assert outcome.numbers.used == {"tokens": account.counter}
        if required:
            assert account.available >= 0

    @rule(customer=customers, number=numbers)
    def release(self, customer: str, number: int) -> None:
        released = self.run(self.store.balances.release_hold(customer, hold_id_of(number)))
        account = self.accounts[customer]
        assert released is (number in account.open)
        if released:
            account.counter -= account.open.pop(number).units
            self.ended[number] = Ended(customer)
        elif number not in self.ended and self.owner(number) is None:
            self.ended[number] = Ended(customer)

    @rule(customer=customers, number=numbers)
    def extend(self, customer: str, number: int) -> None:
        hold = self.accounts[customer].open.get(number)
        known = self.run(self.store.balances.extend_hold(customer, hold_id_of(number), 1))
        assert known is (hold is not None)
        if hold is not None:
            stored = self.run(self.store.balances.read_hold(customer, hold_id_of(number)))
            assert stored.terms.expires_at_ms >= hold.instants[1]
            hold.instants = (hold.instants[0], stored.terms.expires_at_ms)

    @precondition(
        lambda self: any(h.short for a in self.accounts.values() for h in a.open.values())
    )
    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        due = [(c, n) for c, a in self.accounts.items() for n, h in a.open.items() if h.short]
        customer, number = data.draw(st.sampled_from(sorted(due)))
        self.run(self.store.expire(hold_id_of(number), customer))
        account = self.accounts[customer]
        account.counter -= account.open.pop(number).units
        self.ended[number] = Ended(customer)

    @rule(customer=customers, number=numbers)
    def sweep_what_is_not_due(self, customer: str, number: int) -> None:
        hold = self.accounts[customer].open.get(number)
        if hold is None or not hold.short:
            step = self.store.balances.orphan_hold(customer, hold_id_of(number))
            assert self.run(step) is None

    @rule(
        customer=customers,
        number=numbers,
        count=units,
        model=st.sampled_from(["m1", "m2"]),
        estimated=st.booleans(),
    )
    def capture(
        self, customer: str, number: int, count: int, model: str, *, estimated: bool
    ) -> None:
        account, ended = self.accounts[customer], self.ended.get(number)
        hold, owner = account.open.get(number), self.owner(number)
        amount, digest = self.amount_of(count), (count, model)
        event = event_of(self.hold(customer, number, count), amount, model=model)
        lines = tuple(replace(line, quantity=count) for line in event.lines)
        event = replace(event, lines=lines, usage=TokenUsage(output=count), estimated=estimated)
        step = self.store.balances.capture_hold(
            event, quota_lines(self.hold(customer, number, 0), count), prepaid=True
        )
        outcome = self.run(step)
        foreign = owner not in (None, customer) or (
            ended is not None and ended.customer != customer
        )
        if foreign:
            assert outcome.status is CaptureStatus.CONFLICT
            return
        captured = ended if ended is not None and ended.captured else None
        if captured and self.is_known(captured, digest, outcome.status, estimated=estimated):
            return
        if account.used + amount > AMOUNT_NANO_MAX or account.available - amount < -AMOUNT_NANO_MAX:
            assert outcome.status is CaptureStatus.OUT_OF_BOUNDS
            return
        before = ended or Ended(customer)
        overage = account.burn(amount, before.amount, hold, before.overage)
        account.open.pop(number, None)
        account.counter += count - (hold.units if hold else before.units)
        self.ended[number] = Ended(
            customer,
            captured=True,
            amount=amount,
            units=count,
            overage=before.overage + overage,
            estimated=estimated,
            digest=digest,
        )
        expected = CaptureStatus.CAPTURED if hold else CaptureStatus.LATE
        assert outcome.status is (CaptureStatus.CORRECTED if captured else expected)
        assert outcome.booked_nano == amount - before.amount
        assert outcome.overspent_nano == overage
        assert outcome.held_nano == (hold.amount if hold else 0)
        assert outcome.available_nano == account.available
        if hold and not hold.uncovered and amount <= hold.amount:
            assert outcome.overspent_nano == 0

    @staticmethod
    def is_known(
        captured: Ended, digest: tuple[int, str], status: CaptureStatus, *, estimated: bool
    ) -> bool:
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

    @invariant()
    def balances_are_what_the_model_says(self) -> None:
        for customer, account in self.accounts.items():
            granted, used, held, available = self.run(self.store.numbers(customer))
            assert (granted, used, held) == (account.granted, account.used, account.held)
            assert available == granted - used - held
            # The ledger's credit account never goes below what is held.
            assert granted - (used - account.overage) >= 0
            assert account.overage >= 0

    @invariant()
    def counters_are_what_the_model_says(self) -> None:
        field_name = quota_take(0, QUOTA_LIMIT).line.field.encode()
        for customer, account in self.accounts.items():
            fields = self.run(self.store.fields(customer))
            assert int(fields.get(field_name, b"0")) == account.counter
            held = {name[2:].decode() for name in fields if name.startswith(b"h:")}
            assert held == {hold_id_of(number) for number in account.open}

    @invariant()
    def the_sweep_knows_every_open_hold_and_no_other(self) -> None:
        keys, connection = self.store.keyspace, self.store.connection
        flat = self.run(connection.command("HGETALL", keys.open(0)))
        index = dict(zip(flat[::2], flat[1::2], strict=True))
        assert index == {
            hold_id_of(number).encode(): customer.encode()
            for customer, account in self.accounts.items()
            for number in account.open
        }
        assert set(self.run(connection.command("ZRANGE", keys.expiry(0), 0, -1))) == set(index)

    async def check_replay(self) -> None:
        """The stream alone tells what every customer was granted, used and overdrew."""
        for customer, account in self.accounts.items():
            records = await self.store.records(customer)
            assert all(isinstance(record, StreamRecord) for record in records)
            grants = [r.amount_nano for r in records if r.kind == "grant"]
            usage = [r for r in records if r.kind != "grant"]
            assert sum(grants) == account.granted
            assert sum(record.amount_nano for record in usage) == account.used
            assert sum(record.overage_nano for record in usage) == account.overage
            keys = [(record.hold_id, record.kind) for record in usage]
            assert len(keys) == len(set(keys))


def test_no_order_of_steps_breaks_a_balance(redis_socket: Path) -> None:
    HoldMachine.socket = redis_socket
    run_state_machine_as_test(
        HoldMachine,
        settings=settings(
            max_examples=100,
            stateful_step_count=50,
            deadline=None,
            print_blob=True,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
