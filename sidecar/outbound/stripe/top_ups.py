"""Payments for credit through Stripe: pages to pay on, and cards that were saved before."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sidecar import telemetry
from sidecar.domain.errors import ProviderFailed, ProviderRefused, StoreUnavailable
from sidecar.domain.minor_units import STRIPE, Rounding, from_minor, to_minor
from sidecar.domain.top_ups import TopUpAttempt
from sidecar.outbound.stripe.client import StripeConnection, metadata_of, translate_stripe
from sidecar.services.payments import CUSTOMER_KEY, TOP_UP_KEY
from sidecar.services.top_up_sessions import PageRequest, PaymentPage
from sidecar.services.top_ups import TopUpAnswer

_PAGE: Final = 100
_PAGES_MAX: Final = 5
_KEYS_MAX: Final = 5
"""Keys that one ask may go through; each but the last stands for an answered failure."""
_CREATED_SLACK: Final = timedelta(minutes=10)
"""Stripe's clock and ours need not agree."""
_HTTP_UNAUTHORIZED: Final = 401
_HTTP_FORBIDDEN: Final = 403
_PAID: Final = "succeeded"
_OPEN: Final = frozenset({"processing", "requires_capture"})

FindStripeCustomer = Callable[[str], Awaitable[str | None]]
"""Our customer's id to Stripe's."""


class StripePaymentPages:
    """Checkout sessions: implements `PaymentPages`."""

    provider = STRIPE

    def __init__(self, connection: StripeConnection) -> None:
        """Wire it."""
        self._client = connection.client

    async def open(self, request: PageRequest) -> PaymentPage:
        """Make a page; Stripe ends it after a day. Raises ProviderRefused, StoreUnavailable."""
        metadata = {TOP_UP_KEY: request.reference, CUSTOMER_KEY: request.customer_id}
        payment: dict[str, Any] = {"metadata": metadata}
        if request.save_card:
            payment["setup_future_usage"] = "off_session"
        params: dict[str, Any] = {
            "mode": "payment",
            "client_reference_id": request.reference,
            "line_items": [
                {
                    "quantity": 1,
                    "price_data": {
                        "currency": request.currency.lower(),
                        "unit_amount": request.amount_minor,
                        "product_data": {"name": "Credit"},
                    },
                }
            ],
            "success_url": request.success_url,
            "cancel_url": request.cancel_url,
            "metadata": metadata,
            "payment_intent_data": payment,
        }
        if request.provider_customer_id:
            params["customer"] = request.provider_customer_id
        async with translate_stripe():
            session: Any = await self._client.v1.checkout.sessions.create_async(
                params,  # type: ignore[arg-type]
                {"idempotency_key": f"sidecar:page:{request.reference}"},
            )
        if not isinstance(session.url, str):
            raise StoreUnavailable("Stripe answered a page without an address")
        return PaymentPage(
            page_id=session.id,
            url=session.url,
            expires_at=datetime.fromtimestamp(session.expires_at, UTC),
        )


class StripeTopUps:
    """
    Charges the card that a customer saved: implements `TopUpProvider`.

    The attempt's reference is the Idempotency-Key and stands in the payment's metadata. Stripe
    forgets keys after a day and replays answered failures, so wherever the key alone does not
    say enough, the payment is looked for by its metadata before another is made.
    """

    def __init__(self, connection: StripeConnection, find_customer: FindStripeCustomer) -> None:
        """Wire it."""
        self._client = connection.client
        self._find_customer = find_customer

    def payable_nano(self, amount_nano: int, currency: str) -> int:
        """Rounded up to Stripe's minor units, so that what is paid is what is given."""
        return from_minor(to_minor(amount_nano, currency, STRIPE, Rounding.UP), currency, STRIPE)

    async def ask(self, attempt: TopUpAttempt) -> TopUpAnswer:
        """Ask once. Raises StoreUnavailable where there is no clear answer."""
        customer = await self._find_customer(attempt.customer_id)
        if customer is None:
            return self._declined(attempt, "no_stripe_customer")
        try:
            return await self._charge(attempt, customer)
        except ProviderRefused as error:
            if error.status in (_HTTP_UNAUTHORIZED, _HTTP_FORBIDDEN):
                # Our key is at fault, not the payer: it is asked again once the key is mended.
                raise StoreUnavailable(f"Stripe refuses the key: {error.detail}") from error
            return self._declined(attempt, error.code or f"http_{error.status}")

    async def _charge(self, attempt: TopUpAttempt, customer: str) -> TopUpAnswer:
        if attempt.tries > 1:
            found = await self._find_payment(attempt, customer)
            if found is not None:
                return self._answer(attempt, found)
        card = await self._saved_card(customer)
        if card is None:
            return self._declined(attempt, "no_saved_card")
        for number in range(_KEYS_MAX):
            try:
                return self._answer(attempt, await self._create(attempt, customer, card, number))
            except ProviderFailed:
                # The failure is kept under its key. If it took effect, the payment can be seen:
                # the request has ended, so what cannot be seen now does not come any more.
                found = await self._find_payment(attempt, customer)
                if found is not None:
                    return self._answer(attempt, found)
        raise StoreUnavailable("Stripe fails at the payment")

    async def _create(self, attempt: TopUpAttempt, customer: str, card: str, number: int) -> Any:
        params: dict[str, Any] = {
            "amount": to_minor(attempt.amount_nano, attempt.currency, STRIPE, Rounding.UP),
            "currency": attempt.currency.lower(),
            "customer": customer,
            "payment_method": card,
            "off_session": True,
            "confirm": True,
            "metadata": {TOP_UP_KEY: attempt.reference, CUSTOMER_KEY: attempt.customer_id},
        }
        key = f"sidecar:{attempt.reference}" + (f":{number}" if number else "")
        async with translate_stripe():
            return await self._client.v1.payment_intents.create_async(
                params,  # type: ignore[arg-type]
                {"idempotency_key": key},
            )

    async def _find_payment(self, attempt: TopUpAttempt, customer: str) -> Any | None:
        """
        The payment of an attempt, a paid one before others; None if Stripe has none.

        Raises:
            StoreUnavailable: The list is too long to say.
        """
        params: dict[str, Any] = {
            "customer": customer,
            "created": {"gte": int((attempt.asked_at - _CREATED_SLACK).timestamp())},
            "limit": _PAGE,
        }
        found: list[Any] = []
        for _ in range(_PAGES_MAX):
            async with translate_stripe():
                page: Any = await self._client.v1.payment_intents.list_async(params)  # type: ignore[arg-type]
            found += [
                one for one in page.data if metadata_of(one).get(TOP_UP_KEY) == attempt.reference
            ]
            if not page.has_more or not page.data:
                return min(found, key=lambda one: one.status != _PAID, default=None)
            params = params | {"starting_after": page.data[-1].id}
        raise StoreUnavailable("the customer has too many payments to find one")

    async def _saved_card(self, customer: str) -> str | None:
        """The default payment method, else the newest that is saved."""
        async with translate_stripe():
            found: Any = await self._client.v1.customers.retrieve_async(customer)
        if getattr(found, "deleted", False):
            return None
        default = getattr(found.invoice_settings, "default_payment_method", None)
        if isinstance(default, str) and default:
            return default
        async with translate_stripe():
            page: Any = await self._client.v1.customers.payment_methods.list_async(
                customer, {"limit": 1}
            )
        return str(page.data[0].id) if page.data else None

    def _answer(self, attempt: TopUpAttempt, payment: Any) -> TopUpAnswer:
        if payment.status == _PAID:
            return TopUpAnswer(paid=True, reference=payment.id)
        if payment.status in _OPEN:
            raise StoreUnavailable(f"Stripe is still {payment.status.replace('_', ' ')}")
        # Nobody is there to confirm it. Should it be paid later all the same, its webhook gives
        # the credit under the same reference.
        return self._declined(attempt, str(payment.status), payment.id)

    def _declined(self, attempt: TopUpAttempt, reason: str, payment_id: str = "") -> TopUpAnswer:
        telemetry.get_logger().info(
            "top_up_declined", customer_id=attempt.customer_id, reason=reason[:100]
        )
        return TopUpAnswer(paid=False, reference=payment_id)
