"""
Shards that lost their data: found, and made anew from the ledger's database.

An epoch is one life of a shard in the live store. Postgres numbers it: its row is locked and the
number raised before anything is read, so that no settlement commits in between. While a shard is
filled it has no epoch and every script refuses it; the epoch is written last. So a crash anywhere
leaves a shard that is found lost again, and the next rebuild begins from the start.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from sidecar import telemetry
from sidecar.domain.errors import StoreUnavailable
from sidecar.domain.periods import from_epoch_ms
from sidecar.domain.pricing import RateCard
from sidecar.domain.rebuilding import (
    RecordedUsage,
    live_state,
    window_counters,
)
from sidecar.services.ports import Policies, RateCards
from sidecar.services.rating import total_key
from sidecar.services.rebuild_ports import (
    FoundShard,
    LiveCustomer,
    LiveShards,
    PendingStream,
    PriceUse,
    RebuildRecord,
    RebuildSnapshot,
    RecordedShard,
)
from sidecar.services.rounds import run_rounds
from sidecar.services.taken_totals import with_taken

PAGE_MAX = 1_000
"""Customers, or ended holds, that are read and written at a time."""
_REVISION_MARGIN_MS = 1_000
"""A customer's revision is an instant at least; no change of this instant may have a later one."""
_DRAIN_PAUSE_SECONDS = 0.1


class Rebuilder:
    """Looks for lost shards and makes them anew; any number may run."""

    def __init__(
        self,
        *,
        record: RebuildRecord,
        live: LiveShards,
        stream: PendingStream,
        settle: Callable[[int], Awaitable[int]],
        policies: Policies,
        rate_cards: RateCards,
        automatic: bool = True,
        interval_seconds: float = 1.0,
        drain_seconds_max: float = 60.0,
    ) -> None:
        """
        Wire the ports.

        Args:
            record, live, stream, policies, rate_cards: Ports.
            settle: Settles a shard's stream as far as it goes.
            automatic: Whether `run` makes lost shards anew, or only tells of them.
            interval_seconds: Pause between looks of `run`.
            drain_seconds_max: How long what a lost shard's stream still has may take to settle.
        """
        self._record = record
        self._live = live
        self._stream = stream
        self._settle = settle
        self._policies = policies
        self._rate_cards = rate_cards
        self._automatic = automatic
        self._interval_seconds = interval_seconds
        self._drain_seconds_max = drain_seconds_max
        self._told: frozenset[int] = frozenset()

    async def run(self, stop: asyncio.Event) -> None:
        """Look until stopped; a failed round is counted, and the next one tries again."""
        await run_rounds(
            stop,
            self.look_once,
            name="rebuild",
            pause_seconds=self._interval_seconds,
        )

    async def look_once(self) -> int:
        """
        One look at all shards; a store that is new is opened, lost shards are made anew.

        Returns:
            How many shards were made anew.

        Raises:
            StoreUnavailable: Repeat it.
        """
        lost = await self.open_if_new()
        if lost and not self._automatic:
            self._tell(frozenset(lost))
            return 0
        made = await self._rebuild(lost) if lost else 0
        if not await self._live.is_opened():
            await self._live.set_opened()
        return made

    async def open_if_new(self) -> dict[int, tuple[FoundShard, RecordedShard]]:
        """
        Open a store that was never opened, where there are no customers yet.

        Returns:
            What is lost otherwise.

        Raises:
            StoreUnavailable: Repeat it.
        """
        lost = await self._find_lost()
        first = all(found.epoch == 0 and row.epoch == 0 for found, row in lost.values())
        if lost and first and await self._open_new(list(lost)):
            return {}
        return lost

    async def rebuild(self, shards: Sequence[int] | None, *, force: bool) -> int:
        """
        Make shards anew because somebody asks for it.

        Args:
            shards: Which; all if None.
            force: Also those that have lost nothing.

        Returns:
            How many were made anew.
        """
        lost = await self._find_lost(everything=force)
        wanted = {n: one for n, one in lost.items() if shards is None or n in shards}
        return await self._rebuild(wanted) if wanted else 0

    async def _find_lost(
        self, *, everything: bool = False
    ) -> dict[int, tuple[FoundShard, RecordedShard]]:
        # In this order: what is settled by now the store must have had before.
        recorded = await self._record.shards()
        looked = await self._live.look()
        # One server that went back did so with all its shards, also those where nobody can tell
        # any more, because new writes have taken the numbers of lost ones.
        everything = everything or (
            self._live.is_one_server
            and any(
                found.epoch > 0 and _is_lost(found, recorded.get(found.shard, RecordedShard()))
                for found in looked
            )
        )
        lost = {}
        for found in looked:
            row = recorded.get(found.shard, RecordedShard())
            if row.epoch == 0 and found.epoch > 0:
                await self._record.adopt(found.shard, found.epoch)
            elif found.epoch > row.epoch:
                telemetry.get_logger().error(
                    "ledger_behind_store",
                    shard=found.shard,
                    epoch=found.epoch,
                    recorded_epoch=row.epoch,
                )
            elif everything or (_is_lost(found, row) and not found.is_unsure):
                lost[found.shard] = found, row
        return lost

    async def _open_new(self, shards: Sequence[int]) -> bool:
        epochs = await self._record.open_new(shards)
        if not epochs:
            return False
        await self._live.open_new(epochs)
        telemetry.get_logger().info("store_opened", shards=len(epochs))
        return True

    def _tell(self, lost: frozenset[int]) -> None:
        if lost - self._told:
            telemetry.get_logger().error("shards_wait_for_rebuild", shards=sorted(lost))
        self._told = lost

    async def _rebuild(self, lost: Mapping[int, tuple[FoundShard, RecordedShard]]) -> int:
        """
        Make shards anew, together.

        1. Close: nothing is decided on them any more. *A crash:* they are found lost.
        2. Settle what their streams still have. *A crash:* settlement goes on from its offset.
        3. Lock and raise the epochs, drop what is there, fill. *A crash:* the epochs stay what
           they were, the shards have none.
        4. Commit. *A crash after it:* the shards have no epoch, and are made anew once more.
        5. Open each. Whoever is overtaken meanwhile opens nothing.
        """
        started = time.perf_counter()
        telemetry.get_logger().warning("rebuild_started", shards=sorted(lost))
        await self._live.close({n: one.epoch for n, (one, _) in lost.items() if one.epoch})
        for shard in lost:
            await self._drain(shard)
        expected = {shard: row.epoch for shard, (_, row) in lost.items()}
        customers = 0
        clocks: dict[int, int] = {}
        async with self._record.begin(expected) as snapshot:
            epochs = snapshot.epochs
            if epochs:
                await self._live.clear(epochs)
                customers = await self._fill(snapshot)
                for shard in epochs:
                    clocks[shard] = await snapshot.clock_ms(shard)
                    await self._remember(snapshot, shard)
        for shard, epoch in epochs.items():
            await self._live.open(
                shard,
                epoch,
                clock_ms=clocks[shard],
                claims=True,
                settled=snapshot.settled(shard),
            )
        seconds = time.perf_counter() - started
        telemetry.REBUILD_DURATION.observe(seconds)
        telemetry.REBUILT_CUSTOMERS.inc(customers)
        telemetry.get_logger().warning(
            "rebuild_finished", shards=sorted(epochs), customers=customers, seconds=seconds
        )
        return len(epochs)

    async def _drain(self, shard: int) -> None:
        """Settle what the stream still has; another worker may have the lease, and does it then."""
        deadline = time.monotonic() + self._drain_seconds_max
        while True:
            # It settles, and then cannot tell the shard so: that has no epoch.
            with suppress(StoreUnavailable):
                await self._settle(shard)
            row = (await self._record.shards()).get(shard, RecordedShard())
            if not await self._stream.read(shard, row.offset, 1):
                return
            if time.monotonic() > deadline:
                raise StoreUnavailable(
                    f"the stream of shard {shard} could not be settled before its rebuild"
                )
            await asyncio.sleep(_DRAIN_PAUSE_SECONDS)

    async def _fill(self, snapshot: RebuildSnapshot) -> int:
        now_ms = await self._live.now_ms()
        counters = window_counters(self._policies.current())
        cards: dict[str, RateCard | None] = {}
        after, filled = "", 0
        while ids := await snapshot.customer_ids(after, PAGE_MAX):
            after = ids[-1]
            wanted = [one for one in ids if self._live.shard_of(one) in snapshot.epochs]
            page = []
            for recorded, uses in await snapshot.customers(wanted) if wanted else ():
                customer = replace(recorded, totals=await self._totals(uses, cards))
                state = live_state(
                    customer,
                    counters,
                    revision=now_ms + _REVISION_MARGIN_MS,
                    now=from_epoch_ms(now_ms),
                )
                page.append(
                    LiveCustomer(
                        customer_id=customer.customer_id,
                        state=state,
                        credentials=customer.credentials,
                    )
                )
            await self._live.fill(page)
            filled += len(page)
            if not self._live.is_one_server:
                await self._index(
                    snapshot, [n for n in ids if self._live.shard_of(n) not in snapshot.epochs]
                )
        return filled

    async def _index(self, snapshot: RebuildSnapshot, ids: Sequence[str]) -> None:
        """In a cluster a node that loses its data has secrets of other shards' customers, too."""
        for customer_id, credentials in (await snapshot.credentials(ids)).items():
            await self._live.index(customer_id, credentials)

    async def _remember(self, snapshot: RebuildSnapshot, shard: int) -> None:
        page: list[RecordedUsage] = []
        epoch = snapshot.epochs[shard]
        cards: dict[str, RateCard | None] = {}

        async def card_of(version: str) -> RateCard | None:
            if version not in cards:
                cards[version] = await self._card(version)
            return cards[version]

        async for one in snapshot.ended(shard):
            page.append(await with_taken(one, card_of))
            if len(page) == PAGE_MAX:
                await self._live.remember(shard, epoch, page)
                page = []
        if page:
            await self._live.remember(shard, epoch, page)

    async def _totals(
        self, uses: Sequence[PriceUse], cards: dict[str, RateCard | None]
    ) -> dict[str, int]:
        totals: dict[str, int] = {}
        for use in uses:
            version = use.price_version
            if version not in cards:
                cards[version] = await self._card(version)
            card = cards[version]
            found = card.line_for(use.meter, use.model) if card is not None else None
            if card is None or found is None or found[1].price.unit_nano is not None:
                continue
            key = total_key(card, found[0], use.month)
            totals[key] = totals.get(key, 0) + use.quantity
        return totals

    async def _card(self, version: str) -> RateCard | None:
        """The card of a version; None, told of, where neither store nor policy has it any more."""
        card = await self._rate_cards.read(version)
        if card is None:
            cards = self._policies.current().all_cards
            card = next((one for one in cards if one.version == version), None)
        if card is None:
            telemetry.get_logger().error("rate_card_lost", price_version=version)
        return card


def _is_lost(found: FoundShard, row: RecordedShard) -> bool:
    if found.epoch == 0 or found.epoch < row.epoch or found.lost_epoch >= found.epoch:
        return True
    # Whether anything is lacking nobody can tell: who knew may be gone.
    if found.is_taken_over:
        return True
    return found.epoch == row.settled_epoch and found.seq < row.settled_seq
