"""Writes that stand only while a worker's claim of an inbox object does."""

from typing import Any

from sidecar.domain.errors import LeaseLost
from sidecar.outbound.postgres.pool import ACQUIRE_SECONDS_MAX, Pool, translate_errors
from sidecar.outbound.postgres.queries import query
from sidecar.services.inbox_ports import InboxClaim


async def write_claimed(pool: Pool, claim: InboxClaim | None, name: str, *arguments: Any) -> None:
    """
    Execute one statement; with a claim, in one transaction with a look at its fence.

    The object's row stays locked until the statement is committed. So whoever claims the object
    next sees what was written under the claim before, and nothing is written under it after.

    Args:
        pool: Of connections.
        claim: None for what no object asked for.
        name: Of the statement.
        arguments: Its.

    Raises:
        LeaseLost: The claim stands no more; nothing was written.
    """
    with translate_errors():
        if claim is None:
            await pool.execute(query(name), *arguments)
            return
        async with (
            pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection,
            connection.transaction(),
        ):
            if not await connection.fetchval(query("inbox_stands"), claim.ref.key, claim.fence):
                raise LeaseLost(f"another worker has {claim.ref.key}")
            await connection.execute(query(name), *arguments)
