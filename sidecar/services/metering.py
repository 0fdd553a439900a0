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
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sidecar import telemetry
from sidecar.domain.errors import InvalidInput, PricedElsewhere, StoreUnavailable
from sidecar.domain.hold_events import terms_of_event
from sidecar.domain.holds import HoldTerms, QuotaLine
from sidecar.domain.pricing import RateCard
from sidecar.domain.usage import UsageEvent, UsageReport
from sidecar.services.booking import Booking
from sidecar.services.hold_terms import HoldTermsLookup, MeterPrincipal
from sidecar.services.journal_ports import JournalRecord, UsageJournal
from sidecar.services.plain_captures import Captured, PlainCaptures
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
from sidecar.services.usage_results import UsageOutcome, UsageResult, result_of

__all__ = ["MeteringService", "UsageOutcome", "UsageResult"]

_BOOKED_NOWHERE = frozenset(
    {CaptureStatus.CONFLICT, CaptureStatus.NO_CUSTOMER, CaptureStatus.OUT_OF_BOUNDS}
)
"""What these name is set aside and not captured, so there is nothing to capture again."""


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
        self._plain = PlainCaptures(
            balances=balances, terms=self._terms, rating=self._rating, rate_cards=rate_cards
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
        results: list[UsageResult] = []
        captures: list[JournalRecord] = []
        for some in _parts(reports, self._concurrency_max):
            batch = await self._capture_batch(some, principal)
            for result in batch.in_order():
                if isinstance(result, Exception):
                    raise result
                results.append(result)
            captures += batch.all_captures()
        await self._keep(captures)
        return results

    async def capture_each(
        self, reports: Sequence[UsageReport], principal: MeterPrincipal
    ) -> list[UsageResult | Exception]:
        """
        Capture a batch, in order of arrival per hold, each report on its own.

        Returns:
            For each report what became of it, or what `capture` would raise for it.
        """
        results: list[UsageResult | Exception] = []
        for some in _parts(reports, self._concurrency_max):
            batch = await self._capture_batch(some, principal)
            try:
                await self._keep(batch.all_captures())
            except StoreUnavailable as error:
                batch.results |= {at: error for at, kept in batch.captures.items() if kept}
            results += batch.in_order()
        return results

    async def _capture_batch(
        self, reports: Sequence[UsageReport], principal: MeterPrincipal
    ) -> "_Batch":
        """Capture reports; whatever came of it is in the store, and not kept yet."""
        batch = _Batch(reports, principal)
        queues = batch.by_hold()
        await self._capture_plain(batch, [queue[0] for queue in queues])
        rest = [[at for at in queue if at not in batch.results] for queue in queues]
        if any(rest):
            await asyncio.gather(*(self._capture_in_order(batch, queue) for queue in rest))
        return batch

    async def _capture_plain(self, batch: "_Batch", places: Sequence[int]) -> None:
        """Capture those of the reports that are plain, no two of which are of one hold."""
        found = await self._plain.capture([batch.reports[at] for at in places], batch.principal)
        self._booking.count(one for one in found if isinstance(one, Captured))
        told: Counter[tuple[str, UsageOutcome]] = Counter()
        for at, one in zip(places, found, strict=True):
            if isinstance(one, Captured):
                result = batch.results[at] = result_of(one.priced.event, one.outcome, unheld=False)
                told[batch.reports[at].edge, result.outcome] += 1
                if self._journal is not None:
                    batch.captures[at] = [_journal_record(one.priced, one.outcome)]
            elif one is not None:
                batch.results[at] = one
        for (edge, outcome), times in told.items():
            telemetry.USAGE_EVENTS.labels(edge, outcome.value).inc(times)

    async def _capture_in_order(self, batch: "_Batch", places: Sequence[int]) -> None:
        """Capture reports of one hold, one after the other."""
        for at in places:
            kept = batch.captures[at] = []
            taking = self._take(batch.reports[at], batch.principal, kept)
            (result,) = await asyncio.gather(taking, return_exceptions=True)
            if isinstance(result, BaseException) and not isinstance(result, Exception):
                raise result
            batch.results[at] = result

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
        match outcome.status:
            case CaptureStatus.CONFLICT:
                return await self._set_aside(report, terms.hold_id, "capture_conflict")
            case CaptureStatus.NO_CUSTOMER | CaptureStatus.OUT_OF_BOUNDS | CaptureStatus.MOVED:
                return await self._set_aside(report, terms.hold_id, outcome.status.value)
        return result_of(event, outcome, unheld=unheld)

    async def _set_aside(self, report: UsageReport, hold_id: str, reason: str) -> UsageResult:
        """Keep usage that somebody owes where people see it."""
        await self._quarantine.put(report, reason=reason, key=hold_id or report.event_id)
        telemetry.QUARANTINED.labels(reason).inc()
        return UsageResult(id=hold_id, outcome=UsageOutcome.QUARANTINED, reason=reason)


@dataclass(slots=True)
class _Batch:
    """Reports of one sender, by their places what became of them and what has to be kept."""

    reports: Sequence[UsageReport]
    principal: MeterPrincipal
    results: dict[int, UsageResult | Exception] = field(default_factory=dict)
    captures: dict[int, list[JournalRecord]] = field(default_factory=dict)

    def by_hold(self) -> list[list[int]]:
        """The places of each hold's reports, in order of arrival."""
        queues: dict[str, list[int]] = {}
        for place, one in enumerate(self.reports):
            key = one.hold_token or one.hold_id or f"{one.customer_id} {one.event_id}"
            queues.setdefault(key, []).append(place)
        return list(queues.values())

    def in_order(self) -> list[UsageResult | Exception]:
        """The result of each report."""
        return [self.results[place] for place in range(len(self.reports))]

    def all_captures(self) -> list[JournalRecord]:
        """What has to be kept before any of them is acknowledged."""
        return [record for kept in self.captures.values() for record in kept]


def _parts(reports: Sequence[UsageReport], size: int) -> Iterator[Sequence[UsageReport]]:
    """The reports, so many at a time."""
    return (reports[start : start + size] for start in range(0, len(reports), size))


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
