"""
What is to stand in the ledger of a payment, or of an invoice that is given up.

It is all of it and not a change: whoever posts compares with what stands there, and posts the
difference. So a repeat posts nothing, refunds and disputes post the reverse, and news may come in
any order.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from sidecar.domain.ledger import Entry, charge_entries, payment_entries
from sidecar.domain.minor_units import from_minor


class PostingKind(StrEnum):
    """What is posted against the receivable."""

    PAYMENT = "payment"
    WRITE_OFF = "write_off"
    """The provider says that nobody will pay it any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentPosting:
    """
    How much of a payment of an invoice is ours now; amounts are nano and not below zero.

    `gross_nano` is what the provider has of it, refunds and disputes taken off; `net_nano` that
    without tax. `payment_id` is "" for what was paid outside of the provider, and of a write-off.
    """

    kind: PostingKind
    customer_id: str
    provider: str
    invoice_id: str
    payment_id: str
    currency: str
    gross_nano: int
    net_nano: int

    @property
    def place(self) -> tuple[str, str, str, str]:
        """What it is about, whoever's it is."""
        return self.provider, self.invoice_id, self.payment_id, self.kind.value


def payment_posting(
    *,
    customer_id: str,
    provider: str,
    invoice_id: str,
    payment_id: str,
    currency: str,
    gross_minor: int,
    net_minor: int,
) -> PaymentPosting:
    """
    Of minor units, as a provider tells them.

    Raises:
        InvalidInput: The provider takes no such currency, or it is beyond any balance.
    """
    gross = max(0, gross_minor)
    return PaymentPosting(
        kind=PostingKind.PAYMENT,
        customer_id=customer_id,
        provider=provider,
        invoice_id=invoice_id,
        payment_id=payment_id,
        currency=currency,
        gross_nano=from_minor(gross, currency, provider),
        net_nano=from_minor(min(gross, max(0, net_minor)), currency, provider),
    )


def write_off_posting(
    *, customer_id: str, provider: str, invoice_id: str, currency: str, net_minor: int
) -> PaymentPosting:
    """What of an invoice is given up; 0 takes it back. Raises as `payment_posting`."""
    nano = from_minor(max(0, net_minor), currency, provider)
    return PaymentPosting(
        kind=PostingKind.WRITE_OFF,
        customer_id=customer_id,
        provider=provider,
        invoice_id=invoice_id,
        payment_id="",
        currency=currency,
        gross_nano=nano,
        net_nano=nano,
    )


def posting_entries(kind: PostingKind, gross_nano: int, net_nano: int) -> Iterable[Entry]:
    """Entries of a difference; the reverse ones where it is negative."""
    if kind is PostingKind.WRITE_OFF:
        return charge_entries(-net_nano)
    return payment_entries(gross_nano, net_nano=net_nano)


def ledger_kind(kind: PostingKind, gross_nano: int) -> str:
    """The ledger's word for the transaction of a difference."""
    if kind is PostingKind.PAYMENT and gross_nano < 0:
        return "payment_return"
    return kind.value


def part_of(amount: int, part: int, whole: int) -> int:
    """As much of an amount as a part is of a whole, rounded down; all of it where that is none."""
    return amount if whole <= 0 else amount * part // whole
