"""
Stripe's webhooks: implements `WebhookVerifier`.

Source: https://docs.stripe.com/webhooks#verify-manually. Beyond it, a signature from the future is
refused: nobody but Stripe can make one, but a clock that is wrong by so much makes replays last.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from sidecar.domain.errors import ConfigError
from sidecar.domain.minor_units import STRIPE
from sidecar.services.inbox_ports import (
    ReceivedEvent,
    WebhookRefusal,
    WebhookRefused,
)
from sidecar.services.stripe_events import parse_event

TOLERANCE_SECONDS: Final = 300
SECRETS_MAX: Final = 8
_HEADER: Final = "stripe-signature"
_HEADER_CHARS_MAX: Final = 4_096
_SIGNATURES_MAX: Final = 16
_SCHEME: Final = "v1"
_TIMESTAMP: Final = re.compile(r"[0-9]{1,12}", re.ASCII)


class StripeWebhooks:
    """Accepts what any of its secrets signed: two while one is being rotated."""

    provider = STRIPE

    def __init__(self, secrets: Sequence[str]) -> None:
        """
        Take the endpoint's secrets, as Stripe shows them (`whsec_...`).

        Raises:
            ConfigError: None, or more than SECRETS_MAX.
        """
        if not 0 < len(secrets) <= SECRETS_MAX:
            raise ConfigError(f"Stripe's webhooks need 1 to {SECRETS_MAX} secrets")
        self._secrets = tuple(secret.encode() for secret in secrets)

    def __repr__(self) -> str:
        """Never shows a secret."""
        return f"StripeWebhooks({len(self._secrets)} secrets)"

    def verify(self, headers: Mapping[str, str], body: bytes, now: datetime) -> None:
        """Check the signature of the bytes as they came. Raises WebhookRefused."""
        timestamp, signatures = _read_header(headers.get(_HEADER, ""))
        signed = f"{timestamp}.".encode() + body
        # Each is compared, so that the time tells nothing of which secret it was.
        expected = [hmac.new(one, signed, hashlib.sha256).hexdigest() for one in self._secrets]
        matches = [hmac.compare_digest(ours, theirs) for ours in expected for theirs in signatures]
        if not any(matches):
            raise WebhookRefused(WebhookRefusal.BAD_SIGNATURE, "no signature is right")
        age_seconds = now.timestamp() - int(timestamp)
        if age_seconds > TOLERANCE_SECONDS:
            raise WebhookRefused(WebhookRefusal.STALE, "it was signed too long ago")
        if age_seconds < -TOLERANCE_SECONDS:
            raise WebhookRefused(WebhookRefusal.STALE, "it was signed in the future")

    def parse(self, body: bytes) -> ReceivedEvent:
        """What a verified body names."""
        return parse_event(body)


def _read_header(header: str) -> tuple[str, list[str]]:
    """The time as it was signed, and the signatures. Raises WebhookRefused."""
    wrong = WebhookRefused(
        WebhookRefusal.BAD_SIGNATURE, "the header stripe-signature is missing or cannot be read"
    )
    if not header or len(header) > _HEADER_CHARS_MAX or not header.isascii():
        raise wrong
    pairs = [part.strip().partition("=") for part in header.split(",")]
    times = [value for name, _, value in pairs if name == "t"]
    signatures = [value for name, _, value in pairs if name == _SCHEME]
    if len(times) != 1 or _TIMESTAMP.fullmatch(times[0]) is None:
        raise wrong
    if not 0 < len(signatures) <= _SIGNATURES_MAX:
        raise wrong
    return times[0], signatures
