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
        """Nothing while anybody is at work: it might be reading sums just now."""

    async def strike(self) -> None:
        """
        Something is lost that nobody has compared yet, or found again.

        What was once found right is not read again, as long as the same rows are there.
        """
        rng, lanes = self._world.rng, defaultdict[tuple[str | None, str], list[MeterEvent]](list)
        compared = await self._compared()
        for event in self._world.outside.stripe.meter_events:
            lanes[event.customer, event.event_name].append(event)
        for lane, events in lanes.items():
            counted = {_base(one) for one in events if one.counts}
            lost = [one for one in events if one.error == ERROR]
            if any(_base(one) not in counted for one in lost) or _counts_twice(events):
                continue
            since = compared.get(lane, datetime.min.replace(tzinfo=UTC))
            new = {_base(one) for one in events if one.counts and one.received_at > since}
            found = [one for one in lost if _base(one) in new]
            if found and rng.random() < FINDS:
                again = rng.choice(found)
                again.error = None
                self._found.add(again.identifier)
            elif rng.random() < LOSES:
                self._lose([one for one in events if _base(one) in new])

    async def _compared(self) -> dict[tuple[str | None, str], datetime]:
        """When each lane's sums were last read."""
        rows = await self._world.pool.fetch(
            "SELECT c.stripe_customer_id, r.meter, max(r.read_at) AS read_at"
            " FROM report_reconciliations r JOIN customers c USING (customer_id) GROUP BY 1, 2"
        )
        return {(row["stripe_customer_id"], row["meter"]): row["read_at"] for row in rows}

    def _lose(self, events: list[MeterEvent]) -> None:
        # This hour is compared when it is over.
        hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0).timestamp()
        old = [one for one in events if one.counts and one.timestamp < hour and one.value]
        if old:
            lost = self._world.rng.choice(old)
            lost.error = ERROR
            self._lost.add(lost.identifier)

    async def check(self) -> None:
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


def _counts_twice(events: list[MeterEvent]) -> bool:
    """Whether a row is counted under two names."""
    counted = [_base(one) for one in events if one.counts]
    return len(counted) > len(set(counted))
