"""How a hold ended, from its settled events: what a marker in the live store has to know."""

import json
from collections.abc import AsyncIterator, Iterator, Sequence

import asyncpg

from sidecar.domain.errors import InvalidInput
from sidecar.domain.holds import check_hold_id, hold_day
from sidecar.domain.rebuilding import RecordedLine, RecordedUsage
from sidecar.domain.usage import EventKind, TokenUsage
from sidecar.domain.usage_digests import digest_of
from sidecar.outbound.postgres.pool import Pool, translate_errors
from sidecar.outbound.postgres.queries import query


class PostgresClaims:
    """Implements ChargedUsage: whether usage was charged."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def find(self, customer_id: str, hold_id: str) -> RecordedUsage | None:
        """What was charged for the hold, or None. Raises StoreUnavailable."""
        day = hold_day(check_hold_id(hold_id))
        with translate_errors():
            rows = await self._pool.fetch(query("claimed_hold"), customer_id, day, hold_id)
        charged = [row for row in rows if row["kind"] != EventKind.ORPHAN]
        return recorded_usage(charged) if charged else None


async def by_hold(
    rows: AsyncIterator[asyncpg.Record],
) -> AsyncIterator[RecordedUsage]:
    """Join rows that follow each other about one hold."""
    events: list[asyncpg.Record] = []
    async for row in rows:
        if events and (row["customer_id"], row["hold_id"]) != (
            events[0]["customer_id"],
            events[0]["hold_id"],
        ):
            yield recorded_usage(events)
            events = []
        events.append(row)
    if events:
        yield recorded_usage(events)


def recorded_usage(events: Sequence[asyncpg.Record]) -> RecordedUsage:
    """How a hold ended, by all its events, the newest last."""
    newest = events[-1]
    charged = [event for event in events if event["kind"] != EventKind.ORPHAN]
    estimated = bool(charged) and newest["estimated"]
    quantities: dict[str, int] = {}
    for event in charged:
        for meter, quantity in json.loads(event["quantities"] or "{}").items():
            quantities[meter] = quantities.get(meter, 0) + quantity
    return RecordedUsage(
        hold_id=newest["hold_id"],
        customer_id=newest["customer_id"],
        captured=bool(charged),
        amount_nano=sum(event["amount_nano"] for event in events),
        overage_nano=sum(event["overage_nano"] for event in events),
        estimated=estimated,
        digest=digest_of(quantities.items(), newest["model"], newest["status"], _usage(newest))
        if charged
        else "",
        corrections=sum(event["kind"].startswith("correction:") for event in events),
        decided_at=newest["decided_at"],
        lines=tuple(_lines(charged)) if estimated else (),
        owes=bool(charged) and newest["owed_nano"] is not None,
    )


def _lines(events: Sequence[asyncpg.Record]) -> Iterator[RecordedLine]:
    for event in events:
        amounts = json.loads(event["amounts"] or "{}")
        owed = json.loads(event["owed"] or "{}")
        for meter, quantity in json.loads(event["quantities"] or "{}").items():
            yield RecordedLine(
                price_version=event["price_version"],
                model=event["model"],
                meter=meter,
                occurred_at=event["occurred_at"],
                quantity=quantity,
                amount_nano=amounts[meter],
                owed_nano=owed[meter],
            )


def _usage(row: asyncpg.Record) -> TokenUsage:
    try:
        return TokenUsage(
            input=row["input_tokens"],
            output=row["output_tokens"],
            cache_read=row["cache_read_tokens"],
            cache_creation=row["cache_creation_tokens"],
            reasoning=row["reasoning_tokens"],
            total=row["total_tokens"],
        )
    except InvalidInput:
        return TokenUsage()
