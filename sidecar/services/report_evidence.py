"""One customer's meter and month under comparison: what is compared, and what was seen of it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from sidecar.domain.report_reconciliation import HourVerdict, ReportedRow, expected_sum
from sidecar.services.control_ports import ReportState
from sidecar.services.report_ports import Lane, Outcome, Reconciliation, SentRow

CANCEL_WITHIN = timedelta(hours=23)
"""Stripe cancels what it received within 24 hours."""
CORRECTION = "correction"
_DETAIL_HOURS = 5
_DETAIL_CHARS_MAX = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """
    A lane's period [start, end), its rows that may have been counted, and what was said before.

    `end` is the period's, or that of the first hour with a row in flight or younger than the
    provider's lag. `mends` is False where a difference is only told.
    """

    lane: Lane
    start: datetime
    end: datetime
    rows: Sequence[SentRow]
    prior: Reconciliation | None
    mends: bool = True

    @property
    def evidence(self) -> str:
        """A digest of the rows."""
        return evidence_of(self.rows)

    def reported(self, now: datetime) -> list[ReportedRow]:
        """The rows as the domain judges them."""
        return [_reported(row, now) for row in self.rows]

    def result(
        self, outcome: Outcome, evidence: str, *, found: Decimal | None = None, detail: str = ""
    ) -> Reconciliation:
        """What is kept of the comparison."""
        return Reconciliation(
            customer_id=self.lane.customer_id,
            meter=self.lane.meter,
            period_start=self.start,
            period_end=self.end,
            outcome=outcome,
            expected=expected_sum(self.reported(self.end)),
            found=found,
            detail=detail[:_DETAIL_CHARS_MAX],
            evidence=evidence,
        )


def make_case(
    lane: Lane,
    span: tuple[datetime, datetime],
    rows: Sequence[SentRow],
    *,
    young: datetime,
    prior: Reconciliation | None,
) -> Case:
    """
    The part of a period that can be compared.

    Args:
        lane: Whose rows they are.
        span: The period.
        rows: All sealed rows of it.
        young: What was sent after this instant may not be in the provider's sums yet.
        prior: What was said before.
    """
    start, end = span
    # The others were never sent, or in vain for sure: no sum has them, whenever it is read.
    counted = [
        row
        for row in rows
        if row.attempts and not (row.state is ReportState.FAILED and row.uncounted)
    ]
    moving = [
        row.window_start
        for row in counted
        if row.state is ReportState.PENDING or row.finished_at is None or row.finished_at > young
    ]
    end = min([end, *moving])
    return Case(
        lane=lane,
        start=start,
        end=end,
        rows=[row for row in counted if row.window_start < end],
        prior=prior,
    )


def periods(now: datetime, lag: timedelta) -> list[tuple[datetime, datetime]]:
    """
    The UTC month before and this one, up to the hours that are young.

    Stripe takes events of the last 35 days, so nothing before can be mended.
    """
    last = hour_of(now - lag)
    this = last.replace(day=1, hour=0)
    before = (this - timedelta(days=1)).replace(day=1)
    return [(before, this), (this, last)] if last > this else [(before, this)]


def evidence_of(rows: Sequence[SentRow], hours: Mapping[datetime, Decimal] | None = None) -> str:
    """A digest of what a comparison saw: the same evidence is the same situation."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(
            f"{row.row_id} {row.identifier} {row.state.value} {row.quantity} {row.attempts} "
            f"{row.uncounted} {row.error_code}\n".encode()
        )
    for hour in sorted(hours or {}):
        digest.update(f"{hour.isoformat()} {(hours or {})[hour]}\n".encode())
    return digest.hexdigest()


def _reported(row: SentRow, now: datetime) -> ReportedRow:
    received = row.finished_at
    return ReportedRow(
        row_id=row.row_id,
        hour=row.window_start,
        quantity=row.quantity,
        sure=row.state is ReportState.SENT,
        copies=row.retry_number,
        correction=row.kind == CORRECTION,
        cancellable=(
            row.state is ReportState.SENT
            and row.error_code != "cancel_refused"
            and received is not None
            and received > now - CANCEL_WITHIN
        ),
    )


def confirmed(row: SentRow) -> SentRow:
    """The row once it is known to be counted."""
    return replace(row, state=ReportState.SENT, uncounted=False, error_code="")


def words_of(verdicts: Sequence[HourVerdict]) -> str:
    """The first hours that differ, for people."""
    words = [
        f"{one.hour.astimezone(UTC):%Y-%m-%dT%HZ}: {one.expected} sent, {one.found} counted"
        for one in verdicts[:_DETAIL_HOURS]
    ]
    if len(verdicts) > _DETAIL_HOURS:
        words.append(f"and {len(verdicts) - _DETAIL_HOURS} hours more")
    return "; ".join(words)


def hour_of(instant: datetime) -> datetime:
    """The start of an instant's UTC hour."""
    return instant.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
