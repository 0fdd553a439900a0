"""Windows, quotas and the limits of rules to the domain's counters."""

from itertools import pairwise

from sidecar.domain.counters import (
    IN_FLIGHT,
    MONEY,
    RATE_WORK_MAX,
    REQUESTS,
    TOKENS,
    Counter,
    CounterKind,
    Level,
    Rate,
)
from sidecar.domain.errors import InvalidInput
from sidecar.domain.nearest import unknown
from sidecar.domain.periods import EPOCH, CalendarUnit, CalendarWindow
from sidecar.domain.rules import Quota, RuleTemplate
from sidecar.domain.windows import AnchoredWindow, FixedWindow, RollingWindow, Window
from sidecar.outbound.policy_files.references import Context
from sidecar.outbound.policy_files.schema_counters import MONEY_UNIT, THRESHOLDS_MAX
from sidecar.outbound.policy_files.sections import Section
from sidecar.outbound.policy_files.unions import Amount

_MEASURES = {"requests": REQUESTS, "tokens": TOKENS, MONEY_UNIT: MONEY}
_MS_PER_SECOND = 1_000


def compile_quotas(context: Context, rules: list[Section]) -> dict[str, Quota]:
    """All sound quotas; one that no rule names would never be counted, so it is refused."""
    used = {section.text("quota") for section in rules}
    quotas: dict[str, Quota] = {}
    for name, section in context.quotas.items():
        if not section.sound:
            continue
        if name not in used:
            context.problems.add(
                section.place_of("name"),
                f"no rule names quota {name!r}, so it would never be counted; "
                f"add a rule with template: quota and quota: {name}",
            )
        quota = _quota(context, section)
        if quota is not None:
            quotas[name] = quota
    return quotas


def compile_counter(context: Context, section: Section, template: RuleTemplate) -> Counter | None:
    """What a sound rule counts by itself, under its own name; None for other templates."""
    match template:
        case RuleTemplate.SPEND_CAP:
            return _cap(context, section)
        case RuleTemplate.RATE_LIMIT:
            return _rate(context, section)
        case RuleTemplate.IN_FLIGHT_LIMIT:
            limit = _whole(context, section, "requests in flight are whole")
            return Counter(
                name=section.text("name"),
                kind=CounterKind.IN_FLIGHT,
                measure=IN_FLIGHT,
                limit=limit,
                level=_level(section),
            )
        case _:
            return None


def check_currency(context: Context, section: Section, plans: Section | None) -> None:
    """A limit of money that no customer of the rule could ever meet would guard nothing."""
    currency = section.text("currency")
    place = section.place_of("currency")
    by_plan = {name: plan.text("currency") for name, plan in context.plans.items()}
    if currency not in by_plan.values():
        context.problems.add(
            place, unknown("currency", currency, set(by_plan.values()), label="plans have")
        )
        return
    for plan in () if plans is None else plans.items("plans"):
        found = by_plan.get(plan.value, currency)
        if found != currency:
            context.problems.add(
                plan.place,
                f"plan {plan.value!r} is in {found}, but the limit is in {currency}; "
                "there is no exchange, so name plans of one currency",
            )


def _quota(context: Context, section: Section) -> Quota | None:
    thresholds = _thresholds(context, section)
    window = _window(context, section)
    measure, limit = _measured(context, section)
    if window is None or not measure:
        return None
    counter = Counter(
        name=section.text("name"),
        kind=_kind(window),
        measure=measure,
        limit=limit,
        level=_level(section),
        window=window,
    )
    return Quota(
        name=counter.name, counter=counter, hard=section.flag("hard"), thresholds=thresholds
    )


def _measured(context: Context, section: Section) -> tuple[str, int]:
    """What a quota counts, and its limit in that unit; no measure where that is wrong."""
    problems = context.problems
    if section.given("meter") == section.given("unit"):
        problems.add(
            section.place,
            "a quota has either `meter`, the name of a meter, or `unit`, one of "
            f"{', '.join(_MEASURES)}",
        )
        return "", 0
    unit = section.text("unit")
    if unit == MONEY_UNIT:
        if not section.given("currency"):
            problems.add(section.place, "a quota with unit: money has no 'currency'; it needs one")
            return "", 0
        check_currency(context, section, None)
        return MONEY, _money(context, section)
    if section.given("currency"):
        problems.add(section.place_of("currency"), "`currency` is for quotas with unit: money")
    if unit:
        return _MEASURES[unit], _whole(context, section, f"{unit} are whole")
    meter = section.text("meter")
    context.refer("meter", meter, section.place_of("meter"))
    return meter, _whole(context, section, "a meter counts in whole numbers")


def _thresholds(context: Context, section: Section) -> tuple[int, ...]:
    marks = section.items("thresholds")
    if len(marks) > THRESHOLDS_MAX:
        context.problems.add(
            marks[THRESHOLDS_MAX].place, f"a quota has at most {THRESHOLDS_MAX} thresholds"
        )
    for before, after in pairwise(marks):
        if after.value <= before.value:
            context.problems.add(
                after.place,
                f"threshold {after.value}% follows {before.value}%; thresholds are ascending, "
                "each once",
            )
    return tuple(mark.value for mark in marks)


def _cap(context: Context, section: Section) -> Counter | None:
    window = _window(context, section)
    if window is None:
        return None
    return Counter(
        name=section.text("name"),
        kind=_kind(window),
        measure=MONEY,
        limit=_money(context, section),
        level=_level(section),
        window=window,
    )


def _rate(context: Context, section: Section) -> Counter:
    unit = section.text("unit") or "requests"
    limit = _whole(context, section, f"{unit} are whole")
    burst = section.integer("burst") if section.given("burst") else limit
    per_ms = section.integer("per") * _MS_PER_SECOND
    if burst * per_ms > RATE_WORK_MAX:
        context.problems.add(
            section.place_of("burst" if section.given("burst") else "limit"),
            f"a burst of {burst} times {per_ms} ms is {burst * per_ms}, more than "
            f"{RATE_WORK_MAX}, which the store could not count exactly; at most "
            f"{RATE_WORK_MAX // per_ms} with this `per`",
        )
    return Counter(
        name=section.text("name"),
        kind=CounterKind.RATE,
        measure=_MEASURES[unit],
        limit=limit,
        level=_level(section),
        rate=Rate(per_ms=per_ms, burst=burst),
    )


def _level(section: Section) -> Level:
    return Level(section.text("each") or Level.CUSTOMER)


def _money(context: Context, section: Section) -> int:
    limit = section.values["limit"]
    if isinstance(limit.value, Amount):
        return limit.value.nano
    context.problems.add(
        limit.place,
        f"found the number {limit.value}; a limit of money is an amount in quotes, "
        f'such as "{limit.value}.00"',
    )
    return 1


def _whole(context: Context, section: Section, why: str) -> int:
    limit = section.values["limit"]
    if isinstance(limit.value, int):
        return limit.value
    context.problems.add(
        limit.place, f"found an amount of money in quotes; {why}, so write a plain number"
    )
    return 1


def _kind(window: Window) -> CounterKind:
    return CounterKind.ROLLING if isinstance(window, RollingWindow) else CounterKind.WINDOW


def _window(context: Context, section: Section) -> Window | None:
    window = section.section("window")
    assert window is not None
    try:
        return _window_of(window)
    except InvalidInput as error:
        field = error.field or ""
        place = window.place_of(field) if field in window.values else window.place
        context.problems.add(place, str(error))
        return None


def _window_of(section: Section) -> Window:
    if section.given("calendar"):
        return CalendarWindow(unit=CalendarUnit(section.text("calendar")), tz=section.text("tz"))
    if section.given("rolling"):
        return RollingWindow(seconds=section.integer("rolling"), slices=section.integer("slices"))
    if section.given("fixed"):
        return FixedWindow(
            seconds=section.integer("fixed"),
            anchor=section.instant("anchor") or EPOCH,
        )
    anchor = section.instant("anchor")
    assert anchor is not None
    return AnchoredWindow(
        anchor=anchor,
        every=section.integer("every"),
        unit=CalendarUnit(section.text("unit")),
        tz=section.text("tz"),
    )
