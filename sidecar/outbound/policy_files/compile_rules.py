"""Rules and their tests to the domain's values."""

from collections.abc import Iterator, Mapping
from typing import Any

from sidecar.domain.customers import CustomerFacts, CustomerMatch
from sidecar.domain.money import AMOUNT_NANO_MAX
from sidecar.domain.requests import RequestFacts
from sidecar.domain.rules import DenyAnswer, Mode, OnStoreFailure, Rule, RuleTemplate
from sidecar.domain.standing import Standing
from sidecar.domain.templates import Template
from sidecar.outbound.policy_files.places import Place
from sidecar.outbound.policy_files.references import Context
from sidecar.outbound.policy_files.sections import Section
from sidecar.outbound.policy_files.texts import quota_variable
from sidecar.services.rule_tests import Expectation, RuleTest

_BUILT_IN_RULES = frozenset({"estimate", "identity", "path", "plan", "prices", "unmatched"})
"""Names that denials without a rule of the policy carry; `prepaid-credit` may be replaced."""


def compile_rule(context: Context, section: Section) -> Rule:
    """One sound rule; what its template rules out becomes a problem."""
    template = RuleTemplate(section.text("template"))
    _check_name(context, section)
    _check_template_keys(context, section, template)
    customers = section.section("customers")
    if customers is not None:
        context.refer_each("plan", customers.items("plans"))
    deny, warn = section.section("deny"), section.section("warn")
    if template is not RuleTemplate.QUOTA:
        _check_variables(context, deny)
    return Rule(
        name=section.text("name"),
        template=template,
        match=context.match(section.section("match")),
        customers=_customers(customers),
        mode=Mode(section.text("mode")),
        on_store_failure=OnStoreFailure(section.text("on_store_failure")),
        deny=_deny(deny),
        warn={} if warn is None else _headers(warn),
        quota=section.text("quota"),
        at_percent=section.optional_integer("at"),
    )


def compile_tests(context: Context, section: Section) -> Iterator[RuleTest]:
    """The tests of one sound rule."""
    for test in section.sections("tests"):
        given, request, expect = (test.section(key) for key in ("given", "request", "expect"))
        assert given is not None
        assert request is not None
        assert expect is not None
        customer = given.section("customer")
        assert customer is not None
        for name, used in given.pairs("quotas"):
            context.refer("quota", name, used.place)
        plan = customer.text("plan")
        known = context.refer("plan", plan, customer.place_of("plan"))
        credit = given.section("credits")
        yield RuleTest(
            rule=section.text("name"),
            place=_short(test.place),
            customer=CustomerFacts(
                customer_id=customer.text("id"),
                plan=plan,
                currency=context.plans[plan].text("currency") if known else "",
                revision=0,
                labels=_texts(customer, "labels"),
            ),
            expect=_expectation(context, expect),
            method=request.text("method"),
            path=request.text("path"),
            headers={name: (item.value,) for name, item in request.pairs("headers")},
            facts=RequestFacts(
                model=request.text("model"),
                input_bound=request.optional_integer("input"),
                output_bound=request.optional_integer("output"),
            ),
            available_nano=AMOUNT_NANO_MAX if credit is None else credit.integer("available"),
            standing=Standing(given.text("standing")),
            quota_used={name: item.value.integer("used") for name, item in given.pairs("quotas")},
        )


def _check_name(context: Context, section: Section) -> None:
    name = section.text("name")
    if name in _BUILT_IN_RULES:
        context.problems.add(
            section.place_of("name"),
            f"{name!r} is the name of a built-in rule; choose another than "
            f"{', '.join(sorted(_BUILT_IN_RULES))}",
        )


def _check_template_keys(context: Context, section: Section, template: RuleTemplate) -> None:
    """Keys that the template would ignore are refused: a guard that is not there misleads."""
    problems = context.problems
    if template is not RuleTemplate.QUOTA:
        for key in ("quota", "at", "warn"):
            if section.given(key):
                problems.add(
                    section.place_of(key), f"`{key}` is for template quota, not {template.value}"
                )
        return
    if not section.given("quota"):
        problems.add(section.place, "a rule with template quota has no 'quota'; it is required")
    else:
        context.refer("quota", section.text("quota"), section.place_of("quota"))
    if section.given("at"):
        if not section.given("warn"):
            problems.add(
                section.place_of("at"), "`at` has no `warn`; say which headers to add from there on"
            )
        if section.given("deny"):
            problems.add(
                section.place_of("deny"),
                "a rule with `at` only warns; put `deny` into a rule of its own",
            )
    elif section.given("warn"):
        problems.add(
            section.place_of("warn"), "`warn` needs `at`, the percentage that it begins at"
        )


def _check_variables(context: Context, deny: Section | None) -> None:
    if deny is None:
        return
    templates = [(item.value.text, item.place) for _, item in deny.pairs("headers")]
    if "body" in deny.values:
        body = deny.values["body"]
        templates += [(text, body.place) for text in _strings(body.value)]
    for text, place in templates:
        variable = quota_variable(text)
        if variable:
            context.problems.add(
                place,
                f"{variable!r} has a value in rules with template quota only; "
                f"use it there, or give it a default: {{{{{variable}|0}}}}",
            )


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _customers(section: Section | None) -> CustomerMatch:
    if section is None:
        return CustomerMatch()
    return CustomerMatch(
        plans=frozenset(section.texts("plans")),
        labels=_texts(section, "labels"),
        ids=frozenset(section.texts("ids")),
        exclude=frozenset(section.texts("except")),
    )


def _deny(section: Section | None) -> DenyAnswer:
    if section is None:
        return DenyAnswer()
    return DenyAnswer(
        status=section.optional_integer("status"),
        headers=_headers(section),
        body=section.values["body"].value if section.given("body") else None,
    )


def _headers(section: Section) -> dict[str, Template]:
    return {name: item.value for name, item in section.pairs("headers")}


def _texts(section: Section, key: str) -> dict[str, str]:
    return {name: item.value for name, item in section.pairs(key)}


def _expectation(context: Context, section: Section) -> Expectation:
    if section.flag("allow"):
        for key in ("code", "rule", "status"):
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
    )


def _short(place: Place) -> str:
    return f"{place.file}:{place.line}"
