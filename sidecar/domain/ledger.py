"""
The ledger's accounts and balanced transactions.

Per customer and currency, in credit-positive terms: `customer_credit` is what we owe the
customer (prepaid credit), `customer_overage` what was captured beyond it,
`customer_receivable` what an invoice asks for, `funding` where paid grants come from,
`promotion` where promotional ones do, `breakage` paid credit that expired, `revenue` what usage
earned, `clearing` what providers took for us of what the customer owed (negative: money of ours
that is with them), `tax` what of that goes to the state. Each transaction sums to zero per
currency.

    available = customer_credit + customer_overage + customer_receivable

less what invoices charged, what was paid and what was given up of the receivable, which equals
granted - voided - expired - used. The overage is what no grant has paid yet (or,
above zero, what a correction gave back and no grant owns). Each change of customer_credit is the
sum of what grants were moved by.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from sidecar.domain.errors import InvariantViolated
from sidecar.domain.grants import GrantKind


class Account(StrEnum):
    """Ledger accounts; each belongs to one customer and currency."""

    CUSTOMER_CREDIT = "customer_credit"
    CUSTOMER_OVERAGE = "customer_overage"
    CUSTOMER_RECEIVABLE = "customer_receivable"
    FUNDING = "funding"
    PROMOTION = "promotion"
    BREAKAGE = "breakage"
    REVENUE = "revenue"
    CLEARING = "clearing"
    TAX = "tax"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line: positive credits the account, negative debits it."""

    account: Account
    amount_nano: int


def grant_entries(amount_nano: int, *, repaid_nano: int, kind: GrantKind) -> tuple[Entry, ...]:
    """Entries of a grant; `repaid_nano` of it paid for overage at once."""
    return _balanced(
        (_source(kind), -amount_nano),
        (Account.CUSTOMER_CREDIT, amount_nano - repaid_nano),
        (Account.CUSTOMER_OVERAGE, repaid_nano),
    )


def expiry_entries(amount_nano: int, *, repaid_nano: int, kind: GrantKind) -> tuple[Entry, ...]:
    """Entries of credit that expired; `repaid_nano` more of the grant paid for overage first."""
    kept = Account.BREAKAGE if kind is GrantKind.PAID else Account.PROMOTION
    return _balanced(
        (Account.CUSTOMER_CREDIT, -(amount_nano + repaid_nano)),
        (Account.CUSTOMER_OVERAGE, repaid_nano),
        (kept, amount_nano),
    )


def rollover_entries(amount_nano: int) -> tuple[Entry, ...]:
    """Entries of what a rollover's minimum gave beyond what was free before."""
    return _balanced((Account.PROMOTION, -amount_nano), (Account.CUSTOMER_CREDIT, amount_nano))


def withdrawal_entries(
    amount_nano: int, *, overage_nano: int, kind: GrantKind
) -> tuple[Entry, ...]:
    """Entries of credit taken back; `overage_nano` of it had been spent already."""
    return _balanced(
        (Account.CUSTOMER_CREDIT, -(amount_nano - overage_nano)),
        (Account.CUSTOMER_OVERAGE, -overage_nano),
        (_source(kind), amount_nano),
    )


def usage_entries(
    amount_nano: int, *, overage_nano: int, prepaid: bool, owed_nano: int = 0
) -> tuple[Entry, ...]:
    """
    Entries of captured usage; of a correction when the amount is negative.

    Args:
        amount_nano: What the capture burned, or the signed difference of a correction.
        overage_nano: The part of it beyond the customer's credit, same sign as the amount.
        prepaid: Whether the plan burns credit; otherwise the customer owes it.
        owed_nano: What of prepaid usage the customer owes all the same, because credit was not
            enough and the plan invoices the rest.
    """
    if not prepaid:
        return _balanced(
            (Account.CUSTOMER_RECEIVABLE, -amount_nano), (Account.REVENUE, amount_nano)
        )
    return _balanced(
        (Account.CUSTOMER_CREDIT, -(amount_nano - overage_nano - owed_nano)),
        (Account.CUSTOMER_OVERAGE, -overage_nano),
        (Account.CUSTOMER_RECEIVABLE, -owed_nano),
        (Account.REVENUE, amount_nano),
    )


def charge_entries(amount_nano: int) -> tuple[Entry, ...]:
    """
    Entries of what an invoice charges besides captured usage; of a reduction when negative.

    A reduction is a credit note, or usage that is written off.
    """
    return usage_entries(amount_nano, overage_nano=0, prepaid=False)


def payment_entries(gross_nano: int, *, net_nano: int) -> tuple[Entry, ...]:
    """Entries of what a provider took of what is owed; of what went back when negative."""
    return _balanced(
        (Account.CLEARING, -gross_nano),
        (Account.CUSTOMER_RECEIVABLE, net_nano),
        (Account.TAX, gross_nano - net_nano),
    )


def credit_change(entries: Iterable[Entry]) -> int:
    """What entries change of the customer's credit: what their grants must have been moved by."""
    return sum(entry.amount_nano for entry in entries if entry.account is Account.CUSTOMER_CREDIT)


def _source(kind: GrantKind) -> Account:
    return Account.FUNDING if kind is GrantKind.PAID else Account.PROMOTION


def _balanced(*lines: tuple[Account, int]) -> tuple[Entry, ...]:
    if sum(amount for _, amount in lines) != 0:
        raise InvariantViolated(f"entries do not sum to zero: {lines}")
    return tuple(
        Entry(account=account, amount_nano=amount) for account, amount in lines if amount != 0
    )
