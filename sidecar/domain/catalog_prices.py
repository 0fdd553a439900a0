"""A provider's price as a price of ours, exactly, in the words of a policy file."""

from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

from sidecar.domain.catalog import PriceContent
from sidecar.domain.catalog_contents import content_of
from sidecar.domain.errors import InvalidInput
from sidecar.domain.minor_units import STRIPE, minor_unit
from sidecar.domain.money import AMOUNT_NANO_MAX, format_amount
from sidecar.domain.price_models import TIERS_MAX
from sidecar.domain.pricing import (
    Flat,
    Graduated,
    Package,
    PerUnit,
    Price,
    RoundPackages,
    Tier,
    Volume,
)
from sidecar.domain.usage import QUANTITY_MAX

_USUAL_PERS = (1, 1_000, 1_000_000)
"""Units that people write amounts for."""
_PERS = (*_USUAL_PERS, *(10**power for power in (1, 2, 4, 5, 7, 8, 9, 10, 11, 12)))
_CENT_NANO = 10_000_000
_PER_MAX = 10**12


def written_price(content: PriceContent) -> dict[str, object]:
    """
    What a policy file says of the price.

    Raises:
        InvalidInput: It has no exact words for it; the message says what is in the way.
    """
    if content.interval != "month" or content.interval_count != 1:
        raise InvalidInput(
            f"it is billed every {content.interval_count} {content.interval}s, a plan every month"
        )
    price = _price(content)
    again = content_of(
        price.describe(),
        currency=content.currency,
        meter=content.meter,
        tax=content.tax_behavior,
    )
    if again != content:
        raise InvalidInput("no price model of a plan comes to the same amounts")
    written: dict[str, object] = {"meter": content.meter} if content.meter else {}
    written |= _words(price)
    if content.tax_behavior != "unspecified":
        written["tax_behavior"] = content.tax_behavior
    return written


def _price(content: PriceContent) -> Price:
    unit_nano = minor_unit(content.currency, STRIPE).nano
    if content.tiers:
        _check_tiers([tier.up_to for tier in content.tiers])
        per = _common_per([tier.unit for tier in content.tiers], unit_nano)
        tiers = tuple(
            Tier(
                up_to=tier.up_to,
                amount_nano=_nano(tier.unit, per, unit_nano),
                flat_nano=_nano(tier.flat, 1, unit_nano),
            )
            for tier in content.tiers
        )
        model = Volume if content.tiers_mode == "volume" else Graduated
        return model(tiers=tiers, per=per)
    if content.unit is None:
        raise InvalidInput("it has no amount")
    if content.divide_by > 1:
        if not content.meter:
            raise InvalidInput("it is a fee for packages of a number that is no usage")
        if content.divide_by > _PER_MAX:
            raise InvalidInput(f"its packages have more than {_PER_MAX} units")
        amount = _nano(content.unit, 1, unit_nano)
        rounding = RoundPackages(content.round)
        return Package(amount_nano=amount, per=content.divide_by, rounding=rounding)
    if not content.meter:
        return Flat(amount_nano=_nano(content.unit, 1, unit_nano))
    per = _common_per([content.unit], unit_nano)
    return PerUnit(amount_nano=_nano(content.unit, per, unit_nano), per=per)


def _check_tiers(ends: list[int | None]) -> None:
    """Tiers ascend, and the last one alone has no end."""
    bounded = [end for end in ends[:-1] if end is not None]
    if len(ends) > TIERS_MAX:
        raise InvalidInput(f"it has more than {TIERS_MAX} tiers")
    if ends[-1] is not None or len(bounded) != len(ends) - 1:
        raise InvalidInput("its last tier, and no other, has to be without an end")
    if (
        any(high <= low for low, high in pairwise([0, *bounded]))
        or max(bounded, default=0) > QUANTITY_MAX
    ):
        raise InvalidInput(f"its tiers have to ascend, to {QUANTITY_MAX} units at most")


def _common_per(units: list[Decimal], unit_nano: int) -> int:
    """Units that all amounts can be for: whole cents if that is usual, else whole nano."""
    exact = [Fraction(unit) * unit_nano for unit in units]
    for whole, pers in ((_CENT_NANO, _USUAL_PERS), (1, _PERS)):
        for per in pers:
            if all((one * per / whole).denominator == 1 for one in exact):
                return per
    raise InvalidInput("its amounts are finer than a plan can say")


def _nano(unit: Decimal, per: int, unit_nano: int) -> int:
    exact = Fraction(unit) * unit_nano * per
    if exact.denominator != 1:
        raise InvalidInput("its amounts are finer than a plan can say")
    if exact > AMOUNT_NANO_MAX:
        raise InvalidInput("its amounts are larger than a plan can say")
    return exact.numerator


def _words(price: Price) -> dict[str, object]:
    match price:
        case Flat():
            return {"model": "flat", "amount": _amount(price.amount_nano)}
        case PerUnit():
            return {
                "model": "per_unit",
                "amount": _amount(price.amount_nano),
                "per": price.per,
            }
        case Package():
            return {
                "model": "package",
                "amount": _amount(price.amount_nano),
                "per": price.per,
                "round": price.rounding.value,
            }
        case Graduated() | Volume():
            return {
                "model": "volume" if isinstance(price, Volume) else "graduated",
                "per": price.per,
                "tiers": [_tier_words(tier) for tier in price.tiers],
            }
    raise AssertionError(price)


def _amount(nano: int) -> str:
    """As a policy file writes it: a zero is meant, so it has no decimals."""
    return format_amount(nano) if nano else "0"


def _tier_words(tier: Tier) -> dict[str, object]:
    words: dict[str, object] = {
        "up_to": "inf" if tier.up_to is None else tier.up_to,
        "amount": _amount(tier.amount_nano),
    }
    if tier.flat_nano:
        words["flat"] = _amount(tier.flat_nano)
    return words
