"""
Whether a customer's live balance is what the ledger and the stream say, and why not if not.

Three accounts of one credit are compared: the ledger's as far as it is posted, the stream's
records after that, folded up (`replay_credit`), and the live book with its open holds, all of
one moment. What an unsettled record or an open hold explains is told apart from what nothing
explains.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType

from sidecar.domain.credit_replay import Credit, CreditRecord, replay_credit
from sidecar.domain.errors import InvalidInput

NO_GRANTS: Mapping[str, "GrantLine"] = MappingProxyType({})


class DifferenceKind(StrEnum):
    """Why two accounts of a customer differ. The last two are wrong; the others pass by."""

    IN_FLIGHT = "in_flight"
    """An open hold, or a decision that is not settled yet."""
    LATE = "late"
    """Usage that came after its hold had ended, not settled yet."""
    ORPHAN = "orphan"
    """A hold that expired and waits for the sweep."""
    MANUAL_EDIT = "manual_edit"
    """Somebody changed the live store or a projection of the ledger by hand."""
    UNKNOWN = "unknown"
    """Nothing explains it: a bug of ours."""

    @property
    def wrong(self) -> bool:
        """Whether it must be mended rather than waited for."""
        return self in (DifferenceKind.MANUAL_EDIT, DifferenceKind.UNKNOWN)


class Remedy(StrEnum):
    """What ends a difference; each may be done again."""

    SETTLE = "settle"
    SWEEP = "sweep"
    WAIT = "wait"
    MEND = "mend"
    """Make the live book what ledger and stream say."""
    RELEASE = "release"
    """Give back a hold whose usage is settled already."""
    RESUM = "resum"
    """Sum a projection of the ledger up from its entries anew."""
    LOOK = "look"
    """Nothing mends it by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that two accounts say differently; amounts in nano."""

    customer_id: str
    kind: DifferenceKind
    what: str
    expected_nano: int
    found_nano: int
    remedy: Remedy


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveHold:
    """An open hold: `pins` are (grant, meter, nano)."""

    hold_id: str
    amount_nano: int
    expires_at_ms: int
    pins: tuple[tuple[str, str, int], ...] = ()

    @property
    def uncovered_nano(self) -> int:
        """What of it no grant is pinned for."""
        return self.amount_nano - sum(amount for _, _, amount in self.pins)


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantLine:
    """
    A grant in the live book, as its record has it; amounts in nano, instants in epoch ms.

    `state` and `rolls` are the record's own words.
    """

    grant_id: str
    state: str
    kind: str
    priority: int
    effective_ms: int
    expires_ms: int | None
    meters: str
    free_nano: int
    pinned_nano: int
    rolls: str = ""

    @property
    def scheduled(self) -> bool:
        """Whether it has not begun, so that nothing counts it yet."""
        return self.state == "scheduled"

    @property
    def burn_order(self) -> tuple[object, ...]:
        """Grants burn in this order."""
        endless = self.expires_ms is None
        promised = self.kind != "promotional"
        return (
            *(self.priority, endless, self.expires_ms or 0),
            *(promised, self.effective_ms, self.grant_id),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveBook:
    """
    A customer's live balance at one moment.

    `sealed` is whether a script left it so; `position` is the last entry that its shard's stream
    had. `numbers` has granted, used, held, avail, voided, expired, overdraft, deficit, uncov.
    """

    instant_ms: int
    position: str
    sealed: bool
    seal: str
    numbers: Mapping[str, int]
    grants: tuple[GrantLine, ...]
    holds: tuple[LiveHold, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingRecord:
    """A decision that the ledger has not posted: what moves credit, and whether it came late."""

    record: CreditRecord
    late: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What came of one customer: the differences, and the credit that ought to be, if any can."""

    differences: tuple[Difference, ...]
    expected: Credit | None
    pending: tuple[PendingRecord, ...] = ()


def compare(
    customer_id: str,
    ledger: Credit,
    pending: Sequence[PendingRecord],
    book: LiveBook,
    *,
    settled_holds: Iterable[str] = (),
    grants: Mapping[str, GrantLine] = NO_GRANTS,
) -> Comparison:
    """
    Compare one customer's accounts.

    Args:
        customer_id: Whose they are.
        ledger: What is posted, up to the offset that `pending` follows.
        pending: The customer's decisions from there up to the book's position, in order.
        book: The live balance at that position.
        settled_holds: Open holds whose usage the ledger has already.
        grants: The ledger's, by id; those that have not begun must be in the book as they are.
    """
    found = [*_passing(customer_id, pending, book)]
    wrong = DifferenceKind.UNKNOWN if book.sealed else DifferenceKind.MANUAL_EDIT

    def differ(
        what: str, expected: int, actual: int, kind: DifferenceKind = wrong, *, remedy: Remedy
    ) -> None:
        if expected != actual:
            found.append(
                Difference(
                    customer_id=customer_id,
                    kind=kind,
                    what=what,
                    expected_nano=expected,
                    found_nano=actual,
                    remedy=remedy,
                )
            )

    settled = frozenset(settled_holds)
    for hold in book.holds:
        if hold.hold_id in settled:
            differ(f"hold {hold.hold_id} is settled", 0, hold.amount_nano, remedy=Remedy.RELEASE)
    try:
        expected = replay_credit((one.record for one in pending), ledger)
    except InvalidInput as error:
        differ(f"stream: {error}", 0, 1, DifferenceKind.UNKNOWN, remedy=Remedy.LOOK)
        return Comparison(differences=tuple(found), expected=None)
    pinned = _pinned(book)
    remedy = _mendable(expected, pinned)
    for what, ought, actual in _live_numbers(expected, book, pinned):
        differ(what, ought, actual, remedy=remedy)
    for line in _missing(grants, book, pending):
        if _rests(line, book):
            differ(f"grant {line.grant_id} has not begun", line.free_nano, 0, remedy=remedy)
        else:
            what = f"grant {line.grant_id} is given anew"
            differ(what, line.free_nano, 0, DifferenceKind.IN_FLIGHT, remedy=Remedy.WAIT)
    return Comparison(differences=tuple(found), expected=expected, pending=tuple(pending))


def mended_grants(
    expected: Credit,
    book: LiveBook,
    pending: Sequence[PendingRecord],
    known: Mapping[str, GrantLine],
) -> tuple[GrantLine, ...]:
    """
    The grants that a live book ought to have, in burn order.

    Args:
        expected: As `compare` says.
        book: As it is; grants that have not begun stay as they are.
        pending: As it was compared with.
        known: Grants by id as they were given, for those that the book has lost.

    Raises:
        InvalidInput: A grant is unknown, or holds have more of it pinned than there is.
    """
    pinned = _pinned(book)
    lines = {line.grant_id: line for line in book.grants if line.scheduled}
    missing = _missing(known, book, pending)
    lines |= {line.grant_id: line for line in missing if _rests(line, book)}
    standing = {line.grant_id: line for line in book.grants if not line.scheduled}
    for grant_id in expected.remaining.keys() | pinned.keys():
        line = standing.get(grant_id) or known.get(grant_id)
        left, held = expected.remaining.get(grant_id, 0), pinned.get(grant_id, 0)
        if line is None:
            raise InvalidInput(f"grant {grant_id!r} is in no account of the customer's grants")
        if held > left:
            raise InvalidInput(f"holds have more of grant {grant_id!r} pinned than is left of it")
        lines[grant_id] = replace(line, free_nano=left - held, pinned_nano=held)
    return tuple(sorted(lines.values(), key=lambda line: line.burn_order))


def mended_numbers(expected: Credit, book: LiveBook) -> dict[str, int]:
    """The numbers that a live book ought to have."""
    ought = {what: number for what, number, _ in _live_numbers(expected, book, _pinned(book))}
    return {name: ought.get(name, number) for name, number in book.numbers.items()}


def _passing(
    customer_id: str, pending: Sequence[PendingRecord], book: LiveBook
) -> Iterable[Difference]:
    """What explains itself and passes by."""
    sums: dict[tuple[DifferenceKind, str, Remedy], int] = {}

    def add(kind: DifferenceKind, what: str, remedy: Remedy, nano: int) -> None:
        sums[kind, what, remedy] = sums.get((kind, what, remedy), 0) + nano

    for one in pending:
        kind = DifferenceKind.LATE if one.late else DifferenceKind.IN_FLIGHT
        add(kind, "not settled yet", Remedy.SETTLE, one.record.amount_nano)
    for hold in book.holds:
        if hold.expires_at_ms <= book.instant_ms:
            add(DifferenceKind.ORPHAN, "expired holds", Remedy.SWEEP, hold.amount_nano)
        else:
            add(DifferenceKind.IN_FLIGHT, "open holds", Remedy.WAIT, hold.amount_nano)
    for (kind, what, remedy), nano in sums.items():
        yield Difference(
            customer_id=customer_id,
            kind=kind,
            what=what,
            expected_nano=0,
            found_nano=nano,
            remedy=remedy,
        )


def _missing(
    grants: Mapping[str, GrantLine], book: LiveBook, pending: Sequence[PendingRecord]
) -> list[GrantLine]:
    """Grants of the ledger that have not begun, and that the book does not have either."""
    there = {line.grant_id for line in book.grants}
    there |= {move.grant_id for one in pending for move in one.record.movements}
    return [line for line in grants.values() if line.scheduled and line.grant_id not in there]


def _rests(line: GrantLine, book: LiveBook) -> bool:
    """
    Whether a grant waits in the book for its beginning.

    One that should have begun and was lost is applied anew by whoever looks after pending grants.
    One that takes a rest over has to be there before.
    """
    return bool(line.rolls) or line.effective_ms > book.instant_ms


def _pinned(book: LiveBook) -> dict[str, int]:
    pinned: dict[str, int] = {}
    for hold in book.holds:
        for grant_id, _, amount in hold.pins:
            pinned[grant_id] = pinned.get(grant_id, 0) + amount
    return pinned


def _mendable(expected: Credit, pinned: Mapping[str, int]) -> Remedy:
    fits = all(amount <= expected.remaining.get(grant, 0) for grant, amount in pinned.items())
    return Remedy.MEND if fits else Remedy.LOOK


def _live_numbers(
    expected: Credit, book: LiveBook, pinned: Mapping[str, int]
) -> Iterable[tuple[str, int, int]]:
    """What each live number ought to be, and is."""
    held = sum(hold.amount_nano for hold in book.holds)
    gone = expected.voided_nano + expected.expired_nano + expected.used_nano
    ought = {
        "granted": expected.granted_nano,
        "used": expected.used_nano,
        "voided": expected.voided_nano,
        "expired": expected.expired_nano,
        "deficit": expected.deficit_nano,
        "held": held,
        "uncov": sum(hold.uncovered_nano for hold in book.holds),
        "avail": expected.granted_nano - gone - held,
    }
    for name, number in ought.items():
        yield name, number, book.numbers[name]
    standing = {line.grant_id: line for line in book.grants if not line.scheduled}
    for grant_id in sorted(expected.remaining.keys() | pinned.keys() | standing.keys()):
        line = standing.get(grant_id)
        free, part = (line.free_nano, line.pinned_nano) if line else (0, 0)
        yield f"left of grant {grant_id}", expected.remaining.get(grant_id, 0), free + part
        yield f"pinned of grant {grant_id}", pinned.get(grant_id, 0), part
