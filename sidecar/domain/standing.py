"""Standing: what a customer's invoices say about them; ours, never the provider's own flag."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Standing(StrEnum):
    """Good pays in time; grace owes but may go on; delinquent owes too long."""

    GOOD = "good"
    GRACE = "grace"
    DELINQUENT = "delinquent"


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingFact:
    """
    A standing, why, and until when it holds (None: until changed). After `until` it is good.

    The invoices behind it, as far as they are known: since when the oldest is overdue, how much
    is overdue in nano of the customer's currency, and whether the customer disputes it.
    """

    standing: Standing
    reason: str = ""
    until: datetime | None = None
    overdue_since: datetime | None = None
    overdue_nano: int | None = None
    disputed: bool = False

    def at(self, instant: datetime) -> Standing:
        """The standing that counts at an instant."""
        if self.until is not None and instant >= self.until:
            return Standing.GOOD
        return self.standing
