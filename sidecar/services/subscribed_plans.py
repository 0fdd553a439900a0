"""Which plan a subscription's prices mean: by the settings, by the policy, by their metadata."""

from sidecar.domain.policy import Policy
from sidecar.services.provider_objects import FetchedSubscription
from sidecar.services.standing import PlanMap


def plans_of(found: FetchedSubscription, plans: PlanMap, policy: Policy) -> tuple[str, ...]:
    """
    The plans that a subscription's prices mean, each once.

    The settings' word counts before what plans say of themselves (`stripe:` on a plan or one of
    its lines), and that before what `catalog apply` has written on its prices.
    """
    return plans.plan_of(found.prices) or hinted_plans(found.prices, policy) or found.plans


def hinted_plans(names: tuple[str, ...], policy: Policy) -> tuple[str, ...]:
    """The plans that name a price's id, lookup key or product; what two plans name says nothing."""
    meant: dict[str, set[str]] = {}
    for plan, card in policy.cards.items():
        for hints in (card.hints, *(line.hints for line in card.lines)):
            for name in hints.stripe.values():
                meant.setdefault(name, set()).add(plan)
    found = (meant.get(name, set()) for name in names)
    return tuple(dict.fromkeys(plan for one in found if len(one) == 1 for plan in one))
