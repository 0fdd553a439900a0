"""Events and the objects that they name: implements `Inbox`."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

from asyncpg import Record

from sidecar.outbound.postgres.fetched import write_handled
from sidecar.outbound.postgres.grants import LIST_MAX
from sidecar.outbound.postgres.notices import count_notices, insert_notices
from sidecar.outbound.postgres.payment_posting import ShardOf, post_payments
from sidecar.outbound.postgres.pool import ACQUIRE_SECONDS_MAX, Connection, Pool, translate_errors
from sidecar.outbound.postgres.queries import query
from sidecar.services.inbox_ports import (
    Handled,
    InboxClaim,
    InboxObject,
    InboxState,
    ObjectKind,
    ObjectRef,
    Receipt,
    ReceivedEvent,
)

_REASON_CHARS_MAX: Final = 128
_TYPE_CHARS_MAX: Final = 255


class _DuplicateError(Exception):
    """Another connection has stored the same event meanwhile: undo."""


class PostgresInbox:
    """Implements Inbox; leases and times are by Postgres' own clock."""

    def __init__(self, pool: Pool, *, shard_of: ShardOf | None = None) -> None:
        """Wire it; whoever finishes what payments come of needs to know the shards."""
        self._pool = pool
        self._shard_of = shard_of

    async def receive(self, event: ReceivedEvent) -> Receipt:
        """Store an event, and its object as wanted, together; a repeat changes nothing."""
        with translate_errors():
            if await self._pool.fetchval(query("inbox_known"), event.provider, event.event_id):
                return Receipt.DUPLICATE
            try:
                async with (
                    self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection,
                    connection.transaction(),
                ):
                    await _store(connection, event)
            except _DuplicateError:
                return Receipt.DUPLICATE
        return Receipt.IGNORED if event.ref is None else Receipt.STORED

    async def want(self, refs: Sequence[ObjectRef]) -> None:
        """Have objects fetched again without an event."""
        with translate_errors():
            async with (
                self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection,
                connection.transaction(),
            ):
                # In one order everywhere, so that two that want the same do not wait in a circle.
                for ref in sorted(refs, key=lambda one: one.key):
                    await _want(connection, ref)

    async def claim(
        self,
        owner: str,
        *,
        limit: int,
        lease_seconds: int,
        providers: Sequence[str] | None = None,
    ) -> Sequence[InboxClaim]:
        """Lease wanted objects whose time has come, the longest wanted first."""
        with translate_errors():
            rows = await self._pool.fetch(
                query("inbox_claim"),
                owner,
                limit,
                timedelta(seconds=lease_seconds),
                None if providers is None else list(providers),
            )
        return [
            InboxClaim(
                ref=_ref(row),
                fence=row["fence"],
                events=row["events"],
                attempts=row["attempts"],
                livemode=row["livemode"],
                types=frozenset(row["types"]),
            )
            for row in rows
        ]

    async def finish(self, claim: InboxClaim, handled: Handled) -> Sequence[str] | None:
        """Write what was fetched and mark the events that the claim saw as done, together."""
        key = claim.ref.key
        with translate_errors():
            async with (
                self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection,
                connection.transaction(),
            ):
                # What follows, too: a payment wants its invoice after it has marked the customer,
                # whom the invoice marks after itself.
                keys = [key, *(ref.key for ref in handled.follow)]
                rows = await connection.fetch(query("inbox_lock"), keys)
                if {row["object_key"]: row["fence"] for row in rows}.get(key) != claim.fence:
                    return None
                # First: it locks shards, which come before rows of customers.
                await post_payments(connection, self._shard_of, handled.postings)
                customers = await write_handled(connection, claim, handled)
                for customer_id in customers:
                    await connection.execute(query("mark_standing"), customer_id)
                await connection.execute(query("inbox_done"), key, claim.events)
                await connection.execute(
                    query("inbox_finish"), key, claim.events, handled.parked[:_REASON_CHARS_MAX]
                )
                for ref in sorted(handled.follow, key=lambda one: one.key):
                    await _want(connection, ref)
                told = await insert_notices(connection, handled.notices)
        count_notices(told)
        return customers

    async def fail(self, claim: InboxClaim, *, reason: str, retry_in_seconds: float | None) -> None:
        """Try later, or park it (None); no effect if the lease was lost."""
        wait = None if retry_in_seconds is None else timedelta(seconds=retry_in_seconds)
        with translate_errors():
            await self._pool.execute(
                query("inbox_fail"),
                claim.ref.key,
                claim.fence,
                reason[:_REASON_CHARS_MAX],
                wait,
                claim.events,
            )

    async def list(
        self, *, state: InboxState | None, after: str, limit: int
    ) -> Sequence[InboxObject]:
        """Objects by key, those after `after`; at most LIST_MAX."""
        with translate_errors():
            rows = await self._pool.fetch(
                query("inbox_list"),
                after,
                None if state is None else state.value,
                min(limit, LIST_MAX),
            )
        return [_object(row) for row in rows]

    async def retry(self, key: str) -> InboxObject | None:
        """Want an object now, with its attempts counted anew; None if there is none."""
        with translate_errors():
            row = await self._pool.fetchrow(query("inbox_retry"), key)
        return None if row is None else _object(row)

    async def count(self) -> Mapping[InboxState, int]:
        """How many are pending and parked."""
        with translate_errors():
            rows = await self._pool.fetch(query("inbox_count"))
        return {InboxState(row["state"]): row["count"] for row in rows}

    async def forget(self, *, older_than_days: int, limit: int) -> int:
        """Delete events that were done so long ago, and idle objects; returns how many."""
        age = timedelta(days=older_than_days)
        with translate_errors():
            events = await self._pool.execute(query("inbox_forget_events"), age, limit)
            objects = await self._pool.execute(query("inbox_forget_objects"), age, limit)
        return int(events.rpartition(" ")[2]) + int(objects.rpartition(" ")[2])


async def _store(connection: Connection, event: ReceivedEvent) -> None:
    """
    The object first: its row's lock gives events their numbers in the order of commits.

    So a claim that has seen number n has seen all below it.
    """
    number = None
    if event.ref is not None:
        number = await _want(
            connection,
            event.ref,
            event_type=event.event_type,
            livemode=event.livemode,
            parked=event.reason,
        )
    inserted = await connection.fetchval(
        query("inbox_insert"),
        event.provider,
        event.event_id,
        event.event_type[:_TYPE_CHARS_MAX],
        None if event.ref is None else event.ref.key,
        number,
    )
    if inserted is None:
        raise _DuplicateError


async def _want(
    connection: Connection,
    ref: ObjectRef,
    *,
    event_type: str = "",
    livemode: bool | None = None,
    parked: str = "",
) -> int:
    """Returns the number of what asks for it."""
    number = await connection.fetchval(
        query("inbox_want"),
        ref.key,
        ref.provider,
        ref.kind.value,
        ref.object_id,
        InboxState.PARKED.value if parked else InboxState.PENDING.value,
        parked[:_REASON_CHARS_MAX],
        event_type[:_TYPE_CHARS_MAX],
        livemode,
    )
    assert isinstance(number, int)
    return number


def _ref(row: Record) -> ObjectRef:
    return ObjectRef(
        provider=row["provider"], kind=ObjectKind(row["kind"]), object_id=row["object_id"]
    )


def _object(row: Record) -> InboxObject:
    return InboxObject(
        ref=_ref(row),
        state=InboxState(row["state"]),
        reason=row["reason"],
        events=row["events"],
        attempts=row["attempts"],
        event_type=row["event_type"],
        livemode=row["livemode"],
        wanted_at=row["wanted_at"],
        retry_at=row["retry_at"],
        handled_at=row["handled_at"],
    )
