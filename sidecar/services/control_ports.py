"""
Ports of the control plane: accounts, settlement and reports; see `ports` for the data plane.

Length: the contracts of one plane, which are read side by side; there is no logic here.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from sidecar.domain.grants import (
    PRIORITY_DEFAULT,
    GrantKind,
    GrantTerms,
    Movement,
    Rollover,
    WithdrawalKind,
)
from sidecar.domain.schedules import GrantSchedule
from sidecar.domain.standing import StandingFact
from sidecar.domain.usage import UsageEvent
from sidecar.services.inbox_ports import InboxClaim
from sidecar.services.ports import StoredHold


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    """Who pays. `overdraft_nano` is how far prepaid usage may go beyond all credit."""

    customer_id: str
    plan: str
    currency: str
    labels: Mapping[str, str] = field(default_factory=dict)
    stripe_customer_id: str | None = None
    overdraft_nano: int = 0
    created_at: datetime | None = None


class CredentialState(StrEnum):
    """What a credential is worth at an instant."""

    ACTIVE = "active"
    EXPIRING = "expiring"
    """It is accepted until its end."""
    REVOKED = "revoked"
    """By hand, or because its end has come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """
    What a caller presents, without the secret itself.

    It belongs to a customer, and within it perhaps to a team and a user. `expires_at` is its
    end (None: none); `replaced_by` the credential that it was rotated to.
    """

    credential_id: str
    customer_id: str
    secret_hash: str
    team_id: str = ""
    user_id: str = ""
    name: str = ""
    generation: int = 1
    created_at: datetime | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    replaced_by: str | None = None

    def state_at(self, instant: datetime) -> CredentialState:
        """Its state at an instant; the store's own clock decides at a check."""
        if self.revoked_at is not None:
            return CredentialState.REVOKED
        if self.expires_at is None:
            return CredentialState.ACTIVE
        return CredentialState.REVOKED if instant >= self.expires_at else CredentialState.EXPIRING


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """A credential on its way out, and the one that takes its place."""

    retired: Credential
    successor: Credential


class GrantState(StrEnum):
    """
    An intent is written first, applied by script, and posted from the stream.

    A grant that begins later stays an intent until its record comes, when it begins.
    """

    INTENT = "intent"
    POSTED = "posted"
    REFUSED = "refused"
    """The live store will never take it: `refusal` says why. Give it anew under another id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """
    Credit given; immutable.

    `remaining_nano` is what the ledger has left of it, as far as it has been posted. `terms`
    has the rest: see `GrantTerms`.
    """

    grant_id: str
    customer_id: str
    amount_nano: int
    currency: str
    kind: GrantKind = GrantKind.PAID
    priority: int = PRIORITY_DEFAULT
    effective_at: datetime | None = None
    expires_at: datetime | None = None
    meters: tuple[str, ...] = ()
    rollover: Rollover | None = None
    schedule_id: str = ""
    state: GrantState = GrantState.INTENT
    remaining_nano: int = 0
    created_at: datetime | None = None
    refusal: str = ""

    @property
    def terms(self) -> GrantTerms:
        """What was given, without whose it is and how far it has come."""
        return GrantTerms(
            grant_id=self.grant_id,
            amount_nano=self.amount_nano,
            kind=self.kind,
            priority=self.priority,
            effective_at=self.effective_at,
            expires_at=self.expires_at,
            meters=self.meters,
            rollover=self.rollover,
        )


GRANT_CONTENT = (
    "amount_nano",
    "currency",
    "kind",
    "priority",
    "effective_at",
    "expires_at",
    "meters",
    "rollover",
    "schedule_id",
)
"""What a repeat of a grant must say, too."""


class WithdrawalState(StrEnum):
    """An intent is written first, applied by script, and posted from the stream."""

    INTENT = "intent"
    APPLIED = "applied"
    """The live store has taken it; what was pinned of a grant that it ends may follow."""
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawal:
    """
    Credit taken back from a grant.

    `amount_nano` None takes all that there is to take. `withdrawn_nano` is what was taken,
    `refusal` why it was refused.
    """

    withdrawal_id: str
    customer_id: str
    grant_id: str
    kind: WithdrawalKind
    amount_nano: int | None = None
    reason: str = ""
    state: WithdrawalState = WithdrawalState.INTENT
    withdrawn_nano: int = 0
    created_at: datetime | None = None
    refusal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveGrant:
    """
    A grant that still matters in the live store; amounts in nano.

    `state` is scheduled, active, expired, void, refund or dispute; an ended grant is listed for
    as long as open holds have a part of it pinned.
    """

    grant_id: str
    kind: GrantKind
    state: str
    priority: int
    effective_at: datetime | None
    expires_at: datetime | None
    meters: tuple[str, ...]
    free_nano: int
    pinned_nano: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """
    Live numbers in nano.

    available = granted - voided - expired - used - held + overdraft. `deficit_nano` is prepaid
    usage that no grant has paid yet, `free_nano` what grants have that no hold has pinned: usage
    that is owed on an invoice is in neither.
    """

    currency: str
    granted_nano: int
    used_nano: int
    held_nano: int
    available_nano: int
    as_of: datetime
    voided_nano: int = 0
    expired_nano: int = 0
    overdraft_nano: int = 0
    deficit_nano: int = 0
    free_nano: int = 0


class LiveAccounts(Protocol):
    """
    The control plane's writes to the live store; each safe to repeat.

    Gateways are told of each write, so that what they remember of it goes.
    """

    async def put_customer(self, customer: Customer) -> None:
        """Create the customer's live state or update plan and labels; balances stay."""

    async def put_credential(self, credential: Credential) -> None:
        """Make a credential valid on every gateway, until its end if it has one; or revoked."""

    async def put_standing(self, customer_id: str, standing: StandingFact) -> None:
        """Set the standing that the place script reads."""

    async def apply_grant(self, grant: Grant) -> None:
        """
        Give a grant, once per grant_id: at once, or from its `effective_at` on.

        Raises:
            Conflict: It was given with other content, or the currency is another.
            TooMany: The customer has too many grants now.
            InvalidInput: It has expired, or the customer has too much credit.
            NotFound: Unknown customer.
        """

    async def apply_withdrawal(self, withdrawal: Withdrawal) -> int:
        """
        Take credit back from a grant, once per withdrawal_id.

        Returns:
            What was taken, in nano; a repeat returns the same.

        Raises:
            Conflict: The grant has ended, or less is free than is asked for.
            NotFound: Unknown customer, or a grant that the live store does not have.
        """

    async def list_live_grants(self, customer_id: str) -> Sequence[LiveGrant]:
        """Grants that still matter, in burn order; empty for an unknown customer."""

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

    async def update_customer(self, customer: Customer) -> Customer | None:
        """Change plan, labels, Stripe customer and overdraft; None for an unknown one."""

    async def erase_customer(self, customer_id: str) -> Customer | None:
        """Clear what may name a person, and revoke all keys; None for an unknown customer."""

    async def list_customers(self, *, after: str, limit: int) -> Sequence[Customer]:
        """Customers by id, those after `after`."""

    async def create_credential(self, credential: Credential) -> Credential:
        """Store it. Raises NotFound for an unknown customer."""

    async def list_credentials(
        self, customer_id: str, *, after: str, limit: int
    ) -> Sequence[Credential]:
        """A customer's credentials by id."""

    async def find_credential(self, credential_id: str) -> Credential | None:
        """A credential by its id alone."""

    async def rotate_credential(
        self, retired: Credential, successor: Credential, *, ends_at: datetime | None
    ) -> Rotation:
        """
        Store a successor and give the retired one its end, together.

        A repeat with the same successor keeps that end and gives the successor its new secret
        under the next generation.

        Args:
            retired: Not ended yet.
            successor: Of the same customer.
            ends_at: The retired one's end, unless it has an earlier one; None: it is revoked.

        Raises:
            Conflict: It has another successor, or has ended.
        """

    async def revoke_credential(self, credential: Credential) -> Credential:
        """End it now; the first time counts."""

    async def create_grant(self, grant: Grant, *, claim: InboxClaim | None = None) -> Grant:
        """
        Write the intent.

        What a provider's object asks for is written together with a look at its claim: a worker
        that was overtaken judged by what is no longer so.

        Raises:
            NotFound: Unknown customer.
            Conflict: Another currency, or other content.
            LeaseLost: Another worker has the object of `claim`.
        """

    async def list_grants(self, customer_id: str, *, after: str, limit: int) -> Sequence[Grant]:
        """A customer's grants by id."""

    async def pending_grants(self, *, limit: int) -> Sequence[Grant]:
        """
        Intents that may not have been applied yet, oldest first.

        One that begins later and is known to be with the live store is left out until it begins,
        one that was put behind until its time has come.
        """

    async def note_applied(self, grant: Grant) -> None:
        """Note that the live store has a grant; a repeat changes nothing."""

    async def refuse_grant(self, grant: Grant, *, refusal: str) -> None:
        """Note that the live store will never take an intent; no effect on one that is posted."""

    async def put_grant_behind(self, grant: Grant) -> None:
        """Leave an intent out of `pending_grants` for a while, the longer the older it is."""

    async def read_grant(self, customer_id: str, grant_id: str) -> Grant | None:
        """One grant."""

    async def create_withdrawal(
        self, withdrawal: Withdrawal, *, claim: InboxClaim | None = None
    ) -> Withdrawal:
        """
        Write the intent; see `create_grant` for `claim`.

        Raises:
            NotFound: Unknown grant.
            Conflict: Other content.
            LeaseLost: Another worker has the object of `claim`.
        """

    async def finish_withdrawal(
        self,
        withdrawal: Withdrawal,
        *,
        state: WithdrawalState,
        withdrawn_nano: int,
        refusal: str = "",
    ) -> Withdrawal:
        """Note what the live store made of an intent; the first word counts."""

    async def put_withdrawal_behind(self, withdrawal: Withdrawal) -> None:
        """Leave an intent out of `pending_withdrawals` for a while."""

    async def list_withdrawals(
        self, customer_id: str, *, after: str, limit: int
    ) -> Sequence[Withdrawal]:
        """A customer's withdrawals by id."""

    async def pending_withdrawals(self, *, limit: int) -> Sequence[Withdrawal]:
        """Intents that may not have been applied yet and are not put behind, oldest first."""

    async def create_schedule(self, schedule: GrantSchedule) -> GrantSchedule:
        """
        Store it with its first occurrence as the next one to issue.

        Raises:
            InvalidInput: See `check_schedule`.
            NotFound: Unknown customer.
            Conflict: Another currency than the customer's, or the id has other content.
        """

    async def read_schedule(self, customer_id: str, schedule_id: str) -> GrantSchedule | None:
        """One schedule."""

    async def list_schedules(
        self, customer_id: str, *, after: str, limit: int
    ) -> Sequence[GrantSchedule]:
        """A customer's schedules by id, also those that have ended."""

    async def end_schedule(
        self, customer_id: str, schedule_id: str, *, ends_at: datetime
    ) -> GrantSchedule | None:
        """
        Issue no occurrence that starts at or after an instant; the earliest such word counts.

        Grants that are issued already stay: void them. None for an unknown schedule.
        """

    async def due_schedules(
        self, now: datetime, *, limit: int, lease_seconds: int
    ) -> Sequence[GrantSchedule]:
        """
        Schedules whose next occurrence is to be issued, longest due first.

        Each is left to the caller for the lease's time: no other worker is given it.
        """

    async def advance_schedule(
        self, schedule: GrantSchedule, *, next_start: datetime | None
    ) -> GrantSchedule:
        """
        Note that the next occurrence was issued, and which one is next (None: there is none).

        Nothing changes if the schedule has moved on from `schedule.next_start` already.
        Raises NotFound.
        """

    async def put_standing(self, customer_id: str, standing: StandingFact) -> None:
        """Set it. Raises NotFound for an unknown customer."""

    async def read_standing(self, customer_id: str) -> StandingFact:
        """Good if none was set."""


CLAIM = "claim"
"""Kind of a record that decides nothing: usage that may have been charged before a loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRecord:
    """
    One decision on a shard's stream, with the numbers it was decided with.

    `entry_id` is the stream's own id. `kind` is an EventKind's value, a correction with its
    number ("correction:1"). `amount_nano` is signed for corrections. `overage_nano` is by how
    much the customer's deficit grew (negative: what a grant paid of it). `movements` are what
    the decision moved of which grant: they sum up to the change of the customer's credit.
    (`epoch`, `seq`) order the decisions of a shard. `counted` are fields of counters and by how
    much captures moved them; those of a CLAIM are what its capture has to count. `owed` is what of
    prepaid usage credit does not pay and an invoice asks for, by meter (signed for corrections);
    None where the plan is another.
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
    movements: tuple[Movement, ...] = ()
    grant_kind: GrantKind = GrantKind.PAID
    withdrawal_id: str = ""
    epoch: int = 0
    seq: int = 0
    counted: tuple[tuple[str, int], ...] = ()
    owed: tuple[tuple[str, int], ...] | None = None

    @property
    def owed_nano(self) -> int:
        """What of it credit left to an invoice, in nano."""
        return sum([nano for _, nano in self.owed]) if self.owed else 0


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

    async def waiting(self, shards: Collection[int]) -> Collection[int]:
        """
        Those of some shards whose streams have entries, settled and not yet trimmed ones as well.

        One question about all of them: whoever settles asks it in each round, and nearly always
        hears of none. Raises StoreUnavailable if it has no answer for even one of them.
        """

    async def read(self, shard: int, after: str, limit: int) -> Sequence[AnyRecord]:
        """Records after an entry id ("0-0" for the start), in order."""

    async def trim(self, shard: int, below: str) -> None:
        """Drop entries at or below a committed offset."""

    async def tell_settled(self, shard: int, epoch: int, seq: int) -> None:
        """
        Tell whoever keeps captures until then that the ledger has an epoch up to a seq.

        Never goes back; safe to repeat.
        """

    async def standing_at(self, shard: int, offset: str) -> tuple[int, int] | None:
        """(epoch, seq) of the last decision at or before a committed offset, if it is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardLease:
    """A worker's time-bounded right to settle a shard; `fence` only grows, as does `epoch`."""

    shard: int
    owner: str
    fence: int
    offset: str
    epoch: int = 0


class Ledger(Protocol):
    """The ledger of record and settlement's own state."""

    async def claim_shard(self, shard: int, owner: str, lease_seconds: int) -> ShardLease | None:
        """Take or renew the lease; None while another owner has it, or the row is locked."""

    async def lease_left(self, shard: int, owner: str) -> float:
        """Seconds for which another owner than this has the shard; 0 if nobody has."""

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
    """An attempt's verdict and, for people, why; `code` is the provider's own, if it gave one."""

    verdict: ReportVerdict
    detail: str = ""
    code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportResult:
    """What an attempt at a row came to, and when the next one is due, should there be one."""

    row: ReportRow
    attempt: ReportAttempt
    retry_at: datetime


class MeterReporter(Protocol):
    """A billing provider that takes meter quantities."""

    async def report(self, row: ReportRow) -> ReportAttempt:
        """Send one row, once; never raises for what the provider says."""


class Outbox(Protocol):
    """Rows to report."""

    async def seal(
        self, *, opened_before: datetime, limit: int, by_meter: Mapping[str, datetime] = ...
    ) -> int:
        """
        Close open windows that were opened before an instant; returns how many.

        Meters that `by_meter` names go by their own instant.
        """

    async def claim(self, owner: str, *, limit: int, lease_seconds: int) -> Sequence[ReportRow]:
        """Lease pending rows, at most one per (customer, meter) at a time over all workers."""

    async def finish(self, results: Sequence[ReportResult]) -> None:
        """Record attempts."""
