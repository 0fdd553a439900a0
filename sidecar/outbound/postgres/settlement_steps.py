"""The statements of one settled batch, in order, inside one transaction."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Any, Final

import asyncpg

from sidecar.domain.errors import InvalidInput
from sidecar.domain.grants import WithdrawalKind
from sidecar.domain.ledger_chain import ChainHead
from sidecar.outbound.postgres.copying import copy_rows
from sidecar.outbound.postgres.counter_totals import add_counted
from sidecar.outbound.postgres.pool import Connection
from sidecar.outbound.postgres.posting import post_transactions
from sidecar.outbound.postgres.queries import query
from sidecar.outbound.postgres.settlement_batch import (
    EVENT_COLUMNS,
    UNREADABLE,
    Batch,
    HoldKey,
    columns,
    day_of,
    event_key,
    event_row,
    usage_transaction_ids,
)
from sidecar.outbound.postgres.settlement_lines import (
    LINE_COLUMNS,
    Line,
    WindowKey,
    in_windows,
    late_rows,
    make_lines,
    window_sums,
)
from sidecar.outbound.postgres.settlement_transactions import (
    change_transactions,
    grant_transactions,
    usage_transactions,
)
from sidecar.services.control_ports import SetAsideRecord, StreamRecord, UnreadableRecord

_PAYLOAD_CHARS_MAX: Final = 65_536
_PROBLEM_CHARS_MAX: Final = 1_000
_WITHDRAWALS: Final = frozenset(kind.value for kind in WithdrawalKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Posted:
    """How many records of each sort were new."""

    events: int
    grants: int
    changes: int
    aside: int

    @property
    def decided(self) -> int:
        """Those that are not in quarantine."""
        return self.events + self.grants + self.changes


class RepeatedEventsError(Exception):
    """Some event of a batch is there already; the transaction is of no further use."""


class SettlementSteps:
    """
    One batch. Only records whose key was not there yet go into lines, ledger and windows.

    Every step raises InvalidInput for a record that contradicts what is stored; the whole
    transaction then rolls back.
    """

    def __init__(
        self,
        connection: Connection,
        batch: Batch,
        *,
        provider: str,
        accounts_come: bool,
        reported_meters: Mapping[str, frozenset[str]],
        head: ChainHead,
        posted_at: datetime,
        may_repeat: bool,
    ) -> None:
        """
        Take the batch.

        Args:
            connection: Inside a transaction that has locked the shard's row.
            batch: What to post.
            provider: Whom windows are reported to.
            accounts_come: Whether usage waits for accounts there that customers lack.
            reported_meters: By price version.
            head: Where the shard's chain ends.
            posted_at: The transaction's own time.
            may_repeat: Whether some of the events may be there already; without it such a batch
                raises RepeatedEventsError.
        """
        self._connection = connection
        self._batch = batch
        self._provider = provider
        self._accounts_come = accounts_come
        self._reported_meters = reported_meters
        self._head = head
        self._posted_at = posted_at
        self._may_repeat = may_repeat
        self._transaction_ids = usage_transaction_ids(batch)

    async def run(self) -> Posted:
        """All steps, the offset last."""
        batch = self._batch
        windows_for, closed_until = await self._customers()
        events = await self._insert_events()
        await self._insert_client_keys(events)
        await add_counted(self._connection, events)
        # In the order of the keys, as the events; what is of one hold in the order of the stream.
        lines = make_lines(
            sorted(events, key=attrgetter("customer_id", "hold_id")),
            await self._stored_lines(events),
            windows_for,
            self._reported_meters,
        )
        await self._insert_lines(lines, await self._add_to_windows(lines, windows_for))
        await self._note_late(events, lines, closed_until)
        await self._check_grants()
        grants = await self._post_grants()
        head = await post_transactions(
            self._connection,
            [
                *usage_transactions(events, self._transaction_ids),
                *grant_transactions(grants),
                *change_transactions(batch.changes, batch),
            ],
            head=self._head,
            posted_at=self._posted_at,
        )
        aside = await self._insert_quarantine()
        await self._connection.execute(
            query("advance_offset"),
            batch.shard,
            batch.offset,
            head.seq,
            head.hash if head.seq else None,
            *batch.settled,
        )
        return Posted(
            events=len(events), grants=len(grants), changes=len(batch.changes), aside=aside
        )

    async def _customers(self) -> tuple[dict[str, str], dict[str, datetime]]:
        """
        The reported customers' provider ids, and up to where customers' usage is invoiced.

        Refuses records of unknown customers.
        """
        records = (*self._batch.usage, *self._batch.grants, *self._batch.changes)
        ids = sorted({record.customer_id for record in records})
        rows = (
            await self._fetch("settled_customers", ids, self._accounts_come, self._provider)
            if ids
            else []
        )
        currencies = {row["customer_id"]: row["currency"] for row in rows}
        for record in records:
            if currencies.get(record.customer_id) != record.currency:
                known = record.customer_id in currencies
                raise InvalidInput(
                    f"entry {record.entry_id}: "
                    + ("another currency than the customer's" if known else "unknown customer")
                )
        windows_for = {
            row["customer_id"]: row["account_id"] for row in rows if row["account_id"] is not None
        }
        return windows_for, {
            row["customer_id"]: row["closed_until"]
            for row in rows
            if row["closed_until"] is not None
        }

    async def _insert_events(self) -> list[StreamRecord]:
        """Insert what is not there; the first of two records with one key counts."""
        usage = self._batch.usage
        if not usage:
            return []
        records = {event_key(record): record for record in reversed(usage)}
        # In the order of the keys, so that neighbours in the index are written one after another.
        rows = [
            event_row(
                record,
                shard=self._batch.shard,
                transaction_id=self._transaction_ids[record.customer_id, record.currency],
            )
            for _, record in sorted(records.items())
        ]
        if self._may_repeat:
            inserted = {tuple(row) for row in await self._fetch("insert_events", *columns(rows))}
        else:
            await self._copy_events(rows)
            if len(records) == len(usage):
                return list(usage)
            inserted = set(records)
        new: list[StreamRecord] = []
        repeated: list[StreamRecord] = []
        for record in usage:
            key = event_key(record)
            (new if key in inserted else repeated).append(record)
            inserted.discard(key)
        await self._check_repeated(repeated)
        return new

    async def _copy_events(self, rows: Sequence[Sequence[Any]]) -> None:
        """
        Insert events if none of them is there.

        Next to always none is, and COPY costs the server and us a fraction of an INSERT that
        looks for conflicts.
        """
        try:
            await copy_rows(self._connection, "usage_events", EVENT_COLUMNS, rows)
        except asyncpg.UniqueViolationError as error:
            raise RepeatedEventsError from error

    async def _check_repeated(self, repeated: Sequence[StreamRecord]) -> None:
        """A repeat that says something else was decided twice: that is for people to see."""
        if not repeated:
            return
        rows = await self._fetch(
            "stored_amounts",
            *columns([(r.customer_id, day_of(r), r.hold_id, r.kind) for r in repeated]),
        )
        stored = {
            (row["customer_id"], row["hold_id"], row["kind"]): (
                row["amount_nano"],
                row["currency"],
            )
            for row in rows
        }
        for record in repeated:
            if stored[event_key(record)] != (record.amount_nano, record.currency):
                raise InvalidInput(
                    f"entry {record.entry_id}: the hold is settled with another amount"
                )

    async def _insert_client_keys(self, events: Iterable[StreamRecord]) -> None:
        rows = [
            (record.customer_id, record.event.client_key, record.hold_id)
            for record in events
            if record.event is not None and record.event.client_key
        ]
        if not rows:
            return
        arrays = columns(rows)
        await self._connection.execute(query("insert_client_keys"), *arrays)
        if await self._connection.fetchval(query("clashing_client_keys"), *arrays) is not None:
            raise InvalidInput("a client's event id came with two different times")

    async def _stored_lines(
        self, events: Iterable[StreamRecord]
    ) -> dict[HoldKey, dict[str, tuple[int, int]]]:
        """What holds had before, for records that may follow another of their hold."""
        following = [
            record for record in events if record.late or record.kind.startswith("correction:")
        ]
        if not following:
            return {}
        keys = sorted({(r.customer_id, day_of(r), r.hold_id) for r in following})
        stored: dict[HoldKey, dict[str, tuple[int, int]]] = {}
        for row in await self._fetch("stored_lines", *columns(keys)):
            meters = stored.setdefault((row["customer_id"], row["hold_id"]), {})
            meters[row["meter"]] = row["quantity"], row["amount_nano"]
        return stored

    async def _add_to_windows(
        self, lines: Sequence[Line], windows_for: Mapping[str, str]
    ) -> dict[WindowKey, int]:
        """Add to the open windows; returns the seq that each quantity went into."""
        sums = window_sums(lines)
        if not sums:
            return {}
        rows = [
            (customer_id, meter, start, windows_for[customer_id], quantity)
            for (customer_id, meter, start), quantity in sorted(sums.items())
        ]
        touched = await self._fetch("add_to_windows", self._provider, *columns(rows))
        return {
            (row["customer_id"], row["meter"], row["window_start"]): row["seq"] for row in touched
        }

    async def _insert_lines(self, lines: Sequence[Line], seqs: Mapping[WindowKey, int]) -> None:
        if lines:
            await copy_rows(self._connection, "usage_lines", LINE_COLUMNS, in_windows(lines, seqs))

    async def _note_late(
        self,
        events: Iterable[StreamRecord],
        lines: Iterable[Line],
        closed_until: Mapping[str, datetime],
    ) -> None:
        """Say which of the usage is of a time whose invoice is made: it goes to another one."""
        if rows := late_rows(events, lines, closed_until):
            await self._connection.execute(query("insert_late_usage"), *columns(rows))

    async def _check_grants(self) -> None:
        """Refuse decisions about grants, and withdrawals of them, that are not on record so."""
        records = (*self._batch.grants, *self._batch.changes)
        if not records:
            return
        keys = sorted({(r.customer_id, r.grant_id) for r in records})
        rows = await self._fetch("kinds_of_grants", *columns(keys))
        kinds = {(row["customer_id"], row["grant_id"]): row["kind"] for row in rows}
        for r in records:
            if kinds.get((r.customer_id, r.grant_id)) != r.grant_kind:
                raise InvalidInput(f"entry {r.entry_id}: no such {r.grant_kind} grant")
        withdrawn = [r for r in self._batch.changes if r.kind in _WITHDRAWALS]
        if not withdrawn:
            return
        keys = sorted({(r.customer_id, r.withdrawal_id) for r in withdrawn})
        known = {tuple(row) for row in await self._fetch("known_withdrawals", *columns(keys))}
        for r in withdrawn:
            if (r.customer_id, r.withdrawal_id, r.grant_id, r.kind) not in known:
                raise InvalidInput(f"entry {r.entry_id}: no such {r.kind} of this grant")
        await self._connection.execute(query("note_posted_withdrawals"), *columns(keys))

    async def _post_grants(self) -> list[StreamRecord]:
        """Turn intents into posted grants; one that is posted already is a repeat."""
        grants = self._batch.grants
        if not grants:
            return []
        rows = [(r.customer_id, r.grant_id, r.amount_nano, r.currency) for r in grants]
        posted = {tuple(row) for row in await self._fetch("post_grants", *columns(rows))}
        new: list[StreamRecord] = []
        repeated: list[StreamRecord] = []
        for record in grants:
            key = (record.customer_id, record.grant_id)
            (new if key in posted else repeated).append(record)
            posted.discard(key)
        if repeated:
            keys = [(r.customer_id, r.grant_id) for r in repeated]
            known = {tuple(row) for row in await self._fetch("posted_grants", *columns(keys))}
            for r in repeated:
                if (r.customer_id, r.grant_id, r.amount_nano, r.currency) not in known:
                    raise InvalidInput(f"entry {r.entry_id}: no such grant of this amount")
        return new

    async def _insert_quarantine(self) -> int:
        rows = [_quarantine_row(self._batch, record) for record in self._batch.aside]
        if not rows:
            return 0
        return len(await self._fetch("insert_quarantine", *columns(rows)))

    async def _fetch(self, name: str, *arguments: Any) -> list[asyncpg.Record]:
        rows: list[asyncpg.Record] = await self._connection.fetch(query(name), *arguments)
        return rows


def _quarantine_row(
    batch: Batch, record: SetAsideRecord | UnreadableRecord
) -> tuple[int, str, str, str | None, str, str, str]:
    if isinstance(record, SetAsideRecord):
        reason, key, problem = record.reason, record.key, record.reason
        customer_id, payload = None, record.payload
    else:
        reason, problem = UNREADABLE, record.problem
        key = f"{batch.epoch}:{record.entry_id}"
        customer_id = record.fields.get("customer_id")
        # ASCII, so that whatever the entry held fits into text.
        payload = json.dumps(dict(record.fields))
    return (
        batch.shard,
        _clean(reason),
        _clean(key),
        None if customer_id is None else _clean(customer_id),
        record.entry_id,
        _clean(problem)[:_PROBLEM_CHARS_MAX],
        _clean(payload)[:_PAYLOAD_CHARS_MAX],
    )


def _clean(text: str) -> str:
    """Postgres takes neither NUL nor half a surrogate pair in text."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
