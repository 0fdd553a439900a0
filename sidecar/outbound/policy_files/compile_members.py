"""Lists of members: which rules are for which customer or user, in which order."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sidecar.domain.nearest import name_list
from sidecar.domain.rules import Membership
from sidecar.outbound.policy_files.places import Place, Problems
from sidecar.outbound.policy_files.references import Context
from sidecar.outbound.policy_files.schema_rules import MEMBER_RULES_MAX
from sidecar.outbound.policy_files.sections import Marked, Section

KINDS = ("customers", "users")


@dataclass(slots=True)
class MemberLists:
    """The lists of all files, by kind and member; a member's list stands in one file."""

    of: dict[str, dict[str, Marked]] = field(default_factory=lambda: {kind: {} for kind in KINDS})

    def add(self, section: Section, problems: Problems) -> None:
        """Join one file's lists."""
        for kind in KINDS:
            lists = self.of[kind]
            for member, marked in section.pairs(kind):
                if member in lists:
                    problems.add(
                        marked.place,
                        f"{kind[:-1]} {member!r} stands twice; it is at {lists[member].place} "
                        "already, and one list has to say the order of its rules",
                    )
                lists.setdefault(member, marked)


def compile_members(
    context: Context, kind: str, lists: Mapping[str, Marked]
) -> dict[str, tuple[Membership, ...]]:
    """Each member's rules in order, checked against the rules that ask for members."""
    asking = _asking(context, kind)
    return {
        member: tuple(_memberships(context, kind, marked.value, asking))
        for member, marked in lists.items()
    }


def _asking(context: Context, kind: str) -> frozenset[str]:
    """Rules for those whose list names them, and rules for all others."""
    return frozenset(
        name
        for name, rule in context.rules.items()
        if (selection := rule.section(kind)) is not None and selection.given("members")
    )


def _memberships(
    context: Context, kind: str, entries: tuple[Marked, ...], asking: frozenset[str]
) -> Iterable[Membership]:
    seen: dict[str, Place] = {}
    if len(entries) > MEMBER_RULES_MAX:
        context.problems.add(
            entries[MEMBER_RULES_MAX].place, f"a member has at most {MEMBER_RULES_MAX} rules"
        )
        return
    for entry in entries:
        membership, place = _membership(entry)
        name = membership.rule
        if name in seen:
            context.problems.add(
                place, f"rule {name!r} stands twice in the list; it is at {seen[name]} already"
            )
            continue
        seen[name] = place
        if name not in asking:
            if context.refer("rule", name, place):
                context.problems.add(
                    place,
                    f"rule {name!r} does not ask for members; write {kind}: {{members: listed}} "
                    f"or unlisted there. Rules that do: {name_list(asking)}",
                )
            continue
        yield membership


def _membership(entry: Marked) -> tuple[Membership, Place]:
    value = entry.value
    if not isinstance(value, Section):
        return Membership(rule=value), entry.place
    values = {
        name if name.isdecimal() else f"values.{name}": item.value
        for name, item in value.pairs("values")
    }
    return Membership(rule=value.text("rule"), values=values), value.place_of("rule")
