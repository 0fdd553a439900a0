"""Price entries to the domain's price lines."""

from collections.abc import Mapping, Sequence

from sidecar.domain.meter_values import TOKEN_VALUES
from sidecar.domain.meters import Meter
from sidecar.domain.price_models import TIERS_MAX
from sidecar.domain.pricing import (
    Billing,
    CatalogHints,
    CostPlus,
    Flat,
    FreeQuota,
    Graduated,
    Minimum,
    Package,
    PerUnit,
    Price,
    PriceLine,
    RoundPackages,
    TaxBehavior,
    Tier,
    Volume,
)
from sidecar.outbound.policy_files.compile_meters import refuse_not_additive
from sidecar.outbound.policy_files.references import Context
from sidecar.outbound.policy_files.sections import Section

_METERED = frozenset({"meter", "models", "free"})
_REQUIRED: Mapping[str, frozenset[str]] = {
    "per_unit": frozenset({"meter", "amount"}),
    "package": frozenset({"meter", "amount"}),
    "graduated": frozenset({"meter", "tiers"}),
    "volume": frozenset({"meter", "tiers"}),
    "flat": frozenset({"amount"}),
    "minimum": frozenset({"amount"}),
    "cost_plus": frozenset({"meter", "cost_plus"}),
}
_ALLOWED: Mapping[str, frozenset[str]] = {
    "per_unit": _METERED | {"amount", "per"},
    "package": _METERED | {"amount", "per", "round"},
    "graduated": _METERED | {"tiers", "per"},
    "volume": _METERED | {"tiers", "per"},
    "flat": frozenset({"amount"}),
    "minimum": frozenset({"amount"}),
    "cost_plus": _METERED | {"cost_plus"},
}
_OF_PERIOD = ("volume", "flat", "minimum")
_EVERYWHERE = frozenset({"model", "tax_behavior", "stripe"})


def compile_lines(
    context: Context,
    plan: Section,
    prices: Sequence[Section],
    meters: Mapping[str, Meter],
    *,
    has_estimates: bool,
) -> tuple[PriceLine, ...]:
    """One list of prices of a plan; what is wrong with it is noted, and its lines left out."""
    billing = Billing(plan.text("billing"))
    lines = []
    for section in prices:
        if not _check_keys(context, section):
            continue
        if section.given("meter"):
            context.refer("meter", section.text("meter"), section.place_of("meter"))
        meter = meters.get(section.text("meter"))
        if meter is not None:
            refuse_not_additive(context, meter, section.place_of("meter"), "a price")
        if billing.burns_credit:
            _check_hold(context, plan, section, meter, has_estimates=has_estimates)
        if billing.invoices_rest and section.given("stripe"):
            context.problems.add(
                section.place_of("stripe"),
                "what credit leaves of a credit_then_invoice plan is on our own invoices, so "
                "Stripe has no price for it: take `stripe` out, or write billing: postpaid",
            )
        price = _price(context, section)
        if price is not None:
            lines.append(
                PriceLine(
                    meter=section.text("meter"),
                    models=section.texts("models"),
                    price=price,
                    hints=compile_hints(section, otherwise=plan),
                )
            )
    _check_unique(context, prices)
    return tuple(lines)


def compile_hints(section: Section, *, otherwise: Section | None = None) -> CatalogHints:
    """What the provider's catalog is told; where a line says nothing of tax, the plan does."""
    tax = section.text("tax_behavior")
    if not tax and otherwise is not None:
        tax = otherwise.text("tax_behavior")
    stripe = section.section("stripe")
    return CatalogHints(
        title=section.text("title"),
        tax_behavior=TaxBehavior(tax or TaxBehavior.UNSPECIFIED),
        stripe={} if stripe is None else {key: stripe.text(key) for key in stripe.values},
    )


def _check_keys(context: Context, section: Section) -> bool:
    """Each model has keys of its own: one that is ignored would be believed."""
    model = section.text("model")
    foreign = sorted(section.written - _ALLOWED[model] - _EVERYWHERE)
    missing = sorted(key for key in _REQUIRED[model] if not section.given(key))
    for key in foreign:
        models = ", ".join(name for name, keys in _ALLOWED.items() if key in keys)
        context.problems.add(
            section.place_of(key),
            f"`{key}` is for price model {models}; "
            f"{model} has {', '.join(sorted(_ALLOWED[model]))}",
        )
    for key in missing:
        context.problems.add(
            section.place, f"price has no {key!r}; it is required by price model {model}"
        )
    return not (foreign or missing)


def _price(context: Context, section: Section) -> Price | None:
    price = _bare_price(context, section)
    if price is None or not section.given("free"):
        return price
    return FreeQuota(price=price, units=section.integer("free"))


def _bare_price(context: Context, section: Section) -> Price | None:
    per = section.integer("per")
    match section.text("model"):
        case "per_unit":
            return PerUnit(amount_nano=section.integer("amount"), per=per)
        case "package":
            rounding = RoundPackages(section.text("round") or RoundPackages.UP)
            return Package(amount_nano=section.integer("amount"), per=per, rounding=rounding)
        case "graduated":
            tiers = _tiers(context, section)
            return Graduated(tiers=tiers, per=per) if tiers else None
        case "volume":
            tiers = _tiers(context, section)
            return Volume(tiers=tiers, per=per) if tiers else None
        case "flat":
            return Flat(amount_nano=section.integer("amount"))
        case "minimum":
            return Minimum(amount_nano=section.integer("amount"))
        case _:
            cost = section.section("cost_plus")
            assert cost is not None
            return CostPlus(
                cost_nano=cost.integer("cost"),
                per=cost.integer("per"),
                markup=cost.integer("markup"),
            )


def _tiers(context: Context, section: Section) -> tuple[Tier, ...]:
    """The tiers; none where something is wrong with them, which is noted."""
    before = len(context.problems)
    tiers: list[Tier] = []
    stated = section.sections("tiers")
    if len(stated) > TIERS_MAX:
        context.problems.add(
            section.place_of("tiers"), f"found {len(stated)} tiers; at most {TIERS_MAX} are allowed"
        )
    below = 0
    for number, tier in enumerate(stated, 1):
        end, last = tier.integer("up_to"), number == len(stated)
        if last != (end == 0):
            wanted = "the last tier ends at `inf`" if last else "only the last tier ends at `inf`"
            context.problems.add(tier.place_of("up_to"), f"{wanted}, so that no unit has no price")
        elif not last and end <= below:
            context.problems.add(
                tier.place_of("up_to"),
                f"found {end} after {below}; each tier ends behind the one before",
            )
        if not tier.given("amount") and not tier.given("flat"):
            context.problems.add(
                tier.place,
                'the tier has neither `amount` nor `flat`; write amount: "0" if it is free',
            )
        below = end
        tiers.append(
            Tier(
                up_to=end or None,
                amount_nano=tier.optional_integer("amount") or 0,
                flat_nano=tier.optional_integer("flat") or 0,
            )
        )
    return tuple(tiers) if len(context.problems) == before else ()


def _check_unique(context: Context, prices: Sequence[Section]) -> None:
    """Two prices for one meter and model would leave the choice to their order."""
    seen: dict[tuple[str, str], Section] = {}
    for price in prices:
        meter, fee = price.text("meter"), price.text("model")
        for model in price.texts("models") or ("",):
            key = (meter or f"fee {fee}", model)
            if key not in seen:
                seen[key] = price
                continue
            which = f"model {model!r}" if model else "any model"
            what = f"meter {meter!r} has a second price for {which}"
            context.problems.add(
                price.place,
                f"{what if meter else f'there is a second {fee} price'}; "
                f"the first is at {seen[key].place}",
            )


def _check_hold(
    context: Context, plan: Section, price: Section, meter: Meter | None, *, has_estimates: bool
) -> None:
    """A plan that burns credit needs holds that can cover what it prices."""
    name, billing = plan.text("name"), plan.text("billing")
    model = price.text("model")
    if model in _OF_PERIOD:
        context.problems.add(
            price.place_of("model"),
            f"plan {name!r} is {billing}, and the amount of price model {model} is known only when "
            "the period ends, so no hold could cover it; allowed on billing: postpaid"
            + (", or use graduated" if model == "volume" else ""),
        )
    if meter is None:
        return
    if meter.aggregation.additive and not meter.bounded:
        context.problems.add(
            price.place_of("meter"),
            f"plan {name!r} is {billing}, and no request tells its {meter.value[:80]} "
            "beforehand, so no hold could cover it; "
            "give the meter a `max`, or use billing: postpaid",
        )
    elif meter.value in TOKEN_VALUES and not has_estimates:
        context.problems.add(
            price.place_of("meter"),
            f"plan {name!r} is {billing} and prices tokens, but there are no `estimates`: "
            "holds would be empty; add an estimate",
        )
