"""Meters of the files to the domain's, with everything that a load can refuse."""

from collections.abc import Iterable, Mapping

from sidecar.domain.errors import InvalidInput
from sidecar.domain.meter_values import (
    BOUNDED_VALUES,
    REQUEST_FACTS_MAX,
    TOKEN_VALUES,
    check_number,
    parse_value,
)
from sidecar.domain.meters import GROUP_BY_MAX, Aggregation, Meter
from sidecar.domain.rules import MeterRule
from sidecar.domain.usage import OnMissing
from sidecar.outbound.policy_files.places import Place
from sidecar.outbound.policy_files.references import Context
from sidecar.outbound.policy_files.sections import Section

NOT_ADDITIVE = (
    "what one more request adds to it depends on all others, so it is worked out when it is "
    "queried; use aggregation sum or count"
)


def compile_meters(context: Context) -> tuple[MeterRule, ...]:
    """All sound meters with what they match."""
    rules = tuple(
        MeterRule(meter=meter, match=context.matches(section))
        for section in context.meters.values()
        if section.sound
        for meter in (_meter(context, section),)
        if meter is not None
    )
    _check_facts(context, rules)
    return rules


def refuse_not_additive(context: Context, meter: Meter, place: Place, use: str) -> bool:
    """Whether the meter cannot be priced or counted, which is noted as a problem."""
    if meter.aggregation.additive:
        return False
    context.problems.add(
        place,
        f"meter {meter.name!r} has aggregation {meter.aggregation.value} and cannot have {use}: "
        f"{NOT_ADDITIVE}",
    )
    return True


def check_quotas(context: Context, meters: Mapping[str, Meter]) -> None:
    """A quota counts request by request, so its meter has to be additive."""
    for section in context.quotas.values():
        meter = meters.get(section.text("meter")) if section.sound else None
        if meter is not None:
            refuse_not_additive(context, meter, section.place_of("meter"), "a quota")


def _meter(context: Context, section: Section) -> Meter | None:
    aggregation = Aggregation(section.text("aggregation"))
    value = _value(context, section, aggregation)
    if value is None:
        return None
    meter = Meter(
        name=section.text("name"),
        value=value,
        statuses=_statuses(context, section),
        on_missing=OnMissing(section.text("on_missing")),
        reported=section.flag("report"),
        aggregation=aggregation,
        group_by=tuple(dict.fromkeys(section.texts("group_by"))),
        max_quantity=section.optional_integer("max") or 0,
    )
    _check(context, section, meter)
    return meter


def _statuses(context: Context, section: Section) -> frozenset[int]:
    """Statuses that count; a response does not tell which alternative its request took."""
    found = [
        frozenset(item.value for item in match.items("status"))
        for match in section.sections("match")
    ]
    if len(set(found)) > 1:
        context.problems.add(
            section.place_of("match"),
            "the alternatives of a meter's `match` have different `status` lists; "
            "write the same one in each, or a meter for each",
        )
    return found[0] if found else frozenset()


def _value(context: Context, section: Section, aggregation: Aggregation) -> str | None:
    """The value's text, or None once a problem with it is noted."""
    problems, name = context.problems, section.text("name")
    if aggregation is Aggregation.COUNT:
        if section.given("value") and section.text("value") != "requests":
            problems.add(
                section.place_of("value"),
                "aggregation: count takes 1 for each request; leave `value` out, or use sum",
            )
        return "requests"
    if not section.given("value"):
        problems.add(section.place, f"meter {name!r} needs `value`; only count goes without")
        return None
    text = section.text("value")
    try:
        parse_value(text)
        if aggregation is not Aggregation.UNIQUE:
            check_number(text)
    except InvalidInput as error:
        problems.add(section.place_of("value"), str(error))
        return None
    return text


def _check(context: Context, section: Section, meter: Meter) -> None:
    problems = context.problems
    if len(meter.group_by) > GROUP_BY_MAX:
        problems.add(
            section.place_of("group_by"),
            f"found {len(meter.group_by)} things to group by; at most {GROUP_BY_MAX} are allowed",
        )
    if section.given("max"):
        if not meter.aggregation.additive:
            problems.add(
                section.place_of("max"),
                f"`max` bounds what a hold sets aside; aggregation {meter.aggregation.value} "
                "is never held",
            )
        elif meter.aggregation is Aggregation.COUNT or meter.value in BOUNDED_VALUES:
            problems.add(
                section.place_of("max"),
                f"a request's {meter.value} is bounded already (tokens by `estimates`); "
                "`max` is for what only a response tells",
            )
    if meter.on_missing is OnMissing.BYTES and meter.value not in TOKEN_VALUES:
        problems.add(
            section.place_of("on_missing"),
            f"on_missing: bytes stands in for tokens, and {meter.value[:80]!r} counts none; "
            "use capture-estimate with `max`, or zero",
        )


def _check_facts(context: Context, rules: Iterable[MeterRule]) -> None:
    """Each fact of a request travels with every hold, so there cannot be many."""
    named: set[str] = set()
    for rule in rules:
        facts = rule.meter.request_facts
        if facts <= named:
            continue
        within = len(named) <= REQUEST_FACTS_MAX
        named |= facts
        if within and len(named) > REQUEST_FACTS_MAX:
            section = context.meters[rule.meter.name]
            context.problems.add(
                section.place_of("name"),
                f"the meters up to this one name {len(named)} facts of a request (method, path, "
                f"host, headers, labels); at most {REQUEST_FACTS_MAX} travel with a hold",
            )
