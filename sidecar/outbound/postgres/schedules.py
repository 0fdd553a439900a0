"""Recurring grants of record, and which are due; a part of the port `Accounts`."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import asyncpg

from sidecar.domain.errors import InvariantViolated, NotFound
from sidecar.domain.grants import GrantKind
from sidecar.domain.periods import CalendarUnit
from sidecar.domain.schedules import GrantSchedule, check_schedule
from sidecar.outbound.postgres.comparing import check_same
from sidecar.outbound.postgres.grants import LIST_MAX, check_currency
from sidecar.outbound.postgres.pool import Pool, translate_errors
from sidecar.outbound.postgres.queries import query

_CONTENT: Final = (
    "amount_nano",
    "currency",
    "kind",
    "priority",
    "meters",
    "unit",
    "every",
    "anchor",
    "tz",
    "starts_at",
    "rolls_least_nano",
    "rolls_most_nano",
)
"""Not the end: it may have been moved since."""


class PostgresSchedules:
    """A due schedule is leased by Postgres' clock; moving on is a comparison and a write."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create_schedule(self, schedule: GrantSchedule) -> GrantSchedule:
        """
        Store it with its first occurrence as the next one to issue; a repeat finds it again.

        Raises:
            InvalidInput: See `check_schedule`.
            NotFound: Unknown customer.
            Conflict: Another currency than the customer's, or the id has other content.
        """
        check_schedule(schedule)
        await check_currency(self._pool, schedule.customer_id, schedule.currency, "schedule")
        start = schedule.first_start()
        with translate_errors():
            await self._pool.execute(
                query("insert_schedule"),
                schedule.customer_id,
                schedule.schedule_id,
                schedule.amount_nano,
                schedule.currency,
                schedule.kind,
                schedule.priority,
                schedule.meters,
                schedule.unit,
                schedule.every,
                schedule.anchor,
                schedule.tz,
                schedule.starts_at,
                schedule.ends_at,
                schedule.rolls_least_nano,
                schedule.rolls_most_nano,
                start,
                _due_at(schedule, start),
            )
        stored = await self.read_schedule(schedule.customer_id, schedule.schedule_id)
        if stored is None:
            raise InvariantViolated("a schedule that was just stored is gone")
        check_same(f"schedule {schedule.schedule_id!r}", stored, schedule, _CONTENT)
        return stored

    async def read_schedule(self, customer_id: str, schedule_id: str) -> GrantSchedule | None:
        """One schedule."""
        with translate_errors():
            row = await self._pool.fetchrow(query("read_schedule"), customer_id, schedule_id)
        return None if row is None else _schedule(row)

    async def list_schedules(
        self, customer_id: str, *, after: str, limit: int
    ) -> Sequence[GrantSchedule]:
        """A customer's schedules by id, also those that have ended; at most LIST_MAX."""
        with translate_errors():
            rows = await self._pool.fetch(
                query("list_schedules"), customer_id, after, min(limit, LIST_MAX)
            )
        return [_schedule(row) for row in rows]

    async def end_schedule(
        self, customer_id: str, schedule_id: str, *, ends_at: datetime
    ) -> GrantSchedule | None:
        """
        Issue no occurrence that starts at or after an instant; the earliest such word counts.

        Grants that are issued already stay. None for an unknown schedule.
        """
        with translate_errors():
            row = await self._pool.fetchrow(
                query("end_schedule"), customer_id, schedule_id, ends_at
            )
        return None if row is None else _schedule(row)

    async def due_schedules(
        self, now: datetime, *, limit: int, lease_seconds: int
    ) -> Sequence[GrantSchedule]:
        """
        Schedules whose next occurrence is to be issued, longest due first; at most LIST_MAX.

        Each is left to the caller for the lease's time: no other worker is given it.
        """
        with translate_errors():
            rows = await self._pool.fetch(
                query("due_schedules"),
                now,
                min(limit, LIST_MAX),
                timedelta(seconds=lease_seconds),
            )
        return [_schedule(row) for row in rows]

    async def advance_schedule(
        self, schedule: GrantSchedule, *, next_start: datetime | None
    ) -> GrantSchedule:
        """
        Note that the next occurrence was issued, and which one is next (None: there is none).

        Nothing changes if the schedule has moved on from `schedule.next_start` already.

        Raises:
            NotFound: Unknown schedule.
        """
        with translate_errors():
            await self._pool.execute(
                query("advance_schedule"),
                schedule.customer_id,
                schedule.schedule_id,
                schedule.next_start,
                next_start,
                _due_at(schedule, next_start),
            )
        stored = await self.read_schedule(schedule.customer_id, schedule.schedule_id)
        if stored is None:
            raise NotFound(f"there is no schedule {schedule.schedule_id!r}")
        return stored


def _due_at(schedule: GrantSchedule, start: datetime | None) -> datetime | None:
    return None if start is None else schedule.due_at(start)


def _schedule(row: asyncpg.Record) -> GrantSchedule:
    return GrantSchedule(
        **dict(row)
        | {
            "unit": CalendarUnit(row["unit"]),
            "kind": GrantKind(row["kind"]),
            "meters": tuple(row["meters"]),
        }
    )
