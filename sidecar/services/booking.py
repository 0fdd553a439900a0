"""
Booking: a priced event into the store, after whatever of its hold has begun before it.

An event whose price needs a running total is priced once the total is moved, then booked. Reports
of one hold that differ and come at once do so one after the other, whoever of them asks.
"""

from collections.abc import Iterable

from sidecar import telemetry
from sidecar.domain.errors import StoreUnavailable
from sidecar.domain.holds import Bound, HoldTerms, QuotaLine
from sidecar.domain.usage import UsageEvent
from sidecar.services.plain_captures import Captured
from sidecar.services.ports import Balances, CaptureOutcome, CaptureStatus, RateCards
from sidecar.services.rating import Priced, Rating

_PRICINGS_MAX = 8
"""Each time another one has got on: a capture, then a correction; whatever follows is known."""


class Booking:
    """Captures priced events; safe to repeat."""

    def __init__(self, *, balances: Balances, rating: Rating, rate_cards: RateCards) -> None:
        """Wire the ports."""
        self._balances = balances
        self._rating = rating
        self._rate_cards = rate_cards

    async def book(
        self, priced: Priced, terms: HoldTerms, *, counted: tuple[QuotaLine, ...] | None = None
    ) -> tuple[Priced, CaptureOutcome]:
        """
        Capture, then count a hold that it ended and what no credit or overdraft covered.

        Where another event of the same hold has moved its totals and is not booked, that is done
        first: whoever had begun with it may be gone.
        """
        for _ in range(_PRICINGS_MAX):
            if priced.pending is not None:
                status = await self._finish_first(priced.pending, terms)
                if status in (CaptureStatus.NO_CUSTOMER, CaptureStatus.OUT_OF_BOUNDS):
                    return priced, CaptureOutcome(status=status)
            else:
                lines = priced.quota_lines if counted is None else counted
                outcome = await self._capture(priced, lines, terms.block_id)
                if outcome.status is CaptureStatus.UNREGISTERED:
                    # Its block covers it: the owner, which may be gone, has only not said so yet.
                    await self._balances.open_from_block(terms)
                    outcome = await self._capture(priced, lines)
                if outcome.status is not CaptureStatus.MOVED:
                    break
            priced = await self._rating.rate(priced.event, priced.card, terms, anew=True)
        else:
            raise StoreUnavailable("other reports of this hold are under way; repeat it")
        self.count([Captured(priced, terms, outcome)])
        return priced, outcome

    async def _finish_first(self, pending: UsageEvent, terms: HoldTerms) -> CaptureStatus:
        """Book another event of the hold, whose totals are moved."""
        card = await self._rate_cards.read(pending.price_version)
        if card is None:
            raise StoreUnavailable(f"rate card {pending.price_version} is not in the store")
        priced = await self._rating.rate(pending, card, terms, anew=True)
        if priced.pending is not None:
            return CaptureStatus.MOVED
        outcome = await self._capture(priced, priced.quota_lines)
        self.count([Captured(priced, terms, outcome)])
        return outcome.status

    async def _capture(
        self, priced: Priced, counted: tuple[QuotaLine, ...], block_id: str = ""
    ) -> CaptureOutcome:
        billing = priced.card.billing
        return await self._balances.capture_hold(
            priced.event,
            counted,
            prepaid=billing.burns_credit,
            owes=billing.invoices_rest,
            steps=priced.steps,
            block_id=block_id,
        )

    def count(self, captures: Iterable[Captured]) -> None:
        """Count holds that captures ended, and what no credit or overdraft covered."""
        ended = 0
        for one in captures:
            ended += one.outcome.status is CaptureStatus.CAPTURED
            if one.outcome.overspent_nano > 0:
                bound = _overspend_bound(one.terms, one.priced.event, one.outcome)
                telemetry.OVERSPEND.labels(bound.value).inc(one.outcome.overspent_nano)
        if ended:
            telemetry.HOLDS.labels("captured").inc(ended)


def _overspend_bound(terms: HoldTerms, event: UsageEvent, outcome: CaptureOutcome) -> Bound:
    """
    Why credit did not cover a capture.

    An upstream that claims more than the request allowed shows that its bound was none, so
    that `proven` counts only what a hold of the full amount failed to cover: a bug of ours.
    """
    if outcome.status is CaptureStatus.LATE and terms.bound is not Bound.STORE_FAILURE:
        return Bound.LATE
    if outcome.restored:
        return Bound.STORE_FAILURE
    if terms.bound is Bound.PROVEN and event.amount_nano > terms.amount_nano:
        return Bound.ESTIMATED
    return terms.bound
