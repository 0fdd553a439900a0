"""What became of a usage report, as its sender is told."""

from dataclasses import dataclass
from enum import StrEnum

from sidecar.domain.thawing import quickly_made
from sidecar.domain.usage import UsageEvent
from sidecar.services.ports import CaptureOutcome, CaptureStatus


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


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class UsageResult:
    """The answer about one report: its id, what became of it, what it came to, and why."""

    id: str
    outcome: UsageOutcome
    amount_nano: int = 0
    reason: str = ""


_WORDS = {
    CaptureStatus.CAPTURED: UsageOutcome.CAPTURED,
    CaptureStatus.CORRECTED: UsageOutcome.CAPTURED,
    CaptureStatus.LATE: UsageOutcome.LATE,
    CaptureStatus.DUPLICATE: UsageOutcome.DUPLICATE,
    CaptureStatus.CLAIMED: UsageOutcome.CLAIMED,
}


def result_of(event: UsageEvent, outcome: CaptureOutcome, *, unheld: bool) -> UsageResult:
    """The answer about a report whose event is in the store."""
    word = _WORDS[outcome.status]
    if unheld and word is UsageOutcome.LATE:
        word = UsageOutcome.UNHELD
    return UsageResult(
        id=event.hold_id,
        outcome=word,
        amount_nano=event.amount_nano,
        reason="" if word is UsageOutcome.DUPLICATE else event.estimate_reason,
    )
