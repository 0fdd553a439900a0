"""
A customer's credit from its decisions alone: what the stream says, folded up.

The store decided each record with its numbers; here they are only added. So the same numbers
must come out as the store has, and as the ledger has once the records are posted.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from sidecar.domain.errors import InvalidInput
from sidecar.domain.grants import Movement
from sidecar.domain.usage import EventKind


class CreditRecord(Protocol):
    """What of a stream record moves credit; amounts in nano."""

    @property
    def kind(self) -> str:
        """An EventKind's value, a correction with its number."""

    @property
    def amount_nano(self) -> int:
        """What was booked; signed for corrections."""

    @property
    def overage_nano(self) -> int:
        """By how much the deficit grew."""

    @property
    def prepaid(self) -> bool:
        """Whether credit pays, for usage."""

    @property
    def owed_nano(self) -> int:
        """What of prepaid usage is left to an invoice."""

    @property
    def movements(self) -> tuple[Movement, ...]:
        """What was moved of which grant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """
    What a customer was given and used, in nano.

    `remaining` is what is left of each grant, pinned or free, without those that have nothing
    left. `deficit_nano` is prepaid usage that no grant has paid (below zero: what a correction
    gave back and no grant owns).
    """

    granted_nano: int = 0
    used_nano: int = 0
    used_prepaid_nano: int = 0
    voided_nano: int = 0
    expired_nano: int = 0
    deficit_nano: int = 0
    remaining: Mapping[str, int] = field(default_factory=dict)

    @property
    def fits(self) -> bool:
        """Whether what is left of all grants is what was given less what went."""
        gone = self.voided_nano + self.expired_nano + self.used_prepaid_nano
        return sum(self.remaining.values()) - self.deficit_nano == self.granted_nano - gone


def replay_credit(records: Iterable[CreditRecord], start: Credit = Credit()) -> Credit:
    """
    What the credit is after these decisions of one customer.

    Raises:
        InvalidInput: A record whose movements are not what it does to credit, or which takes
            more from a grant than there is.
    """
    sums = {
        name: getattr(start, name) for name in Credit.__dataclass_fields__ if name != "remaining"
    }
    remaining = dict(start.remaining)
    for record in records:
        moved = sum(movement.amount_nano for movement in record.movements)
        if moved != _credit_change(record, sums):
            raise InvalidInput(f"a {record.kind} record moves {moved} nano of grants")
        sums["deficit_nano"] += record.overage_nano
        for movement in record.movements:
            left = remaining.get(movement.grant_id, 0) + movement.amount_nano
            if left < 0:
                raise InvalidInput(f"grant {movement.grant_id!r} is left with {left} nano")
            remaining[movement.grant_id] = left
    return Credit(**sums, remaining={name: left for name, left in remaining.items() if left})


def _credit_change(record: CreditRecord, sums: dict[str, int]) -> int:
    """Add the record to the sums; what it changes of the customer's credit."""
    amount, overage = record.amount_nano, record.overage_nano
    match EventKind(record.kind.partition(":")[0]):
        case EventKind.CAPTURE | EventKind.CORRECTION | EventKind.ORPHAN:
            sums["used_nano"] += amount
            if not record.prepaid:
                return 0
            paid = amount - record.owed_nano
            sums["used_prepaid_nano"] += paid
            return overage - paid
        case EventKind.GRANT | EventKind.ROLLOVER:
            sums["granted_nano"] += amount
            return amount + overage
        case EventKind.EXPIRE:
            sums["expired_nano"] += amount
            return overage - amount
        case EventKind.VOID | EventKind.REFUND | EventKind.DISPUTE:
            sums["voided_nano"] += amount
            return overage - amount
