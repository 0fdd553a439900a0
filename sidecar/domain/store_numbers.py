"""What the place script saw, and how it says so."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sidecar.domain.standing import Standing
from sidecar.domain.thawing import quickly_made


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceDemand:
    """
    When unpaid invoices refuse.

    Without `grace_ms` a delinquent standing does. With it, so does an invoice that has been
    overdue for so long, whatever the standing. Neither does while the overdue amount is known
    to be below `minimum_nano`, or where it is disputed and `except_disputed` says so. `hard`
    lets the script refuse; otherwise only the numbers are told.
    """

    grace_ms: int | None = None
    minimum_nano: int = 0
    except_disputed: bool = False
    hard: bool = True

    def fails(self, numbers: "StoreNumbers") -> bool:
        """Whether these numbers refuse; the place script decides by the same words."""
        if numbers.disputed and self.except_disputed:
            return False
        if numbers.due_nano is not None and numbers.due_nano < self.minimum_nano:
            return False
        if self.grace_ms is None or numbers.due_since_ms is None:
            return numbers.standing is Standing.DELINQUENT
        return numbers.instant_ms >= numbers.due_since_ms + self.grace_ms


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class StoreNumbers:
    """
    What the place script saw: amounts in nano, counters in their measure's unit.

    On a placed hold the numbers are those after it, on a denial those that refused it.
    `used` is by the take's name, and for a rate it is how much of the burst is taken. `over`
    names the takes, hard or soft, that do not fit; `retry_at_ms` says from when on one of
    those would, where that is known. `due_*` and `disputed` are facts of unpaid invoices;
    None where nobody stated them. `denied` is whether the script refused.
    """

    instant_ms: int
    available_nano: int
    standing: Standing
    due_since_ms: int | None = None
    due_nano: int | None = None
    disputed: bool = False
    used: Mapping[str, int] = field(default_factory=dict)
    over: frozenset[str] = frozenset()
    retry_at_ms: Mapping[str, int] = field(default_factory=dict)
    failed_credit: bool = False
    denied: bool = False
