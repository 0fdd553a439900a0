"""Policy files read anew because somebody asks, here and on every gateway."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sidecar import telemetry
from sidecar.domain.errors import StoreUnavailable
from sidecar.domain.policy import Policy


class PolicyFiles(Protocol):
    """The policy files of this process."""

    @property
    def problems(self) -> Sequence[str]:
        """Why the files on disk are not in force, line by line; empty if they are."""

    def current(self) -> Policy:
        """The policy in force."""

    async def reload(self) -> bool:
        """Read them again now; whether they are in force."""


class PolicyNotices(Protocol):
    """Tells gateways that policy files have changed."""

    async def tell(self) -> None:
        """Tell them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reloaded:
    """What a reload came to: the version in force, and why newer files are not, if so."""

    policy_version: str
    rules: int
    problems: tuple[str, ...] = ()


class PolicyReloads:
    """Reads this process's files, then tells the others to look at theirs."""

    def __init__(self, files: PolicyFiles, notices: PolicyNotices) -> None:
        """Wire the ports."""
        self._files = files
        self._notices = notices

    async def reload(self) -> Reloaded:
        """
        Read the files again; a mistake keeps the last good policy.

        Gateways on other machines have files of their own, which they check themselves.
        """
        in_force = await self._files.reload()
        try:
            await self._notices.tell()
        except StoreUnavailable as error:
            # They watch their files anyway.
            telemetry.get_logger().warning("policy_notice_failed", error=str(error))
        policy = self._files.current()
        return Reloaded(
            policy_version=policy.version,
            rules=len(policy.rules),
            problems=() if in_force else tuple(self._files.problems),
        )
