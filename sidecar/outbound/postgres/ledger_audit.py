"""
`sidecar ledger verify`: the ledger's tables against their chains and signed roots.

Reads one snapshot, page by page, and writes nothing. Whoever can write to the database could make
tables, chains and heads agree; the roots are what needs a key that the database has not.
"""

from contextlib import aclosing
from dataclasses import replace
from typing import Final

import asyncpg

from sidecar.domain.errors import InvalidInput, InvariantViolated
from sidecar.domain.ledger_chain import (
    BreakKind,
    ChainHead,
    ChainLink,
    ChainWalk,
    LedgerBreak,
    LedgerRoot,
    root_content,
)
from sidecar.outbound.postgres.chain_contents import read_contents
from sidecar.outbound.postgres.ledger_roots import read_ledger_id, root_of
from sidecar.outbound.postgres.pool import (
    ACQUIRE_SECONDS_MAX,
    Connection,
    Pool,
    translate_errors,
)
from sidecar.outbound.postgres.queries import query
from sidecar.services.ledger_roots import ChainVerdict, LedgerVerdict, RootSigner

_LINKS_AT_A_TIME: Final = 500
_ROOTS_AT_A_TIME: Final = 100


class PostgresLedgerAudit:
    """Verifies the whole ledger or a part of it."""

    def __init__(self, pool: Pool, signer: RootSigner) -> None:
        """Wire it."""
        self._pool = pool
        self._signer = signer

    async def verify(self, *, chain: int | None = None, from_root: bool = False) -> LedgerVerdict:
        """
        Walk the chains and check the roots.

        Args:
            chain: One chain only, and of roots and tables what concerns it.
            from_root: Only what came after the newest root, whose signature is checked. If that
                one is not sound, everything is walked. Events without a transaction are looked
                for in the whole ledger only.

        Raises:
            InvalidInput: There is no root to begin from, or no such chain.
        """
        with translate_errors():
            async with (
                self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                await connection.execute(query("idle_at_leisure"))
                return await _Audit(connection, self._signer, chain).run(from_root=from_root)


class _Audit:
    """One run inside its snapshot."""

    def __init__(self, connection: Connection, signer: RootSigner, chain: int | None) -> None:
        self._connection = connection
        self._signer = signer
        self._chain = chain
        self._breaks: list[LedgerBreak] = []
        self._roots = 0

    async def run(self, *, from_root: bool) -> LedgerVerdict:
        """Roots first: they say where the walk may begin, and which chains there must be."""
        newest = await self._newest_root() if from_root else await self._all_roots()
        shards = await self._connection.fetch(query("read_heads"), self._chain)
        known = {head.chain: head for head in newest.heads} if newest else {}
        if self._chain is not None and not shards and self._chain not in known:
            raise InvalidInput(f"there is no chain {self._chain}")
        starts = known if from_root and not self._breaks else {}
        verdicts: list[ChainVerdict] = []
        whole: dict[int, int] = {}
        for row in shards:
            start = starts.get(row["chain"], ChainHead.empty(row["chain"]))
            walk = ChainWalk(start)
            found = await self._walk(walk) or _end(walk.head, row)
            if found is not None:
                self._breaks.append(found)
            elif not start.seq:
                whole[row["chain"]] = walk.events
            verdicts.append(_verdict(walk, start))
        unbegun = await self._unchained({row["chain"]: row["chain_began"] for row in shards})
        await self._strays({chain: n for chain, n in whole.items() if chain not in unbegun})
        return LedgerVerdict(
            chains=tuple(verdicts),
            roots=self._roots,
            breaks=tuple(self._breaks),
            unbegun=unbegun,
        )

    async def _walk(self, walk: ChainWalk) -> LedgerBreak | None:
        """Follow a chain to its end or its first break."""
        chain = walk.head.chain
        while rows := await self._connection.fetch(
            query("read_links"), chain, walk.head.seq, _LINKS_AT_A_TIME
        ):
            links = [ChainLink(**dict(row)) for row in rows]
            keys = [(link.customer_id, link.transaction_id) for link in links]
            remaining = iter(links)
            async with aclosing(read_contents(self._connection, chain, keys)) as contents:
                async for _, transaction in contents:
                    if (found := walk.step(next(remaining), transaction)) is not None:
                        return found
        return None

    async def _all_roots(self) -> LedgerRoot | None:
        """Check every root and that each signs the one before it; returns the last."""
        ledger_id = await read_ledger_id(self._connection)
        last: LedgerRoot | None = None
        number = 0
        while rows := await self._connection.fetch(query("list_roots"), number, _ROOTS_AT_A_TIME):
            for row in rows:
                number = row["root_number"]
                root = self._read(row)
                if root is None:
                    last = None
                    continue
                if number != self._roots:
                    self._root_broken(number, f"root {self._roots} is missing before it")
                    self._roots = number
                elif root.previous != (last.signature if last else b"") and (last or number == 1):
                    self._root_broken(number, "it does not sign the root before it")
                await self._check(ledger_id, root)
                last = root
        return last

    async def _newest_root(self) -> LedgerRoot:
        row = await self._connection.fetchrow(query("newest_root"))
        if row is None:
            raise InvalidInput(
                "there is no root yet to begin from; `sidecar ledger root` writes one"
            )
        root = self._read(row)
        if root is None:
            return LedgerRoot(
                number=row["root_number"],
                day=row["day"],
                daily=row["daily"],
                made_at=row["made_at"],
                heads=(),
                previous=b"",
            )
        await self._check(await read_ledger_id(self._connection), root)
        return root

    def _read(self, row: asyncpg.Record) -> LedgerRoot | None:
        self._roots += 1
        try:
            return root_of(row)
        except InvariantViolated:
            self._root_broken(row["root_number"], "its heads cannot be read")
            return None

    async def _check(self, ledger_id: str, root: LedgerRoot) -> None:
        signed = self._signer.verify(root.key_id, root_content(ledger_id, root), root.signature)
        if not signed:
            why = "is not ours" if signed is not None else f"is by the unknown key {root.key_id!r}"
            self._root_broken(root.number, f"its signature {why}")
            return
        heads = [head for head in root.heads if self._chain in (None, head.chain)]
        for row in await self._connection.fetch(
            query("heads_that_differ"),
            [head.chain for head in heads],
            [head.seq for head in heads],
            [head.hash for head in heads],
        ):
            found = "is not there" if row["linked"] is None else f"has {row['linked'].hex()}"
            self._root_broken(
                root.number,
                f"it signed {row['hash'].hex()}, the link {found}",
                chain=row["chain"],
                seq=row["seq"],
            )

    def _root_broken(
        self, number: int, detail: str, *, chain: int | None = None, seq: int | None = None
    ) -> None:
        detail = f"root {number}: {detail}"
        self._breaks.append(LedgerBreak(kind=BreakKind.ROOT, detail=detail, chain=chain, seq=seq))

    async def _unchained(self, began: dict[int, bool]) -> dict[int, int]:
        """Transactions without a link: of shards whose chain has not begun they may be."""
        waiting: dict[int, int] = {}
        for row in await self._connection.fetch(query("count_unchained"), self._chain):
            if not began.get(row["chain"], False):
                waiting[row["chain"]] = row["transactions"]
                continue
            detail = f"{row['transactions']} transactions of the shard are in no chain"
            self._breaks.append(
                LedgerBreak(
                    kind=BreakKind.UNCHAINED,
                    detail=f"{detail}, this one first",
                    chain=row["chain"],
                    customer_id=row["customer_id"],
                    transaction_id=row["transaction_id"],
                )
            )
        return waiting

    async def _strays(self, whole: dict[int, int]) -> None:
        """Rows of no transaction, and events that intact chains did not post."""
        if self._chain is None:  # Such rows tell no shard.
            await self._strays_of("count_stray_entries", BreakKind.STRAY_ENTRIES, "entries")
            await self._strays_of("count_stray_movements", BreakKind.STRAY_MOVEMENTS, "movements")
            await self._remaining()
        if not whole:
            return
        counted = await self._connection.fetch(query("count_events"), self._chain)
        stored = {row["chain"]: row["events"] for row in counted}
        for chain, events in sorted(whole.items()):
            if stored.get(chain, 0) != events:
                detail = (
                    f"its transactions posted {events} events, {stored.get(chain, 0)} are there"
                )
                self._breaks.append(
                    LedgerBreak(kind=BreakKind.STRAY_EVENTS, detail=detail, chain=chain)
                )

    async def _strays_of(self, name: str, kind: BreakKind, what: str) -> None:
        row = await self._connection.fetchrow(query(name))
        if row is not None:
            self._breaks.append(
                LedgerBreak(
                    kind=kind,
                    detail=f"{row['strays']} {what} belong to no transaction, this one first",
                    customer_id=row["customer_id"],
                    transaction_id=row["transaction_id"],
                )
            )

    async def _remaining(self) -> None:
        """Grants whose remainder is not what their movements come to."""
        row = await self._connection.fetchrow(query("grants_that_differ"))
        if row is not None:
            detail = (
                f"{row['grants']} grants have something else left than their movements come to,"
                f" {row['grant_id']!r} first: {row['remaining_nano']}, not {row['moved_nano']}"
            )
            self._breaks.append(
                LedgerBreak(kind=BreakKind.REMAINING, detail=detail, customer_id=row["customer_id"])
            )


def _end(head: ChainHead, row: asyncpg.Record) -> LedgerBreak | None:
    """Whether the chain ends where its shard says; else links at its end are gone or forged."""
    chain = head.chain
    wanted = ChainHead.empty(chain)
    if row["chain_hash"] is not None:
        wanted = replace(wanted, seq=row["chain_seq"], hash=row["chain_hash"])
    if wanted == head:
        return None
    detail = (
        f"the chain ends with link {head.seq} ({head.hash.hex()}), "
        f"its shard says {wanted.seq} ({wanted.hash.hex()})"
    )
    return LedgerBreak(kind=BreakKind.HEAD, detail=detail, chain=chain, seq=head.seq)


def _verdict(walk: ChainWalk, start: ChainHead) -> ChainVerdict:
    return ChainVerdict(
        chain=start.chain,
        first_seq=start.seq + 1,
        last_seq=walk.head.seq,
        hash=walk.head.hash.hex(),
        transactions=walk.transactions,
        events=walk.events,
    )
