"""Every error that Sidecar raises on purpose; an edge turns each into its own protocol's words."""

from dataclasses import dataclass


class SidecarError(Exception):
    """Base of all errors raised on purpose."""


class ConfigError(SidecarError):
    """Settings or policy cannot be used; the message says what was found and what is allowed."""


class InvalidInput(SidecarError):  # noqa: N818  The vocabulary's name; callers catch SidecarError.
    """A caller's input cannot be used. `field` names the part that is wrong, if one part is."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class PricedElsewhere(InvalidInput):
    """Measured usage is of another price version than the estimate that it would correct."""


class NotFound(SidecarError):  # noqa: N818
    """The named thing does not exist."""


class Conflict(SidecarError):  # noqa: N818
    """The write contradicts one that has been accepted before."""


class TooMany(InvalidInput):
    """There are as many as there can be; it can be taken once one of them has ended."""


class Refused(Conflict):
    """It was refused before for a reason that does not change; the message says it."""


class CreditSpent(Conflict):
    """Less of a grant is free than is to be taken back: the rest is spent, or set aside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One part of a repeated write that is not as it was the first time; in words for people."""

    field: str
    before: str
    now: str

    def __str__(self) -> str:
        """For the end of a sentence."""
        return f"{self.field} was {self.before}, is {self.now}"


class Differs(Conflict):
    """A repeat of a write whose content is not that of the first time."""

    def __init__(self, message: str, differences: tuple[Difference, ...]) -> None:
        super().__init__(f"{message}: {'; '.join(str(one) for one in differences)}")
        self.differences = differences


class LeaseLost(SidecarError):  # noqa: N818
    """Another worker has been given what this one had claimed: nothing was written."""


class StoreUnavailable(SidecarError):  # noqa: N818
    """A store did not answer in time. The call may or may not have happened."""


class ProviderFailed(StoreUnavailable):
    """
    A provider answered with a failure of its own (5xx).

    It may have happened, and the failure may be replayed under the same Idempotency-Key: a
    repeat that must get further needs a new key and another way to know the first.
    """


class ProviderRefused(SidecarError):  # noqa: N818
    """
    A provider answered no: the same call gets the same answer until something else changes.

    `status` is the HTTP status, `code` the provider's own code or "", `detail` bounded words
    without any secret; for a key that may not do this, the scopes that it lacks.
    """

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"refused with {status} {code} {detail}".rstrip())
        self.status = status
        self.code = code
        self.detail = detail


class InvariantViolated(SidecarError):  # noqa: N818
    """A bug of ours: a state that the design rules out."""
