"""
Comparing what was reported with what the provider says it has counted.

One read for each customer's meter and month; by hour only where that differs. A difference is
mended once a second reading, apart in time, has shown the same rows and the same sums: sums lag,
and nothing is sent, cancelled or balanced blindly.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal

from sidecar import telemetry
from sidecar.domain.errors import Conflict, ProviderRefused, StoreUnavailable
from sidecar.domain.report_reconciliation import EXACT_MAX, HourVerdict, agrees, judge_hours
from sidecar.services.control_ports import ReportState
from sidecar.services.ports import Clock
from sidecar.services.report_evidence import (
    Case,
    confirmed,
    evidence_of,
    hour_of,
    make_case,
    periods,
    words_of,
)
from sidecar.services.report_ports import (
    BudgetSpent,
    Lane,
    Mending,
    MeterSums,
    Outcome,
    ProviderMeter,
    Reconciliation,
    ReconciliationRecord,
)
from sidecar.services.rounds import run_rounds

ROWS_MAX = 50_000
"""Rows of one customer's meter and month; more are not compared."""
LANES_AT_A_TIME = 50
LANES_OF_CUSTOMER_MAX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileTimes:
    """
    When what is read, in seconds.

    Args:
        every_seconds: Between two looks at a customer's meter.
        lag_seconds: How long the provider's sums may leave out what it has taken.
        reread_seconds: Between the two readings of a difference.
    """

    every_seconds: int = 86_400
    lag_seconds: int = 7_200
    reread_seconds: int = 1_800

    @property
    def lag(self) -> timedelta:
        """As a duration."""
        return timedelta(seconds=self.lag_seconds)

    @property
    def reread(self) -> timedelta:
        """As a duration."""
        return timedelta(seconds=self.reread_seconds)


class ReportReconciler:
    """Compares lanes; any number may run, a lane has one at a time."""

    def __init__(
        self,
        record: ReconciliationRecord,
        sums: MeterSums,
        clock: Clock,
        *,
        times: ReconcileTimes | None = None,
        begin_run: Callable[[], None] = lambda: None,
        interval_seconds: float = 600.0,
    ) -> None:
        """
        Wire the ports.

        Args:
            record, sums, clock: Ports.
            times: When what is read.
            begin_run: Called before each round, so that reads are counted by run.
            interval_seconds: Pause of `run` between rounds.
        """
        self._record = record
        self._sums = sums
        self._clock = clock
        self._times = times or ReconcileTimes()
        self._begin_run = begin_run
        self._interval_seconds = interval_seconds

    async def run(self, stop: asyncio.Event) -> None:
        """Compare in rounds until stopped; failures are counted and the lane waits its turn."""
        await run_rounds(
            stop,
            self.run_once,
            name="report_reconcile",
            pause_seconds=self._interval_seconds,
        )

    async def run_once(
        self, *, customer_id: str = "", correct: bool = False
    ) -> list[Reconciliation]:
        """
        One round over lanes whose turn it is, or over all of one customer.

        Args:
            customer_id: Whose lanes, if not of all whose turn it is.
            correct: Whether what nothing explains is balanced: a person has looked at it.

        Returns:
            What was found.

        Raises:
            BudgetSpent: The lanes that were not reached wait for the next round.
            StoreUnavailable: A store or the provider is away.
        """
        self._begin_run()
        found: list[Reconciliation] = []
        if customer_id:
            lanes = await self._record.lanes_of(customer_id, limit=LANES_OF_CUSTOMER_MAX)
            for lane in lanes:
                found += await self.reconcile(lane, correct=correct)
            return found
        # One turn for each, however soon it is to be looked at again.
        now = self._clock.now()
        before = now - timedelta(seconds=self._times.every_seconds)
        while lanes := await self._record.claim_lanes(
            before=before, now=now, limit=LANES_AT_A_TIME
        ):
            for place, lane in enumerate(lanes):
                try:
                    found += await self._claimed(lane)
                except Conflict:
                    # Another comparison of the lane was faster.
                    await self.make_due(lane)
                except (BudgetSpent, StoreUnavailable):
                    # Those that were claimed and not reached have not had their turn.
                    for left in lanes[place:]:
                        await self.make_due(left)
                    raise
        return found

    async def reconcile(self, lane: Lane, *, correct: bool = False) -> list[Reconciliation]:
        """
        Compare a lane's months as far back as anything can be mended.

        Args:
            lane: Which.
            correct: Whether what nothing explains is balanced all the same.

        Raises:
            BudgetSpent, StoreUnavailable: The rest was not compared.
        """
        found = []
        for span in periods(self._clock.now(), self._times.lag):
            case = await self._case(lane, span)
            if case is not None:
                result = await self._compare(case, correct=correct)
                telemetry.REPORT_RECONCILIATIONS.labels(result.outcome.value).inc()
                found.append(result)
        return found

    async def compare_span(self, lane: Lane, start: datetime, end: datetime) -> None:
        """
        Compare any whole hours of a lane, and mend nothing: a difference makes the lane due.

        Raises:
            Conflict, BudgetSpent, StoreUnavailable: It was not compared.
        """
        last = min(end, hour_of(self._clock.now() - self._times.lag))
        case = await self._case(lane, (start, last)) if start < last else None
        if case is None:
            return
        result = await self._compare(replace(case, mends=False), correct=False)
        telemetry.REPORT_RECONCILIATIONS.labels(result.outcome.value).inc()
        if result.outcome is not Outcome.SAME:
            await self.make_due(lane)

    async def make_due(self, lane: Lane) -> None:
        """Have the next round look at a lane."""
        await self._record.look_again(lane, at=self._long_ago())

    async def _claimed(self, lane: Lane) -> list[Reconciliation]:
        results = await self.reconcile(lane)
        waits = [one for one in results if one.outcome in (Outcome.WAITING, Outcome.MENDED)]
        if waits:
            pause = self._times.lag if waits[-1].outcome is Outcome.MENDED else self._times.reread
            await self._record.look_again(
                lane,
                at=self._clock.now() + pause - timedelta(seconds=self._times.every_seconds),
            )
        return results

    def _long_ago(self) -> datetime:
        return self._clock.now() - timedelta(seconds=2 * self._times.every_seconds)

    async def _case(self, lane: Lane, span: tuple[datetime, datetime]) -> Case | None:
        """What is to be compared; None if nothing was sent, or it was found right as it is."""
        rows = await self._record.rows(lane, *span, limit=ROWS_MAX + 1)
        prior = await self._record.read(lane, span[0])
        young = self._clock.now() - self._times.lag
        case = make_case(lane, span, rows, young=young, prior=prior)
        if not rows or (not case.rows and case.end == span[1]) or case.end <= case.start:
            return None
        settled = prior is not None and prior.outcome is Outcome.SAME
        if settled and prior is not None and prior.evidence == case.evidence:
            return None
        return case

    async def _compare(self, case: Case, *, correct: bool) -> Reconciliation:
        blocked = self._blocked(case)
        if blocked is not None:
            outcome, why = blocked
            return await self._keep(case, outcome, "", detail=why)
        try:
            meter = await self._sums.find_meter(case.lane.meter)
            if meter is None:
                why = "the provider has no such meter"
                return await self._keep(case, Outcome.UNREADABLE, case.evidence, detail=why)
            if not meter.active:
                # What would be sent again would be lost again.
                why = "the meter is archived at the provider"
                return await self._keep(case, Outcome.UNREADABLE, case.evidence, detail=why)
            return await self._read(case, meter, correct=correct)
        except ProviderRefused as error:
            return await self._keep(case, Outcome.UNREADABLE, case.evidence, detail=str(error))

    def _blocked(self, case: Case) -> tuple[Outcome, str] | None:
        """Why the period cannot be compared now, if it cannot."""
        if len(case.rows) > ROWS_MAX:
            return Outcome.UNREADABLE, f"more than {ROWS_MAX} rows"
        if len({row.provider_customer_id for row in case.rows}) > 1:
            return Outcome.UNREADABLE, "the customer had two accounts at the provider"
        if not case.rows:
            return Outcome.WAITING, "what was sent is in flight or young"
        young = self._clock.now() - self._times.lag
        if case.prior is not None and (case.prior.acted_at or young) > young:
            return Outcome.WAITING, "what was mended is young"
        return None

    async def _read(self, case: Case, meter: ProviderMeter, *, correct: bool) -> Reconciliation:
        rows = case.reported(self._clock.now())
        account = case.rows[0].provider_customer_id
        total = await self._sums.total(meter, account, case.start, case.end)
        if not agrees(rows, total):
            hours = await self._sums.by_hour(meter, account, case.start, case.end)
        # Whatever was sent, or noted, while the provider was read may or may not be in its sums.
        again = await self._case(case.lane, (case.start, case.end))
        if again is not None and again.evidence != case.evidence:
            why = "something was sent meanwhile"
            return await self._keep(case, Outcome.WAITING, "", found=total, detail=why)
        if agrees(rows, total):
            return await self._agreed(case, total)
        verdicts = [one for one in judge_hours(rows, hours) if not one.same or one.confirm]
        if correct:
            verdicts = [_balanced(one) for one in verdicts]
        return await self._differs(case, verdicts, evidence_of(case.rows, hours), total)

    async def _agreed(self, case: Case, total: Decimal) -> Reconciliation:
        """All that was sent is counted, so whatever was in doubt was counted too."""
        confirm = [row for row in case.rows if row.state is not ReportState.SENT]
        after = evidence_of([confirmed(row) if row in confirm else row for row in case.rows])
        result = replace(case.result(Outcome.SAME, after, found=total), confirmed=len(confirm))
        await self._record.put(result, Mending(confirm=confirm), acts=False)
        return result

    async def _differs(
        self, case: Case, verdicts: Sequence[HourVerdict], evidence: str, total: Decimal
    ) -> Reconciliation:
        """Mend what two readings say alike; the first one waits for the second."""
        detail = words_of(verdicts)
        if not case.mends:
            return await self._keep(case, Outcome.WAITING, evidence, found=total, detail=detail)
        first = case.prior
        if (
            first is None
            or first.evidence != evidence
            or first.outcome not in (Outcome.WAITING, Outcome.UNEXPLAINED)
        ):
            # Also after a mending that changed nothing: its worker died before it cancelled.
            return await self._keep(case, Outcome.WAITING, evidence, found=total, detail=detail)
        now = self._clock.now()
        if (first.read_at or now) > now - self._times.reread:
            # The first reading's instant is what the second is measured from.
            return first
        mendable = [one for one in verdicts if one.explained]
        if mendable:
            return await self._mend(case, mendable, evidence, total)
        telemetry.get_logger().error(
            "report_unexplained",
            customer_id=case.lane.customer_id,
            meter=case.lane.meter,
            hours=len(verdicts),
        )
        return await self._keep(case, Outcome.UNEXPLAINED, evidence, found=total, detail=detail)

    async def _mend(
        self,
        case: Case,
        verdicts: Sequence[HourVerdict],
        evidence: str,
        total: Decimal,
    ) -> Reconciliation:
        """
        Do what the verdicts say: rows on record first, in one step, then cancellations.

        A crash before a cancellation leaves the excess, which the next comparisons find again; one
        after it leaves nothing to do. None is made before the provider's lag has passed.
        """
        by_number = {row.row_id: row for row in case.rows}
        mending = Mending(
            confirm=[by_number[number] for one in verdicts for number in one.confirm],
            resend=[by_number[number] for one in verdicts for number in one.resend],
            corrections={one.hour: one.correct for one in verdicts if one.correct},
            provider_customer_id=case.rows[0].provider_customer_id,
        )
        cancel = [by_number[number] for one in verdicts for number in one.cancel]
        result = replace(
            case.result(Outcome.MENDED, evidence, found=total, detail=words_of(verdicts)),
            confirmed=len(mending.confirm),
            resent=len(mending.resend),
            cancelled=len(cancel),
            corrected=len(mending.corrections or {}),
        )
        await self._record.put(result, mending, acts=True)
        telemetry.get_logger().warning(
            "report_mended",
            customer_id=case.lane.customer_id,
            meter=case.lane.meter,
            resent=result.resent,
            cancelled=result.cancelled,
            corrected=result.corrected,
            confirmed=result.confirmed,
        )
        for row in cancel:
            try:
                await self._sums.cancel(case.lane.meter, row.identifier)
            except ProviderRefused as error:
                await self._record.note_cancel_refused(
                    row, case.lane.customer_id, detail=str(error)
                )
        return result

    async def _keep(
        self,
        case: Case,
        outcome: Outcome,
        evidence: str,
        *,
        found: Decimal | None = None,
        detail: str = "",
    ) -> Reconciliation:
        result = case.result(outcome, evidence, found=found, detail=detail)
        await self._record.put(result, Mending(), acts=False)
        return result


def _balanced(verdict: HourVerdict) -> HourVerdict:
    """What nothing explains, with the quantity that makes it right; sums too large stay as is."""
    whole = verdict.found == verdict.found.to_integral_value()
    if verdict.explained or not whole or verdict.expected > EXACT_MAX or verdict.found > EXACT_MAX:
        return verdict
    return replace(verdict, correct=verdict.expected - int(verdict.found), explained=True)
