"""What the control plane tells gateways: whom or what to forget. JSON on one channel."""

import json
from dataclasses import dataclass

_BYTES_MAX = 2_048


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerPush:
    """A customer's facts or standing have changed."""

    customer_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialPush:
    """A credential has been issued, has been given an end, or has been revoked."""

    secret_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyPush:
    """Policy files have changed; each process looks at its own."""


Push = CustomerPush | CredentialPush | PolicyPush


def encode_push(push: Push) -> str:
    """The message's text."""
    match push:
        case CustomerPush():
            content = {"kind": "customer", "id": push.customer_id}
        case CredentialPush():
            content = {"kind": "credential", "hash": push.secret_hash}
        case PolicyPush():
            content = {"kind": "policy"}
    return json.dumps(content, separators=(",", ":"))


def decode_push(data: bytes) -> Push | None:
    """A message, or None for one that this version cannot read: what it was about is unknown."""
    if len(data) > _BYTES_MAX:
        return None
    try:
        content = json.loads(data)
    except ValueError:
        return None
    match content:
        case {"kind": "customer", "id": str(customer_id)}:
            return CustomerPush(customer_id=customer_id)
        case {"kind": "credential", "hash": str(secret_hash)}:
            return CredentialPush(secret_hash=secret_hash)
        case {"kind": "policy"}:
            return PolicyPush()
    return None
