"""The tests beside rules to the runner's values."""

from collections.abc import Iterator

from sidecar.domain.customers import NOBODY, CustomerFacts
from sidecar.domain.money import AMOUNT_NANO_MAX
from sidecar.domain.nearest import unknown
from sidecar.domain.requests import RequestFacts
from sidecar.domain.rules import COUNTING, RuleTemplate
from sidecar.domain.standing import Standing
from sidecar.outbound.policy_files.references import Context
from sidecar.outbound.policy_files.schema_counters import MONEY_UNIT
from sidecar.outbound.policy_files.sections import Marked, Section
from sidecar.outbound.policy_files.unions import Amount
from sidecar.services.rule_test_cases import (
    TEST_INSTANT,
    UNSAID,
    Expectation,
    GivenInvoices,
    GivenRequest,
    RuleTest,
)


def compile_tests(context: Context) -> Iterator[RuleTest]:
    """The tests of all sound rules."""
    for section in context.rules.values():
        if section.sound:
            for test in section.sections("tests"):
                yield _test(context, section, test)


def _test(context: Context, rule: Section, test: Section) -> RuleTest:
    given, request, expect = (test.section(key) for key in ("given", "request", "expect"))
    assert given is not None
    assert request is not None
    assert expect is not None
    credit = given.section("credits")
    return RuleTest(
        rule=rule.text("name"),
        place=f"{test.place.file}:{test.place.line}",
        customer=_customer(context, given),
        expect=_expectation(context, expect),
        request=_request(request),
        facts=RequestFacts(
            model=request.text("model"),
            input_bound=request.optional_integer("input"),
            output_bound=request.optional_integer("output"),
        ),
        available_nano=AMOUNT_NANO_MAX if credit is None else credit.integer("available"),
        standing=Standing(given.text("standing")),
        invoices=_invoices(given),
        used=_used(context, given),
        at=given.instant("at") or TEST_INSTANT,
    )


def _customer(context: Context, given: Section) -> CustomerFacts:
    customer = given.section("customer")
    identified = not given.given("identified") or given.flag("identified")
    if customer is None:
        if identified:
            context.problems.add(
                given.place, "given has no 'customer'; name one, or say identified: false"
            )
        return NOBODY
    if not identified:
        context.problems.add(
            given.place_of("identified"),
            "`identified: false` says that nobody asks, so it cannot stand beside `customer`",
        )
    plan = customer.text("plan")
    known = context.refer("plan", plan, customer.place_of("plan"))
    return CustomerFacts(
        customer_id=customer.text("id"),
        plan=plan,
        currency=context.plans[plan].text("currency") if known else "",
        revision=0,
        labels={name: item.value for name, item in customer.pairs("labels")},
        team_id=customer.text("team"),
        user_id=customer.text("user"),
        credential_id=customer.text("key"),
    )


def _request(section: Section) -> GivenRequest:
    return GivenRequest(
        method=section.text("method"),
        path=section.text("path"),
        host=section.text("host"),
        source=section.text("source_ip"),
        headers={name: (item.value,) for name, item in section.pairs("headers")},
        context={name: item.value for name, item in section.pairs("context")},
        body=section.values["body"].value if section.given("body") else UNSAID,
        bytes=section.optional_integer("bytes"),
    )


def _invoices(given: Section) -> GivenInvoices:
    section = given.section("invoices")
    if section is None:
        return GivenInvoices()
    return GivenInvoices(
        overdue_days=section.optional_integer("overdue_days"),
        amount_nano=section.optional_integer("amount"),
        disputed=section.flag("disputed"),
    )


def _used(context: Context, given: Section) -> dict[str, int]:
    """What is counted, by counter: quotas by their names, other limits by their rules'."""
    used: dict[str, int] = {}
    for name, item in given.pairs("quotas"):
        if context.refer("quota", name, item.place):
            money = context.quotas[name].text("unit") == MONEY_UNIT
            used[name] = _count(context, item, money=money)
    counting = {
        name
        for name, rule in context.rules.items()
        if rule.text("template") in COUNTING - {RuleTemplate.QUOTA}
    }
    for name, item in given.pairs("limits"):
        if name not in counting:
            context.problems.add(
                item.place,
                unknown("limit", name, counting, label="there are these rules with a limit"),
            )
            continue
        money = context.rules[name].text("template") == RuleTemplate.SPEND_CAP
        used[name] = _count(context, item, money=money)
    return used


def _count(context: Context, item: Marked, *, money: bool) -> int:
    used = item.value.values["used"]
    if money == isinstance(used.value, Amount):
        return used.value.nano if money else int(used.value)
    wanted = 'an amount in quotes, such as "12.50"' if money else "a whole number"
    context.problems.add(used.place, f"`used` is in the limit's unit, so expected {wanted}")
    return 0


def _expectation(context: Context, section: Section) -> Expectation:
    if section.flag("allow"):
        for key in ("code", "rule", "status", "body", "retry_after"):
            if section.given(key):
                context.problems.add(
                    section.place_of(key), f"`{key}` is of a denial, but the test expects allow"
                )
    return Expectation(
        allow=section.flag("allow"),
        code=section.text("code") or None,
        rule=section.text("rule") or None,
        status=section.optional_integer("status"),
        headers={name: item.value for name, item in section.pairs("headers")},
        body=section.values["body"].value if section.given("body") else UNSAID,
        shadow=frozenset(section.texts("shadow")) if section.given("shadow") else None,
        over=frozenset(section.texts("over")) if section.given("over") else None,
        retry_after=(
            section.values["retry_after"].value if section.given("retry_after") else UNSAID
        ),
    )
