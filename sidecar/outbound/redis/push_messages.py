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


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallPush:
    """A check found too little of a customer's credit while blocks of it are out."""

    customer_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPush:
    """A shard has been opened with a new epoch: what is known of its customers may be old."""

    shard: int
    epoch: int


Push = CustomerPush | CredentialPush | PolicyPush | RecallPush | ShardPush


def encode_push(push: Push) -> str:
    """The message's text."""
    content: dict[str, str | int]
    match push:
        case CustomerPush():
            content = {"kind": "customer", "id": push.customer_id}
        case CredentialPush():
            content = {"kind": "credential", "hash": push.secret_hash}
        case PolicyPush():
            content = {"kind": "policy"}
        case RecallPush():
            # place.lua words it by itself.
            content = {"kind": "recall", "id": push.customer_id}
        case ShardPush():
            content = {"kind": "shard", "shard": push.shard, "epoch": push.epoch}
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
        case {"kind": "recall", "id": str(customer_id)}:
            return RecallPush(customer_id=customer_id)
        case {"kind": "shard", "shard": int(shard), "epoch": int(epoch)}:
            return ShardPush(shard=shard, epoch=epoch)
    return None
