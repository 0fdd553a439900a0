"""
Rules, what they match, and the other parts of a policy that a check reads.

Everything that can be prepared is prepared when the policy is built: route patterns are
numbered in one RE2 set, so that a check matches all of them in a single pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import re2

from sidecar.domain.decisions import DenyReason
from sidecar.domain.periods import CalendarWindow
from sidecar.domain.pricing import Meter
from sidecar.domain.requests import AccessRequest
from sidecar.domain.templates import Template

ROUTE_SET_BYTES_MAX = 256 * 1024 * 1024
"""Memory that the set may use; RE2's default of 8 MiB refuses 1,000 demanding patterns."""


def _route_options() -> Any:
    options = re2.Options()
    options.max_mem = ROUTE_SET_BYTES_MAX
    options.log_errors = False
    return options


class RouteSet:
    """All route patterns of a policy; RE2 search over the normalised path, in one pass."""

    def __init__(self, patterns: Sequence[str]) -> None:
        """Compile the patterns; their order is their number. They have been checked before."""
        self.patterns = tuple(patterns)
        self._set = re2.Set.SearchSet(_route_options())
        for pattern in patterns:
            self._set.Add(pattern)
        if patterns:
            self._set.Compile()

    def match(self, path: str) -> frozenset[int]:
        """Numbers of the patterns found in the path."""
        if not self.patterns:
            return frozenset()
        # RE2 answers None, not an empty list, where no pattern is found.
        return frozenset(self._set.Match(path) or ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """What a request must look like: OR inside a list, AND across kinds; empty matches all."""

    routes: frozenset[int] = frozenset()
    methods: frozenset[str] = frozenset()
    headers: tuple[tuple[str, Any], ...] = ()

    @property
    def names_routes(self) -> bool:
        """Whether the match claims routes, rather than applying to all."""
        return bool(self.routes)

    def accepts(self, request: AccessRequest, routes: frozenset[int]) -> bool:
        """Whether the request, whose path matched `routes`, fits."""
        if self.routes and not self.routes & routes:
            return False
        if self.methods and request.method not in self.methods:
            return False
        return all(
            any(pattern.search(value) for value in request.headers.get(name, ()))
            for name, pattern in self.headers
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerFacts:
    """
    What a gateway knows of a customer before it asks the store.

    May be cached: `revision` and `generation` are compared inside the place script, so a
    stale copy is noticed by the same call that would have used it.
    """

    customer_id: str
    plan: str
    currency: str
    revision: int
    labels: Mapping[str, str] = field(default_factory=dict)
    user_id: str = ""
    credential_id: str = ""
    generation: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerMatch:
    """Which customers a rule is for; empty is everyone, `exclude` wins."""

    plans: frozenset[str] = frozenset()
    labels: Mapping[str, str] = field(default_factory=dict)
    ids: frozenset[str] = frozenset()
    exclude: frozenset[str] = frozenset()

    def accepts(self, customer: CustomerFacts) -> bool:
        """Whether the customer is meant."""
        if customer.customer_id in self.exclude:
            return False
        if self.plans and customer.plan not in self.plans:
            return False
        if self.ids and customer.customer_id not in self.ids:
            return False
        return all(customer.labels.get(name) == value for name, value in self.labels.items())


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKeySource:
    """Headers that may carry an API key, in order; `authorization` carries it as a Bearer."""

    headers: tuple[str, ...]
    remove: bool = True
