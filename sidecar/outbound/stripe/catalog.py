"""A Stripe account's catalog: the port `ProviderCatalog`."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from sidecar.domain.catalog import CUSTOMER_KEY, VALUE_KEY, FoundCatalog, plain
from sidecar.domain.catalog_changes import (
    CreateMeter,
    CreatePrice,
    CreateProduct,
    Order,
    SetMeterActive,
    UpdatePrice,
    UpdateProduct,
)
from sidecar.domain.errors import ConfigError, ProviderFailed
from sidecar.outbound.stripe.catalog_objects import read_meter, read_price, read_product
from sidecar.outbound.stripe.client import StripeConnection, translate_stripe

PAGE: Final = 100
"""Stripe: the largest page."""

_List = Callable[[Any], Awaitable[Any]]


class StripeCatalog:
    """Reads page by page, and writes one call for each order."""

    def __init__(self, connection: StripeConnection, *, objects_max: int = 10_000) -> None:
        """
        Wire the connection; nothing is sent.

        Args:
            connection: With a key that may read and write products, prices and meters.
            objects_max: Most meters, products and prices that are read, each.
        """
        # Any, because the SDK's parameters are one TypedDict a call, and ours are built up.
        self._v1: Any = connection.client.v1
        self._objects_max = objects_max

    async def read(self) -> FoundCatalog:
        """Everything, archived objects included; raises as the port says."""
        v1 = self._v1
        meters = [
            read_meter(item) async for item in self._all("meters", v1.billing.meters.list_async, {})
        ]
        products = [
            read_product(item) async for item in self._all("products", v1.products.list_async, {})
        ]
        event_names = {meter.id: meter.event_name for meter in meters}
        prices = {}
        # Without `active`, Stripe lists the active ones.
        for active in (True, False):
            params = {"active": active, "expand": ["data.tiers"]}
            async for item in self._all("prices", v1.prices.list_async, params):
                price = read_price(item, event_names)
                prices[price.id] = price
        return FoundCatalog(
            meters=tuple(meters), products=tuple(products), prices=tuple(prices.values())
        )

    async def write(self, order: Order, key: str) -> str:
        """Do what the order says, once for each key; raises as the port says."""
        options = {"idempotency_key": key}
        v1 = self._v1
        async with translate_stripe():
            match order:
                case CreateMeter():
                    done = await v1.billing.meters.create_async(_meter_params(order), options)
                case SetMeterActive(id=name, active=True):
                    done = await v1.billing.meters.reactivate_async(name, {}, options)
                case SetMeterActive(id=name):
                    done = await v1.billing.meters.deactivate_async(name, {}, options)
                case CreateProduct(product=product):
                    params = {"name": product.name, "metadata": product.metadata}
                    done = await v1.products.create_async(params, options)
                case UpdateProduct(id=name):
                    done = await v1.products.update_async(name, _product_changes(order), options)
                case CreatePrice():
                    done = await v1.prices.create_async(price_params(order), options)
                case UpdatePrice(id=name):
                    done = await v1.prices.update_async(name, _price_changes(order), options)
        if done.last_response.headers.get("idempotent-replayed") == "true":
            # Of an order that is a day old at most: what it made may be gone or changed since.
            raise ProviderFailed("Stripe: an older answer was replayed")
        return str(done.id)

    async def _all(
        self, what: str, list_page: _List, params: dict[str, Any]
    ) -> AsyncIterator[dict[str, Any]]:
        """All objects of a list, as plain data."""
        count, after = 0, ""
        while True:
            page_params = {**params, "limit": PAGE}
            if after:
                page_params["starting_after"] = after
            async with translate_stripe():
                page = (await list_page(page_params)).to_dict()
            for item in page["data"]:
                yield item
            count += len(page["data"])
            if not page["has_more"] or not page["data"]:
                return
            if count >= self._objects_max:
                raise ConfigError(
                    f"the account has more than {self._objects_max} {what}; raise "
                    "SIDECAR_CATALOG_OBJECTS_MAX to read them all"
                )
            after = page["data"][-1]["id"]


def _meter_params(order: CreateMeter) -> dict[str, Any]:
    return {
        "event_name": order.meter.event_name,
        "display_name": order.meter.display_name,
        "default_aggregation": {"formula": "sum"},
        "customer_mapping": {"type": "by_id", "event_payload_key": CUSTOMER_KEY},
        "value_settings": {"event_payload_key": VALUE_KEY},
    }


def _product_changes(order: UpdateProduct) -> dict[str, Any]:
    params: dict[str, Any] = {}
    if order.name is not None:
        params["name"] = order.name
    if order.active is not None:
        params["active"] = order.active
    if order.metadata:
        params["metadata"] = dict(order.metadata)
    return params


def price_params(order: CreatePrice) -> dict[str, Any]:
    """The parameters that make a price; it takes its lookup key from whatever has it."""
    content = order.price.content
    recurring: dict[str, Any] = {
        "interval": content.interval,
        "interval_count": content.interval_count,
        "usage_type": "licensed",
    }
    if content.meter:
        recurring |= {"usage_type": "metered", "meter": order.meter_id}
    params: dict[str, Any] = {
        "product": order.product_id,
        "currency": content.currency.lower(),
        "recurring": recurring,
        "tax_behavior": content.tax_behavior,
        "lookup_key": order.price.lookup_key,
        "transfer_lookup_key": True,
        "metadata": order.price.metadata,
        "nickname": order.price.name,
    }
    if content.tiers:
        return params | {
            "billing_scheme": "tiered",
            "tiers_mode": content.tiers_mode,
            "tiers": [
                {
                    "up_to": "inf" if tier.up_to is None else tier.up_to,
                    "unit_amount_decimal": plain(tier.unit),
                    "flat_amount_decimal": plain(tier.flat),
                }
                for tier in content.tiers
            ],
        }
    assert content.unit is not None
    params |= {"billing_scheme": "per_unit", "unit_amount_decimal": plain(content.unit)}
    if content.divide_by > 1:
        params["transform_quantity"] = {"divide_by": content.divide_by, "round": content.round}
    return params


def _price_changes(order: UpdatePrice) -> dict[str, Any]:
    params: dict[str, Any] = {}
    if order.active is not None:
        params["active"] = order.active
    if order.lookup_key is not None:
        params |= {"lookup_key": order.lookup_key, "transfer_lookup_key": True}
    if order.metadata:
        params["metadata"] = dict(order.metadata)
    return params
