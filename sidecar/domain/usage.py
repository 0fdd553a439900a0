"""
Usage: what a response really used, in one normal form whatever the provider.

`input` includes cache_read and cache_creation, `output` includes reasoning
(OpenTelemetry's convention); edges convert.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sidecar.domain.errors import InvalidInput
from sidecar.domain.thawing import freeze, quickly_made, thawed

QUANTITY_MAX = 1_000_000_000_000_000
"""Largest quantity of one event; times the dearest price it must stay inside 64 bits (checked)."""

_FAILED = 500
_TIMED_OUT = 504

TOKEN_KINDS = ("input", "output", "cache_read", "cache_creation", "reasoning", "total")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenUsage:
    """
    Token counts of one response; None means that the provider did not say.

    `total` is for providers that tell only the sum; otherwise it is input plus output.
    """

    input: int | None = None
    output: int | None = None
    cache_read: int | None = None
    cache_creation: int | None = None
    reasoning: int | None = None
    total: int | None = None

    def __post_init__(self) -> None:
        counts = (
            self.input,
            self.output,
            self.cache_read,
            self.cache_creation,
            self.reasoning,
            self.total,
        )
        for count in counts:
            if count is not None and (type(count) is not int or not 0 <= count <= QUANTITY_MAX):
                for kind, one in zip(TOKEN_KINDS, counts, strict=True):
                    check_quantity(one, field=f"usage.{kind}")
        # No part is larger than its whole where there is none.
        if self.cache_read or self.cache_creation:
            _check_part(self.input, self.cache_read, self.cache_creation, "input", "cache counts")
        if self.reasoning:
            _check_part(self.output, self.reasoning, None, "output", "reasoning")

    @property
    def missing(self) -> bool:
        """Whether the response said nothing about its tokens by kind."""
        return self.input is None and self.output is None

    @property
    def known_total(self) -> int | None:
        """Input plus output where both are known, else the stated total, else None."""
        if self.input is not None and self.output is not None:
            return self.input + self.output
        return self.total


_OpenTokenUsage = thawed(TokenUsage)


def token_usage(
    *,
    input: int | None,  # noqa: A002  The field's name, as in the constructor.
    output: int | None,
    cache_read: int | None,
    cache_creation: int | None,
    reasoning: int | None,
    total: int | None,
) -> TokenUsage:
    """What the constructor makes of these, in half the time. Raises InvalidInput as it does."""
    usage = _OpenTokenUsage()
    usage.input = input
    usage.output = output
    usage.cache_read = cache_read
    usage.cache_creation = cache_creation
    usage.reasoning = reasoning
    usage.total = total
    frozen = freeze(usage, TokenUsage)
    frozen.__post_init__()
    return frozen


def failed_for_nothing(status: int | None, usage: TokenUsage) -> bool:
    """
    Whether a status of the response and its lack of counts say that nothing was served.

    A time-out of the gateway (504) does not: the upstream was at work all the while.
    """
    failed = status is not None and status >= _FAILED and status != _TIMED_OUT
    return failed and all(getattr(usage, kind) is None for kind in TOKEN_KINDS)


def _is_quantity(value: int) -> bool:
    return type(value) is int and 0 <= value <= QUANTITY_MAX


def check_quantity(value: int | None, *, field: str) -> None:
    """
    Refuse what is no count.

    Raises:
        InvalidInput: If the value is negative, not an integer, or above QUANTITY_MAX.
    """
    if value is not None and not _is_quantity(value):
        raise InvalidInput(
            f"{field} is {str(value)[:40]!r}; it must be a whole number from 0 to {QUANTITY_MAX}",
            field=field,
        )


def _check_part(whole: int | None, a: int | None, b: int | None, name: str, parts: str) -> None:
    if whole is not None and (a or 0) + (b or 0) > whole:
        raise InvalidInput(
            f"usage.{name} is {whole}, less than its {parts} ({(a or 0) + (b or 0)}); "
            f"{name} includes them",
            field=f"usage.{name}",
        )


class EventKind(StrEnum):
    """What a stream record decides; `correction` carries a number after a colon."""

    CAPTURE = "capture"
    ORPHAN = "orphan"
    CORRECTION = "correction"
    GRANT = "grant"
    EXPIRE = "expire"
    ROLLOVER = "rollover"
    VOID = "void"
    REFUND = "refund"
    DISPUTE = "dispute"

    @property
    def of_grant(self) -> bool:
        """Whether the decision is about a grant rather than about usage."""
        return self not in (EventKind.CAPTURE, EventKind.ORPHAN, EventKind.CORRECTION)


class OnMissing(StrEnum):
    """What a meter takes when a response said nothing of its usage."""

    CAPTURE_ESTIMATE = "capture-estimate"
    BYTES = "bytes"
    ZERO = "zero"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageFacts:
    """
    What else an edge tells of a response, for meters that name it; each part is bounded there.

    `raw` is the provider's own usage object, `body` what is known of the response's JSON; None
    where the edge has none. `headers` are the response's, by lower-case name; `metadata` is what
    the sender adds. JSON types only.
    """

    raw: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


NO_FACTS = UsageFacts()
"""What most responses tell besides their tokens."""


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReport:
    """
    One edge's word about one finished request, before it is priced.

    `hold_id` or `hold_token` ties it to a hold; without either it is unheld and needs
    `customer_id` and `event_id` from a sender with that right. Sizes are bytes, duration
    milliseconds, None where the edge does not know them. `status` is the HTTP status the caller
    saw. `from_header` says that the counts come from a response header rather than the body.
    """

    edge: str
    gateway_id: str
    received_at: datetime
    usage: TokenUsage
    hold_token: str = ""
    hold_id: str = ""
    customer_id: str = ""
    event_id: str = ""
    model: str = ""
    status: int | None = None
    occurred_at: datetime | None = None
    duration_ms: int | None = None
    request_bytes: int | None = None
    response_bytes: int | None = None
    route: str = ""
    request_id: bytes = b""
    from_header: bool = False
    facts: UsageFacts = field(default_factory=UsageFacts)


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class RatedLine:
    """
    A meter's quantity of one event, and what it came to.

    `groups` are the values of the meter's `group_by`, `text_hash` stands for a distinct value.
    `observed` marks a value that tells something even as 0: a maximum's or a latest one.
    """

    meter: str
    quantity: int
    amount_nano: int
    groups: Mapping[str, str] = field(default_factory=dict)
    text_hash: str = ""
    observed: bool = False


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class UsageEvent:
    """Immutable record of consumption, unique by (customer_id, day of hold_id, hold_id, kind)."""

    hold_id: str
    customer_id: str
    currency: str
    price_version: str
    plan: str
    lines: tuple[RatedLine, ...]
    usage: TokenUsage
    occurred_at: datetime
    received_at: datetime
    edge: str
    gateway_id: str
    team_id: str = ""
    user_id: str = ""
    credential_id: str = ""
    model: str = ""
    route: str = ""
    status: int | None = None
    duration_ms: int = 0
    request_bytes: int = 0
    response_bytes: int = 0
    estimated: bool = False
    estimate_reason: str = ""
    client_key: str = ""
    request_id: bytes = b""

    @property
    def amount_nano(self) -> int:
        """What the event costs: the sum of its lines."""
        return sum(line.amount_nano for line in self.lines)

    @property
    def parts_nano(self) -> dict[str, int]:
        """What it costs by meter: grants may be good for some meters only."""
        parts: dict[str, int] = {}
        for line in self.lines:
            if line.amount_nano:
                parts[line.meter] = parts.get(line.meter, 0) + line.amount_nano
        return parts
