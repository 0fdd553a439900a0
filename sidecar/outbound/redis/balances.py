"""Live balances, holds and counters: implements `Balances`, one script per verb."""

import hashlib
from collections.abc import Sequence
from typing import Any

from sidecar.domain.errors import InvalidInput, StoreUnavailable
from sidecar.domain.holds import HoldState, HoldTerms, QuotaLine, check_hold_id
from sidecar.domain.judging import StoreNumbers
from sidecar.domain.money import AMOUNT_NANO_MAX
from sidecar.domain.periods import to_epoch_ms
from sidecar.domain.policy import QuotaTake
from sidecar.domain.standing import Standing
from sidecar.domain.usage import UsageEvent, check_quantity
from sidecar.outbound.redis import scripts
from sidecar.outbound.redis.connection import Argument, RedisConnection
from sidecar.outbound.redis.errors import StoreDamaged
from sidecar.outbound.redis.keys import Keyspace, quota_field, total_field
from sidecar.outbound.redis.records import (
    at_instants,
    event_from_bytes,
    event_to_bytes,
    orphan_event,
    terms_from_payload,
    terms_of_event,
    terms_to_payload,
    usage_digest,
)
from sidecar.services.ports import (
    CaptureOutcome,
    CaptureStatus,
    Clock,
    PlaceHold,
    PlaceOutcome,
    PlaceStatus,
    RatingDemand,
    StoredHold,
)

_WITH_NUMBERS = frozenset({PlaceStatus.PLACED, PlaceStatus.REPEATED, PlaceStatus.DENIED})
_PLACE_REPLY_HEAD = 9
_MARKER_CUSTOMER_LINE = 6


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
    ) -> None:
        """
        Wire it.

        Args:
            connection: Shared with the other adapters; its own timeout holds for usage.
            keyspace: As `fix_shards` returned it.
            clock: Measures what is left of a check's deadline.
            store_timeout_seconds: The longest that a check waits for its hold.
        """
        self._connection = connection
        self._keyspace = keyspace
        self._clock = clock
        self._store_timeout_seconds = store_timeout_seconds

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
            _place_arguments(hold),
            timeout_seconds=min(left, self._store_timeout_seconds),
            wait_seconds=left,
        )
        return _place_outcome(reply, hold.quotas)

    async def release_hold(self, customer_id: str, hold_id: str) -> bool:
        """Give an open hold back, leaving a tombstone that beats a late place."""
        reply = await self._run(scripts.RELEASE, customer_id, hold_id, customer_id)
        _refuse_broken(reply, hold_id)
        return bool(reply == b"released")

    async def extend_hold(self, customer_id: str, hold_id: str, ttl_ms: int) -> bool:
        """Move an open hold's expiry to now + ttl_ms, never nearer."""
        return bool(await self._run(scripts.EXTEND, customer_id, hold_id, ttl_ms))

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
    ) -> tuple[int, ...]:
        """
        Reserve an interval of each running total for this hold id, once.

        Totals of a customer that is unknown are not advanced; the capture then says so.

        Returns:
            Each total before the interval, in the order of the demands. A repeat returns the
            same; so does an id that is captured already.

        Raises:
            InvalidInput: Two demands name one total: their intervals would overlap.
            StoreDamaged: What is stored is no total.
        """
        if len({demand.key for demand in demands}) < len(demands):
            raise InvalidInput("two demands name the same running total")
        arguments: list[Argument] = [customer_id, event_to_bytes(event)]
        for demand in demands:
            check_quantity(demand.quantity, field="quantity")
            arguments += (total_field(demand.key), demand.quantity)
        reply = await self._run(scripts.RESERVE, customer_id, hold_id, *arguments)
        _refuse_broken(reply[0], hold_id)
        return tuple(int(total) for total in reply[1:])

    async def capture_hold(
        self, event: UsageEvent, quota_lines: Sequence[QuotaLine], *, prepaid: bool
    ) -> CaptureOutcome:
        """
        Burn the event's amount, release the rest of its hold, append it to the shard's stream.

        Raises:
            InvalidInput: The event itself is out of bounds.
        """
        amount = _check_amount(event.amount_nano)
        arguments: list[Argument] = [
            event.customer_id,
            amount,
            int(event.estimated),
            usage_digest(event),
            int(prepaid),
            event.currency,
            event.price_version,
            event_to_bytes(event),
            AMOUNT_NANO_MAX - amount,
            amount - AMOUNT_NANO_MAX,
            len(quota_lines),
        ]
        for line in quota_lines:
            check_quantity(line.quantity, field="quota_lines")
            arguments += (quota_field(line.field), line.quantity)
        reply = await self._run(scripts.CAPTURE, event.customer_id, event.hold_id, *arguments)
        status, booked, overage, held, available = reply[:5]
        return CaptureOutcome(
            status=CaptureStatus(status.decode()),
            booked_nano=int(booked),
            overage_nano=int(overage),
            held_nano=int(held),
            available_nano=int(available),
        )

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

    async def ping(self) -> None:
        """Whether the store answers."""
        await self._connection.command("PING")

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
    state, decided, expires, payload, event = reply
    try:
        if payload:
            terms = at_instants(terms_from_payload(payload), int(decided), int(expires))
            return StoredHold(terms=terms, state=HoldState(state.decode()))
        if event:
            terms = terms_of_event(event_from_bytes(event))
            return StoredHold(terms=terms, state=HoldState.ORPHANED)
    except InvalidInput:
        return None
    return None


def _place_arguments(hold: PlaceHold) -> list[Argument]:
    terms = hold.terms
    amount = _check_amount(terms.amount_nano)
    arguments: list[Argument] = [
        terms.hold_id,
        terms.customer_id,
        amount,
        # Hashed: it holds a client's path, of any length.
        hashlib.sha256(hold.fingerprint.encode(errors="backslashreplace")).hexdigest()[:32],
        to_epoch_ms(hold.deadline),
        hold.ttl_ms,
        hold.customer.credential_id,
        hold.customer.generation,
        hold.customer.revision,
        int(hold.credit_required),
        int(hold.refuse_delinquent),
        AMOUNT_NANO_MAX - amount,
        amount - AMOUNT_NANO_MAX,
        terms_to_payload(terms),
        len(hold.quotas),
    ]
    for take in hold.quotas:
        check_quantity(take.quantity, field=take.quota.name)
        arguments += (
            quota_field(take.line.field),
            take.start_ms,
            take.end_ms,
            int(take.hard),
            take.quantity,
            take.quota.limit - take.quantity,
        )
    return arguments


def _place_outcome(reply: list[bytes], quotas: tuple[QuotaTake, ...]) -> PlaceOutcome:
    status = PlaceStatus(reply[0].decode())
    instant, expires = int(reply[1]), int(reply[2])
    if status not in _WITH_NUMBERS:
        return PlaceOutcome(status=status, instant_ms=instant)
    used: dict[str, int] = {}
    failed: set[str] = set()
    for index, take in enumerate(quotas):
        at = _PLACE_REPLY_HEAD + 2 * index
        used[take.quota.name] = int(reply[at])
        if reply[at + 1] == b"1":
            failed.add(take.quota.name)
    return PlaceOutcome(
        status=status,
        instant_ms=instant,
        expires_at_ms=expires,
        numbers=StoreNumbers(
            instant_ms=instant,
            available_nano=int(reply[5]),
            standing=Standing(reply[6].decode()),
            quota_used=used,
            failed_credit=reply[7] == b"1",
            failed_standing=reply[8] == b"1",
            failed_quotas=frozenset(failed),
        ),
    )


def _check_amount(amount_nano: int) -> int:
    if not 0 <= amount_nano <= AMOUNT_NANO_MAX:
        raise InvalidInput(
            f"the amount {str(amount_nano)[:40]} nano is below 0 or beyond any balance"
        )
    return amount_nano


def _refuse_broken(status: bytes, hold_id: str) -> None:
    if status == b"broken":
        raise StoreDamaged(f"redis: what is stored for hold {hold_id} is no balance or record")


def _text(value: bytes) -> str:
    return value.decode()
