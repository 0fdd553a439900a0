"""Ports of notices: the record of what is to be told, what sources look at, and channels."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from sidecar.domain.notices import Channel, Notice
from sidecar.domain.projection import UsedSample


class DeliveryState(StrEnum):
    """What has become of a delivery; a failed one waits for people."""

    PENDING = "pending"
    SENT = "sent"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One addressee on one channel; `target` is empty for webhook and Slack."""

    channel: Channel
    target: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unrouted:
    """A notice that has no deliveries yet; `customer_email` as the customer's label says it."""

    notice_id: str
    notice: Notice
    customer_email: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """
    A delivery that was claimed: attempt number `attempts` is to be made now.

    `notice_id` is the same at each attempt, so that receivers can tell a repeat.
    """

    notice_id: str
    notice: Notice
    to: Target
    attempts: int
    customer_email: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryFact:
    """What is known of a delivery."""

    to: Target
    state: DeliveryState
    attempts: int
    next_attempt_at: datetime | None = None
    finished_at: datetime | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredNotice:
    """A notice on record; `number` grows with each, `routed` says that deliveries were made."""

    notice_id: str
    number: int
    notice: Notice
    created_at: datetime
    routed: bool
    deliveries: tuple[DeliveryFact, ...] = ()


class SendVerdict(StrEnum):
    """What a channel says of one attempt."""

    SENT = "sent"
    RETRY = "retry"
    """It may or may not have arrived, or the other side is not ready: try again."""
    REFUSED = "refused"
    """It will not be taken however often it is sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendOutcome:
    """The verdict, why in words without addresses or secrets, and how long to wait if told so."""

    verdict: SendVerdict
    detail: str = ""
    retry_after_seconds: float = 0.0


class NoticeChannel(Protocol):
    """A way to tell one addressee."""

    async def send(self, delivery: Delivery, address: str) -> SendOutcome:
        """
        Make one attempt, bounded in time; what goes wrong on the way is a verdict.

        Args:
            delivery: What to tell, and to whom.
            address: The email address; empty for channels that need none.
        """

    async def close(self) -> None:
        """Close what is open."""


class Notices(Protocol):
    """What a use case that sees a fact needs."""

    async def put(self, *notices: Notice) -> int:
        """
        Put facts to be told; each key once, however often it is put.

        Returns:
            How many were new.

        Raises:
            StoreUnavailable: Put them again.
        """


class NoticeRecord(Notices, Protocol):
    """Notices and deliveries of record."""

    async def unrouted(self, *, email_label: str, limit: int) -> Sequence[Unrouted]:
        """Notices without deliveries, the oldest first."""

    async def route(self, found: Sequence[tuple[Unrouted, Sequence[Target]]]) -> None:
        """Make the deliveries of notices, once each; none is fine."""

    async def claim(
        self, owner: str, channel: Channel, *, email_label: str, limit: int, lease_seconds: float
    ) -> Sequence[Delivery]:
        """Due deliveries of a channel, leased to one worker; the attempt counts from here on."""

    async def finish(
        self,
        owner: str,
        delivery: Delivery,
        *,
        state: DeliveryState,
        detail: str,
        retry_seconds: float,
    ) -> None:
        """Record an attempt. Only "sent" counts from a worker whose lease ran out."""

    async def list(
        self,
        *,
        before: int | None,
        limit: int,
        customer_id: str = "",
        state: DeliveryState | None = None,
    ) -> Sequence[StoredNotice]:
        """The newest first, those with a smaller number than `before`."""

    async def retry(self, notice_id: str) -> StoredNotice | None:
        """Make failed deliveries of a notice pending again; None for an unknown notice."""

    async def forget(self, *, older_than_days: int, limit: int) -> int:
        """Drop old notices and their deliveries; returns how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """
    One source's turn to look, under a lease.

    What happened in [since, until) is new; `since` reaches back a little further than the last
    look, for what was committed late. `everything` asks for all there is, `first` says that
    nothing was seen before: then what stands is a beginning, and nothing has crossed. The lease
    lasts for `lease` from its beginning or its last renewal.
    """

    source: str
    owner: str
    since: datetime
    until: datetime
    lease: timedelta
    everything: bool = False
    first: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenState:
    """What was last noted of a customer; `episode` counts how often the state was entered."""

    state: str = ""
    mark: str = ""
    episode: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChange:
    """What to note of a customer from now on, under the name of what is watched."""

    customer_id: str
    source: str
    to: SeenState


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenThreshold:
    """A threshold that was reached; (`reached_at`, `number`) orders them."""

    customer_id: str
    quota: str
    subject: str
    period_start: datetime
    percent: int
    reached_at: datetime
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenCredit:
    """
    A customer's settled credit in nano.

    Available is what is left of it plus the overdraft; `samples` are what was ever used at the
    beginning of each window of the projection.
    """

    customer_id: str
    currency: str
    available_nano: int
    granted_nano: int
    used_nano: int
    samples: tuple[UsedSample, ...] = ()
    exhausted: SeenState = field(default_factory=SeenState)
    running_out: SeenState = field(default_factory=SeenState)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenStanding:
    """A customer's standing as it counts at the look's `until`."""

    customer_id: str
    standing: str
    until: datetime | None
    seen: SeenState = field(default_factory=SeenState)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenReports:
    """Quantities of a meter that ended badly in an hour."""

    provider: str
    meter: str
    uncertain: bool
    hour: datetime
    rows: int
    customers: int
    first_at: datetime


class NoticeSources(Protocol):
    """What sources of notices look at, a page at a time, and what they note."""

    async def begin(
        self, source: str, owner: str, *, lease_seconds: float, all_every_seconds: float
    ) -> Look | None:
        """Lease a source; None while another worker has it."""

    async def keep(
        self, look: Look, notices: Sequence[Notice], changes: Sequence[StateChange]
    ) -> None:
        """
        Put notices and note states together, and renew the lease.

        Raises:
            Conflict: The lease is lost, and nothing was kept.
            StoreUnavailable: All of it was kept, or nothing.
        """

    async def finish(self, look: Look) -> None:
        """The look is over: the next begins where it ended."""

    async def thresholds(
        self, look: Look, *, after: tuple[datetime, int] | None, limit: int
    ) -> Sequence[SeenThreshold]:
        """Thresholds that were reached, the oldest first."""

    async def credits(self, look: Look, *, after: str, limit: int) -> Sequence[SeenCredit]:
        """Customers who were ever given credit, by id."""

    async def sample_credit(self, customer_ids: Sequence[str]) -> None:
        """Note what they have ever used by now, and forget samples that no window needs."""

    async def standings(self, look: Look, *, after: str, limit: int) -> Sequence[SeenStanding]:
        """Standings that changed or ended, by customer."""

    async def reports(self, look: Look, *, limit: int) -> Sequence[SeenReports]:
        """Reports that failed or are uncertain, by meter and hour."""
