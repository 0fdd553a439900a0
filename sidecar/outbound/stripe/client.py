"""The one place that makes a Stripe client: no retries and no telemetry of its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
import stripe

from sidecar.domain.errors import ProviderFailed, ProviderRefused, StoreUnavailable

STRIPE_API: Final = "https://api.stripe.com"
TIMEOUT_SECONDS: Final = 20.0
CONNECTIONS_MAX: Final = 32
_DETAIL_CHARS_MAX: Final = 300
_HTTP_CONFLICT: Final = 409
_HTTP_TOO_MANY: Final = 429
_HTTP_SERVER_ERROR: Final = 500
_HTTP_CREDENTIALS: Final = frozenset({401, 403})
_LIVE_KEYS: Final = ("sk_live_", "rk_live_")
_TEST_KEYS: Final = ("sk_test_", "rk_test_")


class StripeConnection:
    """
    A `stripe.StripeClient` and the connections under it.

    Retries are the caller's: it alone knows which HTTP key may be used again.
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
            api_key: Secret or restricted key. Never logged.
            base_url: Stripe's API, or a stand-in's address.
            timeout_seconds: Longest call; shorter than the lease of whatever is sent.
            connections_max: Most connections at a time.
        """
        # Telemetry writes to the home directory, and fails without one.
        stripe.enable_telemetry = False
        # Any, because the SDK's HTTP clients carry no types.
        self._http: Any = stripe.AIOHTTPClient(
            timeout=aiohttp.ClientTimeout(total=timeout_seconds),
            connector=aiohttp.TCPConnector(limit=connections_max),
        )
        self.client = stripe.StripeClient(
            api_key,
            base_addresses={"api": base_url},
            http_client=self._http,
            max_network_retries=0,
        )
        self.livemode = key_livemode(api_key)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close_async()


def key_livemode(api_key: str) -> bool | None:
    """Whether a key is of the live mode; None if its prefix does not tell."""
    if api_key.startswith(_LIVE_KEYS):
        return True
    return False if api_key.startswith(_TEST_KEYS) else None


@asynccontextmanager
async def translate_stripe() -> AsyncIterator[None]:
    """
    Turn what the SDK raises into ours.

    Raises:
        ProviderRefused: A 4xx that is about this request, or a key that may not do this.
        ProviderFailed: 5xx, or another request under the same Idempotency-Key.
        StoreUnavailable: No answer, 409, 429 or a body that cannot be read: the call may or
            may not have taken effect; ask again with the same Idempotency-Key.
    """
    try:
        yield
    except stripe.StripeError as error:
        raise translated(error) from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        # The SDK reads the body outside its own guard: status arrived, the rest did not.
        raise StoreUnavailable(f"Stripe: {type(error).__name__}") from error


def translated(error: stripe.StripeError) -> ProviderRefused | StoreUnavailable:
    """What an error of the SDK's means, as `translate_stripe` says."""
    status, code = error.http_status, error.code or ""
    if status is None or isinstance(error, stripe.APIConnectionError):
        return StoreUnavailable("Stripe: no answer")
    if status in (_HTTP_CONFLICT, _HTTP_TOO_MANY):
        return StoreUnavailable(f"Stripe: {status} {code}".rstrip())
    if status >= _HTTP_SERVER_ERROR or isinstance(error, stripe.IdempotencyError):
        return ProviderFailed(f"Stripe: {status} {code}".rstrip())
    if status in _HTTP_CREDENTIALS:
        # Stripe's message quotes part of the key, so only the scopes it names are kept.
        return ProviderRefused(status, code, missing_scope(error.user_message or ""))
    if isinstance(error, stripe.InvalidRequestError | stripe.CardError):
        return ProviderRefused(status, code, (error.user_message or "")[:_DETAIL_CHARS_MAX])
    return StoreUnavailable(f"Stripe: {status}, not readable")


def missing_scope(message: str) -> str:
    """The scopes (`rak_...`) that the text of a 403 names, joined by spaces; "" if none."""
    words = (word.strip("'\"`.,;:()[]") for word in message.split())
    return " ".join(dict.fromkeys(word for word in words if word.startswith("rak_")))[
        :_DETAIL_CHARS_MAX
    ]
