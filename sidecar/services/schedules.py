"""Recurring grants: a schedule says what is given in each period; its grants are issued ahead."""

from collections.abc import Sequence
from datetime import datetime

from sidecar import telemetry
from sidecar.domain.errors import Conflict, InvalidInput, NotFound, Refused
from sidecar.domain.schedules import GrantSchedule, check_schedule, issue_next
from sidecar.services.control_ports import Accounts, Grant
from sidecar.services.credits import CreditService, check_currency
from sidecar.services.ports import Clock

ISSUED_AT_ONCE_MAX = 3
"""The period that runs, the next one, and one more where a period begins meanwhile."""
ISSUE_LEASE_SECONDS = 60


class ScheduleService:
    """The use cases about recurring grants."""

    def __init__(self, *, accounts: Accounts, credit: CreditService, clock: Clock) -> None:
        """Wire the ports and the service that gives."""
        self._accounts = accounts
        self._credits = credit
        self._clock = clock

    async def create(self, schedule: GrantSchedule) -> GrantSchedule:
        """
        Record a schedule; the worker issues its grants, each a period ahead.

        Raises:
            InvalidInput: See `check_schedule`; a meter that the policy does not have.
            NotFound: Unknown customer.
            Conflict: Another currency than the customer's, or the id has other content.
            StoreUnavailable: Repeat it.
        """
        customer = await self._accounts.read_customer(schedule.customer_id)
        if customer is None:
            raise NotFound(f"there is no customer {schedule.customer_id!r}")
        check_schedule(schedule)
        check_currency(schedule.currency, customer)
        self._credits.check_meters(schedule.meters)
        return await self._accounts.create_schedule(schedule)

    async def read(self, customer_id: str, schedule_id: str) -> GrantSchedule:
        """One schedule. Raises NotFound."""
        found = await self._accounts.read_schedule(customer_id, schedule_id)
        if found is None:
            raise _no_schedule(customer_id, schedule_id)
        return found

    async def list(self, customer_id: str, *, after: str, limit: int) -> Sequence[GrantSchedule]:
        """A page of a customer's schedules, also those that have ended. Raises NotFound."""
        if await self._accounts.read_customer(customer_id) is None:
            raise NotFound(f"there is no customer {customer_id!r}")
        return await self._accounts.list_schedules(customer_id, after=after, limit=limit)

    async def end(self, customer_id: str, schedule_id: str) -> GrantSchedule:
        """
        Issue no further grant; those that are issued stay, and can be voided.

        Raises:
            NotFound: Unknown schedule.
            StoreUnavailable: Repeat it.
        """
        found = await self._accounts.end_schedule(
            customer_id, schedule_id, ends_at=self._clock.now()
        )
        if found is None:
            raise _no_schedule(customer_id, schedule_id)
        return found

    async def issue_due(self, *, limit: int = 100) -> int:
        """
        Give the grants whose turn it is; one that is refused keeps no other from being given.

        Returns:
            How many grants were given.

        Raises:
            StoreUnavailable: Repeat it.
        """
        given = 0
        for schedule in await self._accounts.due_schedules(
            self._clock.now(), limit=limit, lease_seconds=ISSUE_LEASE_SECONDS
        ):
            try:
                given += await self._issue(schedule)
            except (InvalidInput, NotFound, Conflict) as error:
                telemetry.WORKER_FAILURES.labels("schedules").inc()
                telemetry.get_logger().warning(
                    "schedule_refused",
                    schedule_id=schedule.schedule_id,
                    customer_id=schedule.customer_id,
                    error=str(error),
                )
        return given

    async def _issue(self, schedule: GrantSchedule) -> int:
        """A crash between the two writes repeats the same grant, whose id is the period's."""
        given = 0
        for _ in range(ISSUED_AT_ONCE_MAX):
            now = self._clock.now()
            if not _is_due(schedule, now):
                break
            issue = issue_next(schedule, now)
            if issue.terms is not None:
                terms = issue.terms
                given += await self._give(
                    Grant(
                        grant_id=terms.grant_id,
                        customer_id=schedule.customer_id,
                        amount_nano=terms.amount_nano,
                        currency=schedule.currency,
                        kind=terms.kind,
                        priority=terms.priority,
                        effective_at=terms.effective_at,
                        expires_at=terms.expires_at,
                        meters=terms.meters,
                        rollover=terms.rollover,
                        schedule_id=schedule.schedule_id,
                    )
                )
            schedule = await self._accounts.advance_schedule(schedule, next_start=issue.next_start)
        return given

    async def _give(self, grant: Grant) -> int:
        """One that was refused for good before is passed over, so that the next ones come."""
        try:
            await self._credits.give(grant)
        except Refused as error:
            telemetry.get_logger().warning(
                "occurrence_passed_over",
                customer_id=grant.customer_id,
                grant_id=grant.grant_id,
                error=str(error),
            )
            return 0
        return 1


def _is_due(schedule: GrantSchedule, now: datetime) -> bool:
    return schedule.next_start is not None and schedule.due_at(schedule.next_start) <= now


def _no_schedule(customer_id: str, schedule_id: str) -> NotFound:
    return NotFound(f"customer {customer_id!r} has no schedule {schedule_id!r}")
