"""
Holds: the amount set aside for a request in flight, and the write-ahead log of metering.

States: open -> captured | released | orphaned. A hold id is 40 hex digits: 8 of the
request's second since 1970, then 32 of a keyed hash. The second makes the day and the
dedupe bucket a function of the id alone.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from enum import StrEnum

from sidecar.domain.errors import InvalidInput
from sidecar.domain.thawing import quickly_made

HOLD_ID = re.compile(r"[0-9a-f]{40}", re.ASCII)
DEDUPE_BUCKET_SECONDS = 600


class HoldState(StrEnum):
    """Where a hold stands; all but open are final."""

    OPEN = "open"
    CAPTURED = "captured"
    RELEASED = "released"
    ORPHANED = "orphaned"


class Bound(StrEnum):
    """How sure it is that a capture stays within its hold; a label of the overspend metric."""

    PROVEN = "proven"
    ESTIMATED = "estimated"
    LATE = "late"
    STORE_FAILURE = "store_failure"


def make_hold_id(second: int, digest: bytes) -> str:
    """Join a request's second and 16 bytes of keyed hash."""
    return f"{second:08x}{digest[:16].hex()}"


def check_hold_id(text: str) -> str:
    """
    Refuse what is no hold id.

    Raises:
        InvalidInput: If it is not 40 lower-case hex digits.
    """
    if HOLD_ID.fullmatch(text) is None:
        raise InvalidInput("hold_id must be 40 lower-case hex digits", field="hold_id")
    return text


def hold_second(hold_id: str) -> int:
    """Seconds since 1970 of the request that the hold is for."""
    return int(hold_id[:8], 16)


def hold_day(hold_id: str) -> date:
    """UTC day inside the id; part of the event's key in Postgres."""
    return datetime.fromtimestamp(hold_second(hold_id), UTC).date()


def dedupe_bucket(hold_id: str) -> int:
    """The 10-minute bucket, as its first second since 1970, that remembers this id."""
    second = hold_second(hold_id)
    return second - second % DEDUPE_BUCKET_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaLine:
    """What a hold took of one quota window: the counter's field, its meter, the quantity."""

    field: str
    meter: str
    quantity: int


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class HoldTerms:
    """
    All that a capture needs to know of its hold, fixed at the check.

    The signed token carries exactly this, so usage can settle even if the store was wiped.
    `estimate` maps each meter that matched the request to its upper bound. `noted` are the facts
    of the request that those meters name, by dotted names: nobody else knows them later.
    `block_id` names the block of credit that a gateway process placed the hold from; a block's own
    terms name itself.
    """

    hold_id: str
    gateway_id: str
    customer_id: str
    plan: str
    currency: str
    amount_nano: int
    price_version: str
    estimate: Mapping[str, int]
    team_id: str = ""
    user_id: str = ""
    credential_id: str = ""
    model: str = ""
    route: str = ""
    policy_version: str = ""
    bound: Bound = Bound.PROVEN
    quota_lines: tuple[QuotaLine, ...] = ()
    decided_at_ms: int = 0
    expires_at_ms: int = 0
    request_id: bytes = field(default=b"")
    noted: Mapping[str, str] = field(default_factory=dict)
    block_id: str = ""
    encoded: bytes = field(default=b"", init=False, repr=False, compare=False)
    """Its bytes without the instants, once the adapter that encodes it has made them."""

    @property
    def is_block(self) -> bool:
        """Whether these are the terms of a block, which no usage is about."""
        return self.block_id == self.hold_id
