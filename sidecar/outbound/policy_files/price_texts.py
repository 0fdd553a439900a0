"""Price lines as the policy's YAML writes them."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from sidecar.domain.money import format_amount
from sidecar.domain.price_models import CostPlus, Graduated, Package, PerUnit, Price, Tier
from sidecar.domain.pricing import (
    CatalogHints,
    Flat,
    FreeQuota,
    Minimum,
    PriceLine,
    TaxBehavior,
    Volume,
    bare_price,
)


def versions_text(versions: Iterable[tuple[str, datetime, Iterable[PriceLine]]]) -> str:
    """A policy file that gives plans other prices, each from an instant on."""
    return (
        "# yaml-language-server: $schema=../policy.schema.json\n"
        "#\n"
        "# Prices of plans from an instant on, made from a price list. All prices of a version\n"
        "# are here, also those that did not change.\n\n"
        "versions:\n"
    ) + "".join(_version(*version) for version in versions)


def quote(text: str) -> str:
    """A text in YAML's double quotes; all that is not plain ASCII is escaped."""
    return '"' + "".join(_escape(character) for character in text) + '"'


def _escape(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character.isascii() and character.isprintable():
        return character
    return f"\\U{ord(character):08X}"


def _version(plan: str, effective_at: datetime, lines: Iterable[PriceLine]) -> str:
    instant = effective_at.astimezone(UTC).isoformat().replace("+00:00", "Z")
    entries = [f"      - {price_text(line)}\n" for line in lines]
    return f'  - plan: {plan}\n    effective_at: "{instant}"\n' + (
        "    prices:\n" + "".join(entries) if entries else "    prices: []\n"
    )


def price_text(line: PriceLine) -> str:
    """One price line, in one line."""
    parts = [] if not line.meter else [f"meter: {line.meter}"]
    if line.models:
        parts.append(f"models: [{', '.join(quote(model) for model in line.models)}]")
    parts += _price(bare_price(line.price))
    if isinstance(line.price, FreeQuota):
        parts.append(f"free: {line.price.units}")
    parts += _hints(line.hints)
    return "{" + ", ".join(parts) + "}"


def _price(price: Price) -> Iterator[str]:
    match price:
        case PerUnit():
            yield from (
                "model: per_unit",
                _amount("amount", price.amount_nano),
                f"per: {price.per}",
            )
        case Package():
            yield from ("model: package", _amount("amount", price.amount_nano), f"per: {price.per}")
            yield f"round: {price.rounding.value}"
        case CostPlus():
            cost, share = _amount("cost", price.cost_nano), markup_text(price.markup)
            yield "model: cost_plus"
            yield f'cost_plus: {{{cost}, per: {price.per}, markup: "{share}"}}'
        case Graduated() | Volume():
            yield f"model: {'graduated' if isinstance(price, Graduated) else 'volume'}"
            yield f"per: {price.per}"
            yield f"tiers: [{', '.join(_tier(tier) for tier in price.tiers)}]"
        case Flat() | Minimum():
            yield f"model: {'flat' if isinstance(price, Flat) else 'minimum'}"
            yield _amount("amount", price.amount_nano)
        case _:
            raise AssertionError(price)


def markup_text(markup: int) -> str:
    """Hundredths of a percent as a percentage, without needless zeros."""
    whole, part = divmod(markup, 100)
    return f"{whole}.{part:02d}".rstrip("0").rstrip(".") + "%"


def _tier(tier: Tier) -> str:
    end = "inf" if tier.up_to is None else str(tier.up_to)
    flat = f", {_amount('flat', tier.flat_nano)}" if tier.flat_nano else ""
    return f"{{up_to: {end}, {_amount('amount', tier.amount_nano)}{flat}}}"


def _amount(key: str, nano: int) -> str:
    """An amount; nothing is written as the policy wants it written."""
    return f'{key}: "{format_amount(nano) if nano else 0}"'


def _hints(hints: CatalogHints) -> Iterator[str]:
    if hints.tax_behavior is not TaxBehavior.UNSPECIFIED:
        yield f"tax_behavior: {hints.tax_behavior.value}"
    if hints.stripe:
        known = ", ".join(f"{key}: {quote(value)}" for key, value in hints.stripe.items())
        yield f"stripe: {{{known}}}"
