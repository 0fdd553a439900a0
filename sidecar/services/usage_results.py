"""What became of a usage report, as its sender is told."""

from dataclasses import dataclass
from enum import StrEnum

from sidecar.domain.thawing import freeze, thawed
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


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageResult:
    """The answer about one report: its id, what became of it, what it came to, and why."""

    id: str
    outcome: UsageOutcome
    amount_nano: int = 0
    reason: str = ""


_OpenResult = thawed(UsageResult)


def result_of(event: UsageEvent, outcome: CaptureOutcome, *, unheld: bool) -> UsageResult:
    """The answer about a report whose event is in the store."""
    reason = event.estimate_reason
    match outcome.status:
        case CaptureStatus.LATE:
            word = UsageOutcome.UNHELD if unheld else UsageOutcome.LATE
        case CaptureStatus.DUPLICATE:
            word, reason = UsageOutcome.DUPLICATE, ""
        case CaptureStatus.CLAIMED:
            word = UsageOutcome.CLAIMED
        case _:
            word = UsageOutcome.CAPTURED
    result = _OpenResult()
    result.id = event.hold_id
    result.outcome = word
    result.amount_nano = event.amount_nano
    result.reason = reason
    return freeze(result, UsageResult)
