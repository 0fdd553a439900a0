"""Moves of subscriptions, for people and for programs."""

from collections.abc import Iterator, Sequence
from datetime import UTC
from typing import Any

from sidecar.cli.catalog_text import printable
from sidecar.domain.catalog_moves import Move
from sidecar.services.moving_subscriptions import Moved

_SHOWN_MAX = 1_000


def move_lines(moves: Sequence[Move]) -> Iterator[str]:
    """What would be moved, and how; nothing where there is nothing."""
    for move in moves[:_SHOWN_MAX]:
        yield printable(f"> {move_line(move)}")
    if len(moves) > _SHOWN_MAX:
        yield f"> and {len(moves) - _SHOWN_MAX} more"
    if moves:
        yield (
            f"{len(moves)} subscription items are on prices that were replaced; "
            "`catalog apply --move-subscriptions` moves them"
        )


def move_line(move: Move) -> str:
    """One move, one line."""
    began = move.item.period_start.astimezone(UTC)
    return f"{move}; its period began {began:%Y-%m-%dT%H:%MZ}"


def move_json(move: Move) -> dict[str, Any]:
    """One move as JSON types."""
    held = move.item
    return {
        "name": move.name,
        "subscription": held.subscription_id,
        "customer": held.provider_customer_id,
        "item": held.item_id,
        "from": move.old_id,
        "to": move.new_id or None,
        "period_start": held.period_start.isoformat(),
    }


def moved_json(moved: Moved) -> dict[str, Any]:
    """What a run has done, as JSON types."""
    return {
        "done": [move_json(move) for move in moved.done],
        "waiting": [move_json(move) for move in moved.waiting],
        "refused": [move_json(move) | {"detail": why} for move, why in moved.refused.values()],
        "unavailable": moved.unavailable or None,
    }


def moved_lines(moved: Moved) -> Iterator[str]:
    """How a run ended."""
    for move, why in moved.refused.values():
        yield printable(f"! {move}: {why}")
    waits = f", {len(moved.waiting)} wait for their next period" if moved.waiting else ""
    yield f"{len(moved.done)} subscription items moved{waits}"
    if moved.unavailable:
        yield f"stopped: {moved.unavailable}; what was moved stays, and a repeat goes on from there"
