"""A check under the whole language: who is asked for what, what is undone, what is kept."""

import asyncio
from dataclasses import replace

import pytest
from fixtures.http_edges import make_policy
from fixtures.use_cases import AWAY, CREDIT_NANO, HOLD_NANO, UseCases

from sidecar.domain.counters import IN_FLIGHT, MONEY, REQUESTS, Counter, CounterKind, Rate
from sidecar.domain.decisions import Allow, Decision, Deny, DenyReason, Dialect
from sidecar.domain.expression_variables import RULE_VARIABLES
from sidecar.domain.expressions import ResultKind, compile_expression
from sidecar.domain.holds import Bound
from sidecar.domain.matching import Match
from sidecar.domain.periods import CalendarUnit, CalendarWindow
from sidecar.domain.rules import (
    DialectRule,
    Mode,
    OnStoreFailure,
    Rule,
    RuleTemplate,
    Unidentified,
)
from sidecar.domain.templates import Template
from sidecar.services.stale_numbers import StaleNumbers

CHAT = Match(routes=frozenset({0}))
BLOCK = Rule(
    name="block", template=RuleTemplate.BLOCK, match=(CHAT,), unidentified=Unidentified.APPLY
)
CREDITS = Rule(name="credits", template=RuleTemplate.NO_CREDITS, match=(CHAT,))
HEADERS = Rule(
    name="headers",
    template=RuleTemplate.HEADERS,
    warn={"x-note": Template("{{customer.id|nobody}}")},
    unidentified=Unidentified.APPLY,
)
PARALLEL = Rule(
    name="parallel",
    template=RuleTemplate.IN_FLIGHT_LIMIT,
    counter=Counter(name="parallel", kind=CounterKind.IN_FLIGHT, measure=IN_FLIGHT, limit=2),
)
RPS = Rule(
    name="rps",
    template=RuleTemplate.RATE_LIMIT,
    counter=Counter(
        name="rps",
        kind=CounterKind.RATE,
        measure=REQUESTS,
        limit=1,
        rate=Rate(per_ms=1_000, burst=3),
    ),
)
CAP = Rule(
    name="cap",
    template=RuleTemplate.SPEND_CAP,
    currency="USD",
    counter=Counter(
        name="cap",
        kind=CounterKind.WINDOW,
        measure=MONEY,
        limit=2 * HOLD_NANO,
        window=CalendarWindow(unit=CalendarUnit.MONTH),
    ),
)


def when(text: str) -> object:
    return compile_expression(text, variables=RULE_VARIABLES, result=ResultKind.BOOLEAN)


def denied_by(decision: Decision) -> tuple[str, str]:
    assert isinstance(decision, Deny), decision
    return decision.rule, decision.reason.value


async def ready(*rules: Rule, **changes: object) -> UseCases:
    cases = UseCases(replace(make_policy(*rules), **changes))
    await cases.customer()
    return cases


def anonymous(cases: UseCases, number: int = 1, **changes: object):
    return replace(cases.request(number), headers={}, **changes)


async def test_a_plain_block_asks_the_store_nothing():
    cases = await ready(rules=(BLOCK,))
    assert denied_by(await cases.checks.check(cases.request())) == ("block", "blocked")
    assert cases.balances.calls == []
    assert cases.account.held == 0


async def test_a_block_behind_a_rule_about_credit_is_probed_and_takes_nothing():
    cases = await ready(rules=(CREDITS, BLOCK))
    assert denied_by(await cases.checks.check(cases.request(1))) == ("block", "blocked")
    cases.account.used = CREDIT_NANO
    decision = await cases.checks.check(cases.request(2))
    assert denied_by(decision) == ("credits", "no_available_credits")
    assert [hold.probe for hold in cases.balances.placed] == [True, True]
    assert cases.account.held == 0


async def test_a_block_stands_where_its_probe_gets_no_answer():
    cases = await ready(rules=(CREDITS, BLOCK))
    cases.balances.failures["place"] = [AWAY]
    assert denied_by(await cases.checks.check(cases.request())) == ("block", "blocked")


async def test_a_caller_without_a_credential_meets_blocks_and_headers_only():
    cases = await ready(rules=(BLOCK,), meters=())
    decision = await cases.checks.check(anonymous(cases))
    assert denied_by(decision) == ("block", "blocked")
    open_policy = {"rules": (HEADERS,), "meters": (), "allow_unmatched": True}
    cases = await ready(**open_policy)
    decision = await cases.checks.check(anonymous(cases))
    assert isinstance(decision, Allow)
    assert (decision.headers, decision.hold) == ({"x-note": "nobody"}, None)
    known = await cases.checks.check(cases.request(2))
    assert known.headers == {"x-note": "cus_1"}


async def test_a_credential_that_cannot_be_used_is_401_where_anybody_may_pass():
    cases = await ready(rules=(HEADERS,), meters=(), allow_unmatched=True)
    twice = replace(cases.request(), headers={"x-api-key": ("a", "b")})
    assert denied_by(await cases.checks.check(twice)) == ("identity", "unidentified")
    wrong = replace(cases.request(), headers={"x-api-key": ("sk-other",)})
    assert denied_by(await cases.checks.check(wrong)) == ("identity", "unknown_credential")


async def test_a_condition_over_the_numbers_undoes_the_hold_that_it_refuses():
    rule = replace(BLOCK, when=when(f"credits.available_nano < {CREDIT_NANO - HOLD_NANO}"))
    cases = await ready(rules=(rule,))
    assert isinstance(await cases.checks.check(cases.request(1)), Allow)
    decision = await cases.checks.check(cases.request(2))
    assert denied_by(decision) == ("block", "blocked")
    assert cases.balances.calls == ["place", "place", "release"]
    assert cases.account.held == HOLD_NANO
    # The id has ended, so a repeat of that check is no allow.
    again = await cases.checks.check(cases.request(2))
    assert denied_by(again)[1] == "store_unavailable"


async def test_a_condition_that_cannot_be_evaluated_counts_as_true_for_a_denial():
    rule = replace(BLOCK, when=when("request.body.n > 1"))
    cases = await ready(rules=(rule,))
    strange = replace(cases.request(), body=b'{"n": "many"}')
    assert denied_by(await cases.checks.check(strange)) == ("block", "blocked")
    fine = replace(cases.request(2), body=b'{"n": 1}')
    assert isinstance(await cases.checks.check(fine), Allow)
    header = replace(HEADERS, when=when("request.body.n > 1"))
    cases = await ready(rules=(header,))
    decision = await cases.checks.check(replace(cases.request(), body=b'{"n": "many"}'))
    assert decision.headers == {}


async def test_requests_in_flight_come_back_when_they_end():
    cases = await ready(PARALLEL)
    first, second, third = [await cases.checks.check(cases.request(n)) for n in (1, 2, 3)]
    assert denied_by(third) == ("parallel", "in_flight_limit")
    assert third.retry_after_seconds is None
    await cases.checks.abandon(first)
    assert isinstance(await cases.checks.check(cases.request(4)), Allow)
    assert isinstance(second, Allow)


async def test_a_rate_is_refused_until_exactly_then():
    cases = await ready(RPS)
    decisions = [await cases.checks.check(cases.request(n)) for n in range(4)]
    assert [isinstance(one, Allow) for one in decisions] == [True, True, True, False]
    assert decisions[3].retry_after_seconds == 1
    cases.clock.advance(0.999)
    assert denied_by(await cases.checks.check(cases.request(5)))[1] == "rate_limited"
    cases.clock.advance(0.001)
    assert isinstance(await cases.checks.check(cases.request(6)), Allow)


async def test_a_cap_holds_the_most_that_requests_can_cost():
    cases = await ready(CAP)
    decisions = [await cases.checks.check(cases.request(n)) for n in range(3)]
    assert denied_by(decisions[2]) == ("cap", "spend_cap_exceeded")
    assert decisions[2].reason is DenyReason.SPEND_CAP_EXCEEDED


@pytest.mark.parametrize("rule", [CREDITS, CAP, PARALLEL])
async def test_old_numbers_decide_for_a_while_where_the_rules_say_so(rule: Rule):
    stale = {"on_store_failure": OnStoreFailure.STALE, "stale_seconds": 30}
    cases = await ready(rules=(replace(rule, **stale),))
    assert isinstance(await cases.checks.check(cases.request(0)), Allow)
    cases.account.used = CREDIT_NANO - 3 * HOLD_NANO
    assert isinstance(await cases.checks.check(cases.request(1)), Allow)
    cases.balances.failures["place"] = [AWAY] * 10
    seen = cases.checks._stale._seen["cus_1"]
    decisions = [await cases.checks.check(cases.request(n)) for n in range(2, 5)]
    allowed = [one for one in decisions if isinstance(one, Allow)]
    # One more hold fits into the credit; the cap and the limit in flight are used up.
    assert len(allowed) == (1 if rule is CREDITS else 0)
    for one in allowed:
        assert cases.tokens.signed[one.hold.token].bound is Bound.STORE_FAILURE
    seen.at -= 31
    assert denied_by(await cases.checks.check(cases.request(9)))[1] == "store_unavailable"


async def test_numbers_that_were_never_seen_decide_nothing():
    stale = replace(CREDITS, on_store_failure=OnStoreFailure.STALE, stale_seconds=30)
    cases = await ready(rules=(stale,))
    cases.balances.failures["place"] = [AWAY]
    assert denied_by(await cases.checks.check(cases.request()))[1] == "store_unavailable"


async def test_numbers_are_kept_only_while_a_rule_would_decide_by_them():
    stale = replace(CREDITS, on_store_failure=OnStoreFailure.STALE, stale_seconds=30)
    draft = replace(stale, name="draft", mode=Mode.DRAFT)
    cases = await ready(rules=(CREDITS, draft))
    kept = cases.checks._stale._seen
    for number, (rules, count) in enumerate(
        [((CREDITS, draft), 0), ((stale,), 1), ((CREDITS, draft), 0), ((stale, CREDITS), 1)]
    ):
        cases.policies.policy = replace(cases.policy, version=f"v{number}", rules=rules)
        assert isinstance(await cases.checks.check(cases.request(number)), Allow)
        assert len(kept) == count


async def test_each_hold_and_each_denial_is_kept_with_what_it_was_made_from():
    cases = await ready(CREDITS)
    allowed = await cases.checks.check(cases.request(1))
    cases.account.used = CREDIT_NANO
    refused = await cases.checks.check(cases.request(2))
    nobody = await cases.checks.check(anonymous(cases, 3))
    nowhere = await cases.checks.check(replace(cases.request(4), path="/%00"))
    free = await cases.checks.check(replace(cases.request(5), path="/open"))
    assert isinstance(free, Allow)
    noted = cases.log.noted
    assert [made.decision for made in noted] == [allowed, refused, nobody, nowhere]
    assert [made.customer.customer_id for made in noted] == ["cus_1", "cus_1", "", ""]
    assert noted[0].numbers.available_nano == CREDIT_NANO - HOLD_NANO
    assert noted[1].outcome.status.value == "denied"
    assert noted[1].plan.amount_nano == HOLD_NANO


async def test_a_denial_is_in_the_error_format_of_its_route():
    cases = await ready(dialects=(DialectRule(match=(CHAT,), dialect=Dialect.ANTHROPIC),))
    for decision in (
        await cases.checks.check(anonymous(cases)),
        await cases.checks.check(replace(cases.request(), headers={"x-api-key": ("sk-x",)})),
    ):
        assert decision.dialect is Dialect.ANTHROPIC
    cases.balances.failures["place"] = [AWAY]
    decision = await cases.checks.check(cases.request())
    assert (decision.reason, decision.dialect) == (
        DenyReason.STORE_UNAVAILABLE,
        Dialect.ANTHROPIC,
    )


async def test_a_block_that_waits_for_numbers_decides_what_happens_without_them():
    rule = replace(BLOCK, when=when("credits.available_nano < 1"))
    lenient = replace(CREDITS, on_store_failure=OnStoreFailure.ALLOW)
    cases = await ready(rules=(rule, lenient))
    cases.balances.failures["place"] = [AWAY, AWAY]
    assert denied_by(await cases.checks.check(cases.request(1)))[1] == "store_unavailable"
    spared = replace(rule, on_store_failure=OnStoreFailure.ALLOW)
    cases = await ready(rules=(spared, lenient))
    cases.balances.failures["place"] = [AWAY]
    assert isinstance(await cases.checks.check(cases.request(2)), Allow)


async def test_a_repeat_does_not_pass_on_a_hold_that_its_first_try_is_about_to_give_back():
    block = replace(BLOCK, when=when("credits.available_nano > 0"))
    cases = await ready(rules=(CREDITS, block))
    place = cases.balances.place_hold

    async def slowly(hold):
        outcome = await place(hold)
        await asyncio.sleep(0)
        return outcome

    cases.balances.place_hold = slowly
    first, again = await asyncio.gather(*(cases.checks.check(cases.request()) for _ in range(2)))
    assert denied_by(first) == ("block", "blocked")
    assert denied_by(again)[1] == "store_unavailable"
    assert cases.account.held == 0


async def test_numbers_of_one_counter_make_those_of_another_no_younger():
    stale = {"on_store_failure": OnStoreFailure.STALE, "stale_seconds": 30}
    parallel = replace(PARALLEL, match=(Match(methods=frozenset({"POST"})),), **stale)
    cases = await ready(rules=(replace(CREDITS, **stale), parallel))
    now = [0.0]
    cases.checks._stale = StaleNumbers(monotonic=lambda: now[0])
    assert isinstance(await cases.checks.check(cases.request(0)), Allow)
    now[0] = 31.0
    got = await cases.checks.check(replace(cases.request(1), method="GET"))
    assert isinstance(got, Allow)
    cases.balances.failures["place"] = [AWAY] * 2
    got = await cases.checks.check(replace(cases.request(2), method="GET"))
    assert isinstance(got, Allow)
    assert denied_by(await cases.checks.check(cases.request(3)))[1] == "store_unavailable"
