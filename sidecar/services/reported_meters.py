"""Which meters of settled usage go to the billing provider: their rate card says so."""

from collections.abc import Sequence

from sidecar.domain.pricing import Billing
from sidecar.services.control_ports import CLAIM, AnyRecord, StreamRecord
from sidecar.services.ports import RateCards
from sidecar.services.setting_aside import set_aside

UNKNOWN_PRICE_VERSION = "unknown_price_version"
_CARDS_MAX = 1_000


class ReportedMeters:
    """Remembers them by price version, whose card never changes."""

    def __init__(self, rate_cards: RateCards) -> None:
        """Wire the port."""
        self._rate_cards = rate_cards
        self._cards: dict[str, frozenset[str]] = {}

    async def find(
        self, records: Sequence[AnyRecord]
    ) -> tuple[list[AnyRecord], dict[str, frozenset[str]]]:
        """
        Find which meters of a batch are reported; what no rate card explains is set aside.

        Only usage that credit did not pay can be reported, so only it needs its rate card.

        Returns:
            As many records, in their order, and the reported meters by price version.

        Raises:
            StoreUnavailable: A card could not be read; repeat it.
        """
        reported: dict[str, frozenset[str]] = {}
        prepared: list[AnyRecord] = []
        for record in records:
            if (
                not isinstance(record, StreamRecord)
                or record.kind == CLAIM
                or record.prepaid
                or record.event is None
            ):
                prepared.append(record)
                continue
            version = record.event.price_version
            if version not in reported:
                meters = await self._of(version)
                if meters is None:
                    prepared.append(set_aside(record, UNKNOWN_PRICE_VERSION, version))
                    continue
                reported[version] = meters
            prepared.append(record)
        return prepared, reported

    async def _of(self, version: str) -> frozenset[str] | None:
        known = self._cards.get(version)
        if known is not None:
            return known
        card = await self._rate_cards.read(version)
        if card is None:
            return None
        # What the plan does not price is counted for quotas and people, not for the provider.
        meters = frozenset(
            name
            for name in card.priced_meters()
            if card.meters[name].reported and card.billing is Billing.POSTPAID
        )
        if len(self._cards) >= _CARDS_MAX:
            self._cards.pop(next(iter(self._cards)))
        self._cards[version] = meters
        return meters
