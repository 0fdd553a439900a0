"""Periods as invoices need them: which prices were in force, and what late usage is of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sidecar.domain.invoices import UsagePart
from sidecar.domain.late_charges import LatePeriod
from sidecar.domain.periods import Period
from sidecar.domain.plan_history import PlanStart, cards_within, plan_spans
from sidecar.domain.pricing import RateCard
from sidecar.services.invoicing_ports import Draft, InvoiceRecord
from sidecar.services.ports import Policies


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedPeriod:
    """A customer's period: which cards were in force in it, and plans that nobody knows."""

    period: Period
    in_force: tuple[tuple[RateCard, Period], ...]
    unknown_plans: frozenset[str]

    @property
    def has_charges(self) -> bool:
        """Whether its end decides anything."""
        return any(card.of_period for card, _ in self.in_force)


@dataclass(frozen=True, slots=True, kw_only=True)
class LateUsage:
    """Periods of a draft's late usage whose ends decide prices; `open`: some are not known."""

    periods: tuple[LatePeriod, ...] = ()
    open: bool = False

    @property
    def versions(self) -> frozenset[str]:
        """Price versions of all their usage."""
        return frozenset(
            part.price_version for one in self.periods for part in (*one.before, *one.added)
        )


class PeriodReader:
    """Reads both for many drafts at once. May raise StoreUnavailable."""

    def __init__(self, record: InvoiceRecord, policies: Policies) -> None:
        """Wire the ports."""
        self._record = record
        self._policies = policies

    async def price(self, wanted: Sequence[tuple[Draft, Period]]) -> list[PricedPeriod]:
        """What was in force for the draft's customer in a period, of each."""
        histories = await self._record.plans_within(
            [(draft.customer_id, period) for draft, period in wanted]
        )
        return [
            self._price(draft, period, history)
            for (draft, period), history in zip(wanted, histories, strict=True)
        ]

    def _price(self, draft: Draft, period: Period, history: Sequence[PlanStart]) -> PricedPeriod:
        policy = self._policies.current()
        begun = history or [PlanStart(since=period.start, plan=draft.plan)]
        spans = plan_spans(begun, period)
        timelines = {plan: policy.timeline_for(plan, draft.customer_id) for plan, _ in spans}
        return PricedPeriod(
            period=period,
            in_force=tuple(
                one
                for one in cards_within(spans, timelines.get)
                if one[0].currency == draft.currency
            ),
            unknown_plans=frozenset(plan for plan, found in timelines.items() if found is None),
        )

    async def late(
        self,
        drafts: Sequence[Draft],
        sums: Sequence[Sequence[UsagePart]],
        cards: Mapping[str, RateCard],
    ) -> list[LateUsage]:
        """
        Late usage of each draft whose period's end decides something.

        Its periods are added up anew; where nothing depends on that, nothing is read.

        Args:
            drafts: To be worked out.
            sums: The usage of each.
            cards: Those of that usage, as far as they are known.
        """
        found = [LateUsage() for _ in drafts]
        places = [place for place, parts in enumerate(sums) if any(part.late for part in parts)]
        periods = await self._record.late_periods([drafts[place] for place in places])
        asked = [
            (place, period)
            for place, of in zip(places, periods, strict=True)
            for period in of
            if period is not None
        ]
        priced = await self.price([(drafts[place], period) for place, period in asked])
        wanted = [
            (place, one)
            for (place, _), one in zip(asked, priced, strict=True)
            if one.has_charges or _has_charges(sums[place], cards)
        ]
        parts = await self._record.sum_periods(
            [(drafts[place], one.period) for place, one in wanted if not one.unknown_plans]
        )
        late: dict[int, list[LatePeriod]] = {}
        counted = iter(parts)
        is_open = {place for place, of in zip(places, periods, strict=True) if None in of}
        for place, one in wanted:
            if one.unknown_plans:
                is_open.add(place)
            else:
                late.setdefault(place, []).append(_late_period(one, next(counted)))
        for place in {*late, *is_open}:
            found[place] = LateUsage(periods=tuple(late.get(place, ())), open=place in is_open)
        return found


def _has_charges(parts: Sequence[UsagePart], cards: Mapping[str, RateCard]) -> bool:
    versions = {part.price_version for part in parts if part.late}
    return any(cards[version].of_period for version in versions & cards.keys())


def _late_period(priced: PricedPeriod, parts: Sequence[UsagePart]) -> LatePeriod:
    return LatePeriod(
        period=priced.period,
        in_force=priced.in_force,
        before=[part for part in parts if not part.late],
        added=[part for part in parts if part.late],
    )
