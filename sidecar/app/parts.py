"""The clock."""

from datetime import UTC, datetime


class SystemClock:
    """Implements Clock; the only place that asks the machine for the time of day."""

    def now(self) -> datetime:
        """The aware UTC instant."""
        return datetime.now(UTC)
