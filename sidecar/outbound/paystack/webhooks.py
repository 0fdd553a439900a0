"""
Paystack's webhooks: is it them, and which payment do they name. Implements `WebhookVerifier`.

What they say is never believed: they have neither a time nor an id, so an old one can be sent
again. They are a hint to ask about a reference.

Source: https://paystack.com/docs/payments/webhooks/.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sidecar.domain.errors import ConfigError
from sidecar.domain.minor_units import PAYSTACK
from sidecar.outbound.paystack.client import KEY_BEGINS, words
from sidecar.services.inbox_ports import (
    ObjectKind,
    ObjectRef,
    ReceivedEvent,
    WebhookRefusal,
    WebhookRefused,
)

SIGNATURE_HEADER: Final = "x-paystack-signature"
_SIGNATURE_CHARS: Final = 128
_EVENT_CHARS_MAX: Final = 100
# What Paystack takes as a reference. Nothing else can be one of ours, or stand in a path.
_NAME: Final = re.compile(r"[A-Za-z0-9._=-]{1,120}", re.ASCII)
_ABOUT_PAYMENTS: Final = ("charge.", "paymentrequest.", "refund.")
"""Events about money that somebody pays us; transfers and the like are ignored."""
_ABOUT_REVERSALS: Final = ("charge.dispute.", "refund.")
REVERSAL: Final = "reversal"
NO_REFERENCE: Final = "no_reference"


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


class PaystackWebhooks:
    """
    Accepts what our secret key signed: Paystack has no other secret for webhooks.

    A body that was signed once can be sent again for ever, as it has no time; the same bytes are
    the same event, and an event asks for no more than a look.
    """

    provider = PAYSTACK

    def __init__(self, secret: str) -> None:
        """Take the secret key ("sk_..."). Raises ConfigError; never shows it."""
        if not secret.startswith(KEY_BEGINS) or not secret.isascii():
            raise ConfigError("the secret of paystack_secret_file must begin with sk_")
        self._secret = secret

    def __repr__(self) -> str:
        """Never shows the secret."""
        return "PaystackWebhooks()"

    def verify(self, headers: Mapping[str, str], body: bytes, now: datetime) -> None:
        """Check the signature of the bytes as they came; it has no time. Raises WebhookRefused."""
        del now
        if not verify_signature(self._secret, headers.get(SIGNATURE_HEADER, ""), body):
            raise WebhookRefused(
                WebhookRefusal.BAD_SIGNATURE, f"the header {SIGNATURE_HEADER} is missing or wrong"
            )

    def parse(self, body: bytes) -> ReceivedEvent:
        """What a verified body names."""
        news = read_news(body)
        if not news.event:
            return _event(news, ObjectKind.UNREADABLE, news.digest, "not_an_event")
        if not news.event.startswith(_ABOUT_PAYMENTS):
            return _event(news, None, "", "")
        if not news.name:
            return _event(news, ObjectKind.UNREADABLE, news.digest, NO_REFERENCE)
        reversal = news.event.startswith(_ABOUT_REVERSALS)
        return _event(news, ObjectKind.PAYMENT, news.name, REVERSAL if reversal else "")


def _event(news: PaystackNews, kind: ObjectKind | None, name: str, reason: str) -> ReceivedEvent:
    ref = None if kind is None else ObjectRef(provider=PAYSTACK, kind=kind, object_id=name)
    return ReceivedEvent(
        provider=PAYSTACK,
        event_id=f"sha256.{news.digest}",
        event_type=news.event or "unreadable",
        ref=ref,
        livemode=news.live,
        reason=reason,
    )


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
        if isinstance(value, str) and _NAME.fullmatch(value):
            return value
    return ""
