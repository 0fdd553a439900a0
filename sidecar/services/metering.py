"""
Metering: from an edge's usage report to a priced event, captured once.

A capture runs in two store calls at most, unless reports of one hold differ: where a price needs
the running total, that is moved first (idempotent on the hold id), then the event is priced here
and booked (idempotent too). A crash between the two leaves a reservation, which the sweep
finishes. Nothing that is refused is dropped silently: it is counted, and
usage that somebody owes is quarantined.

Where there is a journal, a report is answered only once its capture is on this process's disk:
what a sender was told is taken can be captured again, should the store lose its memory.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sidecar import telemetry
from sidecar.domain.errors import InvalidInput, PricedElsewhere, StoreUnavailable
from sidecar.domain.hold_events import terms_of_event
from sidecar.domain.holds import HoldTerms, QuotaLine
from sidecar.domain.pricing import RateCard
from sidecar.domain.usage import UsageEvent, UsageReport
from sidecar.services.booking import Booking
from sidecar.services.hold_terms import HoldTermsLookup, MeterPrincipal
from sidecar.services.journal_ports import JournalRecord, UsageJournal
from sidecar.services.ports import (
    Balances,
    CaptureOutcome,
    CaptureStatus,
    Directory,
    HoldTokens,
    Policies,
    Quarantine,
    RateCards,
    RequestDigests,
)
from sidecar.services.rating import Priced, Rating

_BOOKED_NOWHERE = frozenset(
    {CaptureStatus.CONFLICT, CaptureStatus.NO_CUSTOMER, CaptureStatus.OUT_OF_BOUNDS}
)
"""What these name is set aside and not captured, so there is nothing to capture again."""


class UsageOutcome(StrEnum):
    """What became of one report."""

    CAPTURED = "captured"
    DUPLICATE = "duplicate"
    LATE = "late"
    UNHELD = "unheld"
    CLAIMED = "claimed"
    """Taken; whether it was charged before a loss is looked up, and it is charged at most once."""
    QUARANTINED = "quarantined"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageResult:
    """The answer about one report: its id, what became of it, what it came to, and why."""

    id: str
    outcome: UsageOutcome
    amount_nano: int = 0
    reason: str = ""


class MeteringService:
    """Captures usage reports; safe to call again with the same report, at any time."""

    def __init__(
        self,
        *,
        balances: Balances,
        directory: Directory,
        rate_cards: RateCards,
        tokens: HoldTokens,
        digests: RequestDigests,
        policies: Policies,
        quarantine: Quarantine,
        hold_ttl_ms: int,
        concurrency_max: int = 64,
        journal: UsageJournal | None = None,
    ) -> None:
        """
        Wire the ports.

        Args:
            balances, directory, rate_cards, tokens, digests, policies, quarantine: Ports.
            journal: A port; None: captures are as durable as the store.
            hold_ttl_ms: How far a sign of life moves a hold's expiry.
            concurrency_max: Reports of one batch that are captured at a time.
        """
        self._balances = balances
        self._rating = Rating(balances)
        self._booking = Booking(balances=balances, rating=self._rating, rate_cards=rate_cards)
        self._terms = HoldTermsLookup(
            balances=balances,
            directory=directory,
            tokens=tokens,
            digests=digests,
            policies=policies,
        )
        self._rate_cards = rate_cards
        self._quarantine = quarantine
        self._hold_ttl_ms = hold_ttl_ms
        self._concurrency_max = concurrency_max
        self._journal = journal

    async def capture_all(
        self, reports: Sequence[UsageReport], principal: MeterPrincipal
    ) -> list[UsageResult]:
        """
        Capture a batch, in order of arrival per hold.

        Raises:
            StoreUnavailable: If any could not be captured, or not kept; the sender repeats the
                batch, and those that were captured collapse on their ids.
        """
        gate = asyncio.Semaphore(self._concurrency_max)
        by_hold: dict[str, list[int]] = {}
        for position, report in enumerate(reports):
            key = report.hold_token or report.hold_id or f"{report.customer_id} {report.event_id}"
            by_hold.setdefault(key, []).append(position)
        results: dict[int, UsageResult] = {}
        captures: list[JournalRecord] = []

        async def capture_in_order(positions: list[int]) -> None:
            for position in positions:
                async with gate:
                    results[position] = await self._take(reports[position], principal, captures)

        outcomes = await asyncio.gather(
            *(capture_in_order(positions) for positions in by_hold.values()),
            return_exceptions=True,
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        await self._keep(captures)
        return [results[position] for position in range(len(reports))]

    async def capture(self, report: UsageReport, principal: MeterPrincipal) -> UsageResult:
        """
        Capture one report.

        Raises:
            StoreUnavailable: It may or may not have happened; repeat it.
        """
        captures: list[JournalRecord] = []
        result = await self._take(report, principal, captures)
        await self._keep(captures)
        return result

    async def _take(
        self, report: UsageReport, principal: MeterPrincipal, captures: list[JournalRecord]
    ) -> UsageResult:
        """Capture one report; what the journal must have before an answer joins `captures`."""
        try:
            result = await self._capture(report, principal, captures)
        except InvalidInput as error:
            result = UsageResult(
                id=report.hold_id or report.event_id,
                outcome=UsageOutcome.REJECTED,
                reason=str(error),
            )
        telemetry.USAGE_EVENTS.labels(report.edge, result.outcome.value).inc()
        return result

    async def _keep(self, captures: Sequence[JournalRecord]) -> None:
        """Have captures on the disk. Raises StoreUnavailable: they must not be acknowledged."""
        if self._journal is not None and captures:
            await self._journal.append(captures)

    async def keep_alive(self, report: UsageReport, principal: MeterPrincipal) -> bool:
        """
        A stream in flight gave a sign of life: its hold lives on. True if it was open.

        Raises:
            InvalidInput: The hold is not the sender's to report on, or its token is none.
            StoreUnavailable: It may or may not live on; repeat it.
        """
        terms = await self._terms.held(report, principal)
        if terms is None:
            return False
        extended = await self._balances.extend_hold(
            terms.customer_id, terms.hold_id, self._hold_ttl_ms
        )
        if not extended and report.hold_token:
            # A store that lost the hold takes it back from its token.
            card = await self._rate_cards.read(terms.price_version)
            extended = await self._balances.restore_hold(
                terms,
                self._hold_ttl_ms,
                prepaid=card is None or card.billing.burns_credit,
                owes=card is not None and card.billing.invoices_rest,
                parts={} if card is None else _parts_of(terms, card),
            )
            if extended:
                telemetry.HOLDS.labels("restored").inc()
        telemetry.USAGE_EVENTS.labels(report.edge, "heartbeat").inc()
        if extended:
            telemetry.HOLDS.labels("extended").inc()
        return extended

    async def _capture(
        self, report: UsageReport, principal: MeterPrincipal, captures: list[JournalRecord]
    ) -> UsageResult:
        unheld = not report.hold_token and not report.hold_id
        if unheld:
            terms = await self._terms.unheld(report, principal)
        else:
            found = await self._terms.held(report, principal)
            if found is None:
                return await self._set_aside(report, report.hold_id, "unknown_hold")
            terms = found
        card = await self._rate_cards.read(terms.price_version)
        if card is None:
            return await self._set_aside(report, terms.hold_id, "unknown_price_version")
        try:
            priced = await self._rating.price(report, terms, card)
            if isinstance(priced, str):
                return await self._set_aside(report, terms.hold_id, priced)
            priced, outcome = await self._booking.book(priced, terms)
            if outcome.status not in _BOOKED_NOWHERE:
                captures.append(_journal_record(priced, outcome))
        except PricedElsewhere:
            return await self._set_aside(report, terms.hold_id, "priced_elsewhere")
        except InvalidInput:
            # The hold is known, so somebody owes it, however large it is.
            reason = CaptureStatus.OUT_OF_BOUNDS.value
            return await self._set_aside(report, terms.hold_id, reason)
        return await self._word(report, terms, priced.event, outcome, unheld=unheld)

    async def finish(self, event: UsageEvent, terms: HoldTerms) -> CaptureStatus:
        """
        Book an event whose interval was reserved before a crash; used by the sweep.

        Raises:
            StoreUnavailable: It may or may not have happened, or the store lost the rate card.
            InvalidInput: The event is beyond any balance.
        """
        card = await self._rate_cards.read(event.price_version)
        if card is None:
            raise StoreUnavailable(f"rate card {event.price_version} is not in the store")
        _, outcome = await self._booking.book(await self._rating.rate(event, card, terms), terms)
        return outcome.status

    async def charge_orphan(self, terms: HoldTerms) -> CaptureStatus | None:
        """
        Charge the estimate of a hold that expired without usage; used by the sweep.

        Usage that comes later corrects it. Safe to repeat: a second charge is a duplicate.

        Returns:
            None where nothing can be charged: the price version or one of its meters is not known.

        Raises:
            StoreUnavailable: It may or may not have happened; repeat it.
        """
        card = await self._rate_cards.read(terms.price_version)
        if card is None:
            return None
        try:
            _, outcome = await self._booking.book(
                await self._rating.price_orphan(terms, card), terms
            )
        except InvalidInput:
            return None
        return outcome.status

    async def finish_claim(
        self, event: UsageEvent, counted: Sequence[tuple[str, int]]
    ) -> CaptureStatus:
        """
        Book an event that was claimed, once the ledger's word on it is in the store.

        Args:
            event: As it was claimed; its amounts are worked out anew.
            counted: Fields of counters, and what the event took of each.

        Raises:
            StoreUnavailable: It may or may not have happened; repeat it.
            InvalidInput: The event is beyond any balance, or its rate card is lost.
        """
        card = await self._rate_cards.read(event.price_version)
        if card is None:
            raise InvalidInput(f"rate card {event.price_version} is not in the store")
        terms = terms_of_event(event)
        priced = await self._rating.rate(event, card, terms)
        lines = tuple(QuotaLine(field=field, meter="", quantity=n) for field, n in counted)
        _, outcome = await self._booking.book(priced, terms, counted=lines)
        return outcome.status

    async def _word(
        self,
        report: UsageReport,
        terms: HoldTerms,
        event: UsageEvent,
        outcome: CaptureOutcome,
        *,
        unheld: bool,
    ) -> UsageResult:
        amount = event.amount_nano
        match outcome.status:
            case CaptureStatus.CAPTURED | CaptureStatus.CORRECTED:
                result, reason = UsageOutcome.CAPTURED, event.estimate_reason
            case CaptureStatus.LATE:
                result = UsageOutcome.UNHELD if unheld else UsageOutcome.LATE
                reason = event.estimate_reason
            case CaptureStatus.DUPLICATE:
                result, reason = UsageOutcome.DUPLICATE, ""
            case CaptureStatus.CLAIMED:
                result, reason = UsageOutcome.CLAIMED, event.estimate_reason
            case CaptureStatus.CONFLICT:
                return await self._set_aside(report, terms.hold_id, "capture_conflict")
            case CaptureStatus.NO_CUSTOMER | CaptureStatus.OUT_OF_BOUNDS | CaptureStatus.MOVED:
                return await self._set_aside(report, terms.hold_id, outcome.status.value)
        return UsageResult(id=terms.hold_id, outcome=result, amount_nano=amount, reason=reason)

    async def _set_aside(self, report: UsageReport, hold_id: str, reason: str) -> UsageResult:
        """Keep usage that somebody owes where people see it."""
        await self._quarantine.put(report, reason=reason, key=hold_id or report.event_id)
        telemetry.QUARANTINED.labels(reason).inc()
        return UsageResult(id=hold_id, outcome=UsageOutcome.QUARANTINED, reason=reason)


def _parts_of(terms: HoldTerms, card: RateCard) -> Mapping[str, int]:
    """What a hold's amount is for by meter; nothing where its estimate does not come to it."""
    parts = card.upper_bounds(terms.estimate, terms.model)
    return parts if sum(parts.values()) <= terms.amount_nano else {}


def _journal_record(priced: Priced, outcome: CaptureOutcome) -> JournalRecord:
    """A duplicate too: whoever captured it first may have died before it was kept."""
    return JournalRecord(
        event=priced.event,
        quota_lines=priced.quota_lines,
        prepaid=priced.card.billing.burns_credit,
        owes=priced.card.billing.invoices_rest,
        epoch=outcome.epoch,
        seq=outcome.seq,
    )
