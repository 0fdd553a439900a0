"""
Paystack's webhooks: is it them, and which payment do they name.

What they say is never believed: they have neither a time nor an id, so an old one can be sent
again. They are a hint to ask about a reference.

Source: https://paystack.com/docs/payments/webhooks/.
"""

import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import Any, Final

from sidecar.outbound.paystack.client import words

SIGNATURE_HEADER: Final = "x-paystack-signature"
_SIGNATURE_CHARS: Final = 128
_NAME_CHARS_MAX: Final = 120
_EVENT_CHARS_MAX: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class PaystackNews:
    """
    What a webhook names.

    `name` is the transaction's reference or the payment request's code, "" if there is neither;
    `digest` names these very bytes, for a repeat of them.
    """

    event: str
    name: str
    digest: str
    live: bool | None


def verify_signature(secret: str, signature: str, body: bytes) -> bool:
    """Whether the bytes, as they came, were signed with our secret key."""
    if len(signature) != _SIGNATURE_CHARS or not signature.isascii():
        return False
    expected = hmac.new(secret.encode(), body, hashlib.sha512).hexdigest()
    return hmac.compare_digest(expected, signature.lower())


def read_news(body: bytes) -> PaystackNews:
    """What verified bytes name; never raises for what they say."""
    digest = hashlib.sha256(body).hexdigest()
    try:
        event: Any = json.loads(body)
    except (ValueError, RecursionError):
        event = None
    data = event.get("data") if isinstance(event, dict) else None
    if not isinstance(event, dict) or not isinstance(data, dict):
        return PaystackNews(event="", name="", digest=digest, live=None)
    domain = data.get("domain")
    return PaystackNews(
        event=words(event.get("event"))[:_EVENT_CHARS_MAX],
        name=_name(data),
        digest=digest,
        live=domain == "live" if domain in ("live", "test") else None,
    )


def _name(data: dict[str, Any]) -> str:
    """
    The payment that it is about.

    A refund and a dispute name the transaction that they reverse, inside or beside themselves.
    """
    inner = data.get("transaction")
    places = (
        data.get("request_code"),
        data.get("transaction_reference"),
        inner.get("reference") if isinstance(inner, dict) else None,
        data.get("reference"),
    )
    for value in places:
        if isinstance(value, str) and 0 < len(value) <= _NAME_CHARS_MAX and value.isprintable():
            return value
    return ""
