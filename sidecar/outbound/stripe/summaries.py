"""What Stripe has counted of its meters: the port `MeterSums`."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from sidecar.domain.errors import StoreUnavailable
from sidecar.outbound.stripe.client import StripeConnection, translate_stripe
from sidecar.services.ports import Clock
from sidecar.services.report_ports import BudgetSpent, ProviderMeter, ReadBudget

_PAGE: Final = 100
METER_PAGES_MAX: Final = 20
HOUR_PAGES_MAX: Final = 20
"""Two thousand hours: more than the two months that are compared."""
METERS_FOR: Final = timedelta(minutes=5)
"""How long a list of meters is believed."""


class StripeMeterSums:
    """
    Reads meter event summaries; each page is one read off the budget.

    Stripe says nothing of how fresh a summary is, and tells sums as floats: their shortest
    decimal is taken.
    """

    def __init__(self, connection: StripeConnection, budget: ReadBudget, clock: Clock) -> None:
        """Wire it."""
        self._client = connection.client
        self._budget = budget
        self._clock = clock
        self._meters: dict[str, ProviderMeter] = {}
        self._meters_until: datetime | None = None

    async def find_meter(self, event_name: str) -> ProviderMeter | None:
        """The active meter of an event name, else its newest archived one."""
        now = self._clock.now()
        if self._meters_until is None or now >= self._meters_until:
            self._meters = await self._list_meters()
            self._meters_until = now + METERS_FOR
        return self._meters.get(event_name)

    async def total(
        self, meter: ProviderMeter, provider_customer_id: str, start: datetime, end: datetime
    ) -> Decimal:
        """The sum over [start, end) in one read."""
        page = await self._page(meter, _span(provider_customer_id, start, end))
        return sum((_value(item) for item in page.data), Decimal(0))

    async def by_hour(
        self, meter: ProviderMeter, provider_customer_id: str, start: datetime, end: datetime
    ) -> Mapping[datetime, Decimal]:
        """The sums of the hours that have any. Raises BudgetSpent beyond HOUR_PAGES_MAX pages."""
        params = _span(provider_customer_id, start, end) | {
            "value_grouping_window": "hour",
            "limit": _PAGE,
        }
        hours: dict[datetime, Decimal] = {}
        for _ in range(HOUR_PAGES_MAX):
            page = await self._page(meter, params)
            for item in page.data:
                hours[datetime.fromtimestamp(item.start_time, UTC)] = _value(item)
            if not page.has_more or not page.data:
                return hours
            params = params | {"starting_after": page.data[-1].id}
        raise BudgetSpent(f"there are more than {HOUR_PAGES_MAX} pages of summaries")

    async def cancel(self, event_name: str, identifier: str) -> None:
        """Take an event back that Stripe received within 24 hours."""
        async with translate_stripe():
            await self._client.v1.billing.meter_event_adjustments.create_async(
                {"event_name": event_name, "type": "cancel", "cancel": {"identifier": identifier}}
            )

    async def _list_meters(self) -> dict[str, ProviderMeter]:
        """By event name; an active one wins. Raises BudgetSpent where there are too many."""
        found: dict[str, ProviderMeter] = {}
        params: dict[str, Any] = {"limit": _PAGE}
        for _ in range(METER_PAGES_MAX):
            await self._budget.take()
            async with translate_stripe():
                # Any: parameters grow by page, which the SDK's typed dictionaries do not allow.
                page: Any = await self._client.v1.billing.meters.list_async(params)  # type: ignore[arg-type]
            for meter in page.data:
                active = meter.status == "active"
                # The newest come first.
                if meter.event_name not in found or (active and not found[meter.event_name].active):
                    found[meter.event_name] = ProviderMeter(meter_id=meter.id, active=active)
            if not page.has_more or not page.data:
                return found
            params = params | {"starting_after": page.data[-1].id}
        raise BudgetSpent(f"there are more than {METER_PAGES_MAX} pages of meters")

    async def _page(self, meter: ProviderMeter, params: dict[str, Any]) -> Any:
        await self._budget.take()
        async with translate_stripe():
            return await self._client.v1.billing.meters.event_summaries.list_async(
                meter.meter_id,
                params,  # type: ignore[arg-type]
            )


def _span(provider_customer_id: str, start: datetime, end: datetime) -> dict[str, Any]:
    return {
        "customer": provider_customer_id,
        "start_time": int(start.timestamp()),
        "end_time": int(end.timestamp()),
    }


def _value(item: Any) -> Decimal:
    """Raises StoreUnavailable for what is no number."""
    value = item.aggregated_value
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise StoreUnavailable("Stripe answered a summary without a number")
    return Decimal(str(value))
