"""Knobs and bounds of the Stripe stand-in, and its movable clock."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow
from typing import Literal, Protocol

Clock = Callable[[], datetime]

EXACT = Context(prec=120, traps=[Inexact, InvalidOperation, Overflow])
"""Arithmetic that raises where it would round: a total is exact or it is no total."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeSettings:
    """
    How this Stripe behaves where the real one is undocumented or slow, and how much it keeps.

    Attributes:
        identifier_window: How long an event identifier stays taken. Stripe says "at least 24 h".
        idempotency_window: How long the answer to an HTTP Idempotency-Key is replayed.
        duplicate_code: Answer a duplicate identifier with code duplicate_meter_event; v1 of the
            real API usually sends no code.
        timestamp_errors: Whether a timestamp outside 35 days / 5 minutes is a 400 or an
            asynchronous error.
        save_server_errors: Whether a 500 is saved under its HTTP key and replayed.
        summary_lag: How long after its receipt an event stays out of the summaries.
        latency_seconds: Time that every request holds its locks before it commits.
        meter_events_max: Events kept, over the whole life.
        objects_max: Customers, meters, products and prices kept, each.
        idempotency_keys_max: Answers kept for replay.
        livemode: Whether the account is a live one: what every object and event says, and which
            keys (`sk_live_`, not `sk_test_`) are taken.
        account_id: The account's own id.
        seed: Of what is random and belongs to no fault: twin events.
        twin_events: Probability 0..1 that one change is told by two events, as Stripe now and
            then does.
        finalization_grace: How long a cycle's draft invoice takes usage: 1 to 72 hours.
        payment_retry_days: After how many days each failed payment of an invoice is tried again.
        after_retries: What becomes of a subscription when the last retry failed.
        overdue_events: Whether `invoice.overdue` is sent; Stripe does so only if configured.
        actions_max: Things that may wait for their time.
        events_max: Events kept, snapshots and thin ones each, over the whole life.
        requests_log_max: Requests remembered for assertions; older ones are forgotten.
        body_bytes_max: Largest request body.
    """

    identifier_window: timedelta = timedelta(hours=24)
    idempotency_window: timedelta = timedelta(hours=24)
    duplicate_code: bool = False
    timestamp_errors: Literal["sync", "async"] = "sync"
    save_server_errors: bool = True
    summary_lag: timedelta = timedelta(0)
    latency_seconds: float = 0.0
    meter_events_max: int = 200_000
    objects_max: int = 10_000
    idempotency_keys_max: int = 400_000
    livemode: bool = False
    account_id: str = "acct_standin00000001"
    seed: int = 0
    twin_events: float = 0.0
    finalization_grace: timedelta = timedelta(hours=1)
    payment_retry_days: tuple[int, ...] = (3, 5, 7)
    after_retries: Literal["past_due", "unpaid", "canceled"] = "past_due"
    overdue_events: bool = True
    actions_max: int = 200_000
    events_max: int = 200_000
    requests_log_max: int = 10_000
    body_bytes_max: int = 256 * 1024

    def __post_init__(self) -> None:
        """Refuse what no account can be set to."""
        if not timedelta(hours=1) <= self.finalization_grace <= timedelta(hours=72):
            message = "finalization_grace is 1 to 72 hours"
            raise ValueError(message)


class AdvancingClock(Protocol):
    """A clock that can be moved."""

    def __call__(self) -> datetime:
        """The current instant, aware."""

    def advance(self, step: timedelta) -> None:
        """Move forward."""


class RunningClock:
    """The machine's clock, ahead of it by all that it was advanced: for the demo."""

    def __init__(self) -> None:
        self._ahead = timedelta(0)

    def __call__(self) -> datetime:
        """The current instant."""
        return utc_now() + self._ahead

    def advance(self, step: timedelta) -> None:
        """Move forward; time runs on from there."""
        self._ahead += step


@dataclass(slots=True, kw_only=True)
class MovableClock:
    """
    A clock that stands still until it is moved.

    Raises:
        ValueError: If the start is a naive datetime.
    """

    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __post_init__(self) -> None:
        if self.now.tzinfo is None:
            raise ValueError("the clock needs an aware datetime")

    def __call__(self) -> datetime:
        """The current instant."""
        return self.now

    def advance(self, step: timedelta) -> None:
        """Move forward, or back with a negative step."""
        self.now += step


def utc_now() -> datetime:
    """The default clock."""
    return datetime.now(UTC)


def epoch_seconds(instant: datetime) -> int:
    """Whole seconds since 1970, as Stripe writes time."""
    return int(instant.timestamp())


def exact_sum(values: Iterable[Decimal]) -> Decimal:
    """Sum without rounding. Raises decimal.Inexact where 120 digits do not suffice."""
    total = Decimal(0)
    for value in values:
        total = EXACT.add(total, value)
    return total
