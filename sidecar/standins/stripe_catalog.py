"""Products and prices. Source: docs.stripe.com/api/{products,prices}."""

from collections.abc import Callable, Mapping
from typing import Any

from sidecar.standins.stripe_errors import ApiError, StandinFull, missing, refuse_unmodelled
from sidecar.standins.stripe_paging import page_of
from sidecar.standins.stripe_prices import build_price
from sidecar.standins.stripe_settings import Clock, StripeSettings, epoch_seconds

_PAGE = frozenset({"limit", "starting_after", "ending_before"})
_PRODUCT = frozenset({"id", "name", "active", "description", "metadata", "unit_label", "type"})


class Catalog:
    """What is sold: each object is the JSON that the API shows."""

    def __init__(
        self, settings: StripeSettings, clock: Clock, meter_exists: Callable[[str], bool]
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._meter_exists = meter_exists
        self.products: dict[str, dict[str, Any]] = {}
        self.prices: dict[str, dict[str, Any]] = {}

    def create_product(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Add a product, under its `id` if it brings one."""
        refuse_unmodelled(params, _PRODUCT)
        now = epoch_seconds(self._clock())
        return self._add(
            self.products,
            {
                "id": params.get("id") or f"prod_standin{len(self.products) + 1:08d}",
                "object": "product",
                "active": params.get("active", True),
                "created": now,
                "default_price": None,
                "description": params.get("description") or None,
                "images": [],
                "livemode": False,
                "marketing_features": [],
                "metadata": _metadata(params),
                "name": params["name"],
                "package_dimensions": None,
                "shippable": None,
                "statement_descriptor": None,
                "tax_code": None,
                "type": params.get("type", "service"),
                "unit_label": params.get("unit_label") or None,
                "updated": now,
                "url": None,
            },
        )

    def list_products(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """One page of products, newest first."""
        refuse_unmodelled(params, _PAGE | {"active", "ids", "type"})
        shown = _filtered(self.products, params, ("active", "type"))
        ids = params.get("ids")
        return page_of([p for p in shown if ids is None or p["id"] in ids], params, "/v1/products")

    def create_price(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """
        Add a price, and its product with `product_data`.

        Raises:
            ApiError: For an unknown product or meter, a lookup key that is taken, or a
                combination of fields that Stripe refuses.
        """
        expand = params.get("expand", [])
        price = build_price(params, f"price_standin{len(self.prices) + 1:08d}")
        recurring = price["recurring"]
        if recurring and recurring["meter"] and not self._meter_exists(recurring["meter"]):
            raise missing("meter", recurring["meter"], param="recurring[meter]", in_path=False)
        self._refuse_taken_lookup_key(price["lookup_key"])
        if ("product" in params) == ("product_data" in params):
            raise ApiError(400, "You must specify either product or product_data.", param="product")
        if "product" in params:
            self.find_product(params["product"], param="product")
            price["product"] = params["product"]
        else:
            price["product"] = self.create_product(params["product_data"])["id"]
        price["created"] = epoch_seconds(self._clock())
        return _shown_price(self._add(self.prices, price), expand, "tiers")

    def list_prices(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """One page of prices, newest first; tiers only with expand[]=data.tiers."""
        equal = ("active", "product", "currency", "type")
        refuse_unmodelled(params, _PAGE | {*equal, "lookup_keys", "recurring", "expand"})
        keys, recurring = params.get("lookup_keys"), params.get("recurring", {})
        shown = [
            price
            for price in _filtered(self.prices, params, equal)
            if (keys is None or price["lookup_key"] in keys)
            and all((price["recurring"] or {}).get(name) == recurring[name] for name in recurring)
        ]
        page = page_of(shown, params, "/v1/prices")
        expand = params.get("expand", [])
        page["data"] = [_shown_price(price, expand, "data.tiers") for price in page["data"]]
        return page

    def find_product(self, product_id: str, *, param: str | None = None) -> dict[str, Any]:
        """One product. Raises ApiError: 404, or 400 if a parameter (`param`) names it."""
        return _found(self.products, "product", product_id, path_name="id", param=param)

    def find_price(self, price_id: str, *, param: str | None = None) -> dict[str, Any]:
        """One price with its tiers. Raises ApiError: 404, or 400 if `param` names it."""
        return _found(self.prices, "price", price_id, path_name="price", param=param)

    def retrieve_price(self, price_id: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """One price as the API shows it: tiers only with expand[]=tiers."""
        return _shown_price(self.find_price(price_id), params.get("expand", []), "tiers")

    def _add(self, room: dict[str, dict[str, Any]], item: dict[str, Any]) -> dict[str, Any]:
        if item["id"] in room:
            kind = str(item["object"]).capitalize()
            raise ApiError(
                400, f"{kind} already exists.", code="resource_already_exists", param="id"
            )
        if len(room) >= self._settings.objects_max:
            raise StandinFull(f"objects_max objects of type {item['object']} are kept")
        room[item["id"]] = item
        return item

    def _refuse_taken_lookup_key(self, lookup_key: str | None) -> None:
        taken = any(price["lookup_key"] == lookup_key for price in self.prices.values())
        if lookup_key is not None and taken:
            raise ApiError(
                400,
                f"A price (`{lookup_key}`) already uses that lookup key.",
                code="resource_already_exists",
                param="lookup_key",
            )


def _found(
    room: Mapping[str, dict[str, Any]],
    kind: str,
    item_id: str,
    *,
    path_name: str,
    param: str | None,
) -> dict[str, Any]:
    if item_id not in room:
        raise missing(kind, item_id, param=param or path_name, in_path=param is None)
    return room[item_id]


def _filtered(
    room: dict[str, dict[str, Any]], params: Mapping[str, Any], names: tuple[str, ...]
) -> list[dict[str, Any]]:
    """The objects whose fields equal the given filters, newest first."""
    wanted = {name: params[name] for name in names if name in params}
    return [
        item
        for item in reversed(room.values())
        if all(item[name] == value for name, value in wanted.items())
    ]


def _metadata(params: Mapping[str, Any]) -> dict[str, str]:
    return dict(params.get("metadata") or {})


def _shown_price(price: dict[str, Any], expand: list[str], tiers_path: str) -> dict[str, Any]:
    """A price without its tiers, unless they were asked for: Stripe leaves them out."""
    for path in expand:
        if path != tiers_path:
            raise ApiError(400, f"This property cannot be expanded ({path[:100]}).", param="expand")
    if tiers_path in expand:
        return price
    return {name: value for name, value in price.items() if name != "tiers"}
