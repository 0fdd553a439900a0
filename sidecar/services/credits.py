"""
Credit: grants, balances, and what waits for the live store.

A grant is recorded as an intent first, then applied by script and posted from the stream. Each
write is safe to repeat. If the live store is away the caller is told so and repeats; the intent
is also picked up by `apply_pending`.
"""

import asyncio
from collections.abc import Sequence

from sidecar import telemetry
from sidecar.domain.errors import Conflict, InvalidInput, NotFound, SidecarError
from sidecar.domain.money import AMOUNT_NANO_MAX, format_amount
from sidecar.services.control_ports import Accounts, Balance, Customer, Grant, LiveAccounts
from sidecar.services.converging import put_customer_live


class CreditService:
    """The control plane's use cases about credit."""

    def __init__(self, *, accounts: Accounts, live: LiveAccounts) -> None:
        """Wire the ports."""
        self._accounts = accounts
        self._live = live

    async def create_grant(self, grant: Grant) -> Grant:
        """
        Give credit: the intent is recorded, then applied by script and posted from the stream.

        Raises:
            InvalidInput: Not positive, or too large.
            NotFound: Unknown customer.
            Conflict: Another currency than the customer's, or the id has other content.
            StoreUnavailable: The intent may stand; it is applied once the store is back.
        """
        if not 0 < grant.amount_nano <= AMOUNT_NANO_MAX:
            raise InvalidInput(
                f"amount must be above zero and at most {format_amount(AMOUNT_NANO_MAX)}",
                field="amount",
            )
        stored = await self._accounts.create_grant(grant)
        await self._live.apply_grant(stored)
        return stored

    async def list_grants(self, customer_id: str, *, after: str, limit: int) -> Sequence[Grant]:
        """A page of a customer's grants. Raises NotFound."""
        await self._customer(customer_id)
        return await self._accounts.list_grants(customer_id, after=after, limit=limit)

    async def read_balance(self, customer_id: str) -> Balance:
        """The live balance. Raises NotFound, StoreUnavailable."""
        balance = await self._live.read_balance(customer_id)
        if balance is None:
            raise NotFound(f"there is no customer {customer_id!r}")
        return balance

    async def apply_pending(self, *, limit: int = 100) -> int:
        """
        Apply grants whose intent was recorded while the live store was away.

        One that the live store refuses stays an intent, and keeps no other from being applied.

        Returns:
            How many were applied.

        Raises:
            StoreUnavailable: Repeat it.
        """
        applied = 0
        for grant in await self._accounts.pending_grants(limit=limit):
            try:
                applied += await self._apply(grant)
            except (InvalidInput, NotFound, Conflict) as error:
                telemetry.WORKER_FAILURES.labels("grants").inc()
                telemetry.get_logger().warning(
                    "grant_refused",
                    grant_id=grant.grant_id,
                    customer_id=grant.customer_id,
                    error=str(error),
                )
        return applied

    async def _apply(self, grant: Grant) -> bool:
        customer = await self._accounts.read_customer(grant.customer_id)
        if customer is None:
            return False
        await put_customer_live(self._accounts, self._live, customer)
        await self._live.apply_grant(grant)
        return True

    async def run_pending(self, stop: asyncio.Event, *, interval_seconds: float) -> None:
        """Apply pending grants until stopped."""
        while not stop.is_set():
            try:
                await self.apply_pending()
            except SidecarError as error:
                telemetry.WORKER_FAILURES.labels("grants").inc()
                telemetry.get_logger().warning("grants_pending_failed", error=str(error))
            try:
                await asyncio.wait_for(stop.wait(), interval_seconds)
            except TimeoutError:
                continue

    async def _customer(self, customer_id: str) -> Customer:
        customer = await self._accounts.read_customer(customer_id)
        if customer is None:
            raise NotFound(f"there is no customer {customer_id!r}")
        return customer
