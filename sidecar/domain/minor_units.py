"""
A provider's minor units: how many of them one major unit is, and what nano comes to in them.

The exponent belongs to the currency and the provider, not to the currency alone: Stripe takes
Icelandic and Ugandan amounts as hundredths that end in 00, and thousandths that end in 0.
A pair that is not listed is refused; two decimals are never guessed.
"""

from dataclasses import dataclass
from enum import StrEnum

from sidecar.domain.errors import InvalidInput
from sidecar.domain.money import AMOUNT_NANO_MAX, CREDITS, Nano

STRIPE = "stripe"
PAYSTACK = "paystack"
WEBHOOK = "webhook"

_NANO_EXPONENT = 9


class Rounding(StrEnum):
    """What becomes of the part below one minor unit, by size: -0.5 is treated as 0.5."""

    HALF_UP = "half_up"
    """To the nearest; a half goes away from zero. The rule for invoice lines."""
    UP = "up"
    """Away from zero."""
    DOWN = "down"
    """Towards zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MinorUnit:
    """A minor unit is 10 ** -exponent of the major one; amounts are multiples of `step`."""

    exponent: int
    step: int = 1

    @property
    def nano(self) -> int:
        """What one minor unit is in nano."""
        return int(10 ** (_NANO_EXPONENT - self.exponent))


_STRIPE_ZERO = "BIF CLP DJF GNF JPY KMF KRW MGA PYG RWF VND VUV XAF XOF XPF"
_STRIPE_HUNDREDS = "ISK UGX"
_STRIPE_THREE = "BHD JOD KWD OMR TND"
_STRIPE_TWO = (
    "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BWP BYN BZD "
    "CAD CDF CHF CNY COP CRC CVE CZK DKK DOP DZD EGP ETB EUR FJD FKP GBP GEL GIP GMD GTQ GYD "
    "HKD HNL HTG HUF IDR ILS INR JMD KES KGS KHR KYD KZT LAK LBP LKR LRD LSL MAD MDL MKD MMK "
    "MNT MOP MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON "
    "RSD RUB SAR SBD SCR SEK SGD SHP SLE SOS SRD STD SZL THB TJS TOP TRY TTD TWD TZS UAH USD "
    "UYU UZS WST XCD YER ZAR ZMW"
)
_PAYSTACK_TWO = "NGN GHS ZAR KES USD"
_ISO_ZERO = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF"
_ISO_THREE = "BHD IQD JOD KWD LYD OMR TND"


def _units(names: str, *, exponent: int, step: int = 1) -> dict[str, MinorUnit]:
    return dict.fromkeys(names.split(), MinorUnit(exponent=exponent, step=step))


_TABLE: dict[str, dict[str, MinorUnit]] = {
    # Source: https://docs.stripe.com/currencies ("zero-decimal", "special cases", "three-decimal").
    STRIPE: (
        _units(_STRIPE_TWO, exponent=2)
        | _units(_STRIPE_ZERO, exponent=0)
        | _units(_STRIPE_HUNDREDS, exponent=2, step=100)
        | _units(_STRIPE_THREE, exponent=3, step=10)
    ),
    # Source: https://paystack.com/docs/api/#supported-currency; all of them are hundredths.
    PAYSTACK: _units(_PAYSTACK_TWO, exponent=2),
    # Source: ISO 4217. Credits are the operator's own unit and are told to the nano.
    WEBHOOK: (
        _units(_STRIPE_TWO, exponent=2)
        | _units("GHS MGA", exponent=2)
        | _units(_ISO_ZERO, exponent=0)
        | _units(_ISO_THREE, exponent=3)
        | _units(CREDITS, exponent=_NANO_EXPONENT)
    ),
}


def minor_unit(currency: str, provider: str) -> MinorUnit:
    """
    The minor unit in which a provider takes a currency.

    Raises:
        InvalidInput: The provider is not known, or it does not take the currency.
    """
    if (units := _TABLE.get(provider)) is None:
        raise InvalidInput(
            f"provider {provider[:40]!r} is not known; use one of {', '.join(sorted(_TABLE))}",
            field="provider",
        )
    if (unit := units.get(currency)) is None:
        raise InvalidInput(f"{provider} takes no amounts in {currency[:20]!r}", field="currency")
    return unit


def currencies_of(provider: str) -> frozenset[str]:
    """The currencies that a provider takes; none for an unknown one."""
    return frozenset(_TABLE.get(provider, {}))


def to_minor(nano: int, currency: str, provider: str, rounding: Rounding = Rounding.HALF_UP) -> int:
    """
    Nano in a provider's minor units, rounded once.

    Args:
        nano: Of any sign.
        currency: As `parse_currency` allows.
        provider: `stripe`, `paystack` or `webhook`.
        rounding: What becomes of the rest; it works on the provider's step.

    Returns:
        Minor units; a multiple of the step.

    Raises:
        InvalidInput: As `minor_unit` does.
    """
    unit = minor_unit(currency, provider)
    size = unit.nano * unit.step
    steps, rest = divmod(abs(nano), size)
    if rest and (rounding is Rounding.UP or (rounding is Rounding.HALF_UP and rest * 2 >= size)):
        steps += 1
    return (-steps if nano < 0 else steps) * unit.step


def from_minor(minor: int, currency: str, provider: str) -> Nano:
    """
    A provider's minor units in nano, exactly.

    Raises:
        InvalidInput: As `minor_unit` does, or the amount is larger than any balance.
    """
    nano = minor * minor_unit(currency, provider).nano
    if abs(nano) > AMOUNT_NANO_MAX:
        raise InvalidInput(f"{minor} minor units of {currency} are beyond any balance")
    return Nano(nano)
