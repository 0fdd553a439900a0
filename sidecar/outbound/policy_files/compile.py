"""A policy's parts, read from all its files, to the one compiled Policy."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sidecar.domain.decisions import Dialect
from sidecar.domain.errors import ConfigError, InvalidInput
from sidecar.domain.invoices import LatePolicy
from sidecar.domain.matching import RouteSet
from sidecar.domain.orphans import DEFAULT_ORPHANS, OrphanRule, OrphanSettling
from sidecar.domain.policy import Policy
from sidecar.domain.rules import DialectRule, ModelLimits
from sidecar.outbound.policy_files.compile_counters import compile_quotas
from sidecar.outbound.policy_files.compile_estimates import compile_estimates
from sidecar.outbound.policy_files.compile_identity import compile_identity
from sidecar.outbound.policy_files.compile_members import MemberLists, compile_members
from sidecar.outbound.policy_files.compile_meters import check_quotas, compile_meters
from sidecar.outbound.policy_files.compile_plans import compile_plans
from sidecar.outbound.policy_files.compile_rules import compile_rules
from sidecar.outbound.policy_files.compile_tests import compile_tests
from sidecar.outbound.policy_files.places import Problems
from sidecar.outbound.policy_files.references import Context, Patterns, index_by_name
from sidecar.outbound.policy_files.sections import Marked, Section
from sidecar.services.policy_places import Places
from sidecar.services.rule_test_cases import RuleTest

_LISTS = (
    "identity",
    "estimates",
    "free",
    "rules",
    "quotas",
    "errors",
    "meters",
    "plans",
    "versions",
)


@dataclass(slots=True)
class Parts:
    """What all files say together."""

    lists: dict[str, list[Section]] = field(default_factory=lambda: {key: [] for key in _LISTS})
    models: dict[str, Marked] = field(default_factory=dict)
    members: MemberLists = field(default_factory=MemberLists)
    unmatched: Marked | None = None

    def add(self, root: Section, problems: Problems) -> None:
        """Join one file to those before it: lists are appended, the rest may stand once."""
        for key in _LISTS:
            self.lists[key].extend(root.sections(key))
        for name, model in root.pairs("models"):
            if name in self.models:
                first = self.models[name].place
                problems.add(model.place, f"model {name!r} stands twice; it is at {first} already")
            self.models.setdefault(name, model)
        members = root.section("members")
        if members is not None:
            self.members.add(members, problems)
        if "unmatched" in root.values:
            if self.unmatched is not None:
                problems.add(
                    root.place_of("unmatched"),
                    f"`unmatched` may stand once; it is at {self.unmatched.place} already",
                )
            self.unmatched = self.unmatched or root.values["unmatched"]

    def sound(self, key: str) -> list[Section]:
        """The entries of a list that can be compiled."""
        return [section for section in self.lists[key] if section.sound]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """A policy and what came with it."""

    policy: Policy
    tests: tuple[RuleTest, ...]
    report_every: Mapping[str, int]
    places: Places


def compile_parts(
    parts: Parts, problems: Problems, *, version: str, unsendable: bool = False
) -> Compiled:
    """
    Compile, noting every problem first.

    Raises:
        ConfigError: If anything is wrong, here or in `problems` already.
    """
    patterns = Patterns(problems)
    context = Context(
        problems=problems,
        patterns=patterns,
        meters=index_by_name("meter", parts.lists["meters"], problems),
        quotas=index_by_name("quota", parts.lists["quotas"], problems),
        plans=index_by_name("plan", parts.lists["plans"], problems),
        rules=index_by_name("rule", parts.lists["rules"], problems),
        features=frozenset(
            feature for plan in parts.lists["plans"] for feature in plan.texts("features")
        ),
        unsendable=unsendable,
    )
    meter_rules = compile_meters(context)
    meters = {rule.meter.name: rule.meter for rule in meter_rules}
    quotas = compile_quotas(context, parts.lists["rules"])
    rules = compile_rules(context, quotas)
    tests = tuple(compile_tests(context))
    members = {
        kind: compile_members(context, kind, lists) for kind, lists in parts.members.of.items()
    }
    free = tuple(context.match(section) for section in parts.sound("free"))
    identity = compile_identity(parts.sound("identity"), problems)
    estimates = compile_estimates(context, parts.sound("estimates"), identity)
    dated, has_estimates = parts.sound("versions"), bool(parts.lists["estimates"])
    plans = compile_plans(context, meters, dated=dated, has_estimates=has_estimates)
    check_quotas(context, meters)
    dialects = tuple(_dialect(context, section) for section in parts.sound("errors"))
    problems.raise_if_any()
    policy = Policy(
        version=version,
        routes=_route_set(patterns.in_order),
        identity=identity,
        cards=plans.cards,
        schedules=plans.schedules,
        features={name: frozenset(plan.texts("features")) for name, plan in context.plans.items()},
        orphans={
            name: _orphans(plan.either("orphans"))
            for name, plan in context.plans.items()
            if plan.given("orphans")
        },
        late_usage=_late_usage(context.plans),
        meters=meter_rules,
        rules=rules,
        customer_members=members["customers"],
        user_members=members["users"],
        quotas=quotas,
        estimates=estimates,
        models={name: _model(marked.value) for name, marked in parts.models.items()},
        free=free,
        dialects=dialects,
        allow_unmatched=parts.unmatched is not None and parts.unmatched.value == "allow",
    )
    return Compiled(
        policy=policy,
        tests=tests,
        report_every=_report_every(context.meters),
        places=_places(context, parts),
    )


def _places(context: Context, parts: Parts) -> Places:
    return Places(
        plans={name: section.place.spot for name, section in context.plans.items()},
        meters={name: section.place.spot for name, section in context.meters.items()},
        patterns={name: place.spot for name, place in context.patterns.places.items()},
        estimates=tuple(section.place.spot for section in parts.sound("estimates")),
        free=tuple(section.place.spot for section in parts.sound("free")),
    )


def _dialect(context: Context, section: Section) -> DialectRule:
    return DialectRule(match=context.matches(section), dialect=Dialect(section.text("dialect")))


def _late_usage(plans: Mapping[str, Section]) -> dict[str, LatePolicy]:
    stated = {name: plan for name, plan in plans.items() if plan.given("late_usage")}
    return {name: LatePolicy(plan.text("late_usage")) for name, plan in stated.items()}


def _orphans(stated: str | Section) -> OrphanRule:
    if isinstance(stated, str):
        return OrphanRule(settle=OrphanSettling(stated))
    share = stated.optional_integer("share")
    return OrphanRule(
        settle=OrphanSettling(stated.text("settle")),
        needs_proof=stated.text("proof") == "heartbeat",
        count_max=stated.integer("count"),
        share_percent=DEFAULT_ORPHANS.share_percent if share is None else share,
    )


def _model(section: Section) -> ModelLimits:
    return ModelLimits(
        max_output=section.optional_integer("max_output"),
        max_input=section.optional_integer("max_input"),
    )


def _report_every(meters: Mapping[str, Section]) -> dict[str, int]:
    """Seconds between reports, of the meters that state them."""
    return {
        name: meter.integer("report_every")
        for name, meter in meters.items()
        if meter.given("report_every")
    }


def _route_set(patterns: tuple[str, ...]) -> RouteSet:
    try:
        return RouteSet(patterns)
    except InvalidInput as error:
        raise ConfigError(
            f"the policy's {len(patterns)} route patterns are too complex together; "
            "use fewer or simpler ones"
        ) from error
