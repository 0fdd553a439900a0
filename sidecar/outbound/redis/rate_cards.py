"""Rate cards by version: implements `RateCards`. A version is a hash of its content, for ever."""

from collections import OrderedDict

from sidecar.domain.errors import SidecarError
from sidecar.domain.pricing import RateCard, parse_rate_card
from sidecar.outbound.redis.connection import RedisConnection
from sidecar.outbound.redis.errors import StoreDamaged
from sidecar.outbound.redis.keys import card_key

_CARDS_MAX = 1_000


class RedisRateCards:
    """Implements RateCards; remembers what it has read, since a version never changes."""

    def __init__(self, connection: RedisConnection) -> None:
        """Use a connection that all processes share the store of."""
        self._connection = connection
        self._cards: OrderedDict[str, RateCard] = OrderedDict()

    async def publish(self, card: RateCard) -> None:
        """Make a card known to all processes; safe to repeat, and needed again after a loss."""
        await self._connection.command("SET", card_key(card.version), card.content())
        self._remember(card.version, card)

    async def publish_again(self) -> None:
        """Put back all cards that are remembered here, after a loss. Raises StoreUnavailable."""
        if self._cards:
            await self._connection.commands(
                [("SET", card_key(card.version), card.content()) for card in self._cards.values()]
            )

    async def read(self, version: str) -> RateCard | None:
        """
        The card of a version, or None if it was never published.

        Raises:
            StoreDamaged: What is stored is not the content that the version is the hash of.
        """
        card = self._cards.get(version)
        if card is not None:
            return card
        if not version:
            return None
        content = await self._connection.command("GET", card_key(version))
        if content is None:
            return None
        try:
            card = parse_rate_card(content.decode())
        except (ValueError, KeyError, TypeError, SidecarError) as error:
            raise StoreDamaged(f"redis: rate card {version} cannot be read") from error
        if card.version != version:
            raise StoreDamaged(f"redis: rate card {version} has other content than its name says")
        self._remember(version, card)
        return card

    def _remember(self, version: str, card: RateCard) -> None:
        self._cards[version] = card
        if len(self._cards) > _CARDS_MAX:
            self._cards.popitem(last=False)
