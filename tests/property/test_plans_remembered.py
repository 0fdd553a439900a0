"""A plan that is remembered is the plan that would be made anew, whatever was asked before."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

import pytest
import re2
from fixtures.policy_parts import CARD, CUSTOMER, INPUT, NOW, POLICY, TOTAL, request, view_of
from fixtures.random_policies import NAMES, callers, labels, policies
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.domain.counters import Counter, CounterKind, Level
from sidecar.domain.customers import CustomerFacts, CustomerMatch, UserMatch
from sidecar.domain.expressions import RULE_VARIABLES, ResultKind, compile_expression
from sidecar.domain.matching import Match, RouteSet
from sidecar.domain.outlines import Outlines, outline_of
from sidecar.domain.periods import CalendarUnit, CalendarWindow
from sidecar.domain.planning import CheckPlan, plan_check
from sidecar.domain.pricing import Billing
from sidecar.domain.requests import RequestFacts
from sidecar.domain.rules import (
    EstimateFrom,
    EstimateRule,
    Members,
    Membership,
    MeterRule,
    Mode,
    Rule,
    RuleTemplate,
    StatedBound,
    TokenSide,
    Unidentified,
)
from sidecar.domain.windows import RollingWindow

FURTHER = st.sampled_from(
    (
        {},
        {"headers": (("x-tier", re2.compile("^gold$")),)},
        {"hosts": (re2.compile("^a\\."),)},
        {"sources": (ip_network("10.0.0.0/8"),)},
        {"body": (("stream", re2.compile("^true$")),)},
    )
)
ROUTES = st.frozensets(st.integers(0, 3), min_size=1, max_size=2)
matches = st.builds(lambda routes, more: Match(routes=routes, **more), ROUTES, FURTHER)
some_matches = st.lists(matches, max_size=2).map(tuple)


def condition(text: str):
    return compile_expression(text, variables=RULE_VARIABLES, result=ResultKind.BOOLEAN)


conditions = st.sampled_from(
    (
        None,
        None,
        'request.headers["x-tier"] == "gold"',
        "hold.amount_nano > 100000",
        "credits.available_nano > 5",
    )
).map(lambda text: text and condition(text))
BY_PATH = 'request.path == "/a" ? usage.input : 2 * usage.input'
METERED = (
    INPUT,
    replace(INPUT, value=BY_PATH),
    replace(INPUT, value=BY_PATH.replace("path", "method")),
    replace(INPUT, group_by=("label:x",)),
)
windows = st.sampled_from(
    (CalendarWindow(unit=CalendarUnit.DAY), RollingWindow(seconds=60, slices=6))
)


@st.composite
def counting(draw: st.DrawFn) -> Rule:
    window = draw(windows)
    rolling = isinstance(window, RollingWindow)
    counter = Counter(
        name=draw(st.sampled_from(("m", "n"))) + ("_r" if rolling else ""),
        kind=CounterKind.ROLLING if rolling else CounterKind.WINDOW,
        measure=draw(st.sampled_from(("total", "@money", "@tokens", "@requests"))),
        limit=1_000,
        level=draw(st.sampled_from(Level)),
        window=window,
    )
    return Rule(
        name="r",
        template=RuleTemplate.QUOTA,
        match=draw(some_matches),
        counter=counter,
        hard=draw(st.booleans()),
        mode=draw(st.sampled_from((Mode.ENFORCE, Mode.SHADOW))),
        unidentified=Unidentified.SKIP,
        when=draw(conditions),
    )


@st.composite
def full_policies(draw: st.DrawFn):
    """Rules that select in every way, and those that count, ask more, or have a condition."""
    base = draw(policies())
    rules = [*base.rules, *draw(st.lists(counting(), max_size=4))]
    counted = draw(st.sampled_from(METERED))
    stated = (StatedBound(side=TokenSide.INPUT, header="x-tokens", most=10_000),)
    estimate = EstimateRule(
        match=draw(some_matches),
        source=(source := draw(st.sampled_from(EstimateFrom))),
        default_input=100,
        default_output=50,
        stated=stated if source is EstimateFrom.HEADER else (),
    )
    return replace(
        base,
        cards={n: replace(CARD, plan=n, billing=Billing.POSTPAID) for n in ("a", "b")},
        rules=tuple(replace(rule, name=f"r{n}") for n, rule in enumerate(rules)),
        meters=(
            MeterRule(meter=counted, match=draw(some_matches)),
            MeterRule(meter=TOTAL, match=draw(some_matches)),
        ),
        estimates=(estimate,),
        allow_unmatched=draw(st.booleans()),
    )


DAY = Counter(
    name="day",
    kind=CounterKind.WINDOW,
    measure="total",
    limit=9,
    window=CalendarWindow(unit=CalendarUnit.DAY),
)
PRO = frozenset({"a"})
WHO = ("customer_id", "team_id", "user_id", "credential_id", "plan")
QUOTA = Rule(name="day", template=RuleTemplate.QUOTA, counter=DAY)
EACH = Match(routes=frozenset({0, 1}))
PLAIN = replace(
    POLICY,
    routes=RouteSet(["^/a", "^/b"]),
    cards={n: replace(CARD, plan=n, billing=Billing.POSTPAID) for n in ("a", "b")},
    meters=(MeterRule(meter=INPUT, match=(EACH,)), MeterRule(meter=TOTAL, match=(EACH,))),
    estimates=(
        EstimateRule(match=(EACH,), source=EstimateFrom.BODY, default_input=100, default_output=50),
    ),
    rules=(QUOTA,),
)


def block(**changes: object) -> Rule:
    return replace(Rule(name="block", template=RuleTemplate.BLOCK), **changes)


def of(**more: object) -> tuple[Match, ...]:
    return (Match(**more),)


STATED = EstimateRule(
    match=(EACH,),
    source=EstimateFrom.HEADER,
    default_input=100,
    default_output=50,
    stated=(StatedBound(side=TokenSide.INPUT, header="x-tokens", most=10_000),),
)
NOTING = MeterRule(meter=replace(INPUT, value=BY_PATH), match=(EACH,))
SIZED = MeterRule(meter=replace(INPUT, value="request.bytes"), match=(EACH,))
GOLD = re2.compile("^gold$")
# Each differs from the plain one in what a plan may depend on.
VARIED = {
    "plain": PLAIN,
    "header": replace(PLAIN, rules=(QUOTA, block(match=of(headers=(("x-tier", GOLD),))))),
    "method": replace(PLAIN, rules=(QUOTA, block(match=of(methods=frozenset({"GET"}))))),
    "label": replace(PLAIN, rules=(QUOTA, block(customers=CustomerMatch(labels={"x": "a"})))),
    "meter": replace(PLAIN, meters=(replace(NOTING, match=of(headers=(("x-tier", GOLD),))),)),
    "noted": replace(PLAIN, meters=(NOTING,)),
    "noted label": replace(
        PLAIN, meters=(replace(NOTING, meter=replace(INPUT, group_by=("label:x",))),)
    ),
    "plan": replace(PLAIN, rules=(QUOTA, block(template=RuleTemplate.REQUIRE_PLAN, plans=PRO))),
    "size": replace(PLAIN, meters=(SIZED,)),
    "stated": replace(PLAIN, estimates=(STATED,)),
    "condition": replace(
        PLAIN, rules=(QUOTA, block(when=condition('request.headers["x-tier"] == "gold"')))
    ),
    "level": replace(PLAIN, rules=(replace(QUOTA, counter=replace(DAY, level=Level.KEY)),)),
}


requests = st.builds(
    lambda path, method, tier, host, source, body, tokens: replace(
        request(path, method, **({"x_tier": tier} if tier else {}), **tokens),
        host=host,
        source=source,
        body=body,
        body_complete=True,
    ),
    st.sampled_from(("/a", "/a/c", "/b/d", "/x")),
    st.sampled_from(("GET", "POST")),
    st.sampled_from(("", "gold", "tin")),
    st.sampled_from(("a.example", "b.example")),
    st.sampled_from(("10.1.2.3", "192.0.2.1")),
    st.sampled_from((None, b'{"stream": true}', b'{"stream": false, "more": 1}')),
    st.sampled_from(({}, {"x_tokens": "70"}, {"x_tokens": "many"})),
)
facts = st.builds(
    RequestFacts, input_bound=st.sampled_from((None, 3, 9)), model=st.sampled_from(("", "gpt"))
)
instants = st.sampled_from((0, 1, 5, 29, 30, 31, 61, 90_000, -1)).map(
    lambda s: NOW + timedelta(seconds=s)
)
ANN = CustomerFacts(customer_id="a", plan="a", currency="USD", revision=1, credential_id="k1")
# So alike that most of them meet what was remembered of another.
alike = st.lists(
    st.tuples(
        st.builds(
            lambda path, method, tier, body, tokens: replace(
                request(path, method, **tier, **tokens), body=body, body_complete=True
            ),
            st.sampled_from(("/a", "/ab")),
            st.sampled_from(("GET", "POST")),
            st.sampled_from(({}, {"x_tier": "gold"})),
            st.sampled_from((b"{}", b'{"a": 1}')),
            st.sampled_from(({}, {"x_tokens": "7000"})),
        ),
        st.sampled_from(
            (
                ANN,
                replace(ANN, labels={"x": "a"}),
                replace(ANN, credential_id="k2"),
                replace(ANN, plan="b"),
            )
        ),
        st.sampled_from((RequestFacts(), RequestFacts(input_bound=9))),
        st.sampled_from((NOW, NOW + timedelta(seconds=60))),
    ),
    min_size=2,
    max_size=12,
)
asked = st.lists(st.tuples(requests, callers, facts, instants), min_size=2, max_size=12)


# Each differs from the first in one thing, so that most would share what is remembered of it.
changes = st.one_of(
    st.builds(
        lambda name, value: {name: value}, st.sampled_from(WHO), st.sampled_from(("", *NAMES))
    ),
    st.builds(lambda labels: {"labels": labels}, labels),
)
looked_at = st.builds(
    lambda first, others: [first, *(replace(first, **change) for change in others)],
    callers,
    st.lists(changes, min_size=2, max_size=10),
)


USER = replace(ANN, user_id="u")
LISTED = {"a": (Membership(rule="block"),), "u": (Membership(rule="block"),)}
BY_KEY = replace(QUOTA, counter=replace(DAY, level=Level.KEY), unidentified=Unidentified.SKIP)
HALF = block(mode=Mode.PERCENT, percent=50)
TOLD_APART = {
    "excluded customer": (block(customers=CustomerMatch(exclude=PRO)), ANN, "customer_id"),
    "named customer": (block(customers=CustomerMatch(ids=PRO)), ANN, "customer_id"),
    "listed customer": (block(customer_members=Members.LISTED), ANN, "customer_id"),
    "excluded user": (block(users=UserMatch(exclude=frozenset({"u"}))), USER, "user_id"),
    "named user": (block(users=UserMatch(ids=frozenset({"u"}))), USER, "user_id"),
    "listed user": (block(user_members=Members.LISTED), USER, "user_id"),
    "team": (block(users=UserMatch(teams=PRO)), replace(USER, team_id="a"), "team_id"),
    "share": (HALF, ANN, "customer_id"),
    "key": (BY_KEY, replace(ANN, credential_id=""), "credential_id"),
}


@pytest.mark.parametrize("name", TOLD_APART)
def test_callers_that_a_rule_tells_apart_share_no_outline(name):
    rule, first, part = TOLD_APART[name]
    lists = LISTED if name.startswith("listed") else {}
    policy = replace(PLAIN, rules=(rule,), customer_members=lists, user_members=lists)
    outlines, found = Outlines(policy), []
    for caller in [first, *(replace(first, **{part: f"other-{n}"}) for n in range(20))]:
        anew = replace(policy)
        known = outlines.of(view_of(request("/a"), policy), caller)
        assert known == outline_of(anew, view_of(request("/a"), anew), caller)
        found.append(known.number)
    assert len(set(found)) == 2  # Those that it does not tell apart do share one.


@given(policy=policies(), looked_at=looked_at)
@settings(max_examples=300)
def test_the_outline_of_another_caller_is_ones_own_where_it_is_shared(policy, looked_at):
    policy = replace(
        policy,
        rules=tuple(replace(rule, percent=50, plans=PRO) for rule in policy.rules),
        features={"a": frozenset({"f"})},
    )
    outlines = Outlines(policy)
    for caller in looked_at:
        anew = replace(policy)
        known = outlines.of(view_of(request("/a/c"), policy), caller)
        assert known == outline_of(anew, view_of(request("/a/c"), anew), caller)


@given(policy=full_policies(), asked=asked)
def test_a_remembered_plan_is_the_plan(policy, asked):
    same_plans(policy, asked)


@pytest.mark.parametrize("name", VARIED)
@given(asked=alike)
def test_a_remembered_plan_is_the_plan_whatever_it_depends_on(name, asked):
    same_plans(VARIED[name], asked)


def same_plans(policy, asked) -> None:
    outlines = Outlines(policy)
    for one, caller, fact, now in [*asked, *asked]:
        # A policy of its own: one remembers selections, too.
        anew = replace(policy)
        view, again = view_of(one, policy), view_of(one, anew)
        outline = outlines.of(view, caller)
        known = plan_check(policy, view, caller, fact, now, outline=outline)
        fresh = plan_check(anew, again, caller, fact, now)
        assert _shown(known) == _shown(fresh)


def _shown(plan):
    """Without the variables, whose lazy parts know no equality; conditions have used them."""
    return replace(plan, variables={}) if isinstance(plan, CheckPlan) else plan


def test_a_steady_plan_is_made_once_and_anew_in_the_next_window():
    policy = replace(POLICY, rules=(QUOTA,))
    outlines = Outlines(policy)

    def plan(now: datetime) -> CheckPlan:
        view = view_of(request(), policy)
        found = plan_check(
            policy, view, CUSTOMER, RequestFacts(), now, outline=outlines.of(view, CUSTOMER)
        )
        assert isinstance(found, CheckPlan)
        return found

    first, midnight = plan(NOW), datetime(2026, 2, 1, tzinfo=UTC)
    assert plan(midnight - timedelta(microseconds=1)) is first
    later = plan(midnight)
    assert later is not first
    assert later.counters[0].start_ms == first.counters[0].end_ms
    assert plan(NOW).counters == first.counters
