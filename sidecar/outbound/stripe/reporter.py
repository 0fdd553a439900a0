"""Quantities to Stripe's billing meters: the port `MeterReporter`."""

from typing import Final

import aiohttp
import stripe

from sidecar import telemetry
from sidecar.domain.periods import to_epoch_ms
from sidecar.outbound.stripe.client import (
    CONNECTIONS_MAX,
    STRIPE_API,
    TIMEOUT_SECONDS,
    StripeConnection,
)
from sidecar.services.control_ports import ReportAttempt, ReportRow, ReportVerdict

VALUE_DIGITS_MAX: Final = 15
"""Stripe: meter_event_value_too_many_digits."""
_MS_PER_SECOND: Final = 1_000
_DETAIL_CHARS_MAX: Final = 300
_HTTP_CONFLICT: Final = 409
_HTTP_TOO_MANY: Final = 429
_HTTP_SERVER_ERROR: Final = 500
_HTTP_CREDENTIALS: Final = frozenset({401, 403})


class StripeMeterReporter:
    """
    One meter event per row, one HTTP call per attempt.

    The identifier is the row's and never changes. The HTTP Idempotency-Key is the identifier
    with the row's generation, which changes after a received 5xx: Stripe may replay a stored
    500 for as long as the key stays the same. The key begins with the identifier, so that
    asynchronous error reports, which name either, find their row.
    """

    def __init__(
        self,
        api_key: str,
        *,
        base_url: str = STRIPE_API,
        timeout_seconds: float = TIMEOUT_SECONDS,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        """
        Prepare a client; nothing is sent. Needs a running event loop.

        Args:
            api_key: Secret or restricted key with "Meter events: write". Never logged.
            base_url: Stripe's API, or a stand-in's address.
            timeout_seconds: Longest call; shorter than the rows' lease.
            connections_max: Most connections at a time.
        """
        self._connection = StripeConnection(
            api_key,
            base_url=base_url,
            timeout_seconds=timeout_seconds,
            connections_max=connections_max,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._connection.close()

    async def report(self, row: ReportRow) -> ReportAttempt:
        """Send one row, once; never raises for what Stripe says or does not say."""
        if len(str(abs(row.quantity))) > VALUE_DIGITS_MAX:
            return ReportAttempt(
                verdict=ReportVerdict.REJECTED,
                detail=f"the quantity has more than {VALUE_DIGITS_MAX} digits",
            )
        try:
            await self._connection.client.v1.billing.meter_events.create_async(
                {
                    "event_name": row.event_name,
                    "identifier": row.identifier,
                    "timestamp": to_epoch_ms(row.event_at) // _MS_PER_SECOND,
                    "payload": {
                        "stripe_customer_id": row.provider_customer_id,
                        "value": str(row.quantity),
                    },
                },
                {"idempotency_key": f"{row.identifier}:{row.http_generation}"},
            )
        except stripe.StripeError as error:
            return classify(error)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # The SDK reads the body outside its own guard: status arrived, the rest did not.
            return ReportAttempt(verdict=ReportVerdict.RETRY, detail=type(error).__name__)
        return ReportAttempt(verdict=ReportVerdict.DELIVERED)


def classify(error: stripe.StripeError) -> ReportAttempt:
    """
    What an error of Stripe's means for the row.

    Source: https://docs.stripe.com/api/idempotent_requests and
    https://docs.stripe.com/api/billing/meter-event.
    """
    status = error.http_status
    detail = f"{status} {error.code or ''} {error.user_message or ''}"[:_DETAIL_CHARS_MAX]
    if status is None or isinstance(error, stripe.APIConnectionError):
        # No answer: it may or may not have been taken.
        return ReportAttempt(verdict=ReportVerdict.RETRY, detail="no answer")
    if _is_duplicate(error):
        return ReportAttempt(verdict=ReportVerdict.DUPLICATE, detail=detail)
    if status in _HTTP_CREDENTIALS:
        # Our key, not this row: it was not taken, and will be once the key is mended. Stripe's
        # message quotes part of the key, so it is not kept.
        telemetry.get_logger().error("stripe_key_refused", status=status)
        return ReportAttempt(verdict=ReportVerdict.RETRY, detail=f"{status} key refused")
    if status in (_HTTP_CONFLICT, _HTTP_TOO_MANY):
        return ReportAttempt(verdict=ReportVerdict.RETRY, detail=detail)
    if status >= _HTTP_SERVER_ERROR or isinstance(error, stripe.IdempotencyError):
        # Stored under the HTTP key, as is a mismatch with what was first sent under it.
        return ReportAttempt(verdict=ReportVerdict.RETRY_ROTATED, detail=detail)
    if isinstance(error, stripe.InvalidRequestError):
        return ReportAttempt(verdict=ReportVerdict.REJECTED, detail=detail)
    # A success whose body cannot be read: the identifier makes sure.
    return ReportAttempt(verdict=ReportVerdict.RETRY, detail=detail)


def _is_duplicate(error: stripe.StripeError) -> bool:
    """v1 usually sends no code with it, so the words must do."""
    message = (error.user_message or "").lower()
    return (
        error.code == "duplicate_meter_event" or "event already exists with identifier" in message
    )
