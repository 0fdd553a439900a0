"""Prices: the models, and the cards that they stand on. One place to import them from."""

from sidecar.domain.meters import Meter
from sidecar.domain.period_prices import (
    Flat,
    FreeQuota,
    Minimum,
    Volume,
    bare_price,
    is_of_period,
    parse_price,
)
from sidecar.domain.price_models import (
    CostPlus,
    Graduated,
    Package,
    PerUnit,
    Price,
    RoundPackages,
    Tier,
)
from sidecar.domain.rate_cards import (
    Billing,
    CatalogHints,
    OnChange,
    PriceLine,
    RateCard,
    TaxBehavior,
    parse_rate_card,
)

__all__ = [
    "Billing",
    "CatalogHints",
    "CostPlus",
    "Flat",
    "FreeQuota",
    "Graduated",
    "Meter",
    "Minimum",
    "OnChange",
    "Package",
    "PerUnit",
    "Price",
    "PriceLine",
    "RateCard",
    "RoundPackages",
    "TaxBehavior",
    "Tier",
    "Volume",
    "bare_price",
    "is_of_period",
    "parse_price",
    "parse_rate_card",
]
