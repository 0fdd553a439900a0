"""Subscriptions of a Stripe account by price: the port `ProviderSubscriptions`."""

from typing import Any, Final

from sidecar.domain.catalog_moves import HeldItem
from sidecar.domain.errors import ConfigError, ProviderFailed
from sidecar.domain.periods import from_epoch_ms
from sidecar.outbound.stripe.client import StripeConnection, translate_stripe

PAGE: Final = 100
_MS_PER_SECOND: Final = 1_000
_ENDED: Final = frozenset({"canceled", "incomplete_expired"})


class StripeSubscriptions:
    """Reads page by page, and writes one call for each item."""

    def __init__(self, connection: StripeConnection, *, subscriptions_max: int) -> None:
        """
        Wire the connection; nothing is sent.

        Args:
            connection: With a key that may read and write subscriptions.
            subscriptions_max: Most subscriptions of one price that are read.
        """
        # Any, because the SDK's parameters are one TypedDict a call, and ours are built up.
        self._v1: Any = connection.client.v1
        self._subscriptions_max = subscriptions_max

    async def items_on(self, price_id: str) -> tuple[HeldItem, ...]:
        """The items on a price; raises as the port says."""
        found: list[HeldItem] = []
        count, params = 0, {"price": price_id, "status": "all", "limit": PAGE}
        while True:
            async with translate_stripe():
                page = (await self._v1.subscriptions.list_async(params)).to_dict()
            for subscription in page["data"]:
                if subscription["status"] not in _ENDED:
                    found += _items(subscription, price_id)
            count += len(page["data"])
            if not page["has_more"] or not page["data"]:
                return tuple(found)
            if count >= self._subscriptions_max:
                raise ConfigError(
                    f"more than {self._subscriptions_max} subscriptions are on {price_id}; raise "
                    "SIDECAR_CATALOG_OBJECTS_MAX to read them all"
                )
            params = params | {"starting_after": page["data"][-1]["id"]}

    async def put_on(self, item: HeldItem, price_id: str, key: str) -> None:
        """Put an item on another price, without proration; raises as the port says."""
        params = {
            "items": [{"id": item.item_id, "price": price_id}],
            "proration_behavior": "none",
        }
        async with translate_stripe():
            done = await self._v1.subscriptions.update_async(
                item.subscription_id, params, {"idempotency_key": key}
            )
        if done.last_response.headers.get("idempotent-replayed") == "true":
            # Of a day ago at most: it may have been put back since.
            raise ProviderFailed("Stripe: an older answer was replayed")


def _items(subscription: dict[str, Any], price_id: str) -> list[HeldItem]:
    return [
        HeldItem(
            subscription_id=subscription["id"],
            provider_customer_id=str(subscription["customer"]),
            item_id=item["id"],
            period_start=from_epoch_ms(item["current_period_start"] * _MS_PER_SECOND),
        )
        for item in subscription["items"]["data"]
        if item["price"]["id"] == price_id
    ]
