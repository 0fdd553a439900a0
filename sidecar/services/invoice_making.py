"""From drafts to what they come to: usage added up, priced lines, findings. Writes no invoice."""

from collections.abc import Iterable, Mapping, Sequence

from sidecar.domain.invoice_charges import charges_of
from sidecar.domain.invoice_content import Material, make_content, months_to_sum
from sidecar.domain.invoices import Charge, UsagePart
from sidecar.domain.pricing import RateCard, parse_rate_card
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


class InvoiceMaker:
    """Works out what drafts come to; the same drafts come out the same."""

    def __init__(
        self,
        *,
        record: InvoiceRecord,
        cards: CardShelf,
        policies: Policies,
    ) -> None:
        """Wire it."""
        self._record = record
        self._shelf = cards
        self._policies = policies

    async def note_current_cards(self) -> None:
        """Write down the prices that are in force. Raises StoreUnavailable."""
        await self._shelf.note(self._policies.current().all_cards)

    async def make(self, drafts: Sequence[Draft]) -> list[Closing | frozenset[str]]:
        """
        What each draft comes to, or the price versions that nobody knows.

        Raises:
            StoreUnavailable: Make them again.
        """
        if not drafts:
            return []
        sums = await self._record.sum_usage(drafts)
        cards = await self._shelf.find(part.price_version for parts in sums for part in parts)
        months = {
            (draft.customer_id, month)
            for draft, parts in zip(drafts, sums, strict=True)
            for month in months_to_sum(draft.period, parts)
        }
        totals = await self._record.sum_months(sorted(months))
        prepaid = [
            draft
            for draft, parts in zip(drafts, sums, strict=True)
            if any(part.prepaid for part in parts)
        ]
        overages = dict(zip(map(id, prepaid), await self._record.overage(prepaid), strict=True))
        made: list[Closing | frozenset[str]] = []
        for draft, parts in zip(drafts, sums, strict=True):
            unknown = frozenset({part.price_version for part in parts} - cards.keys())
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
                    charges=self._charges(draft, parts, cards),
                    totals=totals.get(draft.customer_id, {}),
                )
            )
            made.append(
                Closing(draft=draft, content=content, overage_nano=overages.get(id(draft), 0))
            )
        return made

    def _charges(
        self, draft: Draft, parts: Sequence[UsagePart], cards: Mapping[str, RateCard]
    ) -> Sequence[Charge]:
        """Once a period: by its own invoice."""
        if draft.sequence:
            return ()
        timeline = self._policies.current().timeline_for(draft.plan, draft.customer_id)
        in_force = [] if timeline is None else list(timeline.within(draft.period))
        return charges_of(
            draft.period,
            [one for one in in_force if one[0].currency == draft.currency],
            {part.price_version: cards[part.price_version] for part in parts if not part.late},
            [part for part in parts if not part.late],
        )
