"""Names of everything that we keep in Redis, and which shard a customer's state is on."""

import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from sidecar.domain.counters import CounterKind
from sidecar.domain.errors import ConfigError, InvalidInput
from sidecar.domain.holds import check_hold_id, dedupe_bucket

META = "sc:meta"
OPENED_FIELD = "opened"
"""Of META: there once the control plane has opened every shard."""
PUSH_CHANNEL = "sc:push"
"""Where the control plane tells gateways what to forget."""
SHARDS_MAX = 1_024
TOTAL_PREFIX = "t:"
_NAME_BYTES_MAX = 512
_COUNTER_FIELD = re.compile(
    f"(?:[{CounterKind.WINDOW.value}{CounterKind.ROLLING.value}]:.*:-?[0-9]+"
    f"|[{CounterKind.RATE.value}{CounterKind.IN_FLIGHT.value}]:.*)",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Keyspace:
    """
    Key names for a fixed number of shards.

    All keys of a shard share a hash tag, so they are in one Redis Cluster slot and one script
    may use them together. A customer's shard is crc16(customer_id) mod shards.
    """

    shards: int

    def __post_init__(self) -> None:
        if not 1 <= self.shards <= SHARDS_MAX:
            raise ConfigError(f"shards is {self.shards}; it must be 1 to {SHARDS_MAX}")

    def shard_of(self, customer_id: str) -> int:
        """The customer's shard; CRC16 as Redis Cluster computes it (XMODEM)."""
        return binascii.crc_hqx(customer_id.encode(), 0) % self.shards

    def customer(self, customer_id: str) -> str:
        """Hash with the customer's balances, counters, holds and standing."""
        return f"{_tag(self.shard_of(customer_id))}:c:{_check_name(customer_id, 'customer_id')}"

    def shard(self, shard: int) -> str:
        """Hash with the shard's clock, sequence number and epoch."""
        return f"{_tag(shard)}:shard"

    def usage(self, shard: int) -> str:
        """Stream of the shard's decisions."""
        return f"{_tag(shard)}:usage"

    def decisions(self, shard: int) -> str:
        """Stream of the shard's decision records."""
        return f"{_tag(shard)}:decisions"

    def expiry(self, shard: int) -> str:
        """Sorted set: hold id by expiry in epoch milliseconds."""
        return f"{_tag(shard)}:expiry"

    def open(self, shard: int) -> str:
        """Hash: hold id to customer id."""
        return f"{_tag(shard)}:open"

    def done(self, shard: int, hold_id: str) -> str:
        """Hash that remembers how the ids of one 10-minute bucket ended."""
        return f"{_tag(shard)}:done:{dedupe_bucket(check_hold_id(hold_id))}"

    def windows(self, shard: int) -> str:
        """Sorted set: customer and counter by the instant at which the sweep looks at it."""
        return f"{_tag(shard)}:windows"

    def touched(self, shard: int) -> str:
        """Set: customer and field of each window whose captured usage has changed."""
        return f"{_tag(shard)}:touched"

    def touched_aside(self, shard: int) -> str:
        """Set: what of `touched` is being looked at."""
        return f"{_tag(shard)}:touched:aside"

    def hold_keys(self, customer_id: str, hold_id: str) -> Sequence[str]:
        """
        KEYS of every script about one hold.

        Customer, shard, done, expiry, open, usage, windows, touched.
        """
        shard = self.shard_of(customer_id)
        customer, done, of_shard, *others = _shard_keys(shard)
        return (
            customer + _check_name(customer_id, "customer_id"),
            of_shard,
            f"{done}{dedupe_bucket(check_hold_id(hold_id))}",
            *others,
        )

    def customer_keys(self, customer_id: str) -> Sequence[str]:
        """KEYS of every script about one customer: customer, shard, usage, windows."""
        shard = self.shard_of(customer_id)
        return (
            self.customer(customer_id),
            self.shard(shard),
            self.usage(shard),
            self.windows(shard),
        )


def loss_key(shard: int) -> str:
    """The epoch in which a shard was seen to have gone back; outside the shard that may lose it."""
    return f"sc:loss:{shard}"


def credential_key(secret_hash: str) -> str:
    """Hash that leads from a credential's keyed hash to its customer; in a slot of its own."""
    return f"sc:cred:{_check_name(secret_hash, 'secret_hash')}"


def card_key(version: str) -> str:
    """The content of one version of a rate card."""
    return f"sc:card:{_check_name(version, 'price_version')}"


def total_field(key: str) -> str:
    """Field of a running total in the customer's hash."""
    return TOTAL_PREFIX + check_line(key.removeprefix(TOTAL_PREFIX), "total")


def quota_field(field: str) -> str:
    """A counter's field, which must not be able to name anything but a counter."""
    if _COUNTER_FIELD.fullmatch(field) is None:
        raise InvalidInput(f"a quota line names the field {field[:40]!r}", field="quota_lines")
    return check_line(field, "quota_lines")


def check_line(text: str, field: str) -> str:
    """Refuse a text that would break a record, whose parts are lines."""
    if "\n" in text or len(text) > _NAME_BYTES_MAX:
        raise InvalidInput(f"{field} has a line break or is too long", field=field)
    return text


def _tag(shard: int) -> str:
    return f"sc:{{s{shard:02d}}}"


@lru_cache(maxsize=SHARDS_MAX)
def _shard_keys(shard: int) -> tuple[str, ...]:
    """How two of a shard's keys begin, then those of it alone; each hold is asked for by all."""
    tag, names = _tag(shard), Keyspace(SHARDS_MAX)
    return (
        f"{tag}:c:",
        f"{tag}:done:",
        names.shard(shard),
        names.expiry(shard),
        names.open(shard),
        names.usage(shard),
        names.windows(shard),
        names.touched(shard),
    )


def _check_name(name: str, field: str) -> str:
    if not name or len(name) > _NAME_BYTES_MAX or "\n" in name:
        raise InvalidInput(
            f"{field} must have 1 to {_NAME_BYTES_MAX} characters and no line break", field=field
        )
    return name
