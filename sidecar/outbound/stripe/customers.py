"""Customers, prices and subscriptions at Stripe: implements `ProviderAccounts`."""

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from sidecar.domain.errors import ProviderRefused
from sidecar.outbound.stripe.client import StripeConnection, metadata_of, translate_stripe
from sidecar.services.onboarding import Newcomer, ProviderAccount
from sidecar.services.payments import CUSTOMER_KEY
from sidecar.services.report_ports import BudgetSpent, ReadBudget

KEY_KEY: Final = "sidecar_key"
"""Of metadata: names ledger and customer, so that what one attempt made is found by the next."""
PLAN_KEY: Final = "sidecar_plan"
"""Of a price's metadata, as the catalog writes it."""
BY_ID: Final = "customer.id"
_METADATA: Final = "customer.metadata."
_PAGE: Final = 100
_NOT_FOUND: Final = 404
_CREATED_SLACK: Final = timedelta(minutes=10)
"""Stripe's clock and Postgres' need not agree."""


class StripeAccounts:
    """
    Makes customers, or finds those that are there by `field`.

    `field` is `customer.id` (ours have Stripe's id) or `customer.metadata.NAME` (Stripe's have our
    id under that name).
    """

    def __init__(
        self, connection: StripeConnection, budget: ReadBudget, *, field: str, pages_max: int
    ) -> None:
        """
        Wire it.

        Args:
            connection: The client.
            budget: Each page of a list, and each object that is read, is taken off it.
            field: Where our customer's id stands.
            pages_max: Longest list that is read, in pages of 100.
        """
        self._client = connection.client
        self._budget = budget
        self._field = field
        self._pages_max = pages_max
        self.livemode = connection.livemode

    async def create(self, newcomer: Newcomer) -> ProviderAccount:
        """Make one; no name or address of anybody is sent."""
        async with translate_stripe():
            made: Any = await self._client.v1.customers.create_async(
                {
                    "description": newcomer.customer_id,
                    "metadata": {CUSTOMER_KEY: newcomer.customer_id, KEY_KEY: newcomer.key},
                },
                {"idempotency_key": f"sidecar:customer:{newcomer.key}:{newcomer.key_number}"},
            )
        return _account(made)

    async def find_created(self, newcomer: Newcomer) -> Sequence[ProviderAccount]:
        """Those made since the first attempt that carry its key."""
        since = int((newcomer.first_attempt_at - _CREATED_SLACK).timestamp())
        return [
            _account(item)
            async for item in self._pages(
                self._client.v1.customers.list_async, {"created": {"gte": since}}
            )
            if metadata_of(item).get(KEY_KEY) == newcomer.key
        ]

    async def find_mapped(
        self, customer_ids: Sequence[str]
    ) -> Mapping[str, Sequence[ProviderAccount]]:
        """Accounts that are there already; each by its id, or all by one list."""
        if self._field == BY_ID:
            return await self._find_by_id(customer_ids)
        name = self._field.removeprefix(_METADATA)
        wanted = frozenset(customer_ids)
        found: dict[str, list[ProviderAccount]] = defaultdict(list)
        async for item in self._pages(self._client.v1.customers.list_async, {}):
            value = metadata_of(item).get(name)
            if value in wanted:
                found[str(value)].append(_account(item))
        return found

    async def find_subscription(self, newcomer: Newcomer) -> str | None:
        """The subscription that carries the key, whatever has become of it."""
        params = {"customer": newcomer.provider_customer_id, "status": "all"}
        async for item in self._pages(self._client.v1.subscriptions.list_async, params):
            if metadata_of(item).get(KEY_KEY) == newcomer.key:
                return str(item.id)
        return None

    async def find_prices(self, plan: str, currency: str) -> Sequence[str]:
        """Active recurring prices that the catalog made of a plan, in the customer's currency."""
        params = {"active": True, "currency": currency.lower(), "type": "recurring"}
        return sorted(
            [
                str(item.id)
                async for item in self._pages(self._client.v1.prices.list_async, params)
                if metadata_of(item).get(PLAN_KEY) == plan
            ]
        )

    async def subscribe(self, newcomer: Newcomer, prices: Sequence[str]) -> str:
        """Subscribe to prices; metered ones take no quantity."""
        async with translate_stripe():
            made: Any = await self._client.v1.subscriptions.create_async(
                {
                    "customer": newcomer.provider_customer_id,
                    "items": [{"price": price} for price in prices],
                    "metadata": {CUSTOMER_KEY: newcomer.customer_id, KEY_KEY: newcomer.key},
                },
                {"idempotency_key": f"sidecar:subscription:{newcomer.key}:{newcomer.key_number}"},
            )
        return str(made.id)

    async def _find_by_id(self, customer_ids: Sequence[str]) -> dict[str, list[ProviderAccount]]:
        found = {}
        for customer_id in customer_ids:
            await self._budget.take()
            try:
                async with translate_stripe():
                    item: Any = await self._client.v1.customers.retrieve_async(customer_id)
            except ProviderRefused as error:
                if error.status != _NOT_FOUND:
                    raise
                continue
            if not getattr(item, "deleted", False):
                found[customer_id] = [_account(item)]
        return found

    async def _pages(self, ask: Any, params: dict[str, Any]) -> AsyncIterator[Any]:
        """Every item of a list. Raises BudgetSpent beyond `pages_max` pages."""
        params = params | {"limit": _PAGE}
        for _ in range(self._pages_max):
            await self._budget.take()
            async with translate_stripe():
                page: Any = await ask(params)
            for item in page.data:
                yield item
            if not page.has_more or not page.data:
                return
            params = params | {"starting_after": page.data[-1].id}
        raise BudgetSpent(
            f"Stripe's list is longer than {self._pages_max} pages (stripe_list_pages_max)"
        )


def _account(item: Any) -> ProviderAccount:
    currency = getattr(item, "currency", None)
    return ProviderAccount(
        account_id=str(item.id),
        currency=currency.upper() if isinstance(currency, str) else None,
        livemode=bool(item.livemode),
    )
