"""Recorded quantities at another policy's prices."""

from collections import OrderedDict

from sidecar.domain.periods import CalendarUnit, CalendarWindow, from_epoch_ms
from sidecar.domain.policy import Policy
from sidecar.domain.pricing import RateCard
from sidecar.domain.replay_state import ReplayUsage

TOTALS_MAX = 1_000_000
_PRICE_PERIOD = CalendarWindow(unit=CalendarUnit.MONTH)


class Unrated(Exception):  # noqa: N818  It says what is so.
    """Usage that the new prices cannot rate; says why."""


class Rerating:
    """
    Rates usage anew.

    Usage keeps its amounts where the policy has the same version for that customer and instant.
    A price that needs a running total has one of its own here, from 0 at the replay's start.
    """

    def __init__(self, policy: Policy) -> None:
        """Rate by this policy's cards."""
        self._policy = policy
        self._totals: OrderedDict[tuple[str, str, int], int] = OrderedDict()

    def amount(self, usage: ReplayUsage) -> int:
        """
        What the usage comes to in nano.

        Raises:
            Unrated: The plan is gone, its currency is another, or it prices a meter or model
                that was not recorded.
        """
        instant = from_epoch_ms(usage.occurred_ms or usage.at_ms)
        card = self._policy.card_for(usage.plan, usage.customer_id, instant)
        if not usage.plan or (card is not None and card.version == usage.price_version):
            return usage.amount_nano
        if usage.kind == "orphan" and not usage.amount_nano:
            return 0
        if card is None:
            raise Unrated(f"plan {usage.plan} is not part of the policy")
        if card.currency != usage.currency:
            raise Unrated(f"plan {usage.plan} has another currency")
        return sum(
            self._line(card, usage, meter, quantity)
            for meter, quantity in sorted(usage.quantities.items())
        )

    def _line(self, card: RateCard, usage: ReplayUsage, meter: str, quantity: int) -> int:
        found = card.line_for(meter, usage.model)
        if found is None:
            if quantity and meter in card.priced_meters():
                raise Unrated(f"plan {usage.plan} has no price for a model that was used")
            return 0
        index, line = found
        unit = line.price.unit_nano
        if unit is not None:
            return quantity * unit
        period = _PRICE_PERIOD.at(from_epoch_ms(usage.occurred_ms or usage.at_ms))
        key = (usage.customer_id, card.total_name(index), period.start_ms)
        before = self._totals.get(key, 0)
        after = max(0, before + quantity)
        self._totals[key] = after
        if len(self._totals) > TOTALS_MAX:
            self._totals.popitem(last=False)
        price = line.price_in(period)
        return price.cumulative(after) - price.cumulative(before)
