"""Customers as billing providers know them: implements `Payers`."""

from asyncpg import Record

from sidecar.domain.errors import Conflict, NotFound
from sidecar.outbound.postgres.pool import Pool, translate_errors
from sidecar.outbound.postgres.queries import query
from sidecar.services.provider_ports import Payer


class PostgresPayers:
    """Implements Payers; an index allows one collecting provider a customer."""

    def __init__(self, pool: Pool) -> None:
        """Wire it."""
        self._pool = pool

    async def put(self, payer: Payer, *, keep_authorization: bool) -> Payer:
        """Set what one provider knows. Raises NotFound, Conflict."""
        try:
            with translate_errors():
                row = await self._pool.fetchrow(
                    query("put_payer"),
                    payer.customer_id,
                    payer.provider,
                    payer.provider_customer_id,
                    payer.email,
                    payer.authorization_code,
                    payer.collect,
                    keep_authorization,
                )
        except Conflict as error:
            raise Conflict(
                f"another provider collects the invoices of customer {payer.customer_id!r}"
            ) from error
        if row is None:
            raise NotFound(f"there is no customer {payer.customer_id!r}")
        return _payer(row)

    async def read(self, customer_id: str, provider: str) -> Payer | None:
        """What one provider knows."""
        with translate_errors():
            row = await self._pool.fetchrow(query("read_payer"), customer_id, provider)
        return None if row is None else _payer(row)

    async def list(self, customer_id: str) -> list[Payer]:
        """By provider."""
        with translate_errors():
            rows = await self._pool.fetch(query("list_payers"), customer_id)
        return [_payer(row) for row in rows]

    async def delete(self, customer_id: str, provider: str) -> bool:
        """Whether there was something."""
        with translate_errors():
            tag = await self._pool.execute(query("delete_payer"), customer_id, provider)
        return not tag.endswith(" 0")


def _payer(row: Record) -> Payer:
    return Payer(**dict(row))
