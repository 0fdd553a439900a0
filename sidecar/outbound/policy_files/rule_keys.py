"""Which keys go with which rule template, and what rules out each other."""

from collections.abc import Iterator, Mapping

from sidecar.domain.rules import COUNTING, RuleTemplate, Unidentified, body_templates
from sidecar.outbound.policy_files.places import Place
from sidecar.outbound.policy_files.references import Context
from sidecar.outbound.policy_files.sections import Section
from sidecar.outbound.policy_files.texts import counter_variable

BUILT_IN_RULES = frozenset(
    {
        "body",
        "counters",
        "estimate",
        "estimates",
        "headers",
        "identity",
        "on_store_failure",
        "path",
        "plan",
        "prices",
        "request",
        "unmatched",
    }
)
"""Names that denials without a rule of the policy carry; `prepaid-credit` may be replaced."""
_T = RuleTemplate
_KEYS: Mapping[RuleTemplate, tuple[frozenset[str], frozenset[str]]] = {
    _T.NO_CREDITS: (frozenset(), frozenset()),
    _T.UNPAID_INVOICES: (frozenset(), frozenset({"grace", "minimum", "except_disputed"})),
    _T.QUOTA: (frozenset({"quota"}), frozenset({"at"})),
    _T.SPEND_CAP: (frozenset({"limit", "currency", "window"}), frozenset({"each", "at"})),
    _T.RATE_LIMIT: (frozenset({"limit", "per"}), frozenset({"unit", "burst", "each"})),
    _T.IN_FLIGHT_LIMIT: (frozenset({"limit"}), frozenset({"each"})),
    _T.REQUIRE_PLAN: (frozenset(), frozenset({"plans", "features"})),
    _T.BLOCK: (frozenset(), frozenset()),
    _T.HEADERS: (frozenset({"warn"}), frozenset()),
}
"""Required and optional keys beside those that each rule has."""
_OWNERS = {
    key: tuple(template for template in _T if key in _KEYS[template][0] | _KEYS[template][1])
    for template in _T
    for key in _KEYS[template][0] | _KEYS[template][1]
    if key != "warn"
}
_BODYLESS = frozenset({204, 205, 304})
_WARNING = (_T.QUOTA, _T.SPEND_CAP)
_FOR_ANYBODY = (_T.BLOCK, _T.HEADERS)


def check_keys(context: Context, section: Section, template: RuleTemplate) -> bool:
    """
    Whether the rule has what its template needs; all that is wrong is noted.

    Keys that the template would ignore are refused: a guard that is not there misleads.
    """
    before = len(context.problems)
    required, optional = _KEYS[template]
    _check_name(context, section)
    for key, owners in _OWNERS.items():
        if section.given(key) and key not in required | optional:
            context.problems.add(
                section.place_of(key),
                f"`{key}` is for template {' and '.join(owners)}, not {template.value}",
            )
    for key in sorted(required):
        if not section.given(key):
            context.problems.add(
                section.place,
                f"a rule with template {template.value} has no {key!r}; it is required",
            )
    if template is _T.REQUIRE_PLAN and not (section.given("plans") or section.given("features")):
        context.problems.add(
            section.place, "a rule with template require-plan names `plans`, `features` or both"
        )
    _check_words(context, section, template)
    _check_unidentified(context, section, template)
    return len(context.problems) == before


def _check_name(context: Context, section: Section) -> None:
    name = section.text("name")
    if name in BUILT_IN_RULES:
        context.problems.add(
            section.place_of("name"),
            f"{name!r} is the name of a built-in rule; choose another than "
            f"{', '.join(sorted(BUILT_IN_RULES))}",
        )
    if name in context.quotas and section.text("template") in COUNTING - {_T.QUOTA}:
        context.problems.add(
            section.place_of("name"),
            f"the rule counts under its name, and so does quota {name!r} at "
            f"{context.quotas[name].place}; give one of them another name",
        )


def _check_words(context: Context, section: Section, template: RuleTemplate) -> None:
    """What the rule says: where `deny` and `warn` are read, and what they may hold."""
    problems = context.problems
    deny, warn = section.section("deny"), section.section("warn")
    if section.given("at") and template in _WARNING:
        if warn is None:
            problems.add(
                section.place_of("at"), "`at` has no `warn`; say which headers to add from there on"
            )
        if deny is not None:
            problems.add(
                section.place_of("deny"),
                "a rule with `at` only warns; put `deny` into a rule of its own",
            )
    elif warn is not None and template in _WARNING:
        problems.add(
            section.place_of("warn"), "`warn` needs `at`, the percentage that it begins at"
        )
    elif warn is not None and template is not _T.HEADERS:
        problems.add(
            section.place_of("warn"),
            f"`warn` is for template headers, and with `at` for quota and spend-cap, "
            f"not {template.value}; `deny` has headers of its own",
        )
    if deny is not None and template is _T.HEADERS:
        problems.add(
            section.place_of("deny"), "a rule with template headers never denies; leave `deny` out"
        )
    if deny is not None:
        _check_answer(context, deny)
    if template not in COUNTING:
        _check_variables(context, deny, warn)


def _check_answer(context: Context, deny: Section) -> None:
    status = deny.optional_integer("status")
    if status in _BODYLESS and not context.unsendable:
        context.problems.add(
            deny.place_of("status"),
            f"found {status}, which has no body; expected 200 to 599 except 204, 205 and 304",
        )
    if deny.given("dialect") and deny.given("body"):
        context.problems.add(
            deny.place_of("dialect"), "`dialect` words the body, so it cannot stand beside `body`"
        )


def _check_unidentified(context: Context, section: Section, template: RuleTemplate) -> None:
    word = section.text("unidentified")
    if word in (Unidentified.APPLY, Unidentified.ONLY) and template not in _FOR_ANYBODY:
        context.problems.add(
            section.place_of("unidentified"),
            f"`unidentified: {word}` is for template block and headers, not {template.value}: "
            "nobody has credit, counters or a plan; allowed here: deny, skip",
        )
    if word != Unidentified.ONLY:
        return
    for key in ("customers", "users"):
        selection = section.section(key)
        # Without a word inside, `users` still says that the rule tells users apart.
        if selection is not None and selection.written:
            context.problems.add(
                section.place_of(key),
                f"`{key}` selects whom `unidentified: only` leaves out; name one of the two",
            )


def _check_variables(context: Context, *answers: Section | None) -> None:
    for answer in answers:
        for text, place in () if answer is None else _templates(answer):
            variable = counter_variable(text)
            if variable:
                context.problems.add(
                    place,
                    f"{variable!r} has a value only in rules with template quota, spend-cap, "
                    "rate-limit or in-flight-limit; use it there, or give it a default: "
                    f"{{{{{variable}|0}}}}",
                )


def _templates(answer: Section) -> Iterator[tuple[str, Place]]:
    for _, item in answer.pairs("headers"):
        yield item.value.text, item.place
    if "body" in answer.values:
        body = answer.values["body"]
        for template in body_templates(body.value):
            yield template.text, body.place
