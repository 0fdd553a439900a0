"""Reports that failed: noted, listed, and sent again once their cause is mended."""

from collections.abc import Sequence

from sidecar import telemetry
from sidecar.domain.errors import Conflict, NotFound
from sidecar.domain.report_identifiers import MENDABLE, read_identifier
from sidecar.services.control_ports import ReportState
from sidecar.services.report_ports import Settlement, SettlementRecord

RETRIES_MAX = 1_000
"""Rows that one call sends again."""


class SettlementService:
    """The use cases about rows to report; implements `ReportErrors`."""

    def __init__(self, record: SettlementRecord) -> None:
        """Wire the port."""
        self._record = record

    async def note(self, identifier: str, code: str, detail: str = "") -> None:
        """Note an asynchronous error; see `ReportErrors`."""
        await self.take_error(identifier, code, detail)

    async def take_error(self, name: str, code: str, detail: str = "") -> bool:
        """As `note`; whether it was of a row of ours under its present name."""
        identifier = read_identifier(name)
        noted = identifier is not None and await self._record.note_error(
            identifier, code=code, detail=detail
        )
        # What another sender reported, and what has been sent again meanwhile, is not ours to mend.
        telemetry.REPORTS.labels("not_counted" if noted else "foreign_error").inc()
        telemetry.get_logger().error(
            "report_not_counted" if noted else "report_error_foreign",
            identifier=identifier or "",
            code=code[:100],
            mendable=code in MENDABLE,
        )
        return noted

    async def list(
        self, *, customer_id: str, state: ReportState | None, after: int, limit: int
    ) -> Sequence[Settlement]:
        """A page by number, of all customers if `customer_id` is empty."""
        return await self._record.list(
            customer_id=customer_id, state=state, after=after, limit=limit
        )

    async def read(self, number: int) -> Settlement:
        """One. Raises NotFound."""
        found = await self._record.read(number)
        if found is None:
            raise NotFound(f"there is no settlement {number}")
        return found

    async def retry(self, number: int) -> Settlement:
        """
        Send a failed row again, under its next name; a repeat finds it on its way.

        Raises:
            NotFound: There is none of that number.
            Conflict: It has not failed, or may have been counted: a comparison with the
                provider's sums finds out first.
        """
        found = await self.read(number)
        if found.state is ReportState.PENDING:
            return found
        if found.state is not ReportState.FAILED:
            raise Conflict(
                f"settlement {number} is {found.state.value}; only failed ones are sent again"
            )
        if not found.uncounted:
            raise Conflict(
                f"settlement {number} may have been counted under an earlier attempt; "
                "`sidecar reports reconcile` finds out"
            )
        if not await self._record.reopen(found):
            raise Conflict(f"settlement {number} has changed meanwhile; look at it again")
        telemetry.get_logger().info(
            "report_reopened", identifier=found.identifier or "", customer_id=found.customer_id
        )
        return await self.read(number)
