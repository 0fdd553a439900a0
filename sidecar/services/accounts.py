"""
Customers, credentials, grants and standing: written to the record first, then to the live store.

Each write is safe to repeat: the record's row decides what it is, the live store applies it
once. If the live store is away the caller is told so and repeats; a grant's intent is also
picked up by `apply_pending`.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sidecar import telemetry
from sidecar.domain.errors import Conflict, InvalidInput, NotFound, SidecarError
from sidecar.domain.money import AMOUNT_NANO_MAX, format_amount
from sidecar.domain.standing import StandingFact
from sidecar.services.control_ports import (
    Accounts,
    Balance,
    Credential,
    Customer,
    Grant,
    LiveAccounts,
)
from sidecar.services.ports import Policies, RequestDigests, StoredHold

LABELS_MAX = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedCredential:
    """A new credential and its secret, which is shown once and stored only as a hash."""

    credential: Credential
    secret: str

    def __repr__(self) -> str:
        """Never shows the secret."""
        return f"IssuedCredential({self.credential.credential_id})"


class AccountService:
    """The control plane's use cases about who pays, and with what."""

    def __init__(
        self,
        *,
        accounts: Accounts,
        live: LiveAccounts,
        policies: Policies,
        digests: RequestDigests,
        new_id: Callable[[str], str],
        new_secret: Callable[[], str],
    ) -> None:
        """
        Wire the ports.

        Args:
            accounts, live, policies, digests: Ports.
            new_id: A fresh id with a prefix such as "crd".
            new_secret: A fresh API key.
        """
        self._accounts = accounts
        self._live = live
        self._policies = policies
        self._digests = digests
        self._new_id = new_id
        self._new_secret = new_secret

    async def create_customer(self, customer: Customer) -> Customer:
        """
        Create a customer, or return the same one again.

        Raises:
            InvalidInput: Unknown plan, another currency than the plan's, too many labels.
            Conflict: The id exists with other content.
            StoreUnavailable: Repeat it.
        """
        cards = self._policies.current().cards
        card = cards.get(customer.plan)
        if card is None:
            raise InvalidInput(
                f"plan {customer.plan!r} is not in the policy; it has {', '.join(sorted(cards))}",
                field="plan",
            )
        if customer.currency != card.currency:
            raise InvalidInput(
                f"currency {customer.currency} is not the plan's; "
                f"plan {customer.plan} is in {card.currency}",
                field="currency",
            )
        if len(customer.labels) > LABELS_MAX:
            raise InvalidInput(f"at most {LABELS_MAX} labels are allowed", field="labels")
        stored = await self._accounts.create_customer(customer)
        await self._live.put_customer(stored)
        return stored

    async def read_customer(self, customer_id: str) -> Customer:
        """One customer. Raises NotFound."""
        customer = await self._accounts.read_customer(customer_id)
        if customer is None:
            raise NotFound(f"there is no customer {customer_id!r}")
        return customer

    async def list_customers(self, *, after: str, limit: int) -> Sequence[Customer]:
        """A page of customers, by id."""
        return await self._accounts.list_customers(after=after, limit=limit)

    async def create_credential(
        self, customer_id: str, *, user_id: str, name: str
    ) -> IssuedCredential:
        """
        Issue an API key.

        Raises:
            NotFound: Unknown customer.
            StoreUnavailable: The key may be recorded but is not shown; issue another.
        """
        secret = self._new_secret()
        credential = await self._accounts.create_credential(
            Credential(
                credential_id=self._new_id("crd"),
                customer_id=customer_id,
                user_id=user_id,
                name=name,
                secret_hash=self._digests.credential_hashes(secret)[0],
            )
        )
        await self._live.put_credential(credential)
        return IssuedCredential(credential=credential, secret=secret)

    async def list_credentials(
        self, customer_id: str, *, after: str, limit: int
    ) -> Sequence[Credential]:
        """A page of a customer's credentials. Raises NotFound."""
        await self.read_customer(customer_id)
        return await self._accounts.list_credentials(customer_id, after=after, limit=limit)

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
        await self.read_customer(customer_id)
        return await self._accounts.list_grants(customer_id, after=after, limit=limit)

    async def put_standing(self, customer_id: str, standing: StandingFact) -> None:
        """Set a customer's standing. Raises NotFound, StoreUnavailable."""
        await self._accounts.put_standing(customer_id, standing)
        await self._live.put_standing(customer_id, standing)

    async def read_standing(self, customer_id: str) -> StandingFact:
        """A customer's standing. Raises NotFound."""
        await self.read_customer(customer_id)
        return await self._accounts.read_standing(customer_id)

    async def read_balance(self, customer_id: str) -> Balance:
        """The live balance. Raises NotFound, StoreUnavailable."""
        balance = await self._live.read_balance(customer_id)
        if balance is None:
            raise NotFound(f"there is no customer {customer_id!r}")
        return balance

    async def list_open_holds(self, customer_id: str, *, limit: int) -> Sequence[StoredHold]:
        """Holds in flight. Raises NotFound, StoreUnavailable."""
        await self.read_customer(customer_id)
        return await self._live.list_open_holds(customer_id, limit)

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
        await self._live.put_customer(customer)
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
