"""Replay and the shadow report over recorded decisions: reading, merging, feeding."""

from collections.abc import AsyncIterator
from datetime import datetime

from sidecar.domain.decision_records import DecisionRecord
from sidecar.domain.policy import Policy
from sidecar.domain.replay_report import ReplayReport
from sidecar.domain.replay_state import ReplayUsage
from sidecar.domain.replaying import Replay
from sidecar.domain.shadow_report import ShadowReport
from sidecar.services.decision_ports import DecisionTable

PAGE_RECORDS = 1_000
Event = DecisionRecord | ReplayUsage
Events = AsyncIterator[Event]


async def replay(policy: Policy, events: Events) -> ReplayReport:
    """Judge recorded events by another policy, in one pass."""
    run = Replay(policy)
    async for event in events:
        if isinstance(event, DecisionRecord):
            run.take_record(event)
        else:
            run.take_usage(event)
    return run.report


async def report_shadow(events: Events) -> ShadowReport:
    """What shadow rules would have refused, in one pass."""
    report = ShadowReport()
    async for event in events:
        if isinstance(event, DecisionRecord):
            report.take_record(event)
        else:
            report.take_usage(event)
    return report


async def recorded_events(
    table: DecisionTable, *, since: datetime, until: datetime, customer_id: str = ""
) -> Events:
    """
    Decisions and usage of [since, until), in the order of time; a decision before its usage.

    Raises:
        StoreUnavailable: Read them again from the start.
    """
    usage = table.usage(since=since, until=until, customer_id=customer_id)
    waiting = await anext(usage, None)
    async for record in _records(table, since, until, customer_id):
        while waiting is not None and waiting.at_ms < record.instant_ms:
            yield waiting
            waiting = await anext(usage, None)
        yield record
    while waiting is not None:
        yield waiting
        waiting = await anext(usage, None)


async def _records(
    table: DecisionTable, since: datetime, until: datetime, customer_id: str
) -> AsyncIterator[DecisionRecord]:
    after = ""
    while page := await table.page(
        since=since, until=until, customer_id=customer_id, after=after, limit=PAGE_RECORDS
    ):
        for _, record in page:
            yield record
        after = page[-1][0]
