"""What an estimate of record has of running totals, so that its correction moves them rightly."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from sidecar.domain.pricing import RateCard
from sidecar.domain.rebuilding import RecordedUsage, TakenTotal
from sidecar.services.rating import total_key


async def with_taken(
    usage: RecordedUsage, card_of: Callable[[str], Awaitable[RateCard | None]]
) -> RecordedUsage:
    """
    Fill in what a hold has of running totals; a line whose rate card is lost is left out.

    Without its card its correction cannot be priced either.

    Raises:
        StoreUnavailable: A card may or may not be there; repeat it.
    """
    taken = []
    for line in usage.lines:
        card = await card_of(line.price_version)
        found = card.line_for(line.meter, line.model) if card is not None else None
        if card is None or found is None or found[1].price.unit_nano is not None:
            continue
        taken.append(
            TakenTotal(
                key=total_key(card, found[0], line.occurred_at),
                price_version=line.price_version,
                quantity=line.quantity,
                amount_nano=line.amount_nano,
            )
        )
    return replace(usage, taken=tuple(taken))
