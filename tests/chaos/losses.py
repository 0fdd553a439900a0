"""Stripe loses what it has taken, without a word, and finds it again after it was sent anew."""

import re
from collections import defaultdict
from datetime import UTC, datetime

from chaos.world import World

from sidecar.standins.stripe_meters import MeterEvent

LOSES = 0.5
FINDS = 0.3
ERROR = "meter_event_invalid_value"


class Losses:
    """One trouble at a time of each customer's meter: two might be explained in another way."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._lost: set[str] = set()
        self._found: set[str] = set()

    async def open(self) -> None:
        """Nothing is there to be lost."""

    async def go_on(self) -> None:
        rng, lanes = self._world.rng, defaultdict[tuple[str | None, str], list[MeterEvent]](list)
        for event in self._world.outside.stripe.meter_events:
            lanes[event.customer, event.event_name].append(event)
        for events in lanes.values():
            counted = {_base(one) for one in events if one.counts}
            lost = [one for one in events if one.error == ERROR]
            twice = [one for one in events if one.identifier in self._found]
            if any(_base(one) not in counted for one in lost) or any(
                sum(_base(other) == _base(one) and other.counts for other in events) > 1
                for one in twice
            ):
                continue
            if lost and rng.random() < FINDS:
                found = rng.choice(lost)
                found.error = None
                self._found.add(found.identifier)
            elif rng.random() < LOSES:
                self._lose(events)

    def _lose(self, events: list[MeterEvent]) -> None:
        # This hour is compared when it is over.
        hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0).timestamp()
        old = [one for one in events if one.counts and one.timestamp < hour and one.value]
        if old:
            lost = self._world.rng.choice(old)
            lost.error = ERROR
            self._lost.add(lost.identifier)

    async def check(self) -> None:
        rows = await self._world.pool.fetch("SELECT DISTINCT outcome FROM report_reconciliations")
        assert {row["outcome"] for row in rows} <= {"same"}
        mended = await self._world.pool.fetchrow(
            "SELECT sum(resent)::bigint AS resent, sum(cancelled)::bigint AS cancelled,"
            " sum(corrected)::bigint AS corrected FROM report_reconciliations"
        )
        self._world.totals["meter_events"] = {
            "lost": len(self._lost),
            "found_again": len(self._found),
        } | {name: int(count or 0) for name, count in mended.items()}


def _base(event: MeterEvent) -> str:
    """The row's name, whichever retry it is."""
    return re.sub(r":r\d+$", "", event.identifier)
