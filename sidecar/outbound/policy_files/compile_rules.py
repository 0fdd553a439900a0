"""Rules to the domain's values."""

from collections.abc import Iterable, Mapping

from sidecar.domain.counters import Counter, Level
from sidecar.domain.customers import CustomerMatch, UserMatch
from sidecar.domain.decisions import Dialect
from sidecar.domain.nearest import unknown
from sidecar.domain.rules import (
    DenyAnswer,
    Members,
    Mode,
    OnStoreFailure,
    Quota,
    Rule,
    RuleTemplate,
    Unidentified,
)
from sidecar.domain.store_numbers import InvoiceDemand
from sidecar.domain.templates import Template
from sidecar.outbound.policy_files.compile_counters import check_currency, compile_counter
from sidecar.outbound.policy_files.references import Context
from sidecar.outbound.policy_files.rule_keys import check_keys
from sidecar.outbound.policy_files.sections import Marked, Section

_MS_PER_SECOND = 1_000


def compile_rules(context: Context, quotas: Mapping[str, Quota]) -> tuple[Rule, ...]:
    """All sound rules, in order; what a template rules out becomes a problem."""
    found = (_rule(context, rule, quotas) for rule in context.rules.values() if rule.sound)
    return tuple(rule for rule in found if rule is not None)


def _rule(context: Context, section: Section, quotas: Mapping[str, Quota]) -> Rule | None:
    template = RuleTemplate(section.text("template"))
    customers, users = section.section("customers"), section.section("users")
    if customers is not None:
        context.refer_each("plan", customers.items("plans"))
    if not check_keys(context, section, template):
        return None
    _check_references(context, section)
    quota = quotas.get(section.text("quota"))
    counter = compile_counter(context, section, template)
    if quota is not None:
        counter = quota.counter
    if template is RuleTemplate.SPEND_CAP:
        check_currency(context, section, customers)
    at = section.optional_integer("at")
    mode, percent = _mode(section)
    on_store_failure, stale_seconds = _on_store_failure(section)
    return Rule(
        name=section.text("name"),
        template=template,
        match=context.matches(section),
        customers=_customers(customers),
        customer_members=_members(customers),
        users=_users(users),
        user_members=_members(users),
        unidentified=_unidentified(section, template, counter),
        when=section.values["when"].value if section.given("when") else None,
        mode=mode,
        percent=percent,
        on_store_failure=on_store_failure,
        stale_seconds=stale_seconds,
        deny=_deny(section.section("deny")),
        warn=_headers(section.section("warn")),
        counter=counter,
        # A counter of the rule's own that only warns must refuse nothing.
        hard=quota.hard if quota is not None else at is None,
        currency=_currency(context, section),
        quota=section.text("quota"),
        at_percent=at,
        invoices=_invoices(section),
        plans=frozenset(section.texts("plans")),
        features=frozenset(section.texts("features")),
        place=f"{section.place.file}:{section.place.line}",
    )


def _check_references(context: Context, section: Section) -> None:
    """Names that the rule's template gives to other parts of the policy."""
    context.refer_each("plan", section.items("plans"))
    _refer_features(context, section.items("features"))
    if section.given("quota"):
        context.refer("quota", section.text("quota"), section.place_of("quota"))


def _refer_features(context: Context, features: Iterable[Marked]) -> None:
    for item in features:
        if item.value not in context.features:
            context.problems.add(
                item.place,
                unknown("feature", item.value, context.features, label="plans have these features"),
            )


def _mode(section: Section) -> tuple[Mode, int]:
    mode = section.either("mode")
    if isinstance(mode, Section):
        return Mode.PERCENT, mode.integer("percent")
    return Mode(mode), 0


def _on_store_failure(section: Section) -> tuple[OnStoreFailure, int]:
    wish = section.either("on_store_failure")
    if isinstance(wish, Section):
        return OnStoreFailure.STALE, wish.integer("stale")
    return OnStoreFailure(wish), 0


def _unidentified(
    section: Section, template: RuleTemplate, counter: Counter | None
) -> Unidentified:
    """What the rule means for callers that it cannot tell, where it does not say."""
    if section.given("unidentified"):
        return Unidentified(section.text("unidentified"))
    selects = section.given("customers") or section.given("users")
    if template in (RuleTemplate.BLOCK, RuleTemplate.HEADERS) and not selects:
        return Unidentified.APPLY
    below = counter is not None and counter.level is not Level.CUSTOMER
    # A rule that only adds headers must not be why somebody is refused.
    skips = section.given("users") or below or template is RuleTemplate.HEADERS
    return Unidentified.SKIP if skips else Unidentified.DENY


def _currency(context: Context, section: Section) -> str:
    """The currency that the rule's counter speaks of; empty where it counts no money."""
    if section.given("currency"):
        return section.text("currency")
    quota = context.quotas.get(section.text("quota"))
    return "" if quota is None else quota.text("currency")


def _invoices(section: Section) -> InvoiceDemand:
    grace = section.optional_integer("grace")
    return InvoiceDemand(
        grace_ms=None if grace is None else grace * _MS_PER_SECOND,
        minimum_nano=section.optional_integer("minimum") or 0,
        except_disputed=section.given("except_disputed") and section.flag("except_disputed"),
    )


def _customers(section: Section | None) -> CustomerMatch:
    if section is None:
        return CustomerMatch()
    return CustomerMatch(
        plans=frozenset(section.texts("plans")),
        labels={name: item.value for name, item in section.pairs("labels")},
        ids=frozenset(section.texts("ids")),
        exclude=frozenset(section.texts("except")),
    )


def _users(section: Section | None) -> UserMatch | None:
    if section is None:
        return None
    return UserMatch(
        ids=frozenset(section.texts("ids")),
        teams=frozenset(section.texts("teams")),
        exclude=frozenset(section.texts("except")),
    )


def _members(section: Section | None) -> Members | None:
    if section is None or not section.given("members"):
        return None
    return Members(section.text("members"))


def _deny(section: Section | None) -> DenyAnswer:
    if section is None:
        return DenyAnswer()
    body = section.values["body"].value if section.given("body") else None
    return DenyAnswer(
        status=section.optional_integer("status"),
        headers=_headers(section),
        body=body,
        empty=section.given("body") and body is None,
        dialect=Dialect(section.text("dialect")) if section.given("dialect") else None,
    )


def _headers(section: Section | None) -> dict[str, Template]:
    if section is None:
        return {}
    return {name: item.value for name, item in section.pairs("headers")}
