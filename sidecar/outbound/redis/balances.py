"""Live balances, holds and counters: implements `Balances`, one script per verb."""

from collections.abc import Mapping, Sequence
from typing import Any

from sidecar.domain.errors import InvalidInput, PricedElsewhere, StoreUnavailable
from sidecar.domain.hold_events import orphan_event, terms_of_event
from sidecar.domain.holds import HoldState, HoldTerms, QuotaLine, check_hold_id
from sidecar.domain.usage import UsageEvent, check_quantity
from sidecar.outbound.redis import scripts
from sidecar.outbound.redis.allotting import early_hold, run_register
from sidecar.outbound.redis.capturing import capture_arguments, read_capture
from sidecar.outbound.redis.connection import Argument, RedisConnection
from sidecar.outbound.redis.errors import StoreDamaged
from sidecar.outbound.redis.keys import Keyspace, check_line, quota_field, total_field
from sidecar.outbound.redis.placing import (
    check_amount,
    check_counted,
    part_arguments,
    place_arguments,
    read_outcome,
    who_pays,
)
from sidecar.outbound.redis.records import (
    at_instants,
    event_from_bytes,
    event_to_bytes,
    terms_from_payload,
    terms_to_payload,
    usage_digest,
)
from sidecar.outbound.redis.total_steps import steps_from_rows
from sidecar.services.ports import (
    CaptureOutcome,
    Clock,
    HoldCapture,
    PlaceHold,
    PlaceOutcome,
    RatingDemand,
    ReservedTotals,
    StoredHold,
)

_MARKER_CUSTOMER_LINE = 6
_ASKED = StoreUnavailable("the answer is to come")
"""In place of an answer until it is there."""


class RedisBalances:
    """
    Implements Balances.

    Safe to cancel anywhere: the script ran or it did not, and the connection of a call that
    was cut off is closed.
    """

    def __init__(
        self,
        connection: RedisConnection,
        keyspace: Keyspace,
        clock: Clock,
        *,
        store_timeout_seconds: float = 0.05,
        teller: str = "",
    ) -> None:
        """
        Wire it.

        Args:
            connection: Shared with the other adapters; its own timeout holds for usage.
            keyspace: As `fix_shards` returned it.
            clock: Measures what is left of a check's deadline.
            store_timeout_seconds: The longest that a check waits for its hold.
            teller: Names this process as one that tells gateways of holds; it gives back none that
                another such process was asked about later. Without a name any is given back.
        """
        self._connection = connection
        self._keyspace = keyspace
        self._clock = clock
        self._store_timeout_seconds = store_timeout_seconds
        self._teller = teller

    async def place_hold(self, hold: PlaceHold) -> PlaceOutcome:
        """
        Take the hold with everything it touches, or nothing.

        Raises:
            StoreUnavailable: No answer before the deadline; the caller releases the hold.
            InvalidInput: The demand itself is out of bounds.
        """
        left = (hold.deadline - self._clock.now()).total_seconds()
        if left <= 0:
            raise StoreUnavailable("the deadline had passed before the store was asked")
        terms = hold.terms
        reply = await self._connection.run(
            scripts.PLACE,
            self._keyspace.hold_keys(terms.customer_id, terms.hold_id),
            [*place_arguments(hold), self._teller],
            timeout_seconds=min(left, self._store_timeout_seconds),
            wait_seconds=left,
        )
        return read_outcome(reply, hold.counters)

    async def release_hold(self, customer_id: str, hold_id: str) -> bool:
        """
        Give an open hold back, leaving a tombstone that beats a late place.

        A gateway repeats a check at any of its workers. The one that was asked last answers for
        the hold, and what an earlier one gives back is left alone.
        """
        reply = await self._run(scripts.RELEASE, customer_id, hold_id, customer_id, self._teller)
        _refuse_broken(reply, hold_id)
        return bool(reply == b"released")

    async def extend_hold(self, customer_id: str, hold_id: str, ttl_ms: int) -> bool:
        """Move an open hold's expiry to now + ttl_ms, never nearer."""
        return bool(await self._run(scripts.EXTEND, customer_id, hold_id, ttl_ms))

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
        Place a hold again that a loss of the store took, as its token says it was.

        Args:
            terms: Of the token.
            ttl_ms: How long it lives from now on.
            prepaid: Whether credit pays.
            owes: Whether what it does not pay is owed.
            parts: What the amount is for by meter, in nano, as far as that is known.

        Returns:
            False if the store knows the id, did not lose it, or cannot take it.

        Raises:
            InvalidInput: The terms are out of bounds.
        """
        amount = check_amount(terms.amount_nano)
        arguments: list[Argument] = [
            terms.customer_id,
            amount,
            max(0, terms.decided_at_ms),
            ttl_ms,
            who_pays(prepaid=prepaid, owes=owes),
            terms_to_payload(terms),
            *part_arguments(parts, amount),
        ]
        for line in terms.quota_lines:
            check_counted(line.quantity, line.meter, field="quota_lines")
            arguments += (quota_field(line.field), line.quantity)
        reply = await self._run(scripts.RESTORE, terms.customer_id, terms.hold_id, *arguments)
        return bool(reply == b"restored")

    async def read_hold(self, customer_id: str, hold_id: str) -> StoredHold | None:
        """
        An open hold, or one that ended within the dedupe horizon.

        A late event that was interrupted after reserving its totals, and whose hold the store
        never had, answers with terms that are made from the event.

        Returns:
            None if it is unknown, if the store knows no more than that it ended, or if what is
            stored cannot be read: usage for it is then set aside rather than refused.
        """
        reply = await self._run(scripts.READ, customer_id, hold_id)
        return read_stored_hold(reply)

    async def find_hold(self, hold_id: str) -> str | None:
        """The customer of a hold that is known by its id alone; asks every shard."""
        check_hold_id(hold_id)
        shards = range(self._keyspace.shards)
        opened = [("HGET", self._keyspace.open(shard), hold_id) for shard in shards]
        for reply in await self._connection.commands(opened):
            if reply is not None:
                return _text(reply)
        ended = [("HGET", self._keyspace.done(shard, hold_id), hold_id) for shard in shards]
        for reply in await self._connection.commands(ended):
            if reply is not None:
                lines = reply.split(b"\n", _MARKER_CUSTOMER_LINE + 1)
                return (
                    _text(lines[_MARKER_CUSTOMER_LINE])
                    if len(lines) > _MARKER_CUSTOMER_LINE
                    else None
                )
        return None

    async def reserve_totals(
        self, customer_id: str, hold_id: str, event: UsageEvent, demands: Sequence[RatingDemand]
    ) -> ReservedTotals:
        """
        Move running totals so that this hold id has of each what is demanded, of no other any.

        Totals of a customer that is unknown are not moved; the capture then says so.

        Raises:
            InvalidInput: Two demands name one total: their steps would overlap.
            PricedElsewhere: What it has is of totals of another price version.
            StoreDamaged: What is stored is no total.
        """
        if len({demand.key for demand in demands}) < len(demands):
            raise InvalidInput("two demands name the same running total")
        arguments: list[Argument] = [
            customer_id,
            event_to_bytes(event),
            check_line(event.price_version, "price_version"),
            usage_digest(event),
            int(event.estimated),
        ]
        for demand in demands:
            check_quantity(demand.quantity, field="quantity")
            arguments += (total_field(demand.key), demand.quantity)
        reply = await self._run(scripts.RESERVE, customer_id, hold_id, *arguments)
        _refuse_broken(reply[0], hold_id)
        if reply[0] == b"elsewhere":
            raise PricedElsewhere("the usage that it corrects has another price version")
        if reply[0] == b"pending":
            return ReservedTotals(steps=(), made=False, pending=event_from_bytes(reply[1]))
        return ReservedTotals(steps=steps_from_rows(reply[2:]), made=reply[1] != b"-1")

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

        Raises:
            InvalidInput: The event itself is out of bounds.
        """
        capture = HoldCapture(
            event=event,
            quota_lines=quota_lines,
            prepaid=prepaid,
            owes=owes,
            steps=steps,
            block_id=block_id,
        )
        keys, arguments = self._capture_call(capture)
        return read_capture(await self._connection.run(scripts.CAPTURE, keys, arguments))

    async def open_from_block(self, terms: HoldTerms) -> None:
        """
        Open a hold that its usage came before, from the block that its token names.

        Raises:
            StoreUnavailable: Repeat it.
        """
        hold = early_hold(terms)
        await run_register(self._connection, self._keyspace, terms, [hold], teller=self._teller)

    async def capture_holds(
        self, captures: Sequence[HoldCapture]
    ) -> list[CaptureOutcome | InvalidInput | StoreUnavailable]:
        """Capture many at once, each with its own outcome or what `capture_hold` would raise."""
        found: list[CaptureOutcome | InvalidInput | StoreUnavailable] = []
        calls = []
        for capture in captures:
            try:
                calls.append(self._capture_call(capture))
            except InvalidInput as error:
                found.append(error)
            else:
                found.append(_ASKED)
        answers = iter(await self._connection.run_each(scripts.CAPTURE, calls))
        for place, known in enumerate(found):
            if known is _ASKED:
                answer = next(answers)
                failed = isinstance(answer, StoreUnavailable)
                found[place] = answer if failed else read_capture(answer)
        return found

    def _capture_call(self, capture: HoldCapture) -> tuple[Sequence[str], list[Argument]]:
        """KEYS and ARGV of a capture. Raises InvalidInput: the event is out of bounds."""
        event = capture.event
        arguments = capture_arguments(capture)
        return self._keyspace.hold_keys(event.customer_id, event.hold_id), arguments

    async def due_holds(self, shard: int, limit: int) -> Sequence[tuple[str, str]]:
        """(customer_id, hold_id) of holds whose expiry has passed by the store's clock."""
        keys = self._keyspace
        flat = await self._connection.run(
            scripts.DUE, (keys.shard(shard), keys.expiry(shard), keys.open(shard)), (limit,)
        )
        return [(_text(flat[i]), _text(flat[i + 1])) for i in range(0, len(flat), 2)]

    async def orphan_hold(self, customer_id: str, hold_id: str) -> UsageEvent | None:
        """
        Release an expired hold and append its orphan record to the stream.

        Two calls: the record is worded from the hold's terms, then the script decides anew
        whether the hold is still open and due.
        """
        terms = await self._open_terms(customer_id, hold_id)
        reply = await self._run(
            scripts.ORPHAN,
            customer_id,
            hold_id,
            customer_id,
            terms.currency if terms else "",
            terms.price_version if terms else "",
            # Terms that cannot be read leave no event: the stream's reader sets that aside.
            event_to_bytes(orphan_event(terms)) if terms else b"",
        )
        status, event = reply
        _refuse_broken(status, hold_id)
        return event_from_bytes(event) if status == b"interrupted" else None

    async def prune_counters(self, shard: int, limit: int) -> int:
        """
        Drop windows, slices and levels that count no more, of at most `limit` counters.

        Grants that begin or end by time are counters in this sense: they do so here if no
        other script has come by.

        Returns:
            How many counters were looked at; fewer than `limit` means that no more were due.

        Raises:
            StoreDamaged: A customer's key is no hash; the other counters were looked at.
        """
        keys = self._keyspace
        members = await self._connection.run(
            scripts.STALE, (keys.shard(shard), keys.windows(shard)), (limit,)
        )
        damaged: StoreDamaged | None = None
        for member in members:
            customer_id, _, counter = _text(member).partition("\n")
            try:
                await self._connection.run(
                    scripts.PRUNE,
                    (
                        keys.customer(customer_id),
                        keys.shard(shard),
                        keys.windows(shard),
                        keys.usage(shard),
                    ),
                    (counter, customer_id),
                )
            except StoreDamaged as error:
                damaged = error
        if damaged is not None:
            raise damaged
        return len(members)

    async def ping(self) -> None:
        """Whether the store answers."""
        await self._connection.ping()

    async def _open_terms(self, customer_id: str, hold_id: str) -> HoldTerms | None:
        stored = await self.read_hold(customer_id, hold_id)
        return stored.terms if stored is not None and stored.state is HoldState.OPEN else None

    async def _run(
        self, script: scripts.Script, customer_id: str, hold_id: str, *arguments: Argument
    ) -> Any:
        keys = self._keyspace.hold_keys(customer_id, hold_id)
        return await self._connection.run(script, keys, (hold_id, *arguments))


def read_stored_hold(reply: Sequence[bytes]) -> StoredHold | None:
    """Turn the read script's reply into a hold; None if it is unknown or unreadable."""
    state, decided, expires, payload, event, due, served = reply
    try:
        if payload:
            terms = at_instants(terms_from_payload(payload), int(decided), int(expires))
            return StoredHold(
                terms=terms,
                state=HoldState(state.decode()),
                due=due == b"1",
                served=served == b"1",
                interrupted=bool(event),
            )
        if event:
            terms = terms_of_event(event_from_bytes(event))
            return StoredHold(terms=terms, state=HoldState.ORPHANED, interrupted=True)
    except InvalidInput:
        return None
    return None


def _refuse_broken(status: bytes, hold_id: str) -> None:
    if status == b"broken":
        raise StoreDamaged(f"redis: what is stored for hold {hold_id} is no balance or record")


def _text(value: bytes) -> str:
    return value.decode()
