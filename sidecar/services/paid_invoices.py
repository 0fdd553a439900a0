"""
What a fetched invoice or payment comes to in the ledger, against what its customer owes.

Only invoices of subscriptions, and those that we have made of ours: whatever else a provider's
customer pays has never been on our books. Payments for credit come as grants. Each payment posts
what it paid itself, by its own object; an invoice posts only what no payment of the provider's
paid, and what is given up.
"""

from sidecar.domain.payment_postings import (
    PaymentPosting,
    part_of,
    payment_posting,
    write_off_posting,
)
from sidecar.domain.standing import InvoiceState
from sidecar.services.inbox_ports import KnownCustomer
from sidecar.services.provider_objects import FetchedInvoice, FetchedPayment

TAKEN_STATUS = "succeeded"
"""Of a refund whose money is gone."""
_GIVEN_UP = frozenset({InvoiceState.VOID, InvoiceState.UNCOLLECTIBLE})


def invoice_postings(
    found: FetchedInvoice, customer: KnownCustomer, provider: str
) -> tuple[PaymentPosting, ...]:
    """
    What was paid outside of the provider, and what is given up; nothing of another currency.

    Who gives up an invoice that we have made of ours has not said that ours is not owed.

    Raises:
        InvalidInput: An amount is beyond any balance.
    """
    if found.currency != customer.currency or not (found.subscribed or found.collected):
        return ()
    outside = found.outside_minor if found.state is InvoiceState.PAID else 0
    given_up = 0
    if found.subscribed and found.state in _GIVEN_UP:
        given_up = found.amount_due_minor
    return (
        payment_posting(
            customer_id=customer.customer_id,
            provider=provider,
            invoice_id=found.invoice_id,
            payment_id="",
            currency=found.currency,
            gross_minor=outside,
            net_minor=part_of(outside, found.net_minor, found.total_minor),
        ),
        write_off_posting(
            customer_id=customer.customer_id,
            provider=provider,
            invoice_id=found.invoice_id,
            currency=found.currency,
            net_minor=part_of(given_up, found.net_minor, found.total_minor),
        ),
    )


def payment_postings(
    found: FetchedPayment, customer: KnownCustomer, provider: str
) -> tuple[PaymentPosting, ...]:
    """
    What is left of a payment of an invoice once refunds and disputes are taken off.

    Raises:
        InvalidInput: An amount is beyond any balance.
    """
    if not found.for_usage or found.currency != customer.currency:
        return ()
    gone = sum(one.amount_minor for one in found.refunds if one.status == TAKEN_STATUS)
    gone += sum(one.amount_minor for one in found.disputes if one.taken)
    left = max(0, found.amount_minor - gone) if found.paid else 0
    return (
        payment_posting(
            customer_id=customer.customer_id,
            provider=provider,
            invoice_id=found.invoice_id,
            payment_id=found.payment_id,
            currency=found.currency,
            gross_minor=left,
            net_minor=part_of(left, found.credit_minor, found.amount_minor),
        ),
    )
