"""What the listeners serve, apart from how it was made; and the clock."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from sidecar.app.keys import Secrets
from sidecar.services.check import CheckService
from sidecar.services.metering import MeteringService
from sidecar.services.ports import Clock, HoldTokens, Quarantine, RequestDigests
from sidecar.settings import Settings


class SystemClock:
    """Implements Clock; the only place that asks the machine for the time of day."""

    def now(self) -> datetime:
        """The aware UTC instant."""
        return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPlane:
    """Checks and usage."""

    settings: Settings
    secrets: Secrets
    clock: Clock
    digests: RequestDigests
    tokens: HoldTokens
    quarantine: Quarantine
    checks: CheckService
    metering: MeteringService
    problems: Callable[[], list[str]]
