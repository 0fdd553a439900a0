"""
One block of credit, as the process that owns it sees it. No I/O, and no clock of its own.

What is free here is what the store has set aside for the block, less every hold that was ever
placed from it: nothing comes back, since a capture gives what a hold did not use to the customer.
"""

from collections import deque
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from sidecar.domain.allotments import PLACE_MS, Burned, place_ms
from sidecar.domain.counters import CounterKind, CounterTake
from sidecar.domain.holds import HoldTerms, dedupe_bucket
from sidecar.domain.store_numbers import StoreNumbers
from sidecar.services.allotment_ports import Allotted, BlockHold
from sidecar.services.ports import PlaceHold, PlaceOutcome, PlaceStatus

WINDOWED = frozenset({CounterKind.WINDOW, CounterKind.ROLLING})
"""Counters that a block can take a part of; a rate or a cap of holds in flight it cannot."""
_BURNED_MS_MIN = 50
"""A shorter time says nothing of what is burned in one."""
Key = tuple[str, ...]


class HoldStage(Enum):
    """Where a hold that was placed here stands."""

    PENDING = auto()
    SENT = auto()
    KNOWN = auto()
    """The store has it, or had it: it answers for what becomes of it."""


@dataclass(slots=True)
class LocalHold:
    """A hold that was placed from a block; `at` is when, in monotonic seconds."""

    hold: PlaceHold
    outcome: PlaceOutcome
    at: float
    stage: HoldStage = HoldStage.PENDING
    dropped: bool = False

    def repeat(self, hold: PlaceHold) -> PlaceOutcome:
        """The answer to a check that comes again before the store knows of its hold."""
        mine = self.hold
        same = (
            hold.fingerprint == mine.fingerprint
            and hold.terms.amount_nano == mine.terms.amount_nano
            and hold.terms.customer_id == mine.terms.customer_id
        )
        if not same:
            return PlaceOutcome(status=PlaceStatus.MISMATCH, instant_ms=self.outcome.instant_ms)
        return replace(self.outcome, status=PlaceStatus.REPEATED)

    def to_register(self) -> BlockHold:
        """The hold as the store is told of it."""
        return BlockHold(
            terms=self.hold.terms,
            fingerprint=self.hold.fingerprint,
            decided_at_ms=self.outcome.instant_ms,
            expires_at_ms=self.outcome.expires_at_ms,
            dropped=self.dropped,
        )


@dataclass(slots=True)
class _Spent:
    """What was placed since the block was last enlarged."""

    since: float
    holds: int = 0
    nano: int = 0
    quantities: list[int] = field(default_factory=list)


def key_of(hold: PlaceHold) -> Key:
    """What holds of one block have in common, as far as it names the block."""
    customer = hold.customer
    pays = ("o" if hold.owes else "p") if hold.prepaid else "i"
    fields = [take.field for take in hold.counters]
    return (customer.customer_id, customer.credential_id, pays, *fields)


class Block:
    """A block, what is free of it, and its holds that the store has not heard of."""

    def __init__(
        self, block_id: str, key: Key, first: PlaceHold, *, holds: int, since: float
    ) -> None:
        """
        Describe a block that is not asked for yet.

        Args:
            block_id: As a hold's.
            key: By `key_of`.
            first: A hold as those that it is for.
            holds: How many of them there were since an instant.
            since: That instant, in monotonic seconds.
        """
        terms = first.terms
        own = HoldTerms(
            hold_id=block_id,
            block_id=block_id,
            gateway_id=terms.gateway_id,
            customer_id=terms.customer_id,
            credential_id=terms.credential_id,
            plan=terms.plan,
            currency=terms.currency,
            amount_nano=0,
            price_version=terms.price_version,
            estimate={},
            policy_version=terms.policy_version,
            quota_lines=tuple([replace(line, quantity=0) for line in terms.quota_lines]),
        )
        self.key = key
        self.terms = own
        # Until nobody can have placed from it, and what was placed last has expired.
        lasts_ms = first.ttl_ms + PLACE_MS
        self.demand = replace(first, terms=own, fingerprint="", ttl_ms=lasts_ms)
        self.place_until = 0.0
        self.return_at = since
        self.quiet_until = 0.0
        """After a call without an answer."""
        self.busy = self.ended = self.asked = False
        self.batch = 0
        self.pending: deque[LocalHold] = deque()
        self.sent: list[LocalHold] = []
        self._free_nano = 0
        self._free = [0] * len(first.counters)
        self._counters = first.counters
        self._spent = _Spent(
            since,
            holds,
            holds * terms.amount_nano,
            [holds * take.quantity for take in first.counters],
        )
        self._numbers: StoreNumbers | None = None
        self._heard_ms, self._heard_at = 0, 0.0
        self._epoch = self._seq = 0

    @property
    def customer_id(self) -> str:
        """Whose credit it is."""
        return self.terms.customer_id

    @property
    def is_used(self) -> bool:
        """Whether anything was placed from it since it was last enlarged."""
        return self._spent.holds > 0

    def is_to_tell(self, now: float, seconds: float) -> bool:
        """Whether the store is to hear of holds: one is so old, or it is asked again."""
        if now < self.quiet_until:
            return False
        return bool(self.sent) or (bool(self.pending) and self.pending[0].at <= now - seconds)

    def is_short(self) -> bool:
        """Whether less than a third of what it should have is left of something."""
        spent = self._spent
        return self._free_nano * 2 < spent.nano or any(
            free * 2 < taken for free, taken in zip(self._free, spent.quantities, strict=True)
        )

    def place(self, hold: PlaceHold, now: float) -> LocalHold | None:
        """Place a hold, for good; None where the store has to be asked."""
        terms = hold.terms
        if now >= self.place_until or terms.amount_nano > self._free_nano:
            return None
        if not self._serves(hold):
            return None
        free = self._free
        quantities = [take.quantity for take in hold.counters]
        for at, quantity in enumerate(quantities):
            if quantity > free[at]:
                return None
        self._free_nano -= terms.amount_nano
        spent = self._spent
        spent.holds += 1
        spent.nano += terms.amount_nano
        for at, quantity in enumerate(quantities):
            free[at] -= quantity
            spent.quantities[at] += quantity
        instant = self.instant_at(now)
        local = LocalHold(
            hold,
            PlaceOutcome(
                status=PlaceStatus.PLACED,
                instant_ms=instant,
                expires_at_ms=instant + hold.ttl_ms,
                epoch=self._epoch,
                seq=self._seq,
                numbers=self._numbers_after(hold.counters),
                block_id=self.terms.block_id,
            ),
            now,
        )
        self.pending.append(local)
        return local

    def instant_at(self, now: float) -> int:
        """The shard's clock, never ahead of it: it had run on when its answer was heard."""
        return self._heard_ms + int((now - self._heard_at) * 1_000)

    def _serves(self, hold: PlaceHold) -> bool:
        """Whether the store, asked for this hold, would judge it as it judged the block."""
        mine, customer, known = self.demand, hold.customer, self.demand.customer
        return (
            customer.revision == known.revision
            and customer.generation == known.generation
            and hold.terms.policy_version == self.terms.policy_version
            and hold.credit_required == mine.credit_required
            and not hold.probe
            and hold.ttl_ms + PLACE_MS <= mine.ttl_ms
            and hold.invoices == mine.invoices
            and (
                hold.counters is self._counters
                or all(map(_limit_alike, hold.counters, self._counters))
            )
        )

    def _numbers_after(self, counters: tuple[CounterTake, ...]) -> StoreNumbers:
        """What the store would say after this hold, as of the instant that it was heard at last."""
        known, free = self._numbers, self._free
        assert known is not None
        used: dict[str, int] = {}
        over: list[str] = []
        for at, take in enumerate(counters):
            used[take.name] = count = known.used[take.name] - free[at]
            if count > take.counter.limit:
                over.append(take.name)
        return StoreNumbers(
            instant_ms=known.instant_ms,
            available_nano=known.available_nano + self._free_nano,
            standing=known.standing,
            due_since_ms=known.due_since_ms,
            due_nano=known.due_nano,
            disputed=known.disputed,
            used=used,
            over=frozenset(over),
            retry_at_ms={},
        )

    def ask(self, now: float) -> None:
        """It is asked for: from now on the store may have it, until that has ended it by itself."""
        self.asked = True
        self.return_at = now + self.demand.ttl_ms / 1_000

    def growth(self, now: float) -> tuple[int, list[int]] | None:
        """What to add to it, by what was burned; None where it is not worth while any more."""
        spent, known = self._spent, self._numbers
        ms = max(_BURNED_MS_MIN, int((now - spent.since) * 1_000))
        bounded = known is not None and self.demand.prepaid
        nano = Burned(spent.holds, spent.nano, ms).wanted(
            self._free_nano, known.available_nano if bounded and known else None
        )
        if nano is None:
            return None
        more: list[int] = []
        for take, free, taken in zip(self._counters, self._free, spent.quantities, strict=True):
            left = None
            if known is not None and take.hard:
                left = take.counter.limit - known.used[take.name]
            grown = Burned(spent.holds, taken, ms).wanted(free, left)
            if grown is None:
                return None
            more.append(grown)
        return nano, more

    def hear(self, outcome: PlaceOutcome) -> None:
        """Take the numbers of what the store placed, if they are newer than those known."""
        at = outcome.epoch, outcome.seq
        if outcome.numbers is not None and at > (self._epoch, self._seq):
            self._numbers = outcome.numbers
            self._epoch, self._seq = at

    def grow(
        self, allotted: Allotted, nano: int, quantities: list[int], *, sent: float, heard: float
    ) -> None:
        """Take what the store gave; `sent` and `heard` are when it was asked and did answer."""
        outcome = allotted.outcome
        assert outcome.numbers is not None
        self._free_nano += nano
        for at, quantity in enumerate(quantities):
            self._free[at] += quantity
        ends = [take.end_ms for take in self._counters if take.end_ms]
        if allotted.changes_at_ms:
            ends.append(allotted.changes_at_ms)
        lasts = place_ms(outcome.instant_ms, tuple(ends)) / 1_000
        self.place_until = sent + lasts
        self._heard_ms, self._heard_at = outcome.instant_ms, heard
        self.hear(outcome)
        self._spent = _Spent(heard, quantities=[0] * len(self._free))

    def end(self) -> None:
        """Place nothing more from it; what is left goes back."""
        self.ended, self.place_until = True, 0.0

    def next_batch(self, most: int) -> list[LocalHold]:
        """The holds to register next, all of one dedupe bucket; they are sent from now on."""
        if not self.sent and self.pending:
            self.batch += 1
            bucket = dedupe_bucket(self.pending[0].hold.terms.hold_id)
            while (
                self.pending
                and len(self.sent) < most
                and dedupe_bucket(self.pending[0].hold.terms.hold_id) == bucket
            ):
                local = self.pending.popleft()
                local.stage = HoldStage.SENT
                self.sent.append(local)
        return self.sent


def _limit_alike(take: CounterTake, other: CounterTake) -> bool:
    return take.counter.limit == other.counter.limit and take.hard == other.hard
