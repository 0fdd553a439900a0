"""A list of model prices against a plan: what would change, and from when on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sidecar.domain.errors import InvalidInput
from sidecar.domain.model_prices import (
    VALUES,
    Change,
    Kind,
    ModelRow,
    PriceChange,
    apply_changes,
    compare_models,
    meters_of,
    rows_at,
)
from sidecar.domain.nearest import unknown
from sidecar.domain.policy import Policy
from sidecar.domain.pricing import PriceLine


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReview:
    """
    What a list means for one plan from one instant on.

    `lines` are all prices of the plan with the list's in them; `meters` say what counts each kind;
    `foreign` are models whose rows are in another currency, `uncounted` are kinds that the list
    has prices for and no meter of the plan counts; `later` is the plan's next version, which knows
    nothing of the list.
    """

    plan: str
    effective_at: datetime
    changes: tuple[PriceChange, ...]
    lines: tuple[PriceLine, ...]
    meters: Mapping[Kind, str]
    foreign: tuple[str, ...] = ()
    uncounted: tuple[Kind, ...] = ()
    later: datetime | None = None

    @property
    def writes(self) -> bool:
        """Whether the plan's prices would differ."""
        return any(one.change in (Change.NEW, Change.CHANGED) for one in self.changes)


def review_models(
    policy: Policy,
    plan: str,
    rows: Sequence[ModelRow],
    *,
    now: datetime,
    meters: Mapping[Kind, str] | None = None,
    markup: int | None = None,
) -> list[PlanReview]:
    """
    Compare a list with a plan: once for all rows that have begun, and once for each later date.

    Args:
        policy: Whose plan.
        plan: Its name.
        rows: The list.
        now: Rows up to here have begun; their review is from the newest of them on.
        meters: What counts a kind, where the meter's value does not tell.
        markup: Hundredths of a percent on top; None: the list's prices are the plan's.

    Raises:
        InvalidInput: There is no such plan or meter, or no meter of the plan counts tokens.
    """
    timeline = policy.timeline_for(plan, "")
    if timeline is None:
        raise InvalidInput(
            unknown("plan", plan, policy.cards, label="there are these plans"), field="plan"
        )
    begun = [row.effective_at for row in rows if row.effective_at <= now]
    dates = sorted({row.effective_at for row in rows if row.effective_at > now})
    if begun:
        dates = [max(begun), *dates]
    reviews: list[PlanReview] = []
    for date in dates:
        card = timeline.at(date)
        if reviews and timeline.at(reviews[-1].effective_at) is card:
            # No other prices in between: this date changes what the one before it left.
            card = replace(card, lines=reviews[-1].lines)
        counting = {**meters_of(card), **(meters or {})}
        _check_meters(policy, plan, counting)
        current = rows_at(rows, date)
        own = {model: row for model, row in current.items() if row.currency == card.currency}
        changes = compare_models(card, own, counting, policy.models, markup=markup)
        stated = {kind for row in own.values() for kind in row.prices}
        reviews.append(
            PlanReview(
                plan=plan,
                effective_at=date,
                changes=tuple(changes),
                lines=apply_changes(card.lines, changes),
                meters=counting,
                foreign=tuple(sorted(current.keys() - own.keys())),
                uncounted=tuple(kind for kind in Kind if kind in stated - counting.keys()),
                later=next((start for start in timeline.starts if start > date), None),
            )
        )
    return reviews


def plans_with_models(policy: Policy) -> list[str]:
    """Plans that price some model by name."""
    return sorted({card.plan for card in policy.all_cards if any(n.models for n in card.lines)})


def _check_meters(policy: Policy, plan: str, meters: Mapping[Kind, str]) -> None:
    names = [rule.meter.name for rule in policy.meters]
    for meter in meters.values():
        if meter not in names:
            words = unknown("meter", meter, names, label="there are these meters")
            raise InvalidInput(words, field="meter")
    if not meters:
        raise InvalidInput(
            f"plan {plan} prices no meter of {', '.join(VALUES.values())}; say which meter counts "
            "what, as in --meter input=input-tokens",
            field="meter",
        )
