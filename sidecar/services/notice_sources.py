"""
Sources of notices: bounded looks at what is on record, each by one worker at a time.

A look is leased. It reads pages of what has changed since the last look, decides with pure
functions, and keeps notices and noted states page by page in one transaction that checks the
lease. *A crash at any point:* the pages that were kept stand, the others are read again, and
keys and states keep a fact from being told twice.

What stands when a source looks for the first time is noted and not told: an upgrade tells
nobody what they have known for long.
"""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final

from sidecar.domain.money import AMOUNT_NANO_MAX
from sidecar.domain.notices import FACT_CHARS_MAX, FACT_KEY_CHARS_MAX, Notice, NoticeKind
from sidecar.domain.projection import seconds_left
from sidecar.services.notice_ports import (
    Look,
    NoticeSources,
    SeenCredit,
    SeenReports,
    SeenStanding,
    SeenState,
    SeenThreshold,
    StateChange,
)
from sidecar.services.rounds import run_rounds, try_each

PAGE_MAX: Final = 500
LEASE_SECONDS: Final = 120.0
ALL_EVERY_SECONDS: Final = 3_600.0
"""How often everything is looked at, beside what has changed: time alone may exhaust a credit."""
GOOD: Final = "good"
OVER: Final = "over"
TOLD: Final = "told"
_CLEAR: Final = "clear"
_HOUR_SECONDS: Final = 3_600

Found = tuple[list[Notice], list[StateChange]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditLimits:
    """
    When credit is exhausted, and when it is running out.

    `floor_nano` is what counts as nothing left; `within_seconds` how soon it must end at its pace
    to be told.
    """

    floor_nano: int = 0
    within_seconds: int = 72 * _HOUR_SECONDS


class NoticeWatch:
    """Looks at all sources in turn; any number may run."""

    def __init__(
        self,
        sources: NoticeSources,
        *,
        owner: str,
        limits: CreditLimits,
        interval_seconds: float,
    ) -> None:
        """
        Wire the parts.

        Args:
            sources: Port.
            owner: Names this worker among all that run.
            limits: Of credit.
            interval_seconds: Pause between rounds.
        """
        self._sources = sources
        self._owner = owner
        self._limits = limits
        self._interval_seconds = interval_seconds
        self._looks: Mapping[str, Callable[[Look], Awaitable[int]]] = {
            "thresholds": self._thresholds,
            "credit": self._credit,
            "standing": self._standing,
            "reports": self._reports,
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Look until stopped; a failed look is counted, and keeps no other source waiting."""
        works = {source: partial(self.look_once, source) for source in self._looks}
        await run_rounds(
            stop,
            lambda: try_each(works, name="notices", fact="source"),
            name="notices",
            pause_seconds=self._interval_seconds,
        )

    async def look_all(self) -> int:
        """One round over all sources; returns how many facts were found. Raises as `look_once`."""
        return sum([await self.look_once(source) for source in self._looks])

    async def look_once(self, source: str) -> int:
        """
        One look at a source, unless another worker has it.

        Returns:
            How many facts were found; those that are on record already count too.

        Raises:
            StoreUnavailable, Conflict: A look goes on from there once the lease has ended.
        """
        look = await self._sources.begin(
            source, self._owner, lease_seconds=LEASE_SECONDS, all_every_seconds=ALL_EVERY_SECONDS
        )
        if look is None:
            return 0
        found = await self._looks[source](look)
        await self._sources.finish(look)
        return found

    async def _thresholds(self, look: Look) -> int:
        found, after = 0, None
        while page := await self._sources.thresholds(look, after=after, limit=PAGE_MAX):
            await self._sources.keep(look, [*map(of_threshold, page)], ())
            found += len(page)
            after = (page[-1].reached_at, page[-1].number)
        return found

    async def _credit(self, look: Look) -> int:
        found, after = 0, ""
        while page := await self._sources.credits(look, after=after, limit=PAGE_MAX):
            if look.everything:
                await self._sources.sample_credit([one.customer_id for one in page])
            notices, changes = _gather(of_credit(one, look, self._limits) for one in page)
            await self._sources.keep(look, notices, changes)
            found += len(notices)
            after = page[-1].customer_id
        return found

    async def _standing(self, look: Look) -> int:
        found, after = 0, ""
        while page := await self._sources.standings(look, after=after, limit=PAGE_MAX):
            notices, changes = _gather(of_standing(one, look) for one in page)
            await self._sources.keep(look, notices, changes)
            found += len(notices)
            after = page[-1].customer_id
        return found

    async def _reports(self, look: Look) -> int:
        seen = await self._sources.reports(look, limit=PAGE_MAX)
        notices = [of_reports(one) for one in seen]
        await self._sources.keep(look, notices, ())
        return len(notices)


def of_threshold(seen: SeenThreshold) -> Notice:
    """The notice of a threshold; once for each percentage of a quota's period."""
    return Notice(
        kind=NoticeKind.THRESHOLD_REACHED,
        customer_id=seen.customer_id,
        # The key outlives the facts of a customer who is erased, so no user stands in it.
        fact_key=_key(seen.quota, _digest(seen.subject), seen.period_start, seen.percent),
        occurred_at=seen.reached_at,
        facts={
            "quota": seen.quota[:FACT_CHARS_MAX],
            "subject": seen.subject[:FACT_CHARS_MAX],
            "percent": str(seen.percent),
            "period_start": seen.period_start.isoformat(),
        },
    )


def of_credit(seen: SeenCredit, look: Look, limits: CreditLimits) -> Found:
    """
    What a customer's credit has crossed since it was last seen.

    Exhausted is told when what is left comes down to the floor, and again only after it was above.
    Running out is told once; what re-arms it is credit that is given after.
    """
    notices: list[Notice] = []
    changes: list[StateChange] = []
    bounded_nano = max(-AMOUNT_NANO_MAX, min(AMOUNT_NANO_MAX, seen.available_nano))
    amounts = {"available": bounded_nano}
    exhausted = seen.available_nano <= limits.floor_nano
    state = OVER if exhausted else _CLEAR
    if state != seen.exhausted.state:
        episode = seen.exhausted.episode + exhausted
        changes.append(
            _change(seen.customer_id, NoticeKind.CREDIT_EXHAUSTED, state, episode=episode)
        )
        if exhausted and not look.first:
            notices.append(
                Notice(
                    kind=NoticeKind.CREDIT_EXHAUSTED,
                    customer_id=seen.customer_id,
                    fact_key=_key(episode),
                    occurred_at=look.until,
                    facts={"currency": seen.currency},
                    amounts=amounts,
                )
            )
    armed = seen.running_out.state != TOLD or seen.granted_nano > int(seen.running_out.mark)
    lasts = seconds_left(
        seen.available_nano - limits.floor_nano, seen.used_nano, seen.samples, look.until
    )
    if armed and not exhausted and lasts is not None and lasts < limits.within_seconds:
        episode = seen.running_out.episode + 1
        mark = str(seen.granted_nano)
        changes.append(
            _change(
                seen.customer_id, NoticeKind.CREDIT_RUNNING_OUT, TOLD, episode=episode, mark=mark
            )
        )
        notices.append(
            Notice(
                kind=NoticeKind.CREDIT_RUNNING_OUT,
                customer_id=seen.customer_id,
                fact_key=_key(episode),
                occurred_at=look.until,
                facts={"currency": seen.currency, "hours_left": str(lasts // _HOUR_SECONDS)},
                amounts=amounts,
            )
        )
    return notices, changes


def of_standing(seen: SeenStanding, look: Look) -> Found:
    """A change of standing, whoever made it; a customer of whom nothing was noted was good."""
    before = seen.seen.state or GOOD
    if seen.standing == before:
        return [], []
    episode = seen.seen.episode + 1
    change = _change(seen.customer_id, NoticeKind.STANDING_CHANGED, seen.standing, episode=episode)
    if look.first:
        return [], [change]
    facts = {"before": before, "standing": seen.standing}
    if seen.until is not None:
        facts["until"] = seen.until.isoformat()
    notice = Notice(
        kind=NoticeKind.STANDING_CHANGED,
        customer_id=seen.customer_id,
        fact_key=_key(episode),
        occurred_at=look.until,
        facts=facts,
    )
    return [notice], [change]


def of_reports(seen: SeenReports) -> Notice:
    """Failed reports of a meter, once an hour: a key that was revoked fails all of them."""
    return Notice(
        kind=NoticeKind.REPORT_UNCERTAIN if seen.uncertain else NoticeKind.REPORT_FAILED,
        fact_key=_key(seen.provider, seen.meter, seen.hour),
        occurred_at=seen.first_at,
        facts={
            "provider": seen.provider,
            "meter": seen.meter,
            "hour": seen.hour.isoformat(),
            "rows": str(seen.rows),
            "customers": str(seen.customers),
        },
    )


def _change(
    customer_id: str, kind: NoticeKind, state: str, *, episode: int, mark: str = ""
) -> StateChange:
    return StateChange(
        customer_id=customer_id,
        source=kind.value,
        to=SeenState(state=state, mark=mark, episode=episode),
    )


def _gather(found: Iterable[Found]) -> Found:
    notices: list[Notice] = []
    changes: list[StateChange] = []
    for more_notices, more_changes in found:
        notices += more_notices
        changes += more_changes
    return notices, changes


def _key(*parts: str | int | datetime) -> str:
    """Parts as one text that says where each ends; a hash of it where it would be too long."""
    text = json.dumps(
        [part.isoformat() if isinstance(part, datetime) else part for part in parts],
        separators=(",", ":"),
    )
    if len(text) <= FACT_KEY_CHARS_MAX:
        return text
    return _digest(text)


def _digest(text: str) -> str:
    """A hash that stands for a text; nothing for nothing."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}" if text else ""
