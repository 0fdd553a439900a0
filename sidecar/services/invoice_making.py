"""From drafts to what they come to: usage added up, priced lines, findings. Writes no invoice."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sidecar.domain.invoice_charges import charges_of
from sidecar.domain.invoice_content import (
    Material,
    MonthTotal,
    TotalKey,
    make_content,
    months_to_sum,
)
from sidecar.domain.invoices import Charge, LatePolicy, LateRule, UsagePart
from sidecar.domain.late_charges import LateWork, work_out
from sidecar.domain.pricing import RateCard, parse_rate_card
from sidecar.services.invoice_periods import LateUsage, PeriodReader, PricedPeriod
from sidecar.services.invoicing_ports import Closing, Draft, InvoiceRecord
from sidecar.services.ports import Policies, RateCards

_CARDS_MAX = 1_000


class CardShelf:
    """
    Price versions by name, from the live store or from what was kept of it.

    The live store may lose them; an invoice needs those of all usage of its period, so each is
    written down when it is first seen here.
    """

    def __init__(self, record: InvoiceRecord, rate_cards: RateCards) -> None:
        """Wire the ports."""
        self._record = record
        self._rate_cards = rate_cards
        self._cards: dict[str, RateCard] = {}

    async def find(self, versions: Iterable[str]) -> dict[str, RateCard]:
        """
        Those of the versions that are known.

        Raises:
            StoreUnavailable: Ask again.
        """
        found: dict[str, RateCard] = {}
        fresh: dict[str, RateCard] = {}
        for version in sorted(set(versions)):
            card = self._cards.get(version)
            if card is None:
                card = await self._rate_cards.read(version)
                if card is not None:
                    fresh[version] = card
                elif (content := await self._record.read_card(version)) is not None:
                    card = parse_rate_card(content)
                    self._remember(version, card)
            if card is not None:
                found[version] = card
        await self._keep(fresh)
        return found

    async def note(self, cards: Iterable[RateCard]) -> None:
        """Write down cards that are in force, before usage of theirs is on any invoice."""
        await self._keep({card.version: card for card in cards if card.version not in self._cards})

    async def _keep(self, cards: Mapping[str, RateCard]) -> None:
        await self._record.note_cards({name: card.content() for name, card in cards.items()})
        for version, card in cards.items():
            self._remember(version, card)

    def _remember(self, version: str, card: RateCard) -> None:
        if len(self._cards) >= _CARDS_MAX:
            self._cards.clear()
        self._cards[version] = card


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """What keeps a draft from being worked out: price versions, and plans that are in no policy."""

    versions: frozenset[str] = frozenset()
    plans: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.versions or self.plans)

    def __str__(self) -> str:
        """For people."""
        named = (("price version", self.versions), ("plan", self.plans))
        return "; ".join(f"unknown {what} {', '.join(sorted(of))}" for what, of in named if of)


class InvoiceMaker:
    """Works out what drafts come to; the same drafts come out the same."""

    def __init__(
        self,
        *,
        record: InvoiceRecord,
        cards: CardShelf,
        policies: Policies,
        late: LatePolicy = LatePolicy.NEXT_PERIOD,
    ) -> None:
        """Wire it; `late` is where late usage goes on plans that do not say it themselves."""
        self._record = record
        self._shelf = cards
        self._policies = policies
        self._periods = PeriodReader(record, policies)
        self._late = late

    @property
    def late_rule(self) -> LateRule:
        """Where late usage goes by now."""
        return LateRule(default=self._late, plans=self._policies.current().late_usage)

    async def note_current_cards(self) -> None:
        """Write down the prices that are in force. Raises StoreUnavailable."""
        await self._shelf.note(self._policies.current().all_cards)

    async def make(self, drafts: Sequence[Draft]) -> list[Closing | Unknown]:
        """
        What each draft comes to, or what nobody knows.

        Raises:
            StoreUnavailable: Make them again.
        """
        if not drafts:
            return []
        sums = await self._record.sum_usage(drafts)
        cards = await self._shelf.find(part.price_version for parts in sums for part in parts)
        totals = await self._month_totals(drafts, sums)
        priced = await self._periods.price([(draft, draft.period) for draft in drafts])
        late = await self._periods.late(drafts, sums, cards)
        cards |= await self._shelf.find(version for one in late for version in one.versions)
        overages = await self._overages(drafts, sums)
        made: list[Closing | Unknown] = []
        for place, (draft, parts) in enumerate(zip(drafts, sums, strict=True)):
            versions = late[place].versions | {part.price_version for part in parts}
            unknown = Unknown(
                versions=versions - cards.keys(),
                # What came late has no fees; its own periods may be of other plans.
                plans=frozenset() if draft.sequence else priced[place].unknown_plans,
            )
            if unknown:
                made.append(unknown)
                continue
            content = make_content(
                Material(
                    period=draft.period,
                    currency=draft.currency,
                    provider=draft.provider,
                    parts=parts,
                    cards=cards,
                    charges=_charges(draft, priced[place], parts, cards),
                    late=self._late_work(draft, late[place], cards),
                    totals=totals.get(draft.customer_id, {}),
                )
            )
            made.append(Closing(draft=draft, content=content, overage_nano=overages[place]))
        return made

    async def _month_totals(
        self, drafts: Sequence[Draft], sums: Sequence[Sequence[UsagePart]]
    ) -> dict[str, dict[TotalKey, MonthTotal]]:
        """By customer, of months of which some usage may be on another invoice."""
        months = {
            (draft.customer_id, month)
            for draft, parts in zip(drafts, sums, strict=True)
            for month in months_to_sum(draft.period, parts)
        }
        return await self._record.sum_months(sorted(months))

    def _late_work(self, draft: Draft, late: LateUsage, cards: Mapping[str, RateCard]) -> LateWork:
        # What has an invoice of its own is asked for by it, whatever was said since.
        writes_off = self.late_rule.of(draft.plan) is LatePolicy.WRITE_OFF and not draft.sequence
        return work_out(late.periods, cards, written_off=writes_off, is_open=late.open)

    async def _overages(
        self, drafts: Sequence[Draft], sums: Sequence[Sequence[UsagePart]]
    ) -> list[int]:
        """What no credit was there for, of each; only what is prepaid is asked for."""
        places = [place for place, parts in enumerate(sums) if any(part.prepaid for part in parts)]
        found = [0] * len(drafts)
        asked = await self._record.overage([drafts[place] for place in places])
        for place, overage in zip(places, asked, strict=True):
            found[place] = overage
        return found


def _charges(
    draft: Draft,
    own: PricedPeriod,
    parts: Sequence[UsagePart],
    cards: Mapping[str, RateCard],
) -> Sequence[Charge]:
    """Once a period: by its own invoice."""
    if draft.sequence:
        return ()
    used = [part for part in parts if not part.late]
    versions = {part.price_version: cards[part.price_version] for part in used}
    return charges_of(draft.period, own.in_force, versions, used)
