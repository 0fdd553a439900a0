"""Decisions: a denial is a value. The reasons are closed; edges have one table for their words."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from sidecar.domain.thawing import quickly_made


class DenyReason(StrEnum):
    """Why a check says no; also the `code` of the answer's body."""

    UNIDENTIFIED = "unidentified"
    UNKNOWN_CREDENTIAL = "unknown_credential"
    NO_AVAILABLE_CREDITS = "no_available_credits"
    INVOICE_OVERDUE = "invoice_overdue"
    SPEND_CAP_EXCEEDED = "spend_cap_exceeded"
    NOT_ENTITLED = "not_entitled"
    BLOCKED = "blocked"
    UNKNOWN_MODEL = "unknown_model"
    QUOTA_EXCEEDED = "quota_exceeded"
    RATE_LIMITED = "rate_limited"
    IN_FLIGHT_LIMIT = "in_flight_limit"
    INVALID_REQUEST = "invalid_request"
    STORE_UNAVAILABLE = "store_unavailable"


class Dialect(StrEnum):
    """Whose error format a denial's body is written in, where the rule gives no body."""

    PROBLEM = "problem"
    """Problem details, RFC 9457."""
    OPENAI = "openai"
    ANTHROPIC = "anthropic"


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedHold:
    """A hold that stands in the store; `token` lets its usage settle, signed."""

    hold_id: str
    token: str
    amount_nano: int
    currency: str
    expires_at: datetime


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Allow:
    """May pass. `hold` is None on free routes and where a rule allows without a store."""

    decision_id: str
    customer_id: str = ""
    policy_version: str = ""
    hold: PlacedHold | None = None
    rule: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    remove_headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Deny:
    """
    May not pass.

    `status`, `headers` and `body` are None or empty unless the rule sets its own; the edges'
    table fills the rest, in the words of `dialect`. A body is any JSON value; `empty_body` is
    no body at all. `detail` is safe to show to the caller; it never has amounts.
    """

    decision_id: str
    reason: DenyReason
    rule: str
    detail: str = ""
    customer_id: str = ""
    policy_version: str = ""
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: object | None = None
    empty_body: bool = False
    dialect: Dialect = Dialect.PROBLEM
    retry_after_seconds: int | None = None


Decision = Allow | Deny
