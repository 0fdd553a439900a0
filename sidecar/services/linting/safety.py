"""Rules that guard less than they seem to, and those that no test has seen."""

from collections.abc import Iterator

from sidecar.domain.counters import COUNTERS_MAX, Level
from sidecar.domain.errors import InvalidInput
from sidecar.domain.identity import ApiKeySource, HeaderSource, IdentitySource, JwtSource
from sidecar.domain.money import format_amount
from sidecar.domain.policy import Policy
from sidecar.domain.pricing import Billing, RateCard
from sidecar.domain.quantities import estimate_quantities
from sidecar.domain.rules import (
    COUNTING,
    PLAIN,
    EstimateFrom,
    Mode,
    OnStoreFailure,
    Rule,
)
from sidecar.services.linting.containment import covers_rule
from sidecar.services.linting.findings import Finding, Linted, Severity
from sidecar.services.rule_coverage import unshown

_SUCCESS_BELOW = 400


def lint_safety(linted: Linted) -> Iterator[Finding]:
    """What each rule guards, and by what it can be got round."""
    for rule in linted.policy.rules:
        if rule.mode is Mode.DRAFT:
            yield _finding(
                "draft-rule", Severity.NOTE, rule, "is a draft and is ignored", "give it a `mode`"
            )
            continue
        yield from _status(rule)
        yield from _client_headers(linted.policy, rule)
        yield from _body(linted, rule)
        yield from _identity(linted.policy, rule)
        yield from _without_store(linted.policy, rule)
    yield from _counters(linted.policy)


def lint_tests(linted: Linted) -> Iterator[Finding]:
    """Tests that fail, rules that none has seen speak, limits that none has reached."""
    rules = {rule.name: rule for rule in linted.policy.rules}
    for result in linted.results:
        if not result.passed:
            yield Finding(
                code="failing-test",
                severity=Severity.ERROR,
                place=result.test.place,
                rule=result.test.rule,
                message="; ".join(result.differences),
                mend="mend the rule or the test",
            )
    for one in unshown(linted.coverage):
        rule = rules[one.rule]
        what = "refuse" if one.denies else "add its headers"
        yield _finding(
            "missing-test",
            Severity.WARNING,
            rule,
            f"no test has seen it {what}; {one.considered} considered it",
            "add a test beside it whose request and numbers make it speak",
        )
    for counter in sorted(_limits(linted.policy) - linted.coverage.limits_reached):
        rule = next(r for r in linted.policy.rules if r.counter and r.counter.name == counter)
        yield _finding(
            "limit-not-reached",
            Severity.WARNING,
            rule,
            f"no test reaches limit {counter!r}",
            f"add a test whose `used` of {counter} leaves no room for its request",
        )


def _limits(policy: Policy) -> set[str]:
    """Counters that some rule refuses by; one that only warns need not be reached."""
    return {
        rule.counter.name
        for rule in policy.rules
        if rule.counter is not None and rule.denies and rule.mode is not Mode.DRAFT
    }


def _status(rule: Rule) -> Iterator[Finding]:
    status = rule.deny.status
    if status is not None and status < _SUCCESS_BELOW:
        yield _finding(
            "success-status",
            Severity.WARNING,
            rule,
            f"denies with status {status}, which clients take for success",
            "use a status from 400 on",
        )


def _client_headers(policy: Policy, rule: Rule) -> Iterator[Finding]:
    """Denials that a client avoids by leaving a header out."""
    if not rule.denies:
        return
    read = {name for match in rule.match for name, _ in match.headers}
    if rule.when is not None:
        prefix = "request.headers."
        read |= {path.removeprefix(prefix) for path in rule.when.reads if path.startswith(prefix)}
        read |= {"any"} & {"any" for path in rule.when.reads if path == "request.headers"}
    chosen = sorted(read - _vouched(policy))
    if chosen:
        yield _finding(
            "client-header-guard",
            Severity.WARNING,
            rule,
            f"refuses by header {', '.join(chosen)}, which the client chooses: whoever leaves it "
            "out, or writes another value, is not refused",
            "select by plan, label, route or source, or have the gateway set the header as context",
        )


def _vouched(policy: Policy) -> set[str]:
    """Headers that the operator has said the gateway sets or strips."""
    return {
        name
        for source in policy.identity
        if isinstance(source, HeaderSource)
        for name in (source.customer, source.team, source.user)
        if name
    }


def _body(linted: Linted, rule: Rule) -> Iterator[Finding]:
    when_reads = rule.when is not None and any(
        path == "request.body" or path.startswith("request.body.") for path in rule.when.reads
    )
    if not when_reads and not any(match.body for match in rule.match):
        return
    limit = f"{linted.body_bytes} bytes" if linted.body_bytes else "its limit"
    matches = "a cut body matches every `body` condition"
    reads = "what `when` reads of a cut body counts as true where the rule denies"
    yield _finding(
        "body-limit",
        Severity.NOTE,
        rule,
        f"reads the body, of which the gateway hands over {limit}: "
        f"{reads if when_reads else matches}",
        "raise `body_bytes` under `envoy:` where such bodies are longer",
    )


def _identity(policy: Policy, rule: Rule) -> Iterator[Finding]:
    """Rules that tell users, teams or keys apart where nothing names them."""
    wanted = {rule.level} - {Level.CUSTOMER}
    if rule.users is not None and rule.users.teams:
        wanted.add(Level.TEAM)
    for level in sorted(wanted):
        if not any(_names(source, level) for source in policy.identity):
            yield _finding(
                "level-without-identity",
                Severity.WARNING,
                rule,
                f"tells callers apart by {level.value}, and no `identity` source names one",
                f"add a source that names the {level.value}, such as a claim of a JWT",
            )


def _names(source: IdentitySource, level: Level) -> bool:
    match source:
        case ApiKeySource():
            return level in (Level.USER, Level.KEY)
        case JwtSource(names=names):
            return (
                bool(names.user if level is Level.USER else names.team) and level is not Level.KEY
            )
        case HeaderSource(team=team, user=user):
            return bool(user if level is Level.USER else team) and level is not Level.KEY
        case _:
            return False


def _without_store(policy: Policy, rule: Rule) -> Iterator[Finding]:
    """What passes while the store is away, on plans that are paid from credit."""
    if not rule.denies or rule.template in PLAIN or rule.mode is not Mode.ENFORCE:
        return
    if rule.on_store_failure is not OnStoreFailure.ALLOW or _denied_elsewhere(policy, rule):
        return
    plans = rule.customers.plans or frozenset(policy.cards)
    prepaid = sorted(
        plan
        for plan in plans
        if plan in policy.cards and policy.cards[plan].billing is Billing.PREPAID
    )
    for plan in prepaid:
        card = policy.cards[plan]
        bounds = [_dearest(policy, one) for one in policy.all_cards if one.plan == plan]
        known = [bound for bound in bounds if bound is not None]
        dearest = max(known) if len(known) == len(bounds) else None
        most = (
            f"up to {format_amount(dearest)} {card.currency} each by the estimates"
            if dearest is not None
            else "without a bound on the amount of each"
        )
        yield _finding(
            "allow-without-store",
            Severity.WARNING,
            rule,
            f"`on_store_failure: allow` on prepaid plan {plan!r}: while the store is away every "
            f"request passes, {most}, whatever the credit",
            "write `deny`, or `stale: 30s` to decide by numbers of at most that age",
        )


def _denied_elsewhere(policy: Policy, rule: Rule) -> bool:
    """Whether another rule refuses for these requests without the store: the strictest counts."""
    return any(
        other.on_store_failure is OnStoreFailure.DENY
        and other.mode is Mode.ENFORCE
        and other.denies
        and other.template not in PLAIN
        and other.when is None
        and covers_rule(other, rule, policy.routes.patterns)
        for other in policy.rules
    )


def _dearest(policy: Policy, card: RateCard) -> int | None:
    """The most that one request can cost; None if the policy does not bound it."""
    meters = [rule.meter for rule in policy.meters if rule.meter.name in card.priced_meters()]
    if not policy.models or any(
        limits.max_input is None or limits.max_output is None for limits in policy.models.values()
    ):
        return None
    if card.prices_model("", card.priced_meters()) and any(
        estimate.source is not EstimateFrom.NONE for estimate in policy.estimates
    ):
        return None  # A model that is not listed has no bound.
    dearest = 0
    for name, limits in policy.models.items():
        quantities = estimate_quantities(meters, limits.max_input or 0, limits.max_output or 0, 0)
        try:
            dearest = max(dearest, card.upper_bound(quantities, name))
        except InvalidInput:
            return None
    return dearest


def _counters(policy: Policy) -> Iterator[Finding]:
    """More limits than a check can take, on one route of one plan."""
    counting = [rule for rule in policy.rules if rule.template in COUNTING and rule.counter]
    routes: list[int | None] = [None, *range(len(policy.routes.patterns))]
    for plan, card in policy.cards.items():
        found = [rule for rule in counting if _may_apply(rule, plan, card)]
        if len({_counter(rule) for rule in found}) <= COUNTERS_MAX:
            continue
        for route in routes:
            on_route = [rule for rule in found if _may_match(rule, route)]
            names = {_counter(rule) for rule in on_route}
            if len(names) <= COUNTERS_MAX:
                continue
            where = "any route" if route is None else repr(policy.routes.patterns[route])
            yield _finding(
                "too-many-counters",
                Severity.ERROR,
                on_route[-1],
                f"{len(names)} limits can apply to one request of plan {plan!r} on {where}, and "
                f"more than {COUNTERS_MAX} refuse it",
                "let several rules share a quota, or narrow what they select",
            )
            break


def _may_apply(rule: Rule, plan: str, card: RateCard) -> bool:
    if rule.mode is Mode.DRAFT or (rule.currency and rule.currency != card.currency):
        return False
    return not rule.customers.plans or plan in rule.customers.plans


def _may_match(rule: Rule, route: int | None) -> bool:
    """Whether a request on this route alone may fit; with None, on a route of no pattern."""
    return not rule.match or any(not match.routes or route in match.routes for match in rule.match)


def _counter(rule: Rule) -> str:
    return "" if rule.counter is None else rule.counter.name


def _finding(code: str, severity: Severity, rule: Rule, message: str, mend: str) -> Finding:
    return Finding(
        code=code,
        severity=severity,
        place=rule.place,
        rule=rule.name,
        message=message,
        mend=mend,
    )
