"""Plans to the domain's rate cards: of all times, and of customers with prices of their own."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from sidecar.domain.card_schedules import CardSchedule, Timeline
from sidecar.domain.meters import Meter
from sidecar.domain.periods import from_epoch_ms, to_epoch_ms
from sidecar.domain.pricing import Billing, FreeQuota, OnChange, PriceLine, RateCard, is_of_period
from sidecar.outbound.policy_files.compile_prices import compile_hints, compile_lines
from sidecar.outbound.policy_files.references import Context
from sidecar.outbound.policy_files.sections import Section

VERSIONS_MAX = 100
CARDS_MAX = 500
"""Of a whole policy: each is published, and read by any process that captures."""
Lines = tuple[PriceLine, ...]
_EARLIEST = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class PlanCards:
    """The cards of all plans: since ever, and the schedules of plans that have more than one."""

    cards: Mapping[str, RateCard]
    schedules: Mapping[str, CardSchedule]


@dataclass(frozen=True, slots=True)
class _Override:
    """Prices of some customers for a time; None is no end on that side."""

    lines: Lines
    start: datetime | None
    end: datetime | None

    def holds_at(self, instant: datetime | None) -> bool:
        """Whether it is in force; None is before all instants."""
        if instant is None:
            return self.start is None
        begun = self.start is None or self.start <= instant
        return begun and (self.end is None or instant < self.end)

    def meets(self, other: "_Override") -> bool:
        """Whether some instant is in both."""
        late = [one for one in (self.start, other.start) if one is not None]
        early = [one for one in (self.end, other.end) if one is not None]
        return not late or not early or max(late) < min(early)


def compile_plans(
    context: Context,
    meters: Mapping[str, Meter],
    *,
    dated: Sequence[Section],
    has_estimates: bool,
) -> PlanCards:
    """
    A rate card per plan; each knows all meters, since quotas count unpriced ones too.

    Args:
        context: Names, and where problems go.
        meters: All of them, by name.
        dated: Versions of plans that stand apart from them.
        has_estimates: Whether anything bounds tokens beforehand.
    """
    cards: dict[str, RateCard] = {}
    schedules: dict[str, CardSchedule] = {}
    versions: set[str] = set()
    context.refer_each("plan", (version.values["plan"] for version in dated))
    for name, section in context.plans.items():
        if not section.sound:
            continue
        apart = [one for one in dated if one.text("plan") == name]
        compiler = _PlanCompiler(context, section, apart, meters, has_estimates)
        cards[name], schedule = compiler.compile()
        versions.add(cards[name].version)
        if schedule is not None:
            schedules[name] = schedule
            versions |= {card.version for one in schedule.timelines for card in one.cards}
        if len(versions) > CARDS_MAX:
            context.problems.add(
                section.place,
                f"the plans up to here have {len(versions)} price versions, overrides counted; "
                f"at most {CARDS_MAX} are allowed: take out what is long past",
            )
            break
    return PlanCards(cards, schedules)


@dataclass(frozen=True, slots=True)
class _PlanCompiler:
    context: Context
    plan: Section
    apart: Sequence[Section]
    meters: Mapping[str, Meter]
    has_estimates: bool

    def compile(self) -> tuple[RateCard, CardSchedule | None]:
        """The card since ever, and the schedule where there is more than that."""
        versions = self._versions()
        overrides = self._overrides()
        base = self._card(versions[0][1])
        if len(versions) == 1 and not overrides:
            return base, None
        known: dict[tuple[int, ...], Timeline] = {}
        customers = {}
        for customer, numbers in self._by_customer(overrides).items():
            key = tuple(numbers)
            if key not in known:
                own = [overrides[number][1] for number in key]
                known[key] = self._timeline(versions, own)
            customers[customer] = known[key]
        general = self._timeline(versions, ())
        return base, CardSchedule(general=general, customers=customers)

    def _lines(self, section: Section) -> Lines:
        return compile_lines(
            self.context,
            self.plan,
            section.sections("prices"),
            self.meters,
            has_estimates=self.has_estimates,
        )

    def _versions(self) -> list[tuple[datetime | None, Lines]]:
        """Each list of prices with its start, in order of time; the first has none."""
        found: dict[datetime | None, Lines] = {None: self._lines(self.plan)}
        places: dict[datetime, Section] = {}
        stated = [*self.plan.sections("versions"), *self.apart]
        if len(stated) > VERSIONS_MAX:
            self.context.problems.add(
                stated[VERSIONS_MAX].place,
                f"plan {self.plan.text('name')!r} has {len(stated)} versions; at most "
                f"{VERSIONS_MAX} are allowed",
            )
        for version in stated:
            start = version.instant("effective_at")
            assert start is not None
            first = places.setdefault(start, version)
            if first is not version:
                self.context.problems.add(
                    version.place_of("effective_at"),
                    f"plan {self.plan.text('name')!r} has a second version from {_utc(start)}; "
                    f"the first is at {first.place}",
                )
                continue
            found[start] = self._lines(version)
        return sorted(found.items(), key=lambda item: (item[0] is not None, item[0] or _EARLIEST))

    def _overrides(self) -> list[tuple[Section, _Override]]:
        found = []
        for section in self.plan.sections("overrides"):
            start, end = section.instant("effective_at"), section.instant("until")
            if start is not None and end is not None and start >= end:
                self.context.problems.add(
                    section.place_of("until"),
                    f"found {_utc(end)}; `until` is later than `effective_at`, {_utc(start)}",
                )
                continue
            found.append((section, _Override(self._lines(section), start, end)))
        return found

    def _by_customer(self, overrides: Sequence[tuple[Section, _Override]]) -> dict[str, list[int]]:
        """Numbers of each customer's overrides; two at one instant are a problem."""
        found: dict[str, list[int]] = {}
        for number, (section, override) in enumerate(overrides):
            for marked in section.items("customers"):
                known = found.setdefault(marked.value, [])
                clash = next((n for n in known if overrides[n][1].meets(override)), None)
                if clash is None:
                    known.append(number)
                    continue
                self.context.problems.add(
                    marked.place,
                    f"customer {marked.value!r} has an override of plan "
                    f"{self.plan.text('name')!r} for the same time already, at "
                    f"{overrides[clash][0].place}",
                )
        return found

    def _timeline(
        self,
        versions: Sequence[tuple[datetime | None, Lines]],
        overrides: Sequence[_Override],
    ) -> Timeline:
        starts = sorted({start for start in _bounds(versions, overrides) if start is not None})
        instants: list[datetime | None] = [None, *starts]
        cards: list[RateCard] = []
        kept: list[datetime] = []
        lines: Lines = ()
        for instant in instants:
            current = [
                part for start, part in versions if start is None or _reached(start, instant)
            ]
            own = [one.lines for one in overrides if one.holds_at(instant)]
            merged = _merge(current[-1], own[0]) if own else current[-1]
            lines = self._dated(merged, lines, instant)
            card = self._card(lines)
            if cards and _alike(card, cards[-1]):
                continue
            if instant is not None:
                kept.append(instant)
            cards.append(card)
        return Timeline(cards=tuple(cards), starts=tuple(kept))

    def _dated(self, lines: Lines, before: Lines, instant: datetime | None) -> Lines:
        """With `prorate`, free quotas of lines that begin here are due in part this period."""
        if OnChange(self.plan.text("on_change")) is not OnChange.PRORATE or instant is None:
            return lines
        known = {(line.meter, line.models, line.price): line.since for line in before}
        # A card has milliseconds, and one that was read back has to say the same.
        start = from_epoch_ms(to_epoch_ms(instant))
        return tuple(
            replace(line, since=known.get((line.meter, line.models, line.price), start))
            if isinstance(line.price, FreeQuota) and not is_of_period(line.price)
            else line
            for line in lines
        )

    def _card(self, lines: Lines) -> RateCard:
        return RateCard(
            plan=self.plan.text("name"),
            billing=Billing(self.plan.text("billing")),
            currency=self.plan.text("currency"),
            lines=lines,
            meters=self.meters,
            on_change=OnChange(self.plan.text("on_change")),
            hints=compile_hints(self.plan),
        )


def _alike(one: RateCard, other: RateCard) -> bool:
    """Whether nothing differs, the provider's hints included."""
    return one == other and [line.hints for line in one.lines] == [
        line.hints for line in other.lines
    ]


def _bounds(
    versions: Sequence[tuple[datetime | None, Lines]], overrides: Sequence[_Override]
) -> Iterator[datetime | None]:
    for start, _ in versions:
        yield start
    for override in overrides:
        yield override.start
        yield override.end


def _reached(start: datetime, instant: datetime | None) -> bool:
    return instant is not None and start <= instant


def _merge(lines: Lines, own: Lines) -> Lines:
    """The plan's lines without what the customer's own ones price, then those."""
    taken = {(_subject(line), model) for line in own for model in line.models or ("",)}
    kept = []
    for line in lines:
        subject = _subject(line)
        models = tuple(model for model in line.models if (subject, model) not in taken)
        if models or (not line.models and (subject, "") not in taken):
            kept.append(replace(line, models=models))
    return (*kept, *own)


def _subject(line: PriceLine) -> str:
    """What a line prices: its meter, or the kind of fee it is."""
    return line.meter or f"fee {type(line.price).__name__}"


def _utc(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")
