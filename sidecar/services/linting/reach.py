"""Rules that can never decide, and headers that can never be seen."""

from collections.abc import Iterator

from sidecar.domain.counters import Counter, CounterKind
from sidecar.domain.customers import CustomerMatch
from sidecar.domain.policy import Policy
from sidecar.domain.rules import Members, Mode, Rule, RuleTemplate
from sidecar.domain.store_numbers import InvoiceDemand
from sidecar.services.linting.containment import covers_matches, covers_rule
from sidecar.services.linting.findings import Finding, Linted, Severity


def lint_reach(linted: Linted) -> Iterator[Finding]:
    """Unreachable and shadowed rules, and selections that are empty."""
    policy = linted.policy
    rules = [rule for rule in policy.rules if rule.mode is not Mode.DRAFT]
    for number, rule in enumerate(rules):
        empty = list(_empty(policy, rule))
        yield from empty
        if not empty:
            yield from _unreachable(policy, rules[:number], rule)
            yield from _never_denies(policy, rule)
        yield from _shadowed(policy, rules[:number], rule)


def _empty(policy: Policy, rule: Rule) -> Iterator[Finding]:
    """Selections that nobody is in."""
    ids, excluded = rule.customers.ids, rule.customers.exclude
    if ids and ids <= excluded:
        yield _error("empty-selection", rule, "every customer of `ids` is in `except` too")
    users = rule.users
    if users is not None and users.ids and users.ids <= users.exclude:
        yield _error("empty-selection", rule, "every user of `ids` is in `except` too")
    for kind, members, lists in (
        ("customers", rule.customer_members, policy.customer_members),
        ("users", rule.user_members, policy.user_members),
    ):
        named = any(one.rule == rule.name for items in lists.values() for one in items)
        if members is Members.LISTED and not named:
            yield _error("empty-selection", rule, f"no list of {kind} in `members` names the rule")
    if (
        rule.match
        and policy.free
        and covers_matches(policy.free, rule.match, policy.routes.patterns)
    ):
        yield _error(
            "unreachable-rule",
            rule,
            "each route that it matches is in `free`, where no rule is asked",
        )


def _error(code: str, rule: Rule, message: str) -> Finding:
    return Finding(
        code=code,
        severity=Severity.ERROR,
        place=rule.place,
        rule=rule.name,
        message=message,
        mend="select somebody, or take the rule out",
    )


def _unreachable(policy: Policy, earlier: list[Rule], rule: Rule) -> Iterator[Finding]:
    if not rule.denies or rule.mode is Mode.SHADOW:
        return
    for first in earlier:
        if first.mode is not Mode.ENFORCE or not first.denies:
            continue
        if not covers_rule(first, rule, policy.routes.patterns):
            continue
        if _same_condition(first, rule) and _refuses_whenever(policy, first, rule):
            headers = bool(rule.deny.headers)
            yield Finding(
                code="unreachable-rule",
                severity=Severity.WARNING if headers else Severity.ERROR,
                place=rule.place,
                rule=rule.name,
                message=(
                    f"rule {first.name!r} at {first.place} refuses first whatever this one would "
                    f"refuse{'; only its headers are seen' if headers else ''}"
                ),
                mend="move it up, narrow the earlier rule, or take one of them out",
            )
            return


def _same_condition(first: Rule, rule: Rule) -> bool:
    return first.when is None or (rule.when is not None and first.when.text == rule.when.text)


def _refuses_whenever(policy: Policy, first: Rule, rule: Rule) -> bool:
    """Whether `first` refuses each request that `rule` does, both being for it."""
    if first.template is RuleTemplate.BLOCK:
        return True
    if first.template is RuleTemplate.REQUIRE_PLAN and _refuses_all(policy, first, rule.customers):
        return True
    if first.template is not rule.template or first.currency != rule.currency:
        return False
    match rule.template:
        case RuleTemplate.NO_CREDITS:
            return True
        case RuleTemplate.UNPAID_INVOICES:
            return _demands_more(first.invoices, rule.invoices)
        case RuleTemplate.REQUIRE_PLAN:
            plans = not rule.plans or (bool(first.plans) and first.plans <= rule.plans)
            return plans and rule.features <= first.features
        case _:
            return _counts_tighter(first.counter, rule.counter)


def _refuses_all(policy: Policy, first: Rule, customers: CustomerMatch) -> bool:
    """Whether no plan that the customers may be on has what `first` asks for."""
    plans = customers.plans or frozenset(policy.cards)
    return all(not _satisfied(policy, first, plan) for plan in plans)


def _satisfied(policy: Policy, rule: Rule, plan: str) -> bool:
    in_plans = not rule.plans or plan in rule.plans
    return in_plans and rule.features <= policy.features.get(plan, frozenset())


def _demands_more(first: InvoiceDemand, rule: InvoiceDemand) -> bool:
    if first.minimum_nano > rule.minimum_nano:
        return False
    if first.except_disputed and not rule.except_disputed:
        return False
    if first.grace_ms == rule.grace_ms:
        return True
    # A grace and the standing are different facts; only two graces can be compared.
    both = first.grace_ms is not None and rule.grace_ms is not None
    return both and (first.grace_ms or 0) <= (rule.grace_ms or 0)


def _counts_tighter(first: Counter | None, rule: Counter | None) -> bool:
    """Whether a counter of at least the same requests is full whenever the other one is."""
    if first is None or rule is None:
        return False
    if first == rule:
        return True
    same = (
        first.kind is rule.kind
        and first.measure == rule.measure
        and first.level is rule.level
        and first.window == rule.window
        and first.kind in (CounterKind.WINDOW, CounterKind.IN_FLIGHT)
    )
    return same and first.limit <= rule.limit


def _never_denies(policy: Policy, rule: Rule) -> Iterator[Finding]:
    """A required plan that everybody who is asked has."""
    if rule.template is not RuleTemplate.REQUIRE_PLAN:
        return
    plans = rule.customers.plans or frozenset(policy.cards)
    if all(_satisfied(policy, rule, plan) for plan in plans):
        yield Finding(
            code="never-denies",
            severity=Severity.WARNING,
            place=rule.place,
            rule=rule.name,
            message="each plan that it selects has what it asks for, so it refuses nobody",
            mend="ask for less of `customers.plans`, or take the rule out",
        )


def _shadowed(policy: Policy, earlier: list[Rule], rule: Rule) -> Iterator[Finding]:
    """Headers whose name an earlier rule has always given already."""
    for name in sorted({*rule.warn, *rule.deny.headers}):
        for first in earlier:
            if name in first.warn and _warns_whenever(policy, first, rule):
                yield Finding(
                    code="shadowed-header",
                    severity=Severity.WARNING,
                    place=rule.place,
                    rule=rule.name,
                    message=(
                        f"header {name!r} is never this rule's: rule {first.name!r} at "
                        f"{first.place} gives it first, and the earlier rule wins"
                    ),
                    mend="put the rule with the narrower condition first, or rename the header",
                )
                break


def _warns_whenever(policy: Policy, first: Rule, rule: Rule) -> bool:
    if first.mode is not Mode.ENFORCE or not _same_condition(first, rule):
        return False
    if not covers_rule(first, rule, policy.routes.patterns):
        return False
    if first.at_percent is None:
        return True
    lower = rule.at_percent is None or first.at_percent <= rule.at_percent
    return first.counter == rule.counter and lower and rule.counter is not None
