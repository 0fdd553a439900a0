"""Blocks of credit in the live store: implements `Blocks`; also opens holds for early usage."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from sidecar.domain.holds import HoldTerms
from sidecar.outbound.redis import scripts
from sidecar.outbound.redis.connection import Argument, RedisConnection
from sidecar.outbound.redis.errors import StoreDamaged
from sidecar.outbound.redis.keys import Keyspace
from sidecar.outbound.redis.placing import (
    block_arguments,
    check_amount,
    fingerprint_hash,
    read_outcome,
)
from sidecar.outbound.redis.records import terms_to_payload
from sidecar.services.allotment_ports import Allotted, BlockHold, Registered
from sidecar.services.ports import PlaceHold

_WORDS: Final = {word.value.encode(): word for word in Registered}


class RedisBlocks:
    """Implements Blocks. Safe to cancel anywhere: each script ran or it did not."""

    def __init__(
        self, connection: RedisConnection, keyspace: Keyspace, *, teller: str = ""
    ) -> None:
        """
        Wire it.

        Args:
            connection, keyspace: As `RedisBalances` has them.
            teller: Names this process as one that tells gateways of holds.
        """
        self._connection = connection
        self._keyspace = keyspace
        self._teller = teller

    def check(self, terms: HoldTerms) -> None:
        """Raises InvalidInput: the terms have a text or a number that cannot be kept."""
        # What it makes is remembered with the terms, for the token and for `register`.
        terms_to_payload(terms)

    async def allot(self, block: PlaceHold, credit: int, quantities: Sequence[int]) -> Allotted:
        """
        Set a block aside, or add to one that is open and move its end.

        Raises:
            StoreUnavailable: No answer; it may have happened.
            InvalidInput: The demand itself is out of bounds.
        """
        takes = zip(block.counters, quantities, strict=True)
        sized = replace(
            block,
            terms=replace(block.terms, amount_nano=credit),
            counters=tuple([replace(take, quantity=quantity) for take, quantity in takes]),
            # One part for every meter: no grant that is good for some only gets into a block.
            parts={},
        )
        reply = await self._connection.run(
            scripts.ALLOT,
            self._keyspace.hold_keys(block.terms.customer_id, block.terms.hold_id),
            [*block_arguments(sized), self._teller],
        )
        *outcome, changes = reply
        return Allotted(outcome=read_outcome(outcome, sized.counters), changes_at_ms=int(changes))

    async def register(
        self, block: HoldTerms, batch: int, holds: Sequence[BlockHold], *, ends: bool
    ) -> Sequence[Registered]:
        """
        Open holds that were placed from a block, and give back the rest of one that ends.

        Raises:
            StoreUnavailable: No answer; the same batch may be asked for again.
            StoreDamaged: What is stored of it is no block, or no balance.
        """
        status, *words = await run_register(
            self._connection,
            self._keyspace,
            block,
            holds,
            batch=batch,
            ends=ends,
            teller=self._teller,
        )
        if status == b"gone":
            return [Registered.LOST] * len(holds)
        return [_WORDS[word] for word in words]


async def run_register(
    connection: RedisConnection,
    keyspace: Keyspace,
    block: HoldTerms,
    holds: Sequence[BlockHold],
    *,
    teller: str,
    batch: int | None = None,
    ends: bool = False,
) -> list[bytes]:
    """
    The register script's reply; without a batch's number whoever asks is not the block's owner.

    Args:
        connection, keyspace, teller: As `RedisBlocks` has them.
        block: Terms that name the block, and as many counters as it has.
        holds, batch, ends: As `RedisBlocks.register` has them; it raises the same.
    """
    number = "" if batch is None else batch
    arguments: list[Argument] = [block.block_id, block.customer_id, number, int(ends), teller]
    arguments.append(len(block.quota_lines))
    for hold in holds:
        arguments += _hold_arguments(hold)
    placed = holds[0].terms if holds else block
    keys = keyspace.hold_keys(block.customer_id, placed.hold_id)
    reply: Any = await connection.run(scripts.REGISTER, keys, arguments)
    if reply[0] == b"broken":
        raise StoreDamaged(
            f"redis: what is stored for block {block.block_id} is no block or record"
        )
    return list(reply)


def early_hold(terms: HoldTerms) -> BlockHold:
    """A hold as its token tells of it. Its fingerprint is not known: no repeat may match it."""
    return BlockHold(
        terms=terms,
        fingerprint=f"token of {terms.hold_id}",
        decided_at_ms=terms.decided_at_ms,
        expires_at_ms=terms.expires_at_ms,
    )


def _hold_arguments(hold: BlockHold) -> tuple[Argument, ...]:
    terms = hold.terms
    return (
        terms.hold_id,
        "drop" if hold.dropped else "open",
        check_amount(terms.amount_nano),
        fingerprint_hash(hold.fingerprint),
        hold.decided_at_ms,
        hold.expires_at_ms,
        terms_to_payload(terms),
        *[line.quantity for line in terms.quota_lines],
    )
