"""
The policy: one immutable snapshot serves a whole check.

It answers what it says of a request; `planning` turns that into what a check asks of the
store, `judging` turns the store's numbers into a decision. None does I/O.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from types import MappingProxyType
from typing import Any, Self

from sidecar.domain.caller_classes import CallerClasses
from sidecar.domain.card_schedules import CardSchedule, Timeline
from sidecar.domain.customers import CustomerFacts
from sidecar.domain.decisions import Dialect
from sidecar.domain.identity import IdentitySource
from sidecar.domain.invoices import LatePolicy
from sidecar.domain.matching import Match, RequestView, RouteSet, fits_any
from sidecar.domain.meters import Meter
from sidecar.domain.orphans import DEFAULT_ORPHANS, OrphanRule
from sidecar.domain.pricing import RateCard
from sidecar.domain.remembering import Remembered
from sidecar.domain.requests import AccessRequest
from sidecar.domain.rule_index import RuleIndex
from sidecar.domain.rules import (
    DialectRule,
    EstimateFrom,
    EstimateRule,
    Members,
    Membership,
    MembersOf,
    MeterRule,
    Mode,
    ModelLimits,
    OnStoreFailure,
    Quota,
    Rule,
    Unidentified,
)
from sidecar.domain.selecting import Selection, Tests, tests_left
from sidecar.domain.steps import Container, Steps, at_once

Values = Mapping[str, str]
_NO_VALUES: Values = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Selected:
    """Rules that fit a caller, routes and a method, with what is yet to be tried; and the lists."""

    rules: tuple[tuple[Rule, Tests], ...]
    of_customer: Mapping[str, Values]
    of_user: Mapping[str, Values]


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class Policy:
    """
    A whole policy, compiled.

    `version` is a hash of the files it came from. `cards` are the plans' prices since ever; ask
    `card_for` which card counts. `schedules` are those of plans whose prices change with time or
    customer. `features` are what each plan entitles to.
    `orphans` are how plans settle holds without usage, where they say so, and `late_usage` where
    their usage goes that comes after its period was cut.
    `customer_members` and `user_members` list, for each member, the rules that are for it.

    It may be referred to weakly: one that was replaced is in use by the checks that began with it.
    """

    version: str
    routes: RouteSet
    identity: tuple[IdentitySource, ...]
    cards: Mapping[str, RateCard]
    schedules: Mapping[str, CardSchedule] = field(default_factory=dict)
    features: Mapping[str, frozenset[str]] = field(default_factory=dict)
    orphans: Mapping[str, OrphanRule] = field(default_factory=dict)
    late_usage: Mapping[str, LatePolicy] = field(default_factory=dict)
    meters: tuple[MeterRule, ...] = ()
    rules: tuple[Rule, ...] = ()
    customer_members: MembersOf = field(default_factory=dict)
    user_members: MembersOf = field(default_factory=dict)
    quotas: Mapping[str, Quota] = field(default_factory=dict)
    estimates: tuple[EstimateRule, ...] = ()
    models: Mapping[str, ModelLimits] = field(default_factory=dict)
    free: tuple[Match, ...] = ()
    dialects: tuple[DialectRule, ...] = ()
    allow_unmatched: bool = False
    all_cards: tuple[RateCard, ...] = field(init=False, repr=False, compare=False)
    """Each card that can count for somebody at some time, once."""
    decides_by_old_numbers: bool = field(init=False, repr=False, compare=False)
    """Whether a rule may, while the store is away: then what the store says has to be kept."""
    index: RuleIndex = field(init=False, repr=False, compare=False)
    classes: CallerClasses = field(init=False, repr=False, compare=False)
    _priced: frozenset[str] = field(init=False, repr=False, compare=False)
    _claims: dict[int | None, list[Rule]] = field(init=False, repr=False, compare=False)
    _meters: Selection[MeterRule] = field(init=False, repr=False, compare=False)
    _estimates: Selection[EstimateRule] = field(init=False, repr=False, compare=False)
    _dialects: Selection[DialectRule] = field(init=False, repr=False, compare=False)
    _free: Selection[Match] = field(init=False, repr=False, compare=False)
    _selected: Remembered[_Selected] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        at_once(self._work_out())

    @classmethod
    def in_steps(cls, **values: Any) -> Steps[Self]:
        """
        Make one as the constructor does, in short steps.

        Args:
            values: Every field that the constructor takes, defaults too.
        """
        policy = object.__new__(cls)
        for given in fields(cls):
            if given.init:
                object.__setattr__(policy, given.name, values.pop(given.name))
        assert not values, sorted(values)
        yield from policy._work_out()
        return policy

    def _work_out(self) -> Steps[None]:
        """What follows from the fields that were given."""
        lists = self.customer_members, self.user_members
        cards = _distinct(self.cards.values(), self.schedules.values())
        stale = any(
            rule.on_store_failure is OnStoreFailure.STALE and rule.mode is not Mode.DRAFT
            for rule in self.rules
        )
        found = {
            "decides_by_old_numbers": stale,
            "all_cards": cards,
            "index": (yield from RuleIndex.in_steps(self.rules, *lists)),
            "classes": (yield from CallerClasses.in_steps(self.rules, *lists, self.meters)),
            "_priced": frozenset(name for card in cards for name in card.priced_meters()),
            "_claims": (yield from _claims(self.rules)),
            "_meters": Selection(self.meters, lambda rule: rule.match),
            "_estimates": Selection(self.estimates, lambda rule: rule.match),
            "_dialects": Selection(self.dialects, lambda rule: rule.match),
            "_free": Selection(self.free, lambda match: (match,)),
            "_selected": Remembered(),
        }
        for name, value in found.items():
            object.__setattr__(self, name, value)

    def containers(self) -> list[Container]:
        """What was worked out of many rules; whoever empties them must be the last who knows it."""
        parts = self.routes, self.index, self.classes
        return [self._claims, *(container for part in parts for container in part.containers())]

    def view(self, request: AccessRequest, path: str) -> RequestView:
        """The request with its normalised path, as this policy's rules look at it."""
        return RequestView(request, path, self.routes.match(path))

    def is_free(self, view: RequestView) -> bool:
        """Whether the request is on a route that costs nothing and asks for nobody."""
        return self._free.first(view) is not None

    def passes_unmatched(self, view: RequestView) -> bool:
        """Whether nothing claims the request and the policy lets such requests pass."""
        return self.allow_unmatched and not self._claimed(view)

    def passes_unasked(self, view: RequestView) -> bool:
        """Whether the request passes before anybody is told and any rule is asked."""
        return self.is_free(view) or self.passes_unmatched(view)

    def reads_body(self, view: RequestView) -> bool:
        """Whether the estimate wants the request's body."""
        rule = self.estimate_for(view)
        return rule is not None and rule.source is EstimateFrom.BODY

    def dialect_for(self, view: RequestView) -> Dialect:
        """Whose error format the route's callers expect; the first entry that fits counts."""
        rule = self._dialects.first(view)
        return Dialect.PROBLEM if rule is None else rule.dialect

    def estimate_for(self, view: RequestView) -> EstimateRule | None:
        """How the request's usage is bounded; the first that fits counts."""
        return self._estimates.first(view)

    def meters_for(self, view: RequestView) -> tuple[Meter, ...]:
        """The meters that count the request."""
        return tuple(rule.meter for rule in self._meters.all(view))

    def card_for(self, plan: str, customer_id: str, instant: datetime) -> RateCard | None:
        """The prices of a customer on a plan at an aware instant; None if there is no such plan."""
        schedule = self.schedules.get(plan)
        if schedule is None:
            return self.cards.get(plan)
        return schedule.of(customer_id).at(instant)

    def timeline_for(self, plan: str, customer_id: str) -> Timeline | None:
        """All prices of a customer on a plan over time; None if there is no such plan."""
        schedule = self.schedules.get(plan)
        if schedule is not None:
            return schedule.of(customer_id)
        card = self.cards.get(plan)
        return None if card is None else Timeline(cards=(card,))

    def is_priced(self, meters: Sequence[Meter]) -> bool:
        """Whether any plan prices one of the meters."""
        return any(meter.name in self._priced for meter in meters)

    def orphans_of(self, plan: str) -> OrphanRule:
        """How a plan's orphans are settled; a plan that is gone releases them."""
        return self.orphans.get(plan, DEFAULT_ORPHANS)

    def rules_for(
        self, view: RequestView, customer: CustomerFacts
    ) -> list[tuple[Rule, Mapping[str, str]]]:
        """
        The rules whose selection fits, each with the caller's own values for its templates.

        They stand in the policy's order, except that the rules of a member's list take the
        places of those rules in the order of the list. Conditions (`when`) are not evaluated.
        """
        selected = self._selection(view, customer)
        found = [rule for rule, tests in selected.rules if fits_any(tests, view)]
        of_customer, of_user = selected.of_customer, selected.of_user
        if not of_customer and not of_user:
            return [(rule, _NO_VALUES) for rule in found]
        _reorder(found, of_customer, lambda rule: rule.customer_members)
        _reorder(found, of_user, lambda rule: rule.user_members)
        return [
            (rule, {**of_customer.get(rule.name, {}), **of_user.get(rule.name, {})})
            for rule in found
        ]

    def tests_for(self, view: RequestView, customer: CustomerFacts) -> tuple[Tests, ...]:
        """
        What is yet to be tried of a request, its routes, method and caller apart.

        For requests that share these, and the answers to these tests, the policy has the same
        rules, meters and estimates.
        """
        rules = (tests for _, tests in self._selection(view, customer).rules)
        return tuple(
            tests
            for tests in (*rules, *self._meters.tests(view), *self._estimates.tests(view))
            if tests
        )

    def _selection(self, view: RequestView, customer: CustomerFacts) -> _Selected:
        key = (view.routes, view.request.method, self.classes.of(customer))
        return self._selected.get(key) or self._selected.put(key, self._select(view, customer))

    def _select(self, view: RequestView, customer: CustomerFacts) -> _Selected:
        of_customer = _by_rule(self.customer_members.get(customer.customer_id, ()))
        of_user = _by_rule(self.user_members.get(customer.user_id, ()))
        return _Selected(
            rules=tuple(
                (rule, tests)
                for rule in self.index.candidates(view, customer)
                if not _obstacle(rule, customer, of_customer, of_user)
                and (tests := tests_left(rule.match, view)) is not None
            ),
            of_customer=of_customer,
            of_user=of_user,
        )

    def caller_obstacle(self, rule: Rule, customer: CustomerFacts) -> str:
        """The key of a rule that keeps it from being for this caller; empty if it is for it."""
        of_customer = _by_rule(self.customer_members.get(customer.customer_id, ()))
        of_user = _by_rule(self.user_members.get(customer.user_id, ()))
        return _obstacle(rule, customer, of_customer, of_user)

    def _claimed(self, view: RequestView) -> bool:
        return (
            any(
                fits_any(rule.match, view)
                for route in (None, *view.routes)
                for rule in self._claims.get(route, ())
            )
            or self._meters.first(view) is not None
        )


_MembersOfRule = Callable[[Rule], Members | None]


def _claims(rules: Sequence[Rule]) -> Steps[dict[int | None, list[Rule]]]:
    """The rules that claim requests, by route; under None those that name no route."""
    found: dict[int | None, list[Rule]] = {}
    for rule in rules:
        yield
        if rule.mode is Mode.DRAFT or not rule.claims:
            continue
        named = {number for match in rule.match for number in match.routes}
        for route in named if rule.names_routes else (None,):
            found.setdefault(route, []).append(rule)
    return found


def _obstacle(
    rule: Rule,
    customer: CustomerFacts,
    of_customer: Mapping[str, Values],
    of_user: Mapping[str, Values],
) -> str:
    """
    What keeps the rule from being for this caller, as far as identity goes; empty if it is.

    The word is a key of the rule, with what is below it after a dot.
    """
    if rule.unknown_level(customer) is not None:
        # Whom it cannot tell it treats as it says; `deny` refuses in the rule's place.
        return "unidentified.skip" if rule.unidentified is Unidentified.SKIP else ""
    if rule.unidentified is Unidentified.ONLY:
        return "unidentified.only"
    if rule.users is not None and (found := rule.users.first_obstacle(customer)):
        return f"users.{found}"
    if not _is_member(rule.name, rule.customer_members, of_customer):
        return "customers.members"
    if not _is_member(rule.name, rule.user_members, of_user):
        return "users.members"
    found = rule.customers.first_obstacle(customer)
    return f"customers.{found}" if found else ""


def _distinct(cards: Iterable[RateCard], schedules: Iterable[CardSchedule]) -> tuple[RateCard, ...]:
    found = {(card.plan, card.version): card for card in cards}
    for schedule in schedules:
        for timeline in schedule.timelines:
            found |= {(card.plan, card.version): card for card in timeline.cards}
    return tuple(found.values())


def _is_member(rule: str, wanted: Members | None, lists: Mapping[str, Values]) -> bool:
    return wanted is None or (rule in lists) == (wanted is Members.LISTED)


def _by_rule(memberships: Sequence[Membership]) -> dict[str, Values]:
    return {membership.rule: membership.values for membership in memberships}


def _reorder(rules: list[Rule], order: Mapping[str, Values], members: "_MembersOfRule") -> None:
    """Put a member's rules into the order of its list, in the places that they take."""
    places = [n for n, rule in enumerate(rules) if members(rule) is Members.LISTED]
    if len(places) < 2 or not order:  # noqa: PLR2004  One rule has no order.
        return
    rank = {name: number for number, name in enumerate(order)}
    listed = sorted((rules[n] for n in places), key=lambda rule: rank.get(rule.name, len(rank)))
    for place, rule in zip(places, listed, strict=True):
        rules[place] = rule
