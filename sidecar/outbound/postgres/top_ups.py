"""Rules and attempts of automatic top-ups: implements `TopUpRecord`."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from asyncpg import Record

from sidecar.domain.errors import InvariantViolated, NotFound
from sidecar.domain.top_ups import TopUpAttempt, TopUpRule, TopUpState
from sidecar.outbound.postgres.pool import Pool, translate_errors
from sidecar.outbound.postgres.queries import query
from sidecar.services.top_ups import CustomerRule


class PostgresTopUps:
    """Implements TopUpRecord; an index allows one attempt at a time that has not ended."""

    def __init__(self, pool: Pool) -> None:
        """Wire it."""
        self._pool = pool

    async def put_rule(self, customer_id: str, rule: TopUpRule) -> TopUpRule:
        """Set a customer's rule, which is then looked at soon. Raises NotFound."""
        with translate_errors():
            row = await self._pool.fetchrow(
                query("put_top_up_rule"),
                customer_id,
                rule.threshold_nano,
                rule.amount_nano,
                rule.target_nano,
            )
        if row is None:
            raise NotFound(f"there is no customer {customer_id!r}")
        return _rule(row)

    async def read_rule(self, customer_id: str) -> TopUpRule | None:
        """A customer's rule."""
        with translate_errors():
            row = await self._pool.fetchrow(query("read_top_up_rule"), customer_id)
        return None if row is None else _rule(row)

    async def delete_rule(self, customer_id: str) -> bool:
        """Whether there was one."""
        with translate_errors():
            tag = await self._pool.execute(query("delete_top_up_rule"), customer_id)
        return not tag.endswith(" 0")

    async def claim_rules(
        self, now: datetime, *, limit: int, look_seconds: int
    ) -> Sequence[CustomerRule]:
        """Rules that nobody has looked at for so long, the longest first."""
        with translate_errors():
            rows = await self._pool.fetch(
                query("claim_top_up_rules"), now, limit, timedelta(seconds=look_seconds)
            )
        return [CustomerRule(customer_id=row["customer_id"], rule=_rule(row)) for row in rows]

    async def list_attempts(self, customer_id: str, *, limit: int) -> Sequence[TopUpAttempt]:
        """The newest first."""
        with translate_errors():
            rows = await self._pool.fetch(query("list_top_up_attempts"), customer_id, limit)
        return [_attempt(row) for row in rows]

    async def begin_attempt(self, attempt: TopUpAttempt) -> bool:
        """Store it; False if its number is taken or another has not ended."""
        with translate_errors():
            number = await self._pool.fetchval(
                query("begin_top_up_attempt"),
                attempt.customer_id,
                attempt.number,
                attempt.amount_nano,
                attempt.currency,
                attempt.asked_at,
            )
        return number is not None

    async def note_try(self, attempt: TopUpAttempt, now: datetime) -> TopUpAttempt | None:
        """Count a try; None if another worker has counted one, or the attempt has an answer."""
        with translate_errors():
            row = await self._pool.fetchrow(
                query("note_top_up_try"),
                attempt.customer_id,
                attempt.number,
                attempt.tries,
                now,
            )
        return None if row is None else _attempt(row)

    async def note_state(
        self, attempt: TopUpAttempt, *, state: TopUpState, provider_reference: str, now: datetime
    ) -> TopUpAttempt:
        """Note what came of it, unless it has come further already; returns what stands."""
        with translate_errors():
            await self._pool.execute(
                query("note_top_up_state"),
                attempt.customer_id,
                attempt.number,
                state.value,
                provider_reference,
                now,
            )
            row = await self._pool.fetchrow(
                query("read_top_up_attempt"), attempt.customer_id, attempt.number
            )
        if row is None:
            raise InvariantViolated("an attempt of a top-up is gone")
        return _attempt(row)


def _rule(row: Record) -> TopUpRule:
    return TopUpRule(
        threshold_nano=row["threshold_nano"],
        amount_nano=row["amount_nano"],
        target_nano=row["target_nano"],
    )


def _attempt(row: Record) -> TopUpAttempt:
    return TopUpAttempt(
        customer_id=row["customer_id"],
        number=row["number"],
        amount_nano=row["amount_nano"],
        currency=row["currency"],
        asked_at=row["asked_at"],
        state=TopUpState(row["state"]),
        tries=row["tries"],
        tried_at=row["tried_at"],
        provider_reference=row["provider_reference"],
        ended_at=row["ended_at"],
    )
