"""The prices of the month that is invoiced: per unit, $0.50 and $1.50 a million."""

from sidecar.domain.meters import Meter
from sidecar.domain.pricing import Billing, PerUnit, PriceLine, RateCard

CARD = RateCard(
    plan="postpaid",
    billing=Billing.POSTPAID,
    currency="USD",
    lines=(
        PriceLine(meter="input-tokens", price=PerUnit(amount_nano=500)),
        PriceLine(meter="output-tokens", price=PerUnit(amount_nano=1_500)),
    ),
    meters={
        f"{kind}-tokens": Meter(name=f"{kind}-tokens", value=f"usage.{kind}")
        for kind in ("input", "output")
    },
)
