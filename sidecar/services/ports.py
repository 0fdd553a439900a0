"""
Ports: what the use cases ask of the world, as Protocols, and the values that cross them.

These are the data plane's (check, usage); those of admin, settlement and reports stand in
`control_ports`.

Length: the contracts of one process, which are read side by side; there is no logic here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, Protocol

from sidecar.domain.counters import CounterTake
from sidecar.domain.customers import NOBODY, CustomerFacts
from sidecar.domain.decisions import Decision, Deny
from sidecar.domain.errors import InvalidInput, StoreUnavailable
from sidecar.domain.holds import HoldState, HoldTerms, QuotaLine
from sidecar.domain.judging import Judgement
from sidecar.domain.matching import RequestView
from sidecar.domain.planning import CheckPlan
from sidecar.domain.policy import Policy
from sidecar.domain.pricing import RateCard
from sidecar.domain.requests import AccessRequest, RequestFacts
from sidecar.domain.store_numbers import InvoiceDemand, StoreNumbers
from sidecar.domain.thawing import quickly_made
from sidecar.domain.usage import UsageEvent, UsageReport


class Clock(Protocol):
    """The one source of time outside the stores."""

    def now(self) -> datetime:
        """The aware UTC instant."""


class Policies(Protocol):
    """Holds the current policy snapshot."""

    def current(self) -> Policy:
        """The snapshot; take it once per check."""


class Worded(Protocol):
    """A denial as the edges answer it."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """By lower-case name."""

    @property
    def body(self) -> object:
        """Its body, a JSON value."""

    @property
    def empty(self) -> bool:
        """Whether there is no body at all."""


Word = Callable[[Deny], Worded]


class HoldLifetime(NamedTuple):
    """
    From when until when a hold is open if nobody hears of it, in epoch milliseconds.

    `block_id` names the block that it was placed from, if it was.
    """

    decided_at_ms: int
    expires_at_ms: int
    block_id: str = ""


class HoldTokens(Protocol):
    """Signs hold terms into a token and reads them back."""

    def sign(self, terms: HoldTerms, lifetime: "HoldLifetime | None" = None) -> str:
        """A text token, safe in a header or metadata; a lifetime goes before the terms' own."""

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
    RECALLED = "recalled"
    """What blocks of credit hold would be enough; it is on its way back: ask again."""
    TOO_LATE = "too_late"
    """The deadline had passed by the store's clock; nothing was placed."""
    OUT_OF_BOUNDS = "out_of_bounds"
    """A counter would leave 64 bits; nothing was placed."""


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceHold:
    """
    One demand: take all or nothing.

    `terms.decided_at_ms` and `expires_at_ms` are 0 here; the store decides them.
    `ttl_ms` is how long an unheard-of hold lives. `fingerprint` is what a repeat must match.
    `probe` asks for the numbers only: the answer is `denied`, and nothing is taken.
    `parts` says what the amount is for by meter, in nano: grants may be good for some meters
    only. `prepaid` is whether credit pays, so that grants are pinned; `owes` is whether what it
    does not pay is owed.
    """

    terms: HoldTerms
    customer: CustomerFacts
    credit_required: bool
    invoices: tuple[InvoiceDemand, ...]
    counters: tuple[CounterTake, ...]
    fingerprint: str
    ttl_ms: int
    deadline: datetime
    probe: bool = False
    prepaid: bool = True
    owes: bool = False
    parts: Mapping[str, int] = field(default_factory=dict)


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceOutcome:
    """
    The place script's answer.

    `numbers` is present for placed, repeated and denied; `instant_ms` always (0 if the store
    did not say). For a repeat the instants are those of the first time. (`epoch`, `seq`) order
    the decisions of a shard; a denial has the seq of the last decision before it. `block_id` names
    the block that a hold was placed from without the store.
    """

    status: PlaceStatus
    instant_ms: int = 0
    expires_at_ms: int = 0
    epoch: int = 0
    seq: int = 0
    numbers: StoreNumbers | None = None
    block_id: str = ""


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
    MOVED = "moved"
    """The id has other steps of running totals by now: price it anew; nothing was booked."""
    UNREGISTERED = "unregistered"
    """The hold was placed from a block, and its owner has not opened it yet; nothing was booked."""
    CLAIMED = "claimed"
    """It may have been charged before the store lost data: the ledger decides, then books it."""
    NO_CUSTOMER = "no_customer"
    OUT_OF_BOUNDS = "out_of_bounds"
    """A balance would leave 64 bits; nothing was booked."""


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class HoldCapture:
    """What `Balances.capture_hold` is asked, as one value."""

    event: UsageEvent
    quota_lines: Sequence[QuotaLine]
    prepaid: bool
    owes: bool = False
    steps: int | None = None
    block_id: str = ""


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureOutcome:
    """
    The capture script's answer; amounts in nano.

    `booked_nano` is what this call changed (a correction's is signed), `overspent_nano` the
    part that went beyond the customer's credit and overdraft, `held_nano` what the hold had set
    aside (0 if none).
    (`epoch`, `seq`) order the decisions of a shard; a duplicate and a refusal have the seq of
    the last decision before them. `restored`: a loss of the store had taken the hold, and its token
    had put it back, so that others may have spent its credit meanwhile.
    """

    status: CaptureStatus
    booked_nano: int = 0
    overspent_nano: int = 0
    held_nano: int = 0
    available_nano: int = 0
    epoch: int = 0
    seq: int = 0
    restored: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RatingDemand:
    """How much of a running total an event takes: the total's name and the whole quantity."""

    key: str
    quantity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TotalStep:
    """
    One move of a running total by an id; its quantity is below 0 where some was given back.

    It was made from `before`, or (what the ledger told of it) is known by its `amount_nano` alone.
    """

    key: str
    quantity: int
    before: int | None = None
    amount_nano: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservedTotals:
    """
    All steps of an id, in their order.

    `made` is False where the store moved nothing: what the capture answers does not hang on it.
    Nor has it where another event of the id is `pending`: its capture has begun and comes first.
    """

    steps: tuple[TotalStep, ...]
    made: bool = True
    pending: UsageEvent | None = None

    @property
    def count(self) -> int:
        """By which a capture tells that there were no others meanwhile."""
        return len(self.steps) if self.made else -1


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredHold:
    """
    A hold as the store has it.

    `due` says that an open one's expiry has passed, `served` that a sign of life was seen of
    it, `interrupted` that a capture of it has begun and not ended.
    """

    terms: HoldTerms
    state: HoldState
    due: bool = False
    served: bool = False
    interrupted: bool = False


class Holds(Protocol):
    """
    Holds as a check knows them: placed, and given back.

    Both may raise StoreUnavailable: it may or may not have happened, and is safe to repeat.
    """

    async def place_hold(self, hold: PlaceHold) -> PlaceOutcome:
        """Take the hold with everything it touches, or nothing."""

    async def release_hold(self, customer_id: str, hold_id: str) -> bool:
        """Give an open hold back; leave a tombstone that beats a late place. True if open."""


class Balances(Holds, Protocol):
    """
    Live balances, holds and counters: each method is one atomic script on one shard.

    Every method may raise StoreUnavailable: it may or may not have happened, and is safe to
    repeat.
    """

    async def extend_hold(self, customer_id: str, hold_id: str, ttl_ms: int) -> bool:
        """Move an open hold's expiry to now + ttl_ms, never nearer. True if it was open."""

    async def restore_hold(
        self,
        terms: HoldTerms,
        ttl_ms: int,
        *,
        prepaid: bool,
        parts: Mapping[str, int],
        owes: bool = False,
    ) -> bool:
        """
        Place a hold again that a loss of the store took; False if it was not lost.

        `parts` and `owes` are as `PlaceHold` has them.
        """

    async def read_hold(self, customer_id: str, hold_id: str) -> StoredHold | None:
        """An open hold, or one that ended within the dedupe horizon; None if unknown."""

    async def find_hold(self, hold_id: str) -> str | None:
        """The customer of a hold that is known by its id alone; asks every shard."""

    async def reserve_totals(
        self, customer_id: str, hold_id: str, event: UsageEvent, demands: Sequence[RatingDemand]
    ) -> ReservedTotals:
        """
        Move running totals so that this hold id has of each what is demanded, of no other any.

        A repeat moves nothing. A captured id moves them once more only where measured usage
        takes the place of its estimate.

        Raises:
            PricedElsewhere: What it has is of totals of another price version.
        """

    async def capture_hold(
        self,
        event: UsageEvent,
        quota_lines: Sequence[QuotaLine],
        *,
        prepaid: bool,
        owes: bool = False,
        steps: int | None = None,
        block_id: str = "",
    ) -> CaptureOutcome:
        """
        Burn the event's amount, release the rest of its hold, append it to the shard's stream.

        Args:
            event: Priced; its hold_id is the key.
            quota_lines: Actual quantities for the counters that the hold took.
            prepaid: Whether the plan burns credit; overage is counted only then.
            owes: Whether what credit does not pay is owed; then there is no overage.
            steps: How many steps of running totals the amounts were made of, by
                `ReservedTotals`; None where they are to be booked as they are.
            block_id: The block that the hold was placed from: it may not be open yet.
        """

    async def open_from_block(self, terms: HoldTerms) -> None:
        """
        Open a hold that its usage came before, from the block that its token names.

        Nothing happens to one that is known, nor where the block has ended.
        """

    async def capture_holds(
        self, captures: Sequence[HoldCapture]
    ) -> Sequence[CaptureOutcome | InvalidInput | StoreUnavailable]:
        """
        Capture several holds, each as `capture_hold` does; those of one hold, one after the other.

        Returns:
            For each its outcome, or the error that `capture_hold` would raise for it.
        """

    async def due_holds(self, shard: int, limit: int) -> Sequence[tuple[str, str]]:
        """(customer_id, hold_id) of holds whose expiry has passed by the store's clock."""

    async def orphan_hold(self, customer_id: str, hold_id: str) -> UsageEvent | None:
        """
        Release an expired hold and append its orphan record to the stream.

        Returns:
            The event of an interrupted capture that must be finished instead, else None.
        """

    async def prune_counters(self, shard: int, limit: int) -> int:
        """
        Drop what counters no longer need, of at most `limit` of them; safe at any time.

        Returns:
            How many were looked at.
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


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class MadeDecision:
    """
    A decision with all that it was made from, as far as it came to each.

    `now` is the gateway's instant. `numbers` are those that the rules judged; they are not the
    store's own answer where `outcome` is absent. Holds references only: what is kept of it is
    worked out later, off the check's way.
    """

    policy: Policy
    request: AccessRequest
    decision: Decision
    now: datetime
    view: RequestView | None = None
    customer: CustomerFacts = NOBODY
    facts: RequestFacts = RequestFacts()
    plan: CheckPlan | None = None
    judgement: Judgement | None = None
    numbers: StoreNumbers | None = None
    outcome: PlaceOutcome | None = None


class DecisionLog(Protocol):
    """Keeps what decisions were made from, so that changed rules can be tried on them."""

    def note(self, made: MadeDecision) -> None:
        """Keep a decision; never waits and never fails."""


class Quarantine(Protocol):
    """Usage that cannot be captured as it is, kept for people."""

    async def put(self, report: UsageReport, *, reason: str, key: str) -> None:
        """Keep a report; repeats of (key, reason) collapse when they are settled."""
