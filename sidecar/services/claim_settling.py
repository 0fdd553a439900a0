"""
Claims: usage that the live store cannot tell from a repeat, because it began before a loss.

The ledger knows: an event that was charged is in it, unless it was still on a stream that was
lost, and then it was not charged. So a claim is settled before the offset passes it: what the
ledger says goes into the store, then the usage is captured as any other. Each step may be
repeated; whoever comes second finds the marker that the first one left.
"""

from collections.abc import Sequence
from typing import Protocol

from sidecar import telemetry
from sidecar.domain.errors import InvalidInput
from sidecar.domain.rebuilding import RecordedUsage
from sidecar.domain.usage import UsageEvent
from sidecar.services.control_ports import CLAIM, AnyRecord, StreamRecord
from sidecar.services.metering import MeteringService
from sidecar.services.ports import CaptureStatus, RateCards
from sidecar.services.taken_totals import with_taken

REFUSED_CLAIM = "claim_refused"


class ChargedUsage(Protocol):
    """What the ledger's database has of holds."""

    async def find(self, customer_id: str, hold_id: str) -> RecordedUsage | None:
        """What was charged for the hold, or None."""


class ClaimedHolds(Protocol):
    """Where the ledger's word on a claim goes."""

    async def answer(self, customer_id: str, hold_id: str, charged: RecordedUsage | None) -> None:
        """Say what was charged; only a claim that is still open takes it in."""


class Claims:
    """Settles claims that settlement finds on a stream."""

    def __init__(
        self,
        *,
        charged: ChargedUsage,
        holds: ClaimedHolds,
        metering: MeteringService,
        rate_cards: RateCards,
    ) -> None:
        """Wire the ports."""
        self._rate_cards = rate_cards
        self._charged = charged
        self._holds = holds
        self._metering = metering

    async def settle(self, records: Sequence[AnyRecord]) -> dict[str, str]:
        """
        Settle the claims among records.

        Returns:
            Why claims were refused, by entry id: somebody owes what they say.

        Raises:
            StoreUnavailable: Some may be settled; repeat it.
        """
        refused: dict[str, str] = {}
        for record in records:
            if not isinstance(record, StreamRecord) or record.kind != CLAIM:
                continue
            assert record.event is not None, record.entry_id
            problem = await self._settle(record, record.event)
            if problem:
                refused[record.entry_id] = problem
        return refused

    async def put_back(self, records: Sequence[StreamRecord]) -> None:
        """
        Claim again what an earlier life of the store had claimed; safe to repeat.

        Raises:
            StoreUnavailable: Some may be claimed; repeat it.
        """
        for record in records:
            assert record.event is not None, record.entry_id
            try:
                await self._metering.finish_claim(record.event, record.counted)
            except InvalidInput as error:
                telemetry.get_logger().error(
                    "claim_not_put_back", hold_id=record.hold_id, error=str(error)
                )

    async def _settle(self, record: StreamRecord, event: UsageEvent) -> str:
        charged = await self._charged.find(record.customer_id, record.hold_id)
        if charged is not None:
            charged = await with_taken(charged, self._rate_cards.read)
        await self._holds.answer(record.customer_id, record.hold_id, charged)
        try:
            status = await self._metering.finish_claim(event, record.counted)
        except InvalidInput as error:
            telemetry.CLAIMS.labels("refused").inc()
            return str(error)
        match status:
            case CaptureStatus.CAPTURED | CaptureStatus.LATE | CaptureStatus.CORRECTED:
                telemetry.CLAIMS.labels("charged").inc()
            case CaptureStatus.DUPLICATE | CaptureStatus.CLAIMED:
                telemetry.CLAIMS.labels("repeated").inc()
            case _:
                telemetry.CLAIMS.labels("refused").inc()
                return status.value
        return ""


def standing_of(records: Sequence[AnyRecord]) -> tuple[int, int] | None:
    """
    (epoch, seq) of the last decision of a batch before its first claim.

    A claim's own capture stands behind it on the stream and is settled later: until then a
    journal must keep it. Entries that are no decisions have no number.
    """
    standing = None
    for record in records:
        if isinstance(record, StreamRecord):
            if record.kind == CLAIM:
                break
            standing = record.epoch, record.seq
    return standing
