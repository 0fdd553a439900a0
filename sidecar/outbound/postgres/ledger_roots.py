"""Signed roots of the ledger's chains: implements `LedgerRoots`."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import asyncpg

from sidecar.domain.errors import InvariantViolated
from sidecar.domain.ledger_chain import ChainHead, LedgerRoot, root_content
from sidecar.outbound.postgres.pool import (
    ACQUIRE_SECONDS_MAX,
    Connection,
    Pool,
    translate_errors,
)
from sidecar.outbound.postgres.queries import query
from sidecar.services.ledger_roots import RootSigner

# Any constant will do, as long as every version of ours asks for the same one.
_LOCK: Final = 5_163_002_711


class PostgresLedgerRoots:
    """Writes roots one after the other; each signs the one before it too."""

    def __init__(self, pool: Pool, signer: RootSigner) -> None:
        """Wire it."""
        self._pool = pool
        self._signer = signer

    async def write(self, at: datetime, *, daily: bool) -> LedgerRoot | None:
        """Sign where the chains stand, or find that this has been done; see the port."""
        day = at.astimezone(UTC).date()
        with translate_errors():
            async with (
                self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection,
                connection.transaction(),
            ):
                await connection.execute(query("lock_roots"), _LOCK)
                if daily and (row := await connection.fetchrow(query("daily_root"), day)):
                    return root_of(row)
                heads = await _heads(connection)
                row = await connection.fetchrow(query("newest_root"))
                newest = None if row is None else root_of(row)
                if not heads or (not daily and newest is not None and newest.heads == heads):
                    return newest if heads else None
                root = LedgerRoot(
                    number=1 if newest is None else newest.number + 1,
                    day=day,
                    daily=daily,
                    made_at=at,
                    heads=heads,
                    previous=b"" if newest is None else newest.signature,
                    key_id=self._signer.newest_id,
                )
                content = root_content(await read_ledger_id(connection), root)
                root = replace(root, signature=self._signer.sign(content))
                await _insert(connection, root)
                return root

    async def list(self, *, after: int, limit: int) -> Sequence[LedgerRoot]:
        """Roots by number, those after `after`."""
        with translate_errors():
            rows = await self._pool.fetch(query("list_roots"), after, limit)
        return [root_of(row) for row in rows]


async def read_ledger_id(connection: Connection) -> str:
    """What names this ledger among all."""
    return str(await connection.fetchval(query("read_ledger_id")))


def root_of(row: asyncpg.Record) -> LedgerRoot:
    """A stored root. Raises InvariantViolated if its heads are none."""
    try:
        heads = tuple(
            ChainHead(chain=chain, seq=seq, hash=bytes.fromhex(text))
            for chain, seq, text in json.loads(row["heads"])
        )
    except (TypeError, ValueError) as error:
        raise InvariantViolated(f"root {row['root_number']}: its heads are damaged") from error
    return LedgerRoot(
        number=row["root_number"],
        day=row["day"],
        daily=row["daily"],
        made_at=row["made_at"],
        heads=heads,
        previous=row["previous"],
        key_id=row["key_id"],
        signature=row["signature"],
    )


async def _heads(connection: Connection) -> tuple[ChainHead, ...]:
    rows = await connection.fetch(query("root_heads"))
    wrong = [row["chain"] for row in rows if not row["linked"]]
    if wrong:
        raise InvariantViolated(
            f"the heads of shards {wrong} are not their chains' last links; "
            "run `sidecar ledger verify`"
        )
    return tuple(ChainHead(chain=row["chain"], seq=row["seq"], hash=row["hash"]) for row in rows)


async def _insert(connection: Connection, root: LedgerRoot) -> None:
    await connection.execute(
        query("insert_root"),
        root.number,
        root.day,
        root.daily,
        root.made_at,
        json.dumps([(head.chain, head.seq, head.hash.hex()) for head in root.heads]),
        root.previous,
        root.key_id,
        root.signature,
    )
