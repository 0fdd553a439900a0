"""
From a provider's catalog to plans of a policy.

What a plan cannot say exactly is not written: a finding names it by its id. What no catalog
knows, such as which requests a meter counts, is written so that nothing passes unpaid, and told.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from sidecar.domain.catalog import (
    LINE_KEY,
    FoundCatalog,
    FoundMeter,
    FoundPrice,
    FoundProduct,
)
from sidecar.domain.catalog_prices import written_price
from sidecar.domain.catalog_wanted import FEE, lookup_key
from sidecar.domain.errors import InvalidInput

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}", re.ASCII)
_NOT_NAME = re.compile(r"[^a-z0-9_.-]+", re.ASCII)
_NAME_CHARS_MAX = 64
_KNOWN_VALUES = {
    "usage.input": ("input-tokens", "tokens-in", "prompt-tokens"),
    "usage.output": ("output-tokens", "tokens-out", "completion-tokens"),
    "usage.total": ("total-tokens", "tokens"),
    "usage.cache_read": ("cached-tokens", "cache-read-tokens", "cached-input-tokens"),
    "usage.cache_creation": ("cache-creation-tokens", "cache-write-tokens"),
    "usage.reasoning": ("reasoning-tokens",),
    "requests": ("requests", "api-requests", "calls", "api-calls"),
}
_VALUE_OF = {name: value for value, names in _KNOWN_VALUES.items() for name in names}
UNKNOWN_VALUE = "metadata.sidecar_import."
"""No gateway sends it, so a request with such a meter is set aside and not taken for free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """
    What people have to know of an import.

    `lost` says that the object was not written; else it was, and something of it was assumed.
    """

    what: str
    message: str
    lost: bool

    def __str__(self) -> str:
        """On one line."""
        return f"{self.what}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedPlan:
    """A plan as a policy file has it, with the provider's id of its product."""

    product_id: str
    data: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedCatalog:
    """Plans and the meters that they read, as policy files have them."""

    plans: tuple[ImportedPlan, ...]
    meters: tuple[Mapping[str, object], ...]
    findings: tuple[Finding, ...]

    @property
    def lost(self) -> tuple[Finding, ...]:
        """What was not written."""
        return tuple(finding for finding in self.findings if finding.lost)


def import_catalog(found: FoundCatalog, *, hints: bool = True) -> ImportedCatalog:
    """
    Plans for all active products with prices, in the order of their ids.

    Args:
        found: The provider's catalog.
        hints: Whether plans and lines name the objects that they came from, so that a catalog
            takes them up.
    """
    work = _Import(found, hints=hints)
    for product in sorted(found.products, key=lambda one: one.id):
        if product.active:
            work.add(product)
    return work.finished()


@dataclass(slots=True)
class _Lines:
    """The prices of one plan, by line."""

    prices: dict[str, FoundPrice] = field(default_factory=dict)
    written: dict[str, dict[str, object]] = field(default_factory=dict)


class _Import:
    def __init__(self, found: FoundCatalog, *, hints: bool) -> None:
        self._hints = hints
        self._meters: dict[str, FoundMeter] = {meter.id: meter for meter in found.meters}
        self._prices: dict[str, list[FoundPrice]] = {}
        for price in sorted(found.prices, key=lambda one: (not one.lookup_key, one.id)):
            if price.active:
                self._prices.setdefault(price.product_id, []).append(price)
        self._names = {product.plan for product in found.products if product.plan}
        self._plans: list[ImportedPlan] = []
        self._used: dict[str, FoundMeter] = {}
        self._findings: list[Finding] = []

    def add(self, product: FoundProduct) -> None:
        """A product's prices, a plan for each currency."""
        by_currency: dict[str, _Lines] = {}
        for price in self._prices.get(product.id, ()):
            try:
                line, written = self._line(product, price)
            except InvalidInput as error:
                self._lose(f"price {price.id} of product {product.id}", str(error))
                continue
            assert price.content is not None
            lines = by_currency.setdefault(price.content.currency, _Lines())
            if line in lines.prices:
                other = lines.prices[line].id
                self._lose(
                    f"price {price.id} of product {product.id}",
                    f"a plan has one price for {line}, and {other} is it",
                )
                continue
            lines.prices[line] = price
            lines.written[line] = written
            if price.content.meter:
                self._used[price.content.meter] = self._meters[price.meter_id]
        if not by_currency and not product.plan:
            self._lose(f"product {product.id}", "it has no price that a plan could have")
            return
        if not by_currency:
            self._assume(
                f"product {product.id}",
                "it has no prices, so how it is billed is not known: the plan prices nothing",
            )
            by_currency["USD"] = _Lines()
        self._write(product, by_currency)

    def finished(self) -> ImportedCatalog:
        """All of it, meters last: their values are what no provider knows."""
        meters = tuple(self._meter(meter) for _, meter in sorted(self._used.items()))
        return ImportedCatalog(
            plans=tuple(self._plans), meters=meters, findings=tuple(self._findings)
        )

    def _line(self, product: FoundProduct, price: FoundPrice) -> tuple[str, dict[str, object]]:
        """
        The line's name and what a file says of it.

        Raises:
            InvalidInput: A plan cannot say it.
        """
        if price.content is None:
            raise InvalidInput(price.unreadable)
        content = price.content
        if content.meter:
            meter = self._meters[price.meter_id]
            if not meter.active:
                raise InvalidInput(f"its meter {meter.id} is archived")
            if meter.misfit:
                raise InvalidInput(f"of its meter {meter.id}: {meter.misfit}")
            if not _NAME.fullmatch(content.meter):
                raise InvalidInput(
                    f"its meter's event name {content.meter[:100]!r} is no meter's name here"
                )
        written = written_price(content)
        line = content.meter or FEE
        ours = (
            bool(product.plan)
            and price.plan == product.plan
            and price.metadata.get(LINE_KEY) == line
            and price.lookup_key == lookup_key(product.plan, line)
        )
        if self._hints and not ours:
            written["stripe"] = {"price": price.id}
        return line, written

    def _write(self, product: FoundProduct, by_currency: Mapping[str, _Lines]) -> None:
        for currency, lines in sorted(by_currency.items()):
            ours = product.plan if len(by_currency) == 1 else ""
            name = ours or self._free_name(product.name, currency, alone=len(by_currency) == 1)
            data: dict[str, object] = {"name": name}
            if product.name != name:
                data["title"] = _one_line(product.name)
            data |= {"billing": "postpaid", "currency": currency}
            if self._hints and not ours:
                data["stripe"] = {"product": product.id}
            # The fee last, whatever its id.
            order = sorted(lines.written, key=lambda line: (line == FEE, line))
            data["prices"] = [lines.written[line] for line in order]
            self._plans.append(ImportedPlan(product_id=product.id, data=data))

    def _free_name(self, title: str, currency: str, *, alone: bool) -> str:
        """A plan's name made of a product's, that no other plan has."""
        base = plan_name(title)
        if not alone:
            base = f"{base[: _NAME_CHARS_MAX - 4]}-{currency.lower()}"
        name, number = base, 2
        while name in self._names:
            name = f"{base[: _NAME_CHARS_MAX - 8]}-{number}"
            number += 1
        self._names.add(name)
        return name

    def _meter(self, meter: FoundMeter) -> dict[str, object]:
        name = meter.event_name
        value = _VALUE_OF.get(name.replace("_", "-"))
        if value is None:
            self._assume(
                f"meter {meter.id} ({name})",
                "no catalog says what a request adds to it; until `value` is set, its usage is "
                "set aside",
            )
            value = UNKNOWN_VALUE + re.sub("[^a-z0-9_]", "_", name)
        else:
            self._assume(f"meter {meter.id} ({name})", f"by its name a request adds {value} to it")
        return {"name": name, "value": value}

    def _lose(self, what: str, message: str) -> None:
        self._findings.append(Finding(what=what, message=message, lost=True))

    def _assume(self, what: str, message: str) -> None:
        self._findings.append(Finding(what=what, message=message, lost=False))


def plan_name(title: str) -> str:
    """A name in the policy's form, of whatever a product is called."""
    name = _NOT_NAME.sub("-", title.lower()).strip("-_.")[:_NAME_CHARS_MAX]
    return name if _NAME.fullmatch(name) else "plan"


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)[:200].strip() or "plan"
