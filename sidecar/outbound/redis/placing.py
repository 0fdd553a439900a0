"""What the place script is asked and what it answers: `PlaceHold` to ARGV, reply to outcome."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from sidecar.domain.counters import (
    COUNTERS_MAX,
    MONEY,
    RATE_WORK_MAX,
    CounterKind,
    CounterTake,
    Rate,
)
from sidecar.domain.errors import InvalidInput
from sidecar.domain.money import AMOUNT_NANO_MAX
from sidecar.domain.periods import to_epoch_ms
from sidecar.domain.remembering import Remembered
from sidecar.domain.standing import Standing
from sidecar.domain.store_numbers import InvoiceDemand, StoreNumbers
from sidecar.domain.usage import check_quantity
from sidecar.outbound.redis.connection import Argument
from sidecar.outbound.redis.keys import check_line, quota_field
from sidecar.outbound.redis.records import terms_to_payload
from sidecar.services.ports import PlaceHold, PlaceOutcome, PlaceStatus

_WITH_NUMBERS = frozenset({PlaceStatus.PLACED, PlaceStatus.REPEATED, PlaceStatus.DENIED})
_REPLY_HEAD = 11
_DEMANDS_MAX = 1_024
"""Of plans; each keeps its counters and parts."""
PARTS_MAX = 64
"""Meters that one request is priced by."""


def place_arguments(hold: PlaceHold) -> list[Argument]:
    """
    Say to the script what a check takes, as the script's head lists it.

    Raises:
        InvalidInput: A number is out of bounds, or the counters are too many or not distinct.
    """
    amount = check_amount(hold.terms.amount_nano)
    return [*_head(hold, amount), *_known_demands(hold, amount)]


def block_arguments(block: PlaceHold) -> list[Argument]:
    """
    The same for a block; nothing of it is remembered, since each asks for another size.

    Raises:
        InvalidInput: As `place_arguments` does.
    """
    amount = check_amount(block.terms.amount_nano)
    return [*_head(block, amount), *_demanded(block, amount)]


def fingerprint_hash(fingerprint: str) -> str:
    """A fingerprint as the store keeps it: it holds a client's path, of any length."""
    return hashlib.sha256(fingerprint.encode(errors="backslashreplace")).hexdigest()[:32]


def _head(hold: PlaceHold, amount: int) -> tuple[Argument, ...]:
    terms = hold.terms
    return (
        terms.hold_id,
        terms.customer_id,
        amount,
        fingerprint_hash(hold.fingerprint),
        to_epoch_ms(hold.deadline),
        hold.ttl_ms,
        hold.customer.credential_id,
        hold.customer.generation,
        hold.customer.revision,
        int(hold.credit_required),
        int(hold.probe),
        who_pays(prepaid=hold.prepaid, owes=hold.owes),
        terms_to_payload(terms),
    )


@dataclass(frozen=True, slots=True)
class _Demands:
    """What plans that are remembered ask again and again, as arguments."""

    invoices: tuple[InvoiceDemand, ...]
    counters: tuple[CounterTake, ...]
    parts: Mapping[str, int]
    amount: int
    arguments: tuple[Argument, ...]

    def are_of(self, hold: PlaceHold, amount: int) -> bool:
        """Whether they are these very objects, none of which ever changes."""
        return (
            self.parts is hold.parts
            and self.counters is hold.counters
            and self.invoices is hold.invoices
            and self.amount == amount
        )


_demands: Remembered[_Demands] = Remembered(_DEMANDS_MAX)


def _known_demands(hold: PlaceHold, amount: int) -> tuple[Argument, ...]:
    # What is remembered holds its parts, so that their id is nobody else's meanwhile.
    known = _demands.get(id(hold.parts))
    if known is None or not known.are_of(hold, amount):
        found = tuple(_demanded(hold, amount))
        known = _Demands(hold.invoices, hold.counters, hold.parts, amount, found)
        _demands.put(id(hold.parts), known)
    return known.arguments


def _demanded(hold: PlaceHold, amount: int) -> list[Argument]:
    """Invoices, parts and counters, each behind their number."""
    arguments: list[Argument] = [len(hold.invoices)]
    for demand in hold.invoices:
        arguments += _demand_arguments(demand)
    arguments += part_arguments(hold.parts, amount)
    if len(hold.counters) > COUNTERS_MAX:
        raise InvalidInput(f"a check may take {COUNTERS_MAX} counters, not {len(hold.counters)}")
    if len({take.field for take in hold.counters}) < len(hold.counters):
        raise InvalidInput("two takes name the same counter")
    arguments.append(len(hold.counters))
    for take in hold.counters:
        arguments += _take_arguments(take)
    return arguments


def _demand_arguments(demand: InvoiceDemand) -> tuple[Argument, ...]:
    check_quantity(demand.grace_ms, field="grace_ms")
    return (
        "" if demand.grace_ms is None else demand.grace_ms,
        check_amount(demand.minimum_nano),
        int(demand.except_disputed),
        int(demand.hard),
    )


def _take_arguments(take: CounterTake) -> tuple[Argument, ...]:
    counter, quantity = take.counter, take.quantity
    check_counted(quantity, counter.measure, field=take.name)
    check_amount(counter.limit)
    kind = CounterKind(take.field[:1])
    if kind is not counter.kind:
        raise InvalidInput(f"the field {take.field[:40]!r} is of another kind than its counter")
    shape: tuple[int, int, int] = (0, 0, 0)
    match kind:
        case CounterKind.WINDOW:
            shape = (take.start_ms, take.end_ms, 0)
        case CounterKind.ROLLING:
            shape = (take.start_ms, take.end_ms, take.leaves_ms)
        case CounterKind.RATE:
            rate = _check_rate(counter.limit, counter.rate)
            # More than the burst never fits, however much more; the script's numbers are doubles.
            quantity = min(quantity, rate.burst + 1)
            shape = (rate.per_ms, rate.burst, 0)
        case CounterKind.IN_FLIGHT:
            pass
    return (quota_field(take.field), int(take.hard), quantity, counter.limit, *shape)


def _check_rate(limit: int, rate: Rate | None) -> Rate:
    """Refuse a rate whose level would not be exact in a script."""
    if (
        rate is None
        or not 0 <= limit <= RATE_WORK_MAX
        or rate.per_ms < 1
        or rate.burst < 0
        or max(rate.burst, 1) * rate.per_ms > RATE_WORK_MAX
    ):
        raise InvalidInput("a rate's burst times its milliseconds is out of bounds")
    return rate


def read_outcome(reply: list[bytes], counters: tuple[CounterTake, ...]) -> PlaceOutcome:
    """Turn the script's reply into an outcome; `counters` as they were asked for."""
    status = PlaceStatus(reply[0].decode())
    instant, expires, epoch, seq = (int(number) for number in reply[1:5])
    if status not in _WITH_NUMBERS:
        return PlaceOutcome(status=status, instant_ms=instant, epoch=epoch, seq=seq)
    used: dict[str, int] = {}
    over: set[str] = set()
    retry_at_ms: dict[str, int] = {}
    for index, take in enumerate(counters):
        at = _REPLY_HEAD + 3 * index
        used[take.name] = int(reply[at])
        if reply[at + 1] == b"1":
            over.add(take.name)
        if reply[at + 2] != b"0":
            retry_at_ms[take.name] = int(reply[at + 2])
    return PlaceOutcome(
        status=status,
        instant_ms=instant,
        expires_at_ms=expires,
        epoch=epoch,
        seq=seq,
        numbers=StoreNumbers(
            instant_ms=instant,
            available_nano=int(reply[5]),
            standing=Standing(reply[6].decode()),
            due_since_ms=int(reply[7]) if reply[7] else None,
            due_nano=int(reply[8]) if reply[8] else None,
            disputed=reply[9] == b"1",
            used=used,
            over=frozenset(over),
            retry_at_ms=retry_at_ms,
            failed_credit=reply[10] == b"1",
            denied=status is PlaceStatus.DENIED,
        ),
    )


def part_arguments(parts: Mapping[str, int], amount_nano: int) -> list[Argument]:
    """
    Say to a script what an amount is for: how many parts, then each meter with its nano.

    What no meter accounts for (a stated amount) is a part without one, which only grants that
    are good for every meter pay.

    Raises:
        InvalidInput: The parts are too many, or more than the amount.
    """
    named = [(meter, part) for meter, part in parts.items() if part]
    rest = amount_nano - sum(part for _, part in named)
    if rest < 0 or any(part < 0 for _, part in named):
        raise InvalidInput("the parts of an amount are more than the amount")
    if rest:
        named.append(("", rest))
    if len(named) > PARTS_MAX:
        raise InvalidInput(f"an amount may have {PARTS_MAX} parts, not {len(named)}")
    arguments: list[Argument] = [len(named)]
    for meter, part in named:
        arguments += (check_line(meter, "meter"), part)
    return arguments


def who_pays(*, prepaid: bool, owes: bool) -> int:
    """The scripts' word for it: an invoice, credit, or credit first and an invoice after it."""
    return 2 if prepaid and owes else int(prepaid)


def signed_arguments(parts: Mapping[str, int]) -> list[Argument]:
    """
    Say to a script what usage comes to by meter, which may be below 0.

    Raises:
        InvalidInput: The parts are too many, or one is beyond any balance.
    """
    arguments: list[Argument] = [0]
    for meter, part in parts.items():
        if part:
            arguments += (check_line(meter, "meter"), check_signed(part))
    arguments[0] = count = len(arguments) // 2
    if count > PARTS_MAX:
        raise InvalidInput(f"an amount may have {PARTS_MAX} parts, not {count}")
    return arguments


def check_counted(quantity: int, measure: str, *, field: str) -> None:
    """Money may be as much as any balance; the rest is counted by one event."""
    if measure == MONEY:
        check_amount(quantity)
    else:
        check_quantity(quantity, field=field)


def check_signed(amount_nano: int) -> int:
    """Refuse an amount that no balance could be moved by, up or down."""
    check_amount(abs(amount_nano))
    return amount_nano


def check_amount(amount_nano: int) -> int:
    """Refuse an amount that no balance could have."""
    if not 0 <= amount_nano <= AMOUNT_NANO_MAX:
        raise InvalidInput(
            f"the amount {str(amount_nano)[:40]} nano is below 0 or beyond any balance"
        )
    return amount_nano
