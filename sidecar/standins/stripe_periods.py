"""Billing periods: one interval of a price after the other, from an anchor on, in UTC."""

import calendar
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

DEFAULT: Mapping[str, Any] = {"interval": "month", "interval_count": 1}


def add_interval(start: datetime, recurring: Mapping[str, Any], times: int = 1) -> datetime:
    """
    The instant `times` intervals after another; a day that a month lacks becomes its last.

    Raises:
        OverflowError, ValueError: Past the year 9999.
    """
    count = recurring["interval_count"] * times
    if recurring["interval"] in ("day", "week"):
        return start + timedelta(days=count * (7 if recurring["interval"] == "week" else 1))
    months = count * (12 if recurring["interval"] == "year" else 1)
    year, month0 = divmod(start.year * 12 + start.month - 1 + months, 12)
    day = min(start.day, calendar.monthrange(year, month0 + 1)[1])
    return start.replace(year=year, month=month0 + 1, day=day)


def period_end(anchor: int, after: int, recurring: Mapping[str, Any]) -> int:
    """
    The first border of the anchor's periods that lies after an instant.

    Counted from the anchor, so that the 31st comes back after a short month.
    """
    first = datetime.fromtimestamp(anchor, UTC)
    times = 0
    while True:
        border = int(add_interval(first, recurring, times).timestamp())
        if border > after:
            return border
        times += 1
