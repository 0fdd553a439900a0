"""
Allotments: holds of busy customers, placed from blocks of credit that this process has.

A block is a hold of the store's like any other, so what it has is set aside from the moment that
the store gave it. Holds placed from it are told to the store within a few milliseconds, which takes
each out of the block; what is left of the block when it ends goes back. Should this process die,
the store has every hold but those of its last moments, whose usage opens them by their tokens;
the rest of the block stands until no usage can come any more, and then ends as an orphan.

Whatever a block cannot serve is asked of the store, which decides alone.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from itertools import islice, takewhile
from typing import Final

from sidecar import telemetry
from sidecar.domain.allotments import FRESH_SECONDS, PLACE_MS
from sidecar.domain.errors import InvalidInput, StoreUnavailable
from sidecar.domain.holds import hold_second, make_hold_id
from sidecar.services.allotment_blocks import (
    WINDOWED,
    Block,
    HoldStage,
    Key,
    LocalHold,
    key_of,
)
from sidecar.services.allotment_ports import Blocks, Registered
from sidecar.services.owned_tasks import OwnedTasks
from sidecar.services.ports import Clock, Holds, PlaceHold, PlaceOutcome, PlaceStatus

TICK_SECONDS: Final = 0.01
"""Between two looks at what the store has to hear."""
LOOK_SECONDS: Final = 0.1
"""Between two looks at all blocks, of which most have nothing to be done."""
TELL_SECONDS: Final = 0.015
"""A hold that is so old is told of, with all others of its block: with a look and an answer, well
within 50 ms. Sooner would be more calls for as many holds."""
BATCH_MAX: Final = 64
"""Holds of one script: the store's other callers wait for it, a few milliseconds at most."""
RENEW_SECONDS: Final = 0.4
"""So long before a block's end it is renewed, if it is used."""
HOT_SECONDS: Final = 0.25
HOT_HOLDS: Final = 25
"""So many holds alike within so long are worth a block: some of them share each call then."""
EXACT_SECONDS: Final = 1.0
"""After a recall, or where too little was left or no answer came, holds are placed one by one."""
REMEMBERED_SECONDS: Final = 4.0
"""Longer than an id is fresh: a repeat of it is never placed a second time."""
FORGOTTEN_MAX: Final = 4_096
"""Of one look: no step of the loop may take long."""
DRAIN_SECONDS: Final = 2.0
_SENT_WAIT_SECONDS: Final = 0.05
_PLACED: Final = telemetry.ALLOTTED_HOLDS.labels("placed")
_ALLOT_WAIT: Final = timedelta(seconds=1)
"""A block that is given later than this would have ended before it was there."""


class AllottedHolds:
    """Implements Holds; also told of what changes, as a cache of the control plane's facts is."""

    def __init__(
        self,
        holds: Holds,
        blocks: Blocks,
        clock: Clock,
        *,
        monotonic: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        blocks_max: int,
        holds_max: int,
    ) -> None:
        """
        Wire it.

        Args:
            holds: The store's own way, which decides whatever a block cannot.
            blocks: Port.
            clock: Of the day, for the blocks' ids.
            monotonic: Seconds of a clock that never runs backwards.
            random_bytes: For the blocks' ids.
            blocks_max: Blocks at a time.
            holds_max: Holds remembered; beyond it the store is asked.
        """
        self._holds = holds
        self._port = blocks
        self._clock = clock
        self._monotonic = monotonic
        self._random_bytes = random_bytes
        self._blocks_max = blocks_max
        self._holds_max = holds_max
        self._blocks: dict[Key, Block] = {}
        # Blocks of a key that has another by now, until they are given back.
        self._leaving: list[Block] = []
        self._local: dict[str, LocalHold] = {}
        # Ids that the store was asked for, and when: it answers for their repeats, too.
        self._asked: dict[str, float] = {}
        self._heat: dict[Key, int] = {}
        self._heat_since = 0.0
        self._exact_until: dict[str, float] = {}
        self._tasks = OwnedTasks("allotments")
        self._wake = asyncio.Event()
        # Blocks with holds that the store has not heard of; a dict, for its order.
        self._untold: dict[Block, None] = {}
        self._looked_at = -LOOK_SECONDS

    async def place_hold(self, hold: PlaceHold) -> PlaceOutcome:
        """
        Take the hold from a block if one can serve it, else ask the store.

        Raises:
            StoreUnavailable: As the store's own way does.
            InvalidInput: No store can keep the hold.
        """
        outcome = self._place_here(hold)
        if outcome is None:
            if len(self._asked) < self._holds_max:
                self._asked.setdefault(hold.terms.hold_id, self._monotonic())
            outcome = await self._holds.place_hold(hold)
            if outcome.status is PlaceStatus.PLACED:
                self._warm(hold, outcome)
        return outcome

    async def release_hold(self, customer_id: str, hold_id: str) -> bool:
        """
        Give an open hold back; one that the store was not told of goes back with its block.

        Raises:
            StoreUnavailable: Repeat it.
        """
        local = self._local.get(hold_id)
        if local is not None and local.stage is HoldStage.PENDING and not local.dropped:
            local.dropped = True
            return True
        if local is not None and local.stage is HoldStage.SENT:
            await asyncio.sleep(_SENT_WAIT_SECONDS)
            if local.stage is HoldStage.SENT:
                raise StoreUnavailable("the hold is on its way to the store")
        return await self._holds.release_hold(customer_id, hold_id)

    def drop_customer(self, customer_id: str) -> None:
        """Something of a customer has changed: its blocks are not renewed."""
        self._end(block for block in self._blocks.values() if block.customer_id == customer_id)

    def drop_credential(self, secret_hash: str) -> None:
        """A renewal finds a credential revoked; the hash tells nobody here whose it is."""

    def drop_all(self) -> None:
        """What was heard of last is not known."""
        self._end(self._blocks.values())

    def recall(self, customer_id: str) -> None:
        """A check found too little while blocks are out: give them back, and take none for now."""
        self._exact_until[customer_id] = self._monotonic() + EXACT_SECONDS
        ours = [block for block in self._blocks.values() if block.customer_id == customer_id]
        telemetry.ALLOTMENTS.labels("recalled").inc(len(ours))
        self._end(ours)

    async def run(self, stop: asyncio.Event) -> None:
        """Tell the store of holds, renew and return blocks, until stopped; then return them all."""
        while not stop.is_set():
            self._wake.clear()
            self._look()
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS if self._untold else LOOK_SECONDS):
                    await self._wake.wait()
        self.drop_all()
        give_up_at = self._monotonic() + DRAIN_SECONDS
        while (self._blocks or self._leaving) and self._monotonic() < give_up_at:
            self._look()
            await asyncio.sleep(TICK_SECONDS)
        await self._tasks.drain(0.0)

    def _end(self, blocks: Iterable[Block]) -> None:
        for block in tuple(blocks):
            block.end()
        self._looked_at = -LOOK_SECONDS
        self._wake.set()

    def _place_here(self, hold: PlaceHold) -> PlaceOutcome | None:
        hold_id = hold.terms.hold_id
        local = self._local.get(hold_id)
        if local is not None:
            # Once the store has it, it answers for it; what was given back is no hold any more.
            ours = local.stage is not HoldStage.KNOWN and not local.dropped
            return local.repeat(hold) if ours else None
        block = self._blocks.get(key_of(hold)) if self._blocks else None
        if block is None or len(self._local) >= self._holds_max or hold_id in self._asked:
            return None
        now = self._monotonic()
        if abs(block.instant_at(now) // 1_000 - hold_second(hold_id)) > FRESH_SECONDS:
            return None
        self._port.check(hold.terms)
        local = block.place(hold, now)
        if local is None:
            return None
        self._local[hold_id] = local
        if not self._untold:
            self._wake.set()
        self._untold[block] = None
        _PLACED.inc()
        return local.outcome

    def _warm(self, hold: PlaceHold, outcome: PlaceOutcome) -> None:
        """Count a hold that the store placed; many alike are worth a block."""
        if any(take.counter.kind not in WINDOWED for take in hold.counters):
            return
        now = self._monotonic()
        if now - self._heat_since > HOT_SECONDS:
            self._heat.clear()
            self._heat_since = now
        key = key_of(hold)
        old = self._blocks.get(key)
        if old is not None:
            old.hear(outcome)
        count = self._heat[key] = self._heat.get(key, 0) + 1
        if count < HOT_HOLDS or self._exact_until.get(key[0], 0.0) > now:
            return
        if len(self._blocks) + len(self._leaving) >= self._blocks_max or (
            old is not None and not old.ended
        ):
            return
        if old is not None:
            self._leaving.append(old)
        block_id = make_hold_id(int(self._clock.now().timestamp()), self._random_bytes(16))
        block = Block(block_id, key, hold, holds=count, since=self._heat_since)
        block.hear(outcome)
        self._blocks[key] = block
        self._start(block)

    def _look(self) -> None:
        """Start work on every block that has something to be done."""
        now = self._monotonic()
        for block in tuple(self._untold):
            if not block.pending and not block.sent:
                del self._untold[block]
            elif not block.busy and block.is_to_tell(now, TELL_SECONDS):
                self._start(block)
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        for block in (*self._blocks.values(), *self._leaving):
            if not block.busy and self._is_due(block, now):
                self._start(block)
        telemetry.ALLOTMENTS_OPEN.set(len(self._blocks) + len(self._leaving))
        self._forget(now)

    def _is_due(self, block: Block, now: float) -> bool:
        """Whether a block is to be asked for, enlarged, renewed or given back."""
        left = block.place_until - now
        if block.ended or left <= 0:
            return True
        return block.is_short() or (block.is_used and left < RENEW_SECONDS)

    def _forget(self, now: float) -> None:
        """Forget holds that no repeat can be of any more; the oldest stand first."""
        oldest = now - REMEMBERED_SECONDS
        known = takewhile(
            lambda one: one[1].at <= oldest and one[1].stage is HoldStage.KNOWN, self._local.items()
        )
        for hold_id, _ in tuple(islice(known, FORGOTTEN_MAX)):
            del self._local[hold_id]
        asked = takewhile(lambda one: one[1] <= oldest, self._asked.items())
        for hold_id, _ in tuple(islice(asked, FORGOTTEN_MAX)):
            del self._asked[hold_id]
        if len(self._exact_until) > self._blocks_max:
            self._exact_until = {one: at for one, at in self._exact_until.items() if at > now}

    def _start(self, block: Block) -> None:
        block.busy = True
        self._tasks.leave(self._work(block))

    async def _work(self, block: Block) -> None:
        """All that is to be done for a block; its calls follow each other."""
        try:
            while block.pending or block.sent:
                if not await self._register(block):
                    return
            now = self._monotonic()
            if not block.ended and now >= block.place_until and block.asked and not block.is_used:
                block.end()
            if not block.ended and self._is_due(block, now):
                await self._allot(block)
            if block.ended and not block.pending:
                await self._give_back(block)
        finally:
            block.busy = False

    async def _register(self, block: Block) -> bool:
        """Tell the store of some holds; False if it did not answer, and is to be told again."""
        sent = block.next_batch(BATCH_MAX)
        holds = [local.to_register() for local in sent]
        try:
            words = await self._port.register(block.terms, block.batch, holds, ends=False)
        except (StoreUnavailable, InvalidInput) as error:
            now = self._monotonic()
            if isinstance(error, StoreUnavailable) and now < block.return_at:
                block.quiet_until = now + LOOK_SECONDS
                return False
            # Nothing stands behind them any more, or what they say is beyond any store.
            telemetry.get_logger().error("allotment_lost", error=str(error), holds=len(sent))
            words = [Registered.LOST] * len(sent)
        telemetry.ALLOTTED_HOLD_TOLD.observe(self._monotonic() - sent[0].at)
        for local in sent:
            local.stage = HoldStage.KNOWN
        told = Counter(words)
        for word, times in told.items():
            telemetry.ALLOTTED_HOLDS.labels(word.value).inc(times)
        bad = told[Registered.LOST] + told[Registered.UNFIT]
        if bad:
            block.end()
            telemetry.get_logger().error(
                "allotted_holds_uncovered",
                customer_id=block.customer_id,
                block_id=block.terms.block_id,
                holds=bad,
            )
        block.sent = []
        return True

    async def _allot(self, block: Block) -> None:
        """Ask for a block, or for more of it and more time."""
        before = self._monotonic()
        growth = block.growth(before)
        if growth is None:
            self._exact_until[block.customer_id] = before + EXACT_SECONDS
            block.end()
            return
        nano, quantities = growth
        renewal = block.asked
        block.ask(before)
        demand = replace(block.demand, deadline=self._clock.now() + _ALLOT_WAIT)
        try:
            allotted = await self._port.allot(demand, nano, quantities)
        except StoreUnavailable:
            # It may have happened: what was given then goes back with the block.
            telemetry.ALLOTMENTS.labels("failed").inc()
            self._exact_until[block.customer_id] = before + EXACT_SECONDS
            block.end()
            return
        except InvalidInput:
            block.end()
            return
        if allotted.outcome.status is not PlaceStatus.PLACED:
            telemetry.ALLOTMENTS.labels("refused").inc()
            if allotted.outcome.status is PlaceStatus.DENIED:
                self._exact_until[block.customer_id] = before + EXACT_SECONDS
            block.end()
            return
        telemetry.ALLOTMENTS.labels("renewed" if renewal else "taken").inc()
        ended = block.ended
        block.grow(allotted, nano, quantities, sent=before, heard=self._monotonic())
        if ended:
            # It was recalled meanwhile.
            block.end()

    async def _give_back(self, block: Block) -> None:
        """End a block in the store, if it may have it, and forget it."""
        if block.asked and self._monotonic() < block.return_at + PLACE_MS / 1_000:
            try:
                await self._port.register(block.terms, block.batch + 1, (), ends=True)
            except StoreUnavailable:
                return
            telemetry.ALLOTMENTS.labels("returned").inc()
        if block.pending:
            return
        if self._blocks.get(block.key) is block:
            del self._blocks[block.key]
        elif block in self._leaving:
            self._leaving.remove(block)
