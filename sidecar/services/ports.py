"""
Ports: what the use cases ask of the world, as Protocols, and the values that cross them.

The data plane (check, usage) uses `Balances`, `Directory`, `RateCards`; the control plane
(admin, settlement, reports) the rest.

Length: the contracts of one process, which are read side by side; there is no logic here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from sidecar.domain.holds import HoldState, HoldTerms, QuotaLine
from sidecar.domain.judging import StoreNumbers
from sidecar.domain.policy import Policy, QuotaTake
from sidecar.domain.pricing import RateCard
from sidecar.domain.rules import CustomerFacts
from sidecar.domain.standing import StandingFact
from sidecar.domain.usage import UsageEvent, UsageReport


class Clock(Protocol):
    """The one source of time outside the stores."""

    def now(self) -> datetime:
        """The aware UTC instant."""


class Policies(Protocol):
    """Holds the current policy snapshot."""

    def current(self) -> Policy:
        """The snapshot; take it once per check."""


class HoldTokens(Protocol):
    """Signs hold terms into a token and reads them back."""

    def sign(self, terms: HoldTerms) -> str:
        """A text token, safe in a header or metadata string."""

    def read(self, token: str) -> HoldTerms:
        """
        The terms of a token that one of our keys signed.

        Raises:
            InvalidInput: If it is malformed, altered, or signed by an unknown key.
        """


class RequestDigests(Protocol):
    """Keyed hashes; the key never leaves the process."""

    def request_digest(self, *facts: bytes) -> bytes:
        """16 bytes over a gateway's own facts of a request, for its hold id."""

    def credential_hashes(self, secret: str) -> tuple[str, ...]:
        """Hex hashes of a presented secret: one per key, newest key first."""


# --- Data plane -------------------------------------------------------------------------


class PlaceStatus(StrEnum):
    """How the place script answered."""

    PLACED = "placed"
    REPEATED = "repeated"
    """The hold is open already; the numbers are those of the first time."""
    DENIED = "denied"
    CLOSED = "closed"
    """The id was captured, released or orphaned before: never an allow."""
    MISMATCH = "mismatch"
    """The id is open for another route or amount: never an allow."""
    STALE_FACTS = "stale_facts"
    """The customer changed since the facts were cached: read them again."""
    UNKNOWN_CREDENTIAL = "unknown_credential"
    NO_CUSTOMER = "no_customer"
    WINDOW_MOVED = "window_moved"
    """A quota window ended between planning and placing: plan again at `instant_ms`."""
    TOO_LATE = "too_late"
    """The deadline had passed by the store's clock; nothing was placed."""
    OUT_OF_BOUNDS = "out_of_bounds"
    """A counter would leave 64 bits; nothing was placed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceHold:
    """
    One demand: take all or nothing.

    `terms.decided_at_ms` and `expires_at_ms` are 0 here; the store decides them.
    `ttl_ms` is how long an unheard-of hold lives. `fingerprint` is what a repeat must match.
    """

    terms: HoldTerms
    customer: CustomerFacts
    credit_required: bool
    refuse_delinquent: bool
    quotas: tuple[QuotaTake, ...]
    fingerprint: str
    ttl_ms: int
    deadline: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceOutcome:
    """
    The place script's answer.

    `numbers` is present for placed, repeated and denied; `instant_ms` always (0 if the store
    did not say). For a repeat the instants are those of the first time.
    """

    status: PlaceStatus
    instant_ms: int = 0
    expires_at_ms: int = 0
    numbers: StoreNumbers | None = None


class CaptureStatus(StrEnum):
    """How the capture script answered."""

    CAPTURED = "captured"
    LATE = "late"
    """The hold had expired or was unknown; the amount came from available, then overage."""
    DUPLICATE = "duplicate"
    CORRECTED = "corrected"
    """A measured event replaced an estimated one; the difference was booked."""
    CONFLICT = "conflict"
    """Two measured events differ; nothing was booked."""
    NO_CUSTOMER = "no_customer"
    OUT_OF_BOUNDS = "out_of_bounds"
    """A balance would leave 64 bits; nothing was booked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureOutcome:
    """
    The capture script's answer; amounts in nano.

    `booked_nano` is what this call changed (a correction's is signed), `overage_nano` the
    part beyond the customer's credit, `held_nano` what the hold had set aside (0 if none).
    """

    status: CaptureStatus
    booked_nano: int = 0
    overage_nano: int = 0
    held_nano: int = 0
    available_nano: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RatingDemand:
    """A quantity to be placed on a running total: the total's field and how much."""

    key: str
    quantity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredHold:
    """A hold as the store has it."""

    terms: HoldTerms
    state: HoldState


class Balances(Protocol):
    """
    Live balances, holds and counters: each method is one atomic script on one shard.

    Every method may raise StoreUnavailable: it may or may not have happened, and is safe to
    repeat.
    """

    async def place_hold(self, hold: PlaceHold) -> PlaceOutcome:
        """Take the hold with everything it touches, or nothing."""

    async def release_hold(self, customer_id: str, hold_id: str) -> bool:
        """Give an open hold back; leave a tombstone that beats a late place. True if open."""

    async def extend_hold(self, customer_id: str, hold_id: str, ttl_ms: int) -> bool:
        """Move an open hold's expiry to now + ttl_ms, never nearer. True if it was open."""

    async def read_hold(self, customer_id: str, hold_id: str) -> StoredHold | None:
        """An open hold, or one that ended within the dedupe horizon; None if unknown."""

    async def find_hold(self, hold_id: str) -> str | None:
        """The customer of a hold that is known by its id alone; asks every shard."""

    async def reserve_totals(
        self, customer_id: str, hold_id: str, event: UsageEvent, demands: Sequence[RatingDemand]
    ) -> tuple[int, ...]:
        """
        Reserve an interval of each running total for this hold id, once.

        Returns:
            Each total before the interval. A repeat returns the same, whatever it asks for.
        """

    async def capture_hold(
        self, event: UsageEvent, quota_lines: Sequence[QuotaLine], *, prepaid: bool
    ) -> CaptureOutcome:
        """
        Burn the event's amount, release the rest of its hold, append it to the shard's stream.

        Args:
            event: Priced; its hold_id is the key.
            quota_lines: Actual quantities for the counters that the hold took.
            prepaid: Whether the plan burns credit; overage is counted only then.
        """

    async def due_holds(self, shard: int, limit: int) -> Sequence[tuple[str, str]]:
        """(customer_id, hold_id) of holds whose expiry has passed by the store's clock."""

    async def orphan_hold(self, customer_id: str, hold_id: str) -> UsageEvent | None:
        """
        Release an expired hold and append its orphan record to the stream.

        Returns:
            The event of an interrupted capture that must be finished instead, else None.
        """

    async def ping(self) -> None:
        """Whether the store answers."""


class Directory(Protocol):
    """Who a credential belongs to, and what is known of a customer; may answer from a cache."""

    async def find_credential(self, secret_hashes: Sequence[str]) -> CustomerFacts | None:
        """The customer behind a presented credential, or None."""

    async def read_customer(self, customer_id: str) -> CustomerFacts | None:
        """A customer named by a trusted sender, or None."""

    def forget(self, customer: CustomerFacts) -> None:
        """Drop cached facts that turned out to be stale."""


class RateCards(Protocol):
    """Rate cards by version, published before a hold names them."""

    async def publish(self, card: RateCard) -> None:
        """Make a card known to all processes; safe to repeat."""

    async def read(self, version: str) -> RateCard | None:
        """The card of a version, or None if it was never published."""


class Quarantine(Protocol):
    """Usage that cannot be captured as it is, kept for people."""

    async def put(self, report: UsageReport, *, reason: str, key: str) -> None:
        """Keep a report; repeats of (key, reason) collapse when they are settled."""


# --- Control plane ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    """Who pays."""

    customer_id: str
    plan: str
    currency: str
    labels: Mapping[str, str] = field(default_factory=dict)
    stripe_customer_id: str | None = None
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What a caller presents, without the secret itself."""

    credential_id: str
    customer_id: str
    secret_hash: str
    user_id: str = ""
    name: str = ""
    generation: int = 1
    created_at: datetime | None = None
    revoked_at: datetime | None = None


class GrantState(StrEnum):
    """An intent is written first, applied by script, and posted from the stream."""

    INTENT = "intent"
    POSTED = "posted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Credit given; immutable."""

    grant_id: str
    customer_id: str
    amount_nano: int
    currency: str
    kind: str = "paid"
    state: GrantState = GrantState.INTENT
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """Live numbers in nano: available = granted - used - held."""

    currency: str
    granted_nano: int
    used_nano: int
    held_nano: int
    available_nano: int
    as_of: datetime


class LiveAccounts(Protocol):
    """The control plane's writes to the live store; each safe to repeat."""

    async def put_customer(self, customer: Customer) -> None:
        """Create the customer's live state or update plan and labels; balances stay."""

    async def put_credential(self, credential: Credential) -> None:
        """Make a credential valid on every gateway."""

    async def put_standing(self, customer_id: str, standing: StandingFact) -> None:
        """Set the standing that the place script reads."""

    async def apply_grant(self, grant: Grant) -> None:
        """Add a grant to the balance and the stream, once per grant_id."""

    async def read_balance(self, customer_id: str) -> Balance | None:
        """The live balance, or None for an unknown customer."""

    async def list_open_holds(self, customer_id: str, limit: int) -> Sequence[StoredHold]:
        """Open holds of a customer, at most `limit`."""


class Accounts(Protocol):
    """Customers, credentials, grants and standings of record."""

    async def create_customer(self, customer: Customer) -> Customer:
        """Store it. Raises Conflict if the id exists with other content."""

    async def read_customer(self, customer_id: str) -> Customer | None:
        """One customer."""

    async def list_customers(self, *, after: str, limit: int) -> Sequence[Customer]:
        """Customers by id, those after `after`."""

    async def create_credential(self, credential: Credential) -> Credential:
        """Store it. Raises NotFound for an unknown customer."""

    async def list_credentials(
        self, customer_id: str, *, after: str, limit: int
    ) -> Sequence[Credential]:
        """A customer's credentials by id."""

    async def create_grant(self, grant: Grant) -> Grant:
        """Write the intent. Raises NotFound (customer) or Conflict (currency, other content)."""

    async def list_grants(self, customer_id: str, *, after: str, limit: int) -> Sequence[Grant]:
        """A customer's grants by id."""

    async def pending_grants(self, *, limit: int) -> Sequence[Grant]:
        """Intents that may not have been applied yet, oldest first."""

    async def put_standing(self, customer_id: str, standing: StandingFact) -> None:
        """Set it. Raises NotFound for an unknown customer."""

    async def read_standing(self, customer_id: str) -> StandingFact:
        """Good if none was set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRecord:
    """
    One decision on a shard's stream, with the numbers it was decided with.

    `entry_id` is the stream's own id. `kind` is an EventKind's value, a correction with its
    number ("correction:1"). `amount_nano` is signed for corrections.
    """

    entry_id: str
    kind: str
    customer_id: str
    currency: str
    amount_nano: int
    overage_nano: int
    prepaid: bool
    decided_at_ms: int
    hold_id: str = ""
    grant_id: str = ""
    held_nano: int = 0
    available_nano: int = 0
    late: bool = False
    event: UsageEvent | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAsideRecord:
    """Usage in quarantine, on its way to where people see it; `payload` is JSON."""

    entry_id: str
    key: str
    reason: str
    payload: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableRecord:
    """A stream entry that cannot be decoded; settled into quarantine."""

    entry_id: str
    fields: Mapping[str, str]
    problem: str


AnyRecord = StreamRecord | SetAsideRecord | UnreadableRecord


class UsageStream(Protocol):
    """The shards' streams, read by settlement."""

    async def read(self, shard: int, after: str, limit: int) -> Sequence[AnyRecord]:
        """Records after an entry id ("0-0" for the start), in order."""

    async def trim(self, shard: int, below: str) -> None:
        """Drop entries at or below a committed offset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardLease:
    """A worker's time-bounded right to settle a shard; `fence` only grows."""

    shard: int
    owner: str
    fence: int
    offset: str


class Ledger(Protocol):
    """The ledger of record and settlement's own state."""

    async def claim_shard(self, shard: int, owner: str, lease_seconds: int) -> ShardLease | None:
        """Take or renew the lease; None while another owner has it."""

    async def settle(
        self,
        lease: ShardLease,
        records: Sequence[AnyRecord],
        reported_meters: Mapping[str, frozenset[str]],
    ) -> int:
        """
        Post records and the new offset in one database transaction.

        Args:
            lease: Its fence is checked inside the transaction.
            records: In stream order.
            reported_meters: By price version, the meters that go to the billing provider.

        Returns:
            How many records were new.

        Raises:
            Conflict: If the lease was lost; nothing was written.
        """

    async def read_available(self, customer_id: str) -> int:
        """What the ledger says: granted - used, in nano."""


class ReportState(StrEnum):
    """States of an outbox row."""

    OPEN = "open"
    PENDING = "pending"
    SENT = "sent"
    FAILED = "failed"
    UNCERTAIN = "uncertain"
    """Ambiguous for longer than the provider remembers identifiers: never sent again blindly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRow:
    """A sealed quantity on its way to the billing provider."""

    row_id: int
    customer_id: str
    provider_customer_id: str
    event_name: str
    quantity: int
    identifier: str
    event_at: datetime
    http_generation: int
    attempts: int
    first_attempt_at: datetime | None


class ReportVerdict(StrEnum):
    """What one attempt came to."""

    DELIVERED = "delivered"
    DUPLICATE = "duplicate"
    """The provider already has the identifier: delivered earlier."""
    RETRY = "retry"
    """Ambiguous or refused for now: same identifier, same HTTP key."""
    RETRY_ROTATED = "retry_rotated"
    """A received 5xx may be stored under the HTTP key: same identifier, next HTTP key."""
    REJECTED = "rejected"
    """Will never be accepted as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportAttempt:
    """An attempt's verdict and, for people, why."""

    verdict: ReportVerdict
    detail: str = ""


class MeterReporter(Protocol):
    """A billing provider that takes meter quantities."""

    async def report(self, row: ReportRow) -> ReportAttempt:
        """Send one row, once; never raises for what the provider says."""


class Outbox(Protocol):
    """Rows to report."""

    async def seal(self, *, opened_before: datetime, limit: int) -> int:
        """Close open windows that were opened before an instant; returns how many."""

    async def claim(self, owner: str, *, limit: int, lease_seconds: int) -> Sequence[ReportRow]:
        """Lease pending rows, at most one per (customer, meter) at a time over all workers."""

    async def finish(self, row: ReportRow, attempt: ReportAttempt, *, retry_at: datetime) -> None:
        """Record an attempt."""
