"""What is made of each kind of object once it is fetched; `payments` has those about money."""

from sidecar.domain.billing_notices import payment_failed
from sidecar.domain.errors import InvalidInput
from sidecar.domain.minor_units import from_minor
from sidecar.domain.notices import Notice
from sidecar.domain.standing import InvoiceState
from sidecar.services.inbox_ports import (
    AccountCurrency,
    Handled,
    InboxClaim,
    InvoiceRecord,
    KnownCustomer,
    ObjectKind,
    ObjectRef,
    ProviderRecords,
    ReportErrors,
    SubscriptionRecord,
)
from sidecar.services.paid_invoices import invoice_postings
from sidecar.services.payments import TOP_UP_KEY, PaymentHandler, find_customer
from sidecar.services.ports import Clock, Policies
from sidecar.services.provider_objects import (
    FetchedInvoice,
    ProviderObjects,
)
from sidecar.services.report_ports import PeriodSums
from sidecar.services.standing import LIVE_STATUSES, PlanMap
from sidecar.services.subscribed_plans import plans_of

MODE_MISMATCH = "mode_mismatch"
UNKNOWN_CUSTOMER = "unknown_customer"
CURRENCY = "other_currency"
COMPARED_EVENTS = frozenset({"invoice.created", "invoice.finalized"})
"""When a period's usage is all there, and when nothing more of it will be taken."""
FAILED_EVENT = "invoice.payment_failed"
"""An open invoice with attempts may also wait for a bank: only the event says that one failed."""


class ObjectHandlers:
    """The handlers of one provider."""

    def __init__(
        self,
        objects: ProviderObjects,
        records: ProviderRecords,
        payments: PaymentHandler,
        policies: Policies,
        *,
        plans: PlanMap,
        report_errors: ReportErrors | None,
        clock: Clock,
        sums: PeriodSums | None = None,
    ) -> None:
        """
        Wire the ports.

        Args:
            objects, records, policies: Ports.
            payments: Handles payments.
            plans: What subscriptions give.
            report_errors: Who is told of rejected meter events; None: they are parked.
            clock: Says when something was seen.
            sums: Compares usage with what the provider has counted; None: nobody does.
        """
        self._objects = objects
        self._records = records
        self._payments = payments
        self._policies = policies
        self._plans = plans
        self._report_errors = report_errors
        self._clock = clock
        self._sums = sums

    async def handle(self, claim: InboxClaim) -> Handled:
        """
        Fetch an object and do what it asks for; safe to repeat.

        Raises:
            StoreUnavailable, ProviderRefused: It could not be fetched, or a store is away.
            LeaseLost: Another worker has the object.
            SidecarError: What credit's services raise.
        """
        if self._other_mode(livemode=claim.livemode):
            return Handled(parked=MODE_MISMATCH)
        object_id = claim.ref.object_id
        match claim.ref.kind:
            case ObjectKind.INVOICE:
                return await self._invoice(claim)
            case ObjectKind.SUBSCRIPTION:
                return await self._subscription(object_id)
            case ObjectKind.PAYMENT:
                found = await self._objects.fetch_payment(object_id)
                if found is None:
                    return Handled(parked="not_found")
                if self._other_mode(livemode=found.livemode):
                    return Handled(parked=MODE_MISMATCH)
                return await self._payments.handle(claim, found)
            case ObjectKind.INVOICE_SUMS:
                return await self._compare(object_id)
            case ObjectKind.METER_ERROR:
                return await self._meter_errors(object_id)
            case ObjectKind.UNREADABLE:
                return Handled(parked="unreadable")

    def _other_mode(self, *, livemode: bool | None) -> bool:
        """Whether an object is of the other mode than our key: test money is no money."""
        ours = self._objects.livemode
        return ours is not None and livemode is not None and ours != livemode

    async def _invoice(self, claim: InboxClaim) -> Handled:
        invoice_id = claim.ref.object_id
        found = await self._objects.fetch_invoice(invoice_id)
        if found is None:  # A draft may be deleted.
            return Handled(gone_invoice=invoice_id)
        if self._other_mode(livemode=found.livemode):
            return Handled(parked=MODE_MISMATCH)
        customer, reason = await find_customer(
            self._records, self._objects.provider, found.provider_customer_id
        )
        amount_nano = None
        if customer is not None:
            amount_nano = remaining_nano(found, customer, self._objects.provider)
            reason = CURRENCY if amount_nano is None else ""
        record = InvoiceRecord(
            provider=self._objects.provider,
            invoice_id=invoice_id,
            customer_id=customer.customer_id if customer else "",
            provider_customer_id=found.provider_customer_id,
            state=found.state,
            currency=found.currency,
            amount_due_minor=found.amount_due_minor,
            amount_nano=amount_nano,
            due_at=found.due_at,
            attempts=found.attempts,
            reason=reason,
        )
        if TOP_UP_KEY in found.metadata:
            if found.state is InvoiceState.PAID:
                return await self._paid_top_up(claim, found, record)
            return Handled(invoice=record, notices=self._failure(claim, record), parked=reason)
        return Handled(
            invoice=record,
            bills_in=None
            if found.cycle is None
            else AccountCurrency(
                provider_customer_id=found.provider_customer_id, currency=found.currency
            ),
            follow=self._sums_wanted(claim, found, record),
            notices=self._failure(claim, record),
            postings=()
            if customer is None or amount_nano is None
            else invoice_postings(found, customer, record.provider),
            parked=reason,
        )

    def _sums_wanted(
        self, claim: InboxClaim, found: FetchedInvoice, record: InvoiceRecord
    ) -> tuple[ObjectRef, ...]:
        """An object of its own: a comparison that fails or waits holds up no invoice."""
        if self._sums is None or found.cycle is None or not record.customer_id:
            return ()
        if not claim.types & COMPARED_EVENTS:
            return ()
        return (
            ObjectRef(
                provider=record.provider,
                kind=ObjectKind.INVOICE_SUMS,
                object_id=record.invoice_id,
            ),
        )

    async def _compare(self, invoice_id: str) -> Handled:
        """The provider's sums of an invoice's period; whose it is may have changed since."""
        found = await self._objects.fetch_invoice(invoice_id)
        if self._sums is None or found is None or found.cycle is None:
            return Handled()
        customer, _ = await find_customer(
            self._records, self._objects.provider, found.provider_customer_id
        )
        if customer is not None:
            await self._sums.compare(customer.customer_id, found.cycle.start, found.cycle.end)
        return Handled()

    def _failure(self, claim: InboxClaim, record: InvoiceRecord) -> tuple[Notice, ...]:
        """That its payment failed, once for each attempt; by now it may be paid after all."""
        if (
            FAILED_EVENT not in claim.types
            or record.state is not InvoiceState.OPEN
            or not record.customer_id
        ):
            return ()
        return (
            payment_failed(
                customer_id=record.customer_id,
                provider=record.provider,
                invoice_id=record.invoice_id,
                attempt=record.attempts,
                currency=record.currency,
                due_nano=record.amount_nano,
                at=self._clock.now(),
            ),
        )

    async def _paid_top_up(
        self, claim: InboxClaim, found: FetchedInvoice, record: InvoiceRecord
    ) -> Handled:
        """An invoice for credit: its payment gives it, or (paid in another way) it does itself."""
        if found.payment_id:
            payment = ObjectRef(
                provider=record.provider, kind=ObjectKind.PAYMENT, object_id=found.payment_id
            )
            return Handled(invoice=record, follow=(payment,), parked=record.reason)
        parked = await self._payments.give_for_invoice(claim, found)
        return Handled(invoice=record, parked=record.reason or parked)

    async def _subscription(self, subscription_id: str) -> Handled:
        found = await self._objects.fetch_subscription(subscription_id)
        if found is None:
            return Handled(gone_subscription=subscription_id)
        if self._other_mode(livemode=found.livemode):
            return Handled(parked=MODE_MISMATCH)
        customer, reason = await find_customer(
            self._records, self._objects.provider, found.provider_customer_id
        )
        plans = plans_of(found, self._plans, self._policies.current())
        plan = plans[0] if len(plans) == 1 else ""
        if customer is not None and found.status in LIVE_STATUSES:
            reason = self._plan_problem(plans, customer)
            if found.currency not in ("", customer.currency):
                reason = CURRENCY
        record = SubscriptionRecord(
            provider=self._objects.provider,
            subscription_id=subscription_id,
            customer_id=customer.customer_id if customer else "",
            provider_customer_id=found.provider_customer_id,
            status=found.status,
            plan=plan,
            reason=reason,
        )
        live = found.status in LIVE_STATUSES and found.currency
        return Handled(
            subscription=record,
            bills_in=AccountCurrency(
                provider_customer_id=found.provider_customer_id, currency=found.currency
            )
            if live
            else None,
            parked=reason,
        )

    def _plan_problem(self, plans: tuple[str, ...], customer: KnownCustomer) -> str:
        """Why a subscription does not say the customer's plan; "" if it does."""
        if not plans:
            return "unknown_price"
        if len(plans) > 1:
            return "several_plans"
        card = self._policies.current().cards.get(plans[0])
        if card is None:
            return "unknown_plan"
        return CURRENCY if card.currency != customer.currency else ""

    async def _meter_errors(self, event_id: str) -> Handled:
        if self._report_errors is None:
            return Handled(parked="nobody_reports")
        found = await self._objects.fetch_meter_errors(event_id)
        if found is None:
            return Handled(parked="not_found")
        for one in found:
            await self._report_errors.note(one.identifier, one.code, one.detail)
        return Handled()


def remaining_nano(invoice: FetchedInvoice, customer: KnownCustomer, provider: str) -> int | None:
    """What is left to pay in the customer's currency; None where it is in another."""
    if invoice.currency != customer.currency:
        return None
    try:
        return max(0, from_minor(invoice.amount_due_minor, invoice.currency, provider))
    except InvalidInput:
        return None
