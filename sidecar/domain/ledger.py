"""
The ledger's accounts and balanced transactions.

Per customer and currency, in credit-positive terms: `customer_credit` is what we owe the
customer (prepaid credit), `customer_overage` what was captured beyond it,
`customer_receivable` what a postpaid customer owes, `funding` where grants come from,
`revenue` what usage earned. Each transaction sums to zero per currency.

    available = customer_credit + customer_overage + customer_receivable

(the last two are negative or zero), which equals granted - used.
"""

from dataclasses import dataclass
from enum import StrEnum

from sidecar.domain.errors import InvariantViolated


class Account(StrEnum):
    """Ledger accounts; each belongs to one customer and currency."""

    CUSTOMER_CREDIT = "customer_credit"
    CUSTOMER_OVERAGE = "customer_overage"
    CUSTOMER_RECEIVABLE = "customer_receivable"
    FUNDING = "funding"
    REVENUE = "revenue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line: positive credits the account, negative debits it."""

    account: Account
    amount_nano: int


def grant_entries(amount_nano: int) -> tuple[Entry, ...]:
    """Entries of a grant."""
    return _balanced(
        Entry(account=Account.FUNDING, amount_nano=-amount_nano),
        Entry(account=Account.CUSTOMER_CREDIT, amount_nano=amount_nano),
    )


def usage_entries(amount_nano: int, *, overage_nano: int, prepaid: bool) -> tuple[Entry, ...]:
    """
    Entries of captured usage; of a correction when the amount is negative.

    Args:
        amount_nano: What the capture burned, or the signed difference of a correction.
        overage_nano: The part of it beyond the customer's credit, same sign as the amount.
        prepaid: Whether the plan burns credit; otherwise the customer owes it.
    """
    if not prepaid:
        return _balanced(
            Entry(account=Account.CUSTOMER_RECEIVABLE, amount_nano=-amount_nano),
            Entry(account=Account.REVENUE, amount_nano=amount_nano),
        )
    return _balanced(
        Entry(account=Account.CUSTOMER_CREDIT, amount_nano=-(amount_nano - overage_nano)),
        Entry(account=Account.CUSTOMER_OVERAGE, amount_nano=-overage_nano),
        Entry(account=Account.REVENUE, amount_nano=amount_nano),
    )


def _balanced(*entries: Entry) -> tuple[Entry, ...]:
    if sum(entry.amount_nano for entry in entries) != 0:
        raise InvariantViolated(f"entries do not sum to zero: {entries}")
    return tuple(entry for entry in entries if entry.amount_nano != 0)
