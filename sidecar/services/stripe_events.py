"""
Which object an event of Stripe's is about: read from webhooks and from the list of events alike.

Nothing but names is taken from an event. What it says about the object is out of date or not, and
nothing tells which.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from sidecar.domain.minor_units import STRIPE
from sidecar.services.inbox_ports import ObjectKind, ObjectRef, ReceivedEvent

SNAPSHOT: Final = "event"
THIN: Final = "v2.core.event"
METER_ERRORS: Final = frozenset(
    {"v1.billing.meter.error_report_triggered", "v1.billing.meter.no_meter_found"}
)
NEEDED_EVENTS: Final = (
    "charge.dispute.closed",
    "charge.dispute.created",
    "charge.dispute.funds_reinstated",
    "charge.dispute.funds_withdrawn",
    "charge.dispute.updated",
    "charge.refunded",
    "checkout.session.async_payment_succeeded",
    "checkout.session.completed",
    "customer.subscription.created",
    "customer.subscription.deleted",
    "customer.subscription.updated",
    "invoice.deleted",
    "invoice.finalized",
    "invoice.marked_uncollectible",
    "invoice.paid",
    "invoice.payment_failed",
    "invoice.updated",
    "invoice.voided",
    "payment_intent.succeeded",
    "refund.updated",
)
"""Snapshot events that a sweep lists: as many as a list can be filtered by."""
ENDPOINT_EVENTS: Final = (*NEEDED_EVENTS, "invoice.created")
"""Snapshot events that an endpoint should have; what comes of the last is looked at anyway."""

_ID: Final = re.compile(r"[A-Za-z0-9_]{1,120}", re.ASCII)
_EVENT_ID: Final = re.compile(r"[A-Za-z0-9_.-]{1,255}", re.ASCII)
_TYPE: Final = re.compile(r"[a-z0-9_.]{1,255}", re.ASCII)

# By the beginning of the type: the kind, and the field of the object that has the id.
_RULES: Final = (
    ("invoice.", ObjectKind.INVOICE, "id"),
    ("invoice_payment.", ObjectKind.INVOICE, "invoice"),
    ("customer.subscription.", ObjectKind.SUBSCRIPTION, "id"),
    ("checkout.session.", ObjectKind.PAYMENT, "payment_intent"),
    ("payment_intent.", ObjectKind.PAYMENT, "id"),
    ("charge.", ObjectKind.PAYMENT, "payment_intent"),
    ("refund.", ObjectKind.PAYMENT, "payment_intent"),
)
_SILENT: Final = frozenset({"invoice.upcoming", "invoice.will_be_due"})
"""About an invoice that does not exist yet, or that nothing has happened to."""


def parse_event(body: bytes) -> ReceivedEvent:
    """What a verified body names; one that cannot be read is kept by its hash, for people."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError.
        return _unreadable(body, "not_json")
    event = read_event(value)
    return _unreadable(body, "not_an_event") if event is None else event


def read_event(value: Any) -> ReceivedEvent | None:
    """What an event names; None for what is none."""
    if not isinstance(value, dict) or value.get("object") not in (SNAPSHOT, THIN):
        return None
    event_id, event_type = value.get("id"), value.get("type")
    if not (isinstance(event_id, str) and _EVENT_ID.fullmatch(event_id)):
        return None
    if not (isinstance(event_type, str) and _TYPE.fullmatch(event_type)):
        return None
    livemode = value.get("livemode")
    # Of a connected account, whose objects our key does not read: nothing is known of them.
    foreign = bool(value.get("account")) and value["object"] == SNAPSHOT
    return ReceivedEvent(
        provider=STRIPE,
        event_id=event_id,
        event_type=event_type,
        ref=None if foreign else _ref(value, event_id, event_type),
        livemode=livemode if isinstance(livemode, bool) else None,
    )


def _ref(value: Mapping[str, Any], event_id: str, event_type: str) -> ObjectRef | None:
    if event_type in METER_ERRORS:
        return ObjectRef(provider=STRIPE, kind=ObjectKind.METER_ERROR, object_id=event_id)
    if value["object"] == THIN or event_type in _SILENT:
        return None
    data = value.get("data")
    thing = data.get("object") if isinstance(data, dict) else None
    if not isinstance(thing, dict):
        return None
    for beginning, kind, field in _RULES:
        if event_type.startswith(beginning):
            return _named(kind, thing.get(field))
    return None


def _named(kind: ObjectKind, name: Any) -> ObjectRef | None:
    if isinstance(name, dict):  # Expanded.
        name = name.get("id")
    if not isinstance(name, str) or _ID.fullmatch(name) is None:
        return None  # A session for a subscription has no payment of its own.
    return ObjectRef(provider=STRIPE, kind=kind, object_id=name)


def _unreadable(body: bytes, reason: str) -> ReceivedEvent:
    digest = hashlib.sha256(body).hexdigest()
    return ReceivedEvent(
        provider=STRIPE,
        event_id=f"sha256.{digest}",
        event_type="unreadable",
        ref=ObjectRef(provider=STRIPE, kind=ObjectKind.UNREADABLE, object_id=digest),
        reason=reason,
    )
