"""
Payments for credit: given once for each payment; see `credit_returns` for money that goes back.

Everything is named after the payment, a refund or a dispute: a repeat is known by that name, in
whatever order webhooks come.
"""

from sidecar.domain.billing_notices import dispute_opened
from sidecar.domain.minor_units import from_minor
from sidecar.domain.notices import Notice
from sidecar.services.credit_returns import CreditReturns, GivenCredit
from sidecar.services.credits import TOP_UP_PREFIX, CreditService
from sidecar.services.inbox_ports import (
    Handled,
    InboxClaim,
    KnownCustomer,
    ObjectKind,
    ObjectRef,
    PaymentRecord,
    ProviderRecords,
)
from sidecar.services.paid_invoices import TAKEN_STATUS, payment_postings
from sidecar.services.ports import Clock
from sidecar.services.provider_objects import (
    FetchedInvoice,
    FetchedPayment,
)
from sidecar.services.withdrawals import WithdrawalService

TOP_UP_KEY = "sidecar_top_up"
"""Of metadata: it marks a payment for credit. Its value is the reference to give it under."""
CUSTOMER_KEY = "sidecar_customer"
"""Of metadata: whose credit it is, where the provider has no customer for it."""
DISPUTE_EVENTS = "charge.dispute."


async def find_customer(
    records: ProviderRecords, provider: str, provider_customer_id: str
) -> tuple[KnownCustomer | None, str]:
    """Our customer behind the provider's, or None and why."""
    if not provider_customer_id:
        return None, "unknown_customer"
    found = await records.find_customers(provider, provider_customer_id)
    if len(found) == 1:
        return found[0], ""
    return None, "ambiguous_customer" if found else "unknown_customer"


class PaymentHandler:
    """What becomes of one payment."""

    def __init__(
        self,
        records: ProviderRecords,
        credit: CreditService,
        withdrawals: WithdrawalService,
        clock: Clock,
    ) -> None:
        """Wire the ports, and credit's services."""
        self._records = records
        self._clock = clock
        self._credit = credit
        self._returns = CreditReturns(credit, withdrawals)

    async def handle(self, claim: InboxClaim, found: FetchedPayment) -> Handled:
        """
        Give or take back credit as the payment stands now; safe to repeat.

        Raises:
            InvalidInput, Conflict: Credit cannot be given or taken back now.
            LeaseLost: Another worker has the payment.
            StoreUnavailable: A store is away.
        """
        provider = claim.ref.provider
        follow: tuple[ObjectRef, ...] = ()
        if found.invoice_id:
            # A dispute counts through its invoice, which may never have been heard of.
            follow = (
                ObjectRef(provider=provider, kind=ObjectKind.INVOICE, object_id=found.invoice_id),
            )
        customer, reason = await self._customer(provider, found)
        top_up = TOP_UP_KEY in found.metadata
        reference = ""
        if customer is None:
            if not (top_up or found.invoice_id):
                return Handled()  # A payment that has nothing to do with us.
        elif top_up and found.paid:
            reference, reason = await self._top_up(claim, found, customer)
        elif found.invoice_id and found.currency != customer.currency:
            reason = "other_currency"
        record = PaymentRecord(
            provider=provider,
            payment_id=found.payment_id,
            customer_id=customer.customer_id if customer else "",
            # A dispute of a top-up takes the credit; one of an invoice is a matter of standing.
            invoice_id="" if top_up else found.invoice_id,
            reference=reference,
            currency=found.currency,
            amount_minor=found.amount_minor,
            refunded_minor=sum(
                one.amount_minor for one in found.refunds if one.status == TAKEN_STATUS
            ),
            disputed=any(one.taken for one in found.disputes),
            reason=reason,
        )
        return Handled(
            payment=record,
            follow=() if top_up else follow,
            notices=self._disputes(claim, found, record),
            postings=()
            if top_up or customer is None
            else payment_postings(found, customer, provider),
            parked=reason,
        )

    def _disputes(
        self, claim: InboxClaim, found: FetchedPayment, record: PaymentRecord
    ) -> tuple[Notice, ...]:
        """That money was taken back, once for each dispute."""
        told = any(one.startswith(DISPUTE_EVENTS) for one in claim.types)
        if not told or not record.customer_id:
            return ()
        return tuple(
            dispute_opened(
                customer_id=record.customer_id,
                provider=record.provider,
                dispute_id=one.dispute_id,
                payment_id=record.payment_id,
                invoice_id=record.invoice_id,
                currency=record.currency,
                at=self._clock.now(),
            )
            for one in found.disputes
            if one.taken
        )

    async def give_for_invoice(self, claim: InboxClaim, found: FetchedInvoice) -> str:
        """Credit for an invoice that was paid outside of the provider; returns what is wrong."""
        payment = FetchedPayment(
            payment_id=found.invoice_id,
            provider_customer_id=found.provider_customer_id,
            invoice_id=found.invoice_id,
            currency=found.currency,
            paid=True,
            amount_minor=found.amount_paid_minor,
            credit_minor=found.amount_paid_minor,
            livemode=found.livemode,
            metadata=found.metadata,
        )
        customer, reason = await self._customer(claim.ref.provider, payment)
        if customer is None:
            return reason
        return (await self._top_up(claim, payment, customer))[1]

    async def _customer(
        self, provider: str, found: FetchedPayment
    ) -> tuple[KnownCustomer | None, str]:
        """The provider's customer counts; without one, the name in the metadata does."""
        if found.provider_customer_id:
            customer, reason = await find_customer(
                self._records, provider, found.provider_customer_id
            )
            named = found.metadata.get(CUSTOMER_KEY, "")
            if customer is not None and named and named != customer.customer_id:
                return None, "customer_differs"
            return customer, reason
        known = await self._records.read_customer(found.metadata.get(CUSTOMER_KEY, ""))
        return known, "" if known else "unknown_customer"

    async def _top_up(
        self, claim: InboxClaim, found: FetchedPayment, customer: KnownCustomer
    ) -> tuple[str, str]:
        """The reference that the credit was given under, and what is wrong with it."""
        provider = claim.ref.provider
        if found.currency != customer.currency:
            return "", "other_currency"
        amount_nano = from_minor(found.credit_minor, found.currency, provider)
        if amount_nano <= 0:
            return "", ""
        reference = await self._records.name_payment(
            provider,
            found.payment_id,
            customer_id=customer.customer_id,
            reference=_reference(provider, found),
        )
        await self._credit.top_up(
            customer.customer_id,
            amount_nano=amount_nano,
            currency=found.currency,
            reference=reference,
            claim=claim,
        )
        given = GivenCredit(
            customer_id=customer.customer_id,
            currency=found.currency,
            grant_id=f"{TOP_UP_PREFIX}{reference}",
            amount_nano=amount_nano,
            amount_minor=found.amount_minor,
        )
        return reference, await self._returns.follow(claim, found, given)


def _reference(provider: str, found: FetchedPayment) -> str:
    """The one that the metadata names, else the payment's own id."""
    named = found.metadata.get(TOP_UP_KEY, "")
    return named if named not in ("", "true") else f"{provider}:{found.payment_id}"
