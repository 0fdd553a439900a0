"""
Settlement: from the shards' streams into the ledger, once in effect.

Redis decided every record with its numbers; here they are posted, never decided again. What
makes it exact is the ledger's transaction, which holds rows and offset together, and the keys
of its rows. A worker may die anywhere; the next one goes on from the committed offset.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sidecar import telemetry
from sidecar.domain.errors import Conflict, InvalidInput, SidecarError, StoreUnavailable
from sidecar.domain.periods import from_epoch_ms
from sidecar.services.claim_settling import REFUSED_CLAIM, Claims, standing_of
from sidecar.services.control_ports import (
    CLAIM,
    AnyRecord,
    Ledger,
    SetAsideRecord,
    ShardLease,
    StreamRecord,
    UnreadableRecord,
    UsageStream,
)
from sidecar.services.ports import Clock, RateCards
from sidecar.services.reported_meters import ReportedMeters
from sidecar.services.setting_aside import set_aside

STREAM_START = "0-0"
REFUSED = "refused"
_BACKOFF_SECONDS_MAX = 30.0


@dataclass(slots=True)
class _Held:
    lease: ShardLease
    renew_at: datetime
    untold: tuple[int, int] | None = None
    """(epoch, seq) that is committed and that the shard may not have been told."""
    is_trimmed: bool = True
    """Whether the stream has nothing any more that the offset covers."""
    problem: StoreUnavailable | None = None
    """Why the shard could not be told."""

    @property
    def is_done(self) -> bool:
        """Whether nothing of what was settled is left to tell or to trim."""
        return self.untold is None and self.is_trimmed and self.problem is None


class SettlementWorker:
    """
    Settles shards; any number of workers may run, one at a time has a shard.

    A lease is kept while the worker runs and given back when `run` ends, so an idle round
    costs one question about all streams and nothing in the database.
    """

    def __init__(
        self,
        stream: UsageStream,
        ledger: Ledger,
        rate_cards: RateCards,
        clock: Clock,
        *,
        owner: str,
        shards: Iterable[int],
        batch_max: int = 1_000,
        lease_seconds: int = 30,
        poll_seconds: float = 0.2,
        concurrency_max: int = 6,
        claims: Claims | None = None,
    ) -> None:
        """
        Wire the ports.

        Args:
            stream, ledger, rate_cards, clock: Ports.
            owner: Names this worker among all that run; must be unique.
            shards: Which shards to settle.
            batch_max: Records of one database transaction.
            lease_seconds: How long a dead worker's shards wait for the next one.
            poll_seconds: Pause of `run` after a round that found nothing.
            concurrency_max: Shards at a time.
            claims: Settles what is claimed; without it a claim goes to quarantine.
        """
        self._stream = stream
        self._ledger = ledger
        self._reported = ReportedMeters(rate_cards)
        self._clock = clock
        self._owner = owner
        self._shards = tuple(shards)
        self._batch_max = batch_max
        self._lease_seconds = lease_seconds
        self._poll_seconds = poll_seconds
        self._concurrency_max = concurrency_max
        self._claims = claims
        self._held: dict[int, _Held] = {}
        self._passed: dict[int, list[StreamRecord]] = {}
        self._taken_until: dict[int, datetime] = {}
        self._is_unsure = False
        """Whether the last round failed: a question about all shards has one answer or none."""

    async def settle_shard(self, shard: int) -> int:
        """
        Settle what is on a shard's stream.

        1. Lease. *A crash after it:* the shard waits until the lease ends.
        2. Read from the offset that Postgres has. *A crash:* nothing was changed.
        3. Post the batch with its new offset in one transaction. *A crash before the commit:*
           all of it is read again. *After it:* steps 4 and 5 are left over.
        4. Tell the shard how far the ledger is, for the gateways' journals. *A crash before it:*
           the next worker tells it, from the entry at the offset, before it trims.
        5. Trim what the offset covers. *A crash before it:* entries stay in the stream, are
           never read again, and go with the next trim.

        Returns:
            How many records were new; 0 while another worker has the shard.

        Raises:
            StoreUnavailable: A step may or may not have happened; settle again. Where only the
                shard could not be told, all is settled first.
        """
        if self._passed.get(shard) and self._claims is not None:
            # Of a life that is over; what is put back twice is one claim.
            await self._claims.put_back(self._passed[shard])
            del self._passed[shard]
        return await self._settle_shard(shard)

    async def drain_shard(self, shard: int) -> int:
        """
        Settle what is left on the stream of a shard that is closed, before it is made anew.

        Nothing can be told to the shard, nor can its claims be settled: they are passed, and put
        back once the shard is settled again. *A crash before that:* the gateways' journals have
        them still.

        Raises:
            StoreUnavailable: As `settle_shard`.
        """
        return await self._settle_shard(shard, closed=True)

    async def _settle_shard(self, shard: int, *, closed: bool = False) -> int:
        held = await self._lease(shard)
        settled = 0
        if held is not None:
            held.problem = None
        while held is not None:
            lease = held.lease
            await self._tell_and_trim(held)
            records = await self._stream.read(shard, lease.offset, self._batch_max)
            if not records:
                break
            try:
                settled += await self._settle(lease, records, closed=closed)
            except Conflict:
                # Another worker took over; it reads the offset that was committed.
                self._held.pop(shard, None)
                telemetry.get_logger().warning("shard_lease_lost", shard=shard)
                break
            held.lease = replace(lease, offset=records[-1].entry_id)
            held.untold = standing_of(records) or held.untold
            held.is_trimmed = False
            await self._tell_and_trim(held)
            self._note_lag(records)
            if len(records) < self._batch_max:
                break  # What has come since is for the next round.
            held = await self._lease(shard)
        if held is not None and held.problem:
            raise held.problem
        return settled

    async def settle_once(self) -> int:
        """
        One round over all shards that can be had, each until what was there is settled.

        A shard that fails does not keep the others from being settled; nor does one whose node is
        away keep them from being asked: after a failure each shard is settled without a question.

        Returns:
            How many records were new.

        Raises:
            SidecarError: The first failure, after all shards had their turn.
        """
        due = self._shards if self._is_unsure else await self._due()
        self._is_unsure = True
        gate = asyncio.Semaphore(self._concurrency_max)

        async def settle_gated(shard: int) -> int:
            async with gate:
                return await self.settle_shard(shard)

        results = await asyncio.gather(
            *(settle_gated(shard) for shard in due), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result
        self._is_unsure = False
        return sum(result for result in results if isinstance(result, int))

    async def _due(self) -> Sequence[int]:
        """
        Shards with something to do; of those that wait for records alone, the ones that have some.

        Whatever comes after the question is found by the next round's, as it would be by the next
        read. A lease that was lost unnoticed is no matter: the commit checks its fence.
        """
        now = self._clock.now()
        due, quiet = [], []
        for shard in self._shards:
            held = self._held.get(shard)
            if shard in self._passed:
                due.append(shard)
            elif held is None:
                if now >= self._taken_until.get(shard, now):
                    due.append(shard)
            elif held.is_done and now < held.renew_at:
                quiet.append(shard)
            else:
                due.append(shard)
        try:
            return [*due, *(await self._stream.waiting(quiet) if quiet else ())]
        except StoreUnavailable:
            return self._shards  # Whichever of them cannot be reached says so itself.

    async def run(self, stop: asyncio.Event) -> None:
        """Settle until stopped, then give the leases back; failures are counted and backed off."""
        failures = 0
        try:
            while not stop.is_set():
                try:
                    settled = await self.settle_once()
                    failures = 0
                    pause = 0.0 if settled else self._poll_seconds
                except SidecarError as error:
                    failures += 1
                    pause = min(_BACKOFF_SECONDS_MAX, self._poll_seconds * 2**failures)
                    telemetry.WORKER_FAILURES.labels("settlement").inc()
                    telemetry.get_logger().warning("settlement_failed", error=str(error))
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), pause)
        finally:
            with suppress(StoreUnavailable):
                await self.release()

    async def release(self) -> None:
        """Give all leases back, so that the next worker need not wait for them to end."""
        held, self._held = self._held, {}
        for shard in held:
            await self._ledger.claim_shard(shard, self._owner, 0)

    async def _lease(self, shard: int) -> _Held | None:
        """The lease at hand, or a new or renewed one once half of its time has passed."""
        now = self._clock.now()
        held = self._held.get(shard)
        if held is not None and now < held.renew_at:
            return held
        if held is None and now < self._taken_until.get(shard, now):
            return None
        lease = await self._ledger.claim_shard(shard, self._owner, self._lease_seconds)
        half = timedelta(seconds=self._lease_seconds / 2)
        if lease is None:
            self._held.pop(shard, None)
            # No longer than the other's lease; a row that was only locked is asked for again soon.
            left = await self._ledger.lease_left(shard, self._owner)
            self._taken_until[shard] = now + min(half, timedelta(seconds=left))
            return None
        self._taken_until.pop(shard, None)
        renewed = replace(held or _Held(lease, now), lease=lease, renew_at=now + half)
        if held is None and lease.offset != STREAM_START:
            # Entries that a predecessor committed but did not trim, and perhaps did not tell.
            renewed.untold = await self._stream.standing_at(shard, lease.offset)
            renewed.is_trimmed = False
        self._held[shard] = renewed
        return renewed

    async def _tell_and_trim(self, held: _Held) -> None:
        """
        Tell the shard what is committed, then drop that from its stream.

        A shard that is lost takes no word; its making anew waits for its stream to be settled.
        """
        if held.problem is not None:
            return  # Told once in a round, however many batches there are.
        if held.untold is not None:
            try:
                await self._stream.tell_settled(held.lease.shard, *held.untold)
            except StoreUnavailable as error:
                held.problem = error
                return
            held.untold = None
        if not held.is_trimmed:
            await self._stream.trim(held.lease.shard, held.lease.offset)
            held.is_trimmed = True

    async def _settle(
        self, lease: ShardLease, records: Sequence[AnyRecord], *, closed: bool
    ) -> int:
        """Post a batch; count what it set aside once that is committed."""
        claimed = list(records) if closed else await self._settle_claims(records)
        prepared, reported_meters = await self._reported.find(claimed)
        aside: list[str] = []
        settled = await self._post(lease, prepared, reported_meters, aside)
        if closed:
            self._passed.setdefault(lease.shard, []).extend(
                record
                for record in records
                if isinstance(record, StreamRecord) and record.kind == CLAIM
            )
        for before, after in zip(records, prepared, strict=True):
            if isinstance(after, UnreadableRecord):
                aside.append("unreadable")
            elif before is not after and isinstance(after, SetAsideRecord):
                aside.append(after.reason)
        for reason in aside:
            telemetry.QUARANTINED.labels(reason).inc()
        return settled

    async def _settle_claims(self, records: Sequence[AnyRecord]) -> list[AnyRecord]:
        """Settle claims before the offset passes them; what is refused is set aside."""
        settled: list[AnyRecord] = list(records)
        claims = [
            (n, record)
            for n, record in enumerate(records)
            if isinstance(record, StreamRecord) and record.kind == CLAIM
        ]
        if not claims:
            return settled
        refused = {record.entry_id: "nobody settles claims" for _, record in claims}
        if self._claims is not None:
            refused = await self._claims.settle([record for _, record in claims])
        for n, record in claims:
            if record.entry_id in refused:
                settled[n] = set_aside(record, REFUSED_CLAIM, refused[record.entry_id])
        return settled

    async def _post(
        self,
        lease: ShardLease,
        records: Sequence[AnyRecord],
        reported_meters: Mapping[str, frozenset[str]],
        aside: list[str],
    ) -> int:
        """
        Post records; a batch that the ledger refuses is halved, in order, down to the culprit.

        The culprit goes to quarantine with all its numbers, in one transaction with its offset.
        A crash between two halves costs nothing: the first has moved the offset.
        """
        try:
            return await self._ledger.settle(lease, records, reported_meters)
        except InvalidInput as error:
            if len(records) > 1:
                middle = len(records) // 2
                first = await self._post(lease, records[:middle], reported_meters, aside)
                return first + await self._post(lease, records[middle:], reported_meters, aside)
            (record,) = records
            if not isinstance(record, StreamRecord):
                raise
            telemetry.get_logger().error(
                "record_quarantined",
                shard=lease.shard,
                entry_id=record.entry_id,
                customer_id=record.customer_id,
                error=str(error),
            )
            refused = set_aside(record, REFUSED, str(error))
            settled = await self._ledger.settle(lease, [refused], {})
            aside.append(REFUSED)
            return settled

    def _note_lag(self, records: Sequence[AnyRecord]) -> None:
        newest = max(
            (record.decided_at_ms for record in records if isinstance(record, StreamRecord)),
            default=None,
        )
        if newest is not None:
            age = self._clock.now() - from_epoch_ms(newest)
            telemetry.SETTLEMENT_LAG.set(max(0.0, age.total_seconds()))
