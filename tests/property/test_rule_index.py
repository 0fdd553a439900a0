"""The index finds every rule that trying each would find, in the same order."""

from dataclasses import replace

from fixtures.policy_parts import POLICY, request, view_of
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.counters import REQUESTS, Counter, CounterKind, Level, Rate
from sidecar.domain.customers import CustomerFacts, CustomerMatch, UserMatch
from sidecar.domain.matching import Match, RouteSet, fits_any
from sidecar.domain.policy import Policy
from sidecar.domain.rules import Members, Membership, Mode, Rule, RuleTemplate, Unidentified

NAMES = ("a", "b", "c")
sets = st.frozensets(st.sampled_from(NAMES), max_size=2)
labels = st.dictionaries(st.sampled_from(("x", "y")), st.sampled_from(NAMES), max_size=2)
matches = st.builds(
    Match,
    routes=st.frozensets(st.integers(0, 3), max_size=2),
    methods=st.frozensets(st.sampled_from(("GET", "POST")), max_size=1),
)
counters = st.builds(
    Counter,
    name=st.just("n"),
    kind=st.just(CounterKind.RATE),
    measure=st.just(REQUESTS),
    limit=st.just(1),
    level=st.sampled_from(Level),
    rate=st.just(Rate(per_ms=1, burst=1)),
)
rules = st.builds(
    Rule,
    name=st.just("r"),
    template=st.sampled_from((RuleTemplate.BLOCK, RuleTemplate.RATE_LIMIT)),
    match=st.lists(matches, max_size=2).map(tuple),
    customers=st.builds(CustomerMatch, plans=sets, labels=labels, ids=sets, exclude=sets),
    customer_members=st.sampled_from((None, *Members)),
    users=st.none() | st.builds(UserMatch, ids=sets, teams=sets, exclude=sets),
    user_members=st.sampled_from((None, *Members)),
    unidentified=st.sampled_from(Unidentified),
    mode=st.sampled_from(Mode),
    counter=st.none() | counters,
)
callers = st.builds(
    CustomerFacts,
    customer_id=st.sampled_from(("", *NAMES)),
    plan=st.sampled_from(NAMES),
    currency=st.just("USD"),
    revision=st.just(1),
    labels=labels,
    team_id=st.sampled_from(("", *NAMES)),
    user_id=st.sampled_from(("", *NAMES)),
    credential_id=st.sampled_from(("", *NAMES)),
)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    chosen = [
        replace(rule, name=f"r{n}") for n, rule in enumerate(draw(st.lists(rules, max_size=8)))
    ]
    names = [rule.name for rule in chosen] or ["none"]
    lists = st.lists(st.sampled_from(names), unique=True, max_size=4).map(
        lambda found: tuple(Membership(rule=name) for name in found)
    )
    members = st.dictionaries(st.sampled_from(NAMES), lists, max_size=3)
    return replace(
        POLICY,
        routes=RouteSet(["^/a", "^/b", "c", "d$"]),
        rules=tuple(chosen),
        customer_members=draw(members),
        user_members=draw(members),
        meters=(),
        estimates=(),
        free=(),
    )


def is_for(policy: Policy, rule: Rule, caller: CustomerFacts) -> bool:
    """The words of the reference, one by one."""
    if not rule.level.name_in(caller):
        return rule.unidentified is not Unidentified.SKIP
    if rule.unidentified is Unidentified.ONLY:
        return False
    for wanted, lists, who in (
        (rule.customer_members, policy.customer_members, caller.customer_id),
        (rule.user_members, policy.user_members, caller.user_id),
    ):
        listed = rule.name in {one.rule for one in lists.get(who, ())}
        if wanted is not None and listed is not (wanted is Members.LISTED):
            return False
    return rule.customers.accepts(caller) and (rule.users is None or rule.users.accepts(caller))


@given(
    policy=policies(),
    caller=callers,
    path=st.sampled_from(("/a", "/b/c", "/abcd", "/z")),
    method=st.sampled_from(("GET", "POST")),
)
def test_the_index_finds_what_trying_each_rule_finds(policy, caller, path, method) -> None:
    view = view_of(request(path, method), policy)
    expected = [
        rule.name
        for rule in policy.rules
        if rule.mode is not Mode.DRAFT
        and is_for(policy, rule, caller)
        and fits_any(rule.match, view)
    ]
    found = [rule.name for rule, _ in policy.rules_for(view, caller)]
    assert sorted(found) == sorted(expected)
    unlisted = {
        r.name for r in policy.rules if Members.LISTED not in (r.customer_members, r.user_members)
    }
    assert [name for name in found if name in unlisted] == [n for n in expected if n in unlisted]
