"""Rules, and the other parts of a policy that a check reads."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from sidecar.domain.counters import Counter, Level
from sidecar.domain.customers import CustomerFacts, CustomerMatch, UserMatch
from sidecar.domain.decisions import DenyReason, Dialect
from sidecar.domain.expressions import Expression
from sidecar.domain.matching import Match
from sidecar.domain.meters import Meter
from sidecar.domain.store_numbers import InvoiceDemand
from sidecar.domain.templates import Template

_PERCENT = 100


class RuleTemplate(StrEnum):
    """What a rule watches."""

    NO_CREDITS = "block-when-no-available-credits"
    UNPAID_INVOICES = "block-on-unpaid-invoices"
    QUOTA = "quota"
    SPEND_CAP = "spend-cap"
    RATE_LIMIT = "rate-limit"
    IN_FLIGHT_LIMIT = "in-flight-limit"
    REQUIRE_PLAN = "require-plan"
    BLOCK = "block"
    HEADERS = "headers"


DENY_REASON = {
    RuleTemplate.NO_CREDITS: DenyReason.NO_AVAILABLE_CREDITS,
    RuleTemplate.UNPAID_INVOICES: DenyReason.INVOICE_OVERDUE,
    RuleTemplate.QUOTA: DenyReason.QUOTA_EXCEEDED,
    RuleTemplate.SPEND_CAP: DenyReason.SPEND_CAP_EXCEEDED,
    RuleTemplate.RATE_LIMIT: DenyReason.RATE_LIMITED,
    RuleTemplate.IN_FLIGHT_LIMIT: DenyReason.IN_FLIGHT_LIMIT,
    RuleTemplate.REQUIRE_PLAN: DenyReason.NOT_ENTITLED,
    RuleTemplate.BLOCK: DenyReason.BLOCKED,
    RuleTemplate.HEADERS: DenyReason.BLOCKED,
}
COUNTING = frozenset(
    {
        RuleTemplate.QUOTA,
        RuleTemplate.SPEND_CAP,
        RuleTemplate.RATE_LIMIT,
        RuleTemplate.IN_FLIGHT_LIMIT,
    }
)
"""Templates that count; what a rule of theirs watches is its counter."""
PLAIN = frozenset({RuleTemplate.REQUIRE_PLAN, RuleTemplate.BLOCK, RuleTemplate.HEADERS})
"""Templates that need no number of the store."""


class Mode(StrEnum):
    """Draft is ignored, shadow is counted only, percent enforces for some, enforce for all."""

    DRAFT = "draft"
    SHADOW = "shadow"
    PERCENT = "percent"
    ENFORCE = "enforce"


class OnStoreFailure(StrEnum):
    """What a rule wants when the store gives no answer in time."""

    DENY = "deny"
    ALLOW = "allow"
    STALE = "stale"
    """Decide by the numbers last seen, if they are no older than the rule says."""


class Unidentified(StrEnum):
    """What a rule means for a caller that it cannot tell: no customer, or no user for its users."""

    DENY = "deny"
    APPLY = "apply"
    SKIP = "skip"
    ONLY = "only"
    """The rule is for such callers alone."""


class Members(StrEnum):
    """Whether a rule is for those whose list of members names it, or for all others."""

    LISTED = "listed"
    UNLISTED = "unlisted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """One rule of a member's list, and the member's values for its templates."""

    rule: str
    values: Mapping[str, str] = field(default_factory=dict)


MembersOf = Mapping[str, tuple[Membership, ...]]
"""Lists by member id; a list's order is that in which its rules are evaluated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DenyAnswer:
    """
    A rule's own words for its denial; None leaves the edges' table in force.

    A body is any JSON value whose texts may be templates; `empty` is a body of no bytes.
    """

    status: int | None = None
    headers: Mapping[str, Template] = field(default_factory=dict)
    body: object | None = None
    empty: bool = False
    dialect: Dialect | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """
    One rule, compiled.

    `match` accepts a request if any of its alternatives does, or if there are none. `counter`
    is that of the counting templates, `currency` that of a cap; with `at_percent` the rule only
    adds `warn` headers from there on. `plans` and `features` are what `require-plan` asks for,
    `invoices` when `block-on-unpaid-invoices` refuses. `percent` belongs to its mode. `place` is
    the rule's file and line.
    """

    name: str
    template: RuleTemplate
    match: tuple[Match, ...] = ()
    customers: CustomerMatch = CustomerMatch()
    customer_members: Members | None = None
    users: UserMatch | None = None
    user_members: Members | None = None
    unidentified: Unidentified = Unidentified.DENY
    when: Expression | None = None
    mode: Mode = Mode.ENFORCE
    percent: int = 0
    on_store_failure: OnStoreFailure = OnStoreFailure.DENY
    stale_seconds: int = 0
    deny: DenyAnswer = DenyAnswer()
    warn: Mapping[str, Template] = field(default_factory=dict)
    counter: Counter | None = None
    hard: bool = True
    currency: str = ""
    quota: str = ""
    at_percent: int | None = None
    invoices: InvoiceDemand = InvoiceDemand()
    plans: frozenset[str] = frozenset()
    features: frozenset[str] = frozenset()
    place: str = ""

    @property
    def denies(self) -> bool:
        """Whether the rule can refuse a request, rather than only warn."""
        return self.at_percent is None and self.template is not RuleTemplate.HEADERS

    @property
    def reason(self) -> DenyReason:
        """What its denial is called."""
        return DENY_REASON[self.template]

    @property
    def needs_store(self) -> bool:
        """Whether what it says depends on the store's numbers."""
        return (
            self.template not in PLAIN
            or (self.when is not None and self.when.needs_store)
            or any(template.needs_store for template in self.templates())
        )

    @property
    def judges_after(self) -> bool:
        """Whether its condition reads numbers, so that the script cannot refuse for it."""
        return self.when is not None and self.when.needs_store

    @property
    def for_users(self) -> bool:
        """Whether it selects by user rather than by customer."""
        return self.users is not None or self.user_members is not None

    @property
    def level(self) -> Level:
        """At which level the rule tells callers apart."""
        if self.for_users:
            return Level.USER
        return Level.CUSTOMER if self.counter is None else self.counter.level

    @property
    def levels(self) -> frozenset[Level]:
        """Every level at which a caller has to be named: by whom it selects and whom it counts."""
        return frozenset({self.level} if self.counter is None else {self.level, self.counter.level})

    def unknown_level(self, customer: CustomerFacts) -> Level | None:
        """The level at which the rule cannot tell this caller; None if it can."""
        if not self.level.name_in(customer) and not self._knows_by_team(customer):
            return self.level
        if self.counter is not None and not self.counter.level.name_in(customer):
            return self.counter.level
        return None

    def _knows_by_team(self, customer: CustomerFacts) -> bool:
        """Whether the team is enough: who has no user is in its team all the same."""
        by_team = self.users is not None and self.users.by_team_alone
        return by_team and self.user_members is None and bool(customer.team_id)

    @property
    def names_routes(self) -> bool:
        """Whether each of its alternatives claims routes."""
        return bool(self.match) and all(match.names_routes for match in self.match)

    @property
    def claims(self) -> bool:
        """
        Whether a request that it matches is its business even where nothing has a price.

        A rule about money that names no routes is not: it would claim every request.
        """
        return (
            self.names_routes
            or self.template in (RuleTemplate.BLOCK, RuleTemplate.HEADERS)
            or self.unidentified is not Unidentified.DENY
        )

    def enforces_for(self, customer: CustomerFacts) -> bool:
        """Whether it bites for this caller; a percentage is sticky per rule and customer."""
        if self.mode is not Mode.PERCENT:
            return self.mode is Mode.ENFORCE
        who = f"{self.name}\n{customer.customer_id or customer.user_id}".encode()
        share = int.from_bytes(hashlib.blake2b(who, digest_size=8).digest())
        return share % _PERCENT < self.percent

    def templates(self) -> Iterator[Template]:
        """Every template of its answers."""
        yield from self.deny.headers.values()
        yield from self.warn.values()
        yield from body_templates(self.deny.body)


def body_templates(body: object) -> Iterator[Template]:
    """The texts of a JSON value, as templates."""
    if isinstance(body, str):
        yield Template(body)
    elif isinstance(body, Mapping):
        for item in body.values():
            yield from body_templates(item)
    elif isinstance(body, list | tuple):
        for item in body:
            yield from body_templates(item)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """
    A counter that several rules may speak of; soft quotas admit and flag.

    `thresholds` are percentages of the limit; each is told once a window.
    """

    name: str
    counter: Counter
    hard: bool = True
    thresholds: tuple[int, ...] = ()


class EstimateFrom(StrEnum):
    """Where an upper bound of the usage is read from."""

    BODY = "body"
    HEADER = "header"
    NONE = "none"


class TokenSide(StrEnum):
    """A kind of tokens that an estimate speaks of."""

    INPUT = "input"
    OUTPUT = "output"


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedBound:
    """A header, lower case, that states a bound in tokens; more than `most` is refused."""

    side: TokenSide
    header: str
    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimateRule:
    """
    How a route's usage is bounded before it is known; defaults are token counts.

    `stated` are the headers that state bounds, one a kind. `trusted` is the operator's word that
    no caller can set them.
    """

    match: tuple[Match, ...]
    source: EstimateFrom
    default_input: int
    default_output: int
    stated: tuple[StatedBound, ...] = ()
    trusted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """The most tokens a model takes and gives; None where not stated."""

    max_output: int | None = None
    max_input: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterRule:
    """A meter and the requests that it watches."""

    meter: Meter
    match: tuple[Match, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DialectRule:
    """Whose error format the callers of some routes expect."""

    match: tuple[Match, ...]
    dialect: Dialect
