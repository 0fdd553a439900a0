"""Rules, and the other parts of a policy that a check reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from sidecar.domain.customers import CustomerMatch
from sidecar.domain.decisions import DenyReason
from sidecar.domain.matching import Match
from sidecar.domain.periods import CalendarWindow
from sidecar.domain.pricing import Meter
from sidecar.domain.templates import Template


class RuleTemplate(StrEnum):
    """What a rule watches."""

    NO_CREDITS = "block-when-no-available-credits"
    UNPAID_INVOICES = "block-on-unpaid-invoices"
    QUOTA = "quota"


DENY_REASON = {
    RuleTemplate.NO_CREDITS: DenyReason.NO_AVAILABLE_CREDITS,
    RuleTemplate.UNPAID_INVOICES: DenyReason.INVOICE_OVERDUE,
    RuleTemplate.QUOTA: DenyReason.QUOTA_EXCEEDED,
}


class Mode(StrEnum):
    """Draft is ignored; shadow is evaluated and counted; enforce bites."""

    DRAFT = "draft"
    SHADOW = "shadow"
    ENFORCE = "enforce"


class OnStoreFailure(StrEnum):
    """What a rule wants when the store gives no answer in time."""

    DENY = "deny"
    ALLOW = "allow"


@dataclass(frozen=True, slots=True, kw_only=True)
class DenyAnswer:
    """A rule's own words for its denial; None leaves the edges' table in force."""

    status: int | None = None
    headers: Mapping[str, Template] = field(default_factory=dict)
    body: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """
    One rule, compiled.

    `quota` and `at_percent` belong to the quota template: without `at_percent` the rule
    denies at 100 %, with it the rule only adds `warn` headers from there on.
    """

    name: str
    template: RuleTemplate
    match: Match = Match()
    customers: CustomerMatch = CustomerMatch()
    mode: Mode = Mode.ENFORCE
    on_store_failure: OnStoreFailure = OnStoreFailure.DENY
    deny: DenyAnswer = DenyAnswer()
    warn: Mapping[str, Template] = field(default_factory=dict)
    quota: str = ""
    at_percent: int | None = None

    @property
    def denies(self) -> bool:
        """Whether the rule can refuse a request, rather than only warn."""
        return self.at_percent is None

    @property
    def reason(self) -> DenyReason:
        """What its denial is called."""
        return DENY_REASON[self.template]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """At most `limit` of a meter's quantity in each window; soft quotas admit and flag."""

    name: str
    meter: str
    limit: int
    window: CalendarWindow
    hard: bool = True


class EstimateFrom(StrEnum):
    """Where an upper bound of the usage is read from."""

    BODY = "body"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimateRule:
    """How a route's usage is bounded before it is known; defaults are token counts."""

    match: Match
    source: EstimateFrom
    default_input: int
    default_output: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """The most tokens a model takes and gives; None where not stated."""

    max_output: int | None = None
    max_input: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterRule:
    """A meter and the requests that it watches."""

    meter: Meter
    match: Match
