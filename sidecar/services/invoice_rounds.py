"""
The work of invoicing: periods that are over become invoices, in bounded rounds.

1. Enroll. Each customer gets a cursor, from the first usage on.
2. Cut. Once a period and its grace are over and the shard's stream is settled past it, the cursor
   moves on under the lock of the shard: what is posted from then on is late. A draft is left.
3. Late usage goes where the policy says.
4. Close. A draft's usage cannot change any more; it is added up, checked, numbered and frozen.
5. Credit notes are posted.

A crash at any point leaves a cursor, a draft or an intent that the next round goes on with. Every
step may be done by several processes at once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from sidecar import telemetry
from sidecar.domain.errors import InvalidInput, StoreUnavailable
from sidecar.domain.invoices import (
    LatePolicy,
    LateRule,
    billing_window,
    invoice_id_of,
    period_from,
    provider_of,
)
from sidecar.domain.periods import from_epoch_ms
from sidecar.services.control_ports import StreamRecord, UsageStream
from sidecar.services.invoice_making import InvoiceMaker, Unknown
from sidecar.services.invoicing_ports import (
    Closing,
    Cursor,
    Cut,
    Draft,
    InvoiceBook,
    InvoicingRound,
)
from sidecar.services.ports import Clock
from sidecar.services.rounds import run_rounds

T = TypeVar("T")
_INSTANT = timedelta(microseconds=1)
_BACKOFF_SECONDS_MAX = 300.0
_PROBLEMS_MAX = 20
_SHARDS_AT_ONCE = 4
"""Of one worker: what one of them waits for the disk, others use."""
_LIGHT_STEPS = 5
"""Customers of a step that only moves cursors, for each of one that adds usage up."""
_CUT_LEASE = timedelta(seconds=15)
"""A shard that is not settled so far is tried again after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoicingOptions:
    """
    How periods are closed.

    `grace` is how long after a period's end its usage is waited for. `since` is before what
    usage is on no invoice (None: none is). `batch_max` bounds customers, drafts and late events
    of one step, `rounds_max` how many batches of drafts one round closes.
    """

    grace: timedelta = timedelta(hours=1)
    since: datetime | None = None
    batch_max: int = 200
    rounds_max: int = 1_000
    lease: timedelta = timedelta(seconds=300)
    interval_seconds: float = 60.0


class InvoicingWorker:
    """Does rounds; any number of workers may run."""

    def __init__(
        self,
        *,
        book: InvoiceBook,
        stream: UsageStream,
        maker: InvoiceMaker,
        clock: Clock,
        shard_of: Callable[[str], int],
        options: InvoicingOptions,
    ) -> None:
        """Wire the ports."""
        self._book = book
        self._stream = stream
        self._maker = maker
        self._clock = clock
        self._shard_of = shard_of
        self._options = options

    async def run(self, stop: asyncio.Event) -> None:
        """Do rounds until stopped; failures are counted and backed off."""
        await run_rounds(
            stop,
            self._round,
            name="invoicing",
            pause_seconds=self._options.interval_seconds,
            backoff_seconds_max=_BACKOFF_SECONDS_MAX,
        )

    async def _round(self) -> None:
        for problem in (await self.run_once()).problems:
            telemetry.get_logger().warning("invoice_waits", error=problem)

    async def run_once(self) -> InvoicingRound:
        """
        One round over all that is due.

        Raises:
            SidecarError: A step failed; nothing is half-done, so do the round again.
        """
        done = InvoicingRound()
        await self._maker.note_current_cards()
        await self._enroll(done)
        for _ in range(self._options.rounds_max):
            moved = await self._cut(done)
            moved += await self._close(done)
            if not moved:
                break
        await self._late(done)
        await self._close(done)
        await self._credit(done)
        telemetry.INVOICES_WAITING.set(done.waiting)
        return done

    async def _enroll(self, done: InvoicingRound) -> None:
        options = self._options
        for _ in range(options.rounds_max):
            enrolled = await self._book.enroll(
                self._shard_of,
                billing_window(None).at,
                now=self._clock.now(),
                since=options.since,
                limit=options.batch_max * _LIGHT_STEPS,
            )
            done.enrolled += enrolled
            if not enrolled:
                break

    async def _cut(self, done: InvoicingRound) -> int:
        """Cut what is due of one batch; whose shard is not settled so far waits."""
        options, now, rule = self._options, self._clock.now(), self._maker.late_rule
        cursors = await self._book.due(
            ended_before=now - options.grace,
            asked_before=now,
            limit=options.batch_max * _LIGHT_STEPS,
            lease=min(options.lease, _CUT_LEASE),
        )
        shards: dict[int, list[Cursor]] = {}
        for cursor in cursors:
            shards.setdefault(self._shard_of(cursor.customer_id), []).append(cursor)

        async def cut_shard(shard: int, found: Sequence[Cursor]) -> int:
            try:
                until = min(now, max(one.period_end for one in found) + options.grace)
                if not await self._is_settled(shard, until):
                    self._wait(done, f"shard {shard} is not settled up to {until.isoformat()}")
                    return 0
                return await self._book.cut(shard, [self._plan(cursor, rule) for cursor in found])
            except StoreUnavailable as error:
                self._wait(done, f"shard {shard}: {error}")
                return 0

        cut = await _each_shard(shards, cut_shard)
        done.cut += cut
        return cut

    async def _is_settled(self, shard: int, until: datetime) -> bool:
        """Whether whatever a shard decided before an instant is in the ledger."""
        first = await self._stream.read(shard, await self._book.offset_of(shard), 1)
        if not first:
            return True
        record = first[0]
        return isinstance(record, StreamRecord) and from_epoch_ms(record.decided_at_ms) >= until

    @staticmethod
    def _plan(cursor: Cursor, rule: LateRule) -> Cut:
        following = period_from(cursor.period_end, cursor.anchor)
        return Cut(
            cursor=cursor,
            invoice_id=invoice_id_of(cursor.customer_id, cursor.currency, cursor.closed_until, 0),
            provider=provider_of(cursor.currency, cursor.provider),
            next_end=following.end,
            late=rule.of(cursor.plan),
        )

    async def _late(self, done: InvoicingRound) -> None:
        """Give late usage that waits an invoice of its own, or write it off, as its plan says."""
        rule, now = self._maker.late_rule, self._clock.now()
        for cursor in await self._waiting(rule, LatePolicy.WRITE_OFF, now):
            await self._write_off(cursor, done)
        for cursor in await self._waiting(rule, LatePolicy.INVOICE_ITEM, now - self._options.grace):
            shard = self._shard_of(cursor.customer_id)
            last = billing_window(cursor.anchor).at(cursor.closed_until - _INSTANT)
            provider = provider_of(cursor.currency, cursor.provider)
            done.cut += await self._book.cut_late(shard, cursor, last, provider)

    async def _waiting(
        self, rule: LateRule, policy: LatePolicy, noted_before: datetime
    ) -> Sequence[Cursor]:
        plans, all_but = rule.plans_with(policy)
        if not plans and not all_but:
            return ()
        return await self._book.late_customers(
            noted_before=noted_before,
            plans=plans,
            all_but=all_but,
            limit=self._options.batch_max,
        )

    async def _write_off(self, cursor: Cursor, done: InvoicingRound) -> None:
        shard, limit = self._shard_of(cursor.customer_id), self._options.batch_max
        while (
            made := await self._book.write_off(shard, cursor.customer_id, limit=limit)
        ) is not None:
            done.written_off += made.events
            telemetry.INVOICE_EVENTS.labels("written_off").inc(made.events)

    async def _close(self, done: InvoicingRound) -> int:
        """Close drafts batch by batch until none is left that can be closed."""
        options, closed = self._options, 0
        for _ in range(options.rounds_max):
            drafts = await self._book.drafts(limit=options.batch_max, lease=options.lease)
            if not drafts:
                break
            ready: dict[int, list[Closing]] = {}
            for draft, made in await self._make(drafts, done):
                if isinstance(made, Closing):
                    ready.setdefault(self._shard_of(draft.customer_id), []).append(made)
                else:
                    self._wait(done, f"{draft.customer_id}: {made}")
            closed += await _each_shard(ready, self._close_shard)
        done.closed += closed
        return closed

    async def _close_shard(self, shard: int, closings: Sequence[Closing]) -> int:
        count = await self._book.close(shard, closings)
        self._tell(closings, count)
        return count

    async def _make(
        self, drafts: Sequence[Draft], done: InvoicingRound
    ) -> list[tuple[Draft, Closing | Unknown]]:
        """Drafts with what they come to; one that cannot be made keeps no other from it."""
        try:
            return list(zip(drafts, await self._maker.make(drafts), strict=True))
        except InvalidInput as error:
            if len(drafts) == 1:
                self._wait(done, f"{drafts[0].customer_id}: {error}")
                return []
            middle = len(drafts) // 2
            first = await self._make(drafts[:middle], done)
            return first + await self._make(drafts[middle:], done)

    @staticmethod
    def _tell(closings: Sequence[Closing], count: int) -> None:
        telemetry.INVOICES.labels("closed").inc(count)
        for closing in closings:
            for finding in closing.content.findings:
                telemetry.INVOICE_FINDINGS.labels(finding.kind.value).inc()
                telemetry.get_logger().error(
                    "invoice_finding",
                    kind=finding.kind.value,
                    customer_id=closing.draft.customer_id,
                    invoice_id=closing.draft.invoice_id,
                    line=finding.line_number,
                    captured_nano=finding.captured_nano,
                    expected_nano=finding.expected_nano,
                )

    async def _credit(self, done: InvoicingRound) -> None:
        options = self._options
        for _ in range(options.rounds_max):
            notes = await self._book.unposted_credit_notes(options.batch_max)
            if not notes:
                break
            for customer_id, note_id in notes:
                shard = self._shard_of(customer_id)
                done.credited += await self._book.post_credit_note(shard, customer_id, note_id)

    @staticmethod
    def _wait(done: InvoicingRound, problem: str) -> None:
        done.waiting += 1
        if len(done.problems) < _PROBLEMS_MAX:
            done.problems.append(problem)


async def _each_shard(
    work: Mapping[int, Sequence[T]], do: Callable[[int, Sequence[T]], Awaitable[int]]
) -> int:
    """Do shards' work, a few at a time; what was begun ends before a failure is raised."""
    did = 0
    shards = sorted(work)
    for first in range(0, len(shards), _SHARDS_AT_ONCE):
        some = shards[first : first + _SHARDS_AT_ONCE]
        ended = await asyncio.gather(
            *(do(shard, work[shard]) for shard in some), return_exceptions=True
        )
        for one in ended:
            if isinstance(one, BaseException):
                raise one
            did += one
    return did
