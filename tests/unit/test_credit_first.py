"""`billing: credit_then_invoice` in checks: credit is used first, and its lack refuses nothing."""

from dataclasses import replace

import pytest
from fixtures.http_edges import make_policy
from fixtures.use_cases import ANYONE, CREDIT_NANO, HOLD_NANO, UseCases

from sidecar.cli.explain_text import print_explanation
from sidecar.domain.counters import MONEY, Counter, CounterKind
from sidecar.domain.decisions import Allow, Deny, DenyReason
from sidecar.domain.matching import Match
from sidecar.domain.periods import CalendarUnit, CalendarWindow
from sidecar.domain.pricing import Billing
from sidecar.domain.rules import Rule, RuleTemplate
from sidecar.domain.standing import Standing
from sidecar.inbound.denials import word_denial
from sidecar.services.explaining import Explainer, Question
from sidecar.services.given_numbers import GivenNumbers

CHAT = Match(routes=frozenset({0}))
NO_CREDITS = Rule(name="no-credits", template=RuleTemplate.NO_CREDITS, match=(CHAT,))
CAP = Rule(
    name="cap",
    template=RuleTemplate.SPEND_CAP,
    match=(CHAT,),
    currency="USD",
    counter=Counter(
        name="cap",
        kind=CounterKind.WINDOW,
        measure=MONEY,
        limit=12 * HOLD_NANO,
        window=CalendarWindow(unit=CalendarUnit.MONTH),
    ),
)


async def prepared(*rules: Rule) -> UseCases:
    policy = make_policy(*rules)
    card = replace(policy.cards["prepaid"], billing=Billing.CREDIT_THEN_INVOICE)
    cases = UseCases(policy=replace(policy, cards={**policy.cards, "prepaid": card}))
    await cases.customer()
    return cases


@pytest.mark.parametrize("rules", [(), (NO_CREDITS,)])
async def test_no_lack_of_credit_refuses_whatever_rule_speaks_of_it(rules):
    cases = await prepared(*rules)
    assert CREDIT_NANO == 10 * HOLD_NANO
    decisions = [await cases.checks.check(cases.request(number)) for number in range(1, 15)]
    assert all(isinstance(decision, Allow) for decision in decisions)
    grant = cases.account.credit.find("g_cus_1")
    assert (grant.free, grant.pinned) == (0, CREDIT_NANO)
    assert cases.account.held == 14 * HOLD_NANO


async def test_a_spend_cap_counts_what_is_owed_too():
    cases = await prepared(CAP)
    decisions = [await cases.checks.check(cases.request(number)) for number in range(1, 14)]
    assert [isinstance(decision, Allow) for decision in decisions] == [True] * 12 + [False]
    refused = decisions[-1]
    assert isinstance(refused, Deny)
    assert (refused.rule, refused.reason) == ("cap", DenyReason.SPEND_CAP_EXCEEDED)


async def test_a_capture_burns_what_there_is_and_owes_the_rest():
    cases = await prepared()
    terms = [await cases.hold(number) for number in range(1, 13)]
    for one in terms:
        await cases.metering.capture(cases.report(one, tokens=100), ANYONE)
    credit = cases.account.credit
    assert (credit.used, credit.used_prepaid, credit.deficit) == (
        12 * HOLD_NANO,
        CREDIT_NANO,
        0,
    )
    owed = [usage.owed_nano for usage in credit.usage.values()]
    assert owed == [0] * 10 + [HOLD_NANO] * 2


async def test_an_explanation_says_who_pays(capsys):
    cases = await prepared(NO_CREDITS)
    explainer = Explainer(cases.policy, read_facts=lambda _: cases.facts, word=word_denial)
    customer = await cases.directory.read_customer("cus_1")
    question = Question(request=cases.request(), at=cases.clock.now(), customer=customer)
    numbers = GivenNumbers(at=cases.clock.now(), available_nano=0, standing=Standing.GOOD, used={})
    found = explainer.explain_given(question, numbers)
    assert found.answer.allow
    print_explanation(found)
    assert "credit first, an invoice for the rest" in capsys.readouterr().out
