"""Plans to the domain's rate cards."""

from collections.abc import Mapping

from sidecar.domain.meter_values import TOKEN_VALUES
from sidecar.domain.meters import Meter
from sidecar.domain.pricing import (
    Billing,
    Package,
    PerUnit,
    Price,
    PriceLine,
    RateCard,
    RoundPackages,
)
from sidecar.outbound.policy_files.compile_meters import refuse_not_additive
from sidecar.outbound.policy_files.references import Context
from sidecar.outbound.policy_files.sections import Section


def compile_plans(
    context: Context, meters: Mapping[str, Meter], *, has_estimates: bool
) -> dict[str, RateCard]:
    """A rate card per plan; each knows all meters, since quotas count unpriced ones too."""
    cards: dict[str, RateCard] = {}
    for name, section in context.plans.items():
        if not section.sound:
            continue
        card = RateCard(
            plan=name,
            billing=Billing(section.text("billing")),
            currency=section.text("currency"),
            lines=tuple(_line(context, price) for price in section.sections("prices")),
            meters=meters,
        )
        _check_lines(context, section)
        for price in section.sections("prices"):
            meter = meters.get(price.text("meter"))
            if meter is not None:
                refuse_not_additive(context, meter, price.place_of("meter"), "a price")
        if card.billing is Billing.PREPAID:
            _check_holds(context, section, meters, has_estimates=has_estimates)
        cards[name] = card
    return cards


def _line(context: Context, section: Section) -> PriceLine:
    context.refer("meter", section.text("meter"), section.place_of("meter"))
    return PriceLine(
        meter=section.text("meter"),
        models=section.texts("models"),
        price=_price(context, section),
    )


def _price(context: Context, section: Section) -> Price:
    amount, per = section.integer("amount"), section.integer("per")
    if section.text("model") == "package":
        rounding = RoundPackages(section.text("round") or RoundPackages.UP)
        return Package(amount_nano=amount, per=per, rounding=rounding)
    if section.given("round"):
        context.problems.add(
            section.place_of("round"),
            "`round` is for price model package; per_unit rounds the running total up once",
        )
    return PerUnit(amount_nano=amount, per=per)


def _check_lines(context: Context, plan: Section) -> None:
    """Two prices for one meter and model would leave the choice to their order."""
    seen: dict[tuple[str, str], Section] = {}
    for price in plan.sections("prices"):
        for model in price.texts("models") or ("",):
            key = (price.text("meter"), model)
            if key not in seen:
                seen[key] = price
                continue
            which = f"model {model!r}" if model else "any model"
            context.problems.add(
                price.place,
                f"meter {key[0]!r} has a second price for {which}; "
                f"the first is at {seen[key].place}",
            )


def _check_holds(
    context: Context, plan: Section, meters: Mapping[str, Meter], *, has_estimates: bool
) -> None:
    """A plan that burns credit needs holds that can cover what it prices."""
    name = plan.text("name")
    for price in plan.sections("prices"):
        meter = meters.get(price.text("meter"))
        if meter is None:
            continue
        if meter.aggregation.additive and not meter.bounded:
            context.problems.add(
                price.place_of("meter"),
                f"plan {name!r} is prepaid, and no request tells its {meter.value[:80]} "
                "beforehand, so no hold could cover it; "
                "give the meter a `max`, or use billing: postpaid",
            )
        elif meter.value in TOKEN_VALUES and not has_estimates:
            context.problems.add(
                price.place_of("meter"),
                f"plan {name!r} is prepaid and prices tokens, but there are no `estimates`: "
                "holds would be empty; add an estimate",
            )
