"""
A price of ours as a provider's price, exactly, or a word on why it cannot be one.

It reads what a price says of itself (`describe`), which is also what a price version is made
of, so that nothing which decides an amount can be missed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Context, Decimal, Inexact, localcontext
from fractions import Fraction
from typing import Any

from sidecar.domain.catalog import DECIMALS_MAX, PriceContent, Tier
from sidecar.domain.errors import InvalidInput
from sidecar.domain.minor_units import STRIPE, minor_unit

_MARKUP_SCALE = 10_000
_DIGITS = 60


class NotExpressible(InvalidInput):
    """The provider has no such price; the message says what it lacks and what to do."""


def content_of(price: Mapping[str, Any], *, currency: str, meter: str, tax: str) -> PriceContent:
    """
    The provider's form of a price.

    Args:
        price: What the price says of itself.
        currency: Of the plan.
        meter: The meter's name; "" for a fee.
        tax: Whether amounts contain tax.

    Raises:
        NotExpressible: The provider has no price that comes to the same amounts.
    """
    try:
        unit_nano = minor_unit(currency, STRIPE).nano
    except InvalidInput as error:
        raise NotExpressible(f"{error}; bill such a plan by invoices of Sidecar's own") from error
    bare = PriceContent(currency=currency, meter=meter, tax_behavior=tax)
    free = int(price.get("free", 0))
    match price["model"]:
        case "per_unit":
            unit = _minor(int(price["amount_nano"]), int(price["per"]), unit_nano)
            return _linear(bare, unit, free)
        case "cost_plus":
            amount = int(price["cost_nano"]) * (_MARKUP_SCALE + int(price["markup"]))
            unit = _minor(amount, int(price["per"]) * _MARKUP_SCALE, unit_nano)
            return _linear(bare, unit, free)
        case "package":
            return _package(bare, price, free, unit_nano)
        case "graduated":
            tiers = _tiers(price, unit_nano)
            _refuse_first_flat(tiers, free)
            return replace(bare, tiers=_behind_free(tiers, free), tiers_mode="graduated")
        case "volume":
            if free:
                raise NotExpressible(
                    "Stripe's volume tiers price all units alike, so none of them can be free; "
                    "leave `free` out, or use graduated tiers"
                )
            tiers = _tiers(price, unit_nano)
            _refuse_first_flat(tiers, free)
            return replace(bare, tiers=tiers, tiers_mode="volume")
        case "flat":
            return replace(bare, meter="", unit=_minor(int(price["amount_nano"]), 1, unit_nano))
        case "minimum":
            raise NotExpressible(
                "Stripe's prices have no minimum; bill such a plan by invoices of Sidecar's own"
            )
        case other:
            raise NotExpressible(f"price model {str(other)[:40]!r} has no counterpart at Stripe")


def _linear(bare: PriceContent, unit: Decimal, free: int) -> PriceContent:
    if not free:
        return replace(bare, unit=unit)
    tiers = _behind_free((Tier(up_to=None, unit=unit),), free)
    return replace(bare, tiers=tiers, tiers_mode="graduated")


def _package(
    bare: PriceContent, price: Mapping[str, Any], free: int, unit_nano: int
) -> PriceContent:
    if free:
        raise NotExpressible(
            "Stripe cannot combine packages with a free quantity (tiers exclude "
            "transform_quantity); leave `free` out, or use model per_unit"
        )
    per = int(price["per"])
    unit = _minor(int(price["amount_nano"]), 1, unit_nano)
    if per == 1:
        return replace(bare, unit=unit)
    return replace(bare, unit=unit, divide_by=per, round=str(price["round"]))


def _tiers(price: Mapping[str, Any], unit_nano: int) -> tuple[Tier, ...]:
    written: Sequence[Mapping[str, Any]] = price["tiers"]
    return tuple(
        Tier(
            up_to=None if tier["up_to"] is None else int(tier["up_to"]),
            unit=_minor(int(tier["amount_nano"]), int(price.get("per", 1)), unit_nano),
            flat=_minor(int(tier.get("flat_nano", 0)), 1, unit_nano),
        )
        for tier in written
    )


def _behind_free(tiers: tuple[Tier, ...], free: int) -> tuple[Tier, ...]:
    """The tiers behind the free units, which become a tier of their own."""
    if not free:
        return tiers
    moved = tuple(
        replace(tier, up_to=None if tier.up_to is None else tier.up_to + free) for tier in tiers
    )
    return (Tier(up_to=free, unit=Decimal(0)), *moved)


def _refuse_first_flat(tiers: tuple[Tier, ...], free: int) -> None:
    if tiers[0].flat and not free:
        raise NotExpressible(
            "at Stripe the first tier's flat amount is due without any use, here it is not; "
            "make it a price of model flat"
        )


def _minor(amount_nano: int, per: int, unit_nano: int) -> Decimal:
    """Nano per `per` units as minor units per unit, exactly."""
    exact = Fraction(amount_nano, per * unit_nano)
    scaled = exact * 10**DECIMALS_MAX
    if scaled.denominator != 1:
        raise NotExpressible(
            f"a unit's amount has more than the {DECIMALS_MAX} decimals of a minor unit that "
            "Stripe takes; choose `per` so that a unit costs a decimal fraction, or use packages"
        )
    with localcontext(Context(prec=_DIGITS, traps=[Inexact])):
        return Decimal(scaled.numerator).scaleb(-DECIMALS_MAX)
