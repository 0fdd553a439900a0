"""
Projected exhaustion: how long credit lasts at the pace at which it has been used.

    seconds left = min over windows of floor(available * span / burned)

A window looks back 24 hours or 7 days. Its span is the time since the sample that it begins
with: the newest one that is at least as old as the window, else the oldest there is. A span
under an hour says nothing yet. The shorter estimate counts, so that a burst of today is not
hidden by a quiet week, nor a steady week by a quiet day. What expires meanwhile, and what will
be given, is not foreseen.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

WINDOWS: Final = (timedelta(hours=24), timedelta(days=7))
SPAN_MIN: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedSample:
    """What a customer had ever used of prepaid credit at an instant, in nano."""

    at: datetime
    used_nano: int


def seconds_left(
    available_nano: int, used_nano: int, samples: Iterable[UsedSample], now: datetime
) -> int | None:
    """
    How many seconds the credit lasts, whole ones.

    Args:
        available_nano: What is left; 0 or less lasts 0 seconds.
        used_nano: What has ever been used of credit until now.
        samples: Earlier values of it, one for each window at most, in any order.
        now: The instant from which is counted.

    Returns:
        None where nothing was used in any window, or nothing is known of it yet.
    """
    if available_nano <= 0:
        return 0
    found: list[int] = []
    for sample in samples:
        span = now - sample.at
        burned_nano = used_nano - sample.used_nano
        if span < SPAN_MIN or burned_nano <= 0:
            continue
        span_seconds = span // timedelta(seconds=1)
        found.append(available_nano * span_seconds // burned_nano)
    return min(found, default=None)
