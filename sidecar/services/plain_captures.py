"""
Reports that need one script each and nothing else: all of them are asked for at once.

Nearly all are: their hold's token says whose they are, their card is known, and their price needs
no total. Whatever is not is left to the general way, which would do the same with these.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sidecar import telemetry
from sidecar.domain.errors import InvalidInput, StoreUnavailable
from sidecar.domain.holds import HoldTerms
from sidecar.domain.usage import UsageReport
from sidecar.services.hold_terms import HoldTermsLookup, MeterPrincipal
from sidecar.services.ports import (
    Balances,
    CaptureOutcome,
    CaptureStatus,
    HoldCapture,
    RateCards,
)
from sidecar.services.rating import Priced, Rating

_DONE = frozenset(
    {
        CaptureStatus.CAPTURED,
        CaptureStatus.CORRECTED,
        CaptureStatus.LATE,
        CaptureStatus.DUPLICATE,
        CaptureStatus.CLAIMED,
    }
)
"""What the others name is not booked, and may be asked for again."""


@dataclass(frozen=True, slots=True)
class Captured:
    """A report's event in the store, and the hold that it is of."""

    priced: Priced
    terms: HoldTerms
    outcome: CaptureOutcome


class PlainCaptures:
    """Captures what is plain of a batch."""

    def __init__(
        self, *, balances: Balances, terms: HoldTermsLookup, rating: Rating, rate_cards: RateCards
    ) -> None:
        """Wire the ports."""
        self._balances = balances
        self._terms = terms
        self._rating = rating
        self._rate_cards = rate_cards

    async def capture(
        self, reports: Sequence[UsageReport], principal: MeterPrincipal
    ) -> list[Captured | StoreUnavailable | None]:
        """
        Capture reports, no two of them of one hold.

        Returns:
            For each what became of it. None: nothing did, and the general way has to take it.
        """
        found: list[Captured | StoreUnavailable | None] = [None] * len(reports)
        begun: list[tuple[int, Priced, HoldTerms]] = []
        captures: list[HoldCapture] = []
        for place, report in enumerate(reports):
            try:
                begin = await self._begin(report, principal)
            except InvalidInput:
                continue
            except StoreUnavailable as error:
                found[place] = error
                continue
            except Exception:  # noqa: BLE001  One report's bug must not cost its neighbours.
                # The general way may do better, and tells of it if not.
                telemetry.WORKER_FAILURES.labels("plain_captures").inc()
                continue
            if begin is not None:
                begun.append((place, *begin))
                captures.append(_capture_of(*begin))
        if not begun:
            return found
        outcomes = await self._balances.capture_holds(captures)
        for (place, priced, terms), outcome in zip(begun, outcomes, strict=True):
            if isinstance(outcome, StoreUnavailable):
                found[place] = outcome
            elif not isinstance(outcome, InvalidInput) and outcome.status in _DONE:
                found[place] = Captured(priced, terms, outcome)
        return found

    async def _begin(
        self, report: UsageReport, principal: MeterPrincipal
    ) -> tuple[Priced, HoldTerms] | None:
        """A report's priced event and terms, if it is plain."""
        if not report.hold_token:
            return None
        terms = await self._terms.held(report, principal)
        if terms is None:
            return None
        card = await self._rate_cards.read(terms.price_version)
        if card is None:
            return None
        priced = self._rating.price_plainly(report, terms, card)
        return None if priced is None else (priced, terms)


def _capture_of(priced: Priced, terms: HoldTerms) -> HoldCapture:
    billing = priced.card.billing
    return HoldCapture(
        event=priced.event,
        quota_lines=priced.quota_lines,
        prepaid=billing.burns_credit,
        owes=billing.invoices_rest,
        steps=priced.steps,
        block_id=terms.block_id,
    )
