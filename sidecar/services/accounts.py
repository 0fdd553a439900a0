"""
Customers and credentials: written to the record first, then to the live store.

Each write is safe to repeat: the record's row decides what it is, the live store applies it
once. If the live store is away the caller is told so and repeats.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sidecar.domain.errors import Conflict, InvalidInput, NotFound
from sidecar.domain.money import AMOUNT_NANO_MAX
from sidecar.services.control_ports import (
    Accounts,
    Credential,
    CredentialState,
    Customer,
    LiveAccounts,
)
from sidecar.services.converging import put_customer_live
from sidecar.services.erasing import erase_customer
from sidecar.services.ports import Clock, Policies, RequestDigests, StoredHold

LABELS_MAX = 32
OVERLAP_MAX = timedelta(days=30)
"""Longest time that a rotated credential goes on working."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedCredential:
    """A new credential and its secret, which is shown once and stored only as a hash."""

    credential: Credential
    secret: str

    def __repr__(self) -> str:
        """Never shows the secret."""
        return f"IssuedCredential({self.credential.credential_id})"


class AccountService:
    """The control plane's use cases about who pays, and who may call."""

    def __init__(
        self,
        *,
        accounts: Accounts,
        live: LiveAccounts,
        policies: Policies,
        digests: RequestDigests,
        clock: Clock,
        new_id: Callable[[str], str],
        new_secret: Callable[[], str],
    ) -> None:
        """
        Wire the ports.

        Args:
            accounts, live, policies, digests, clock: Ports.
            new_id: A fresh id with a prefix such as "crd".
            new_secret: A fresh API key.
        """
        self._accounts = accounts
        self._live = live
        self._policies = policies
        self._digests = digests
        self._clock = clock
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
        currency = self._plan_currency(customer)
        if customer.currency != currency:
            raise InvalidInput(
                f"currency {customer.currency} is not the plan's; "
                f"plan {customer.plan} is in {currency}",
                field="currency",
            )
        stored = await self._accounts.create_customer(customer)
        await put_customer_live(self._accounts, self._live, stored)
        return stored

    async def update_customer(self, customer: Customer) -> Customer:
        """
        Change plan, labels, Stripe customer and overdraft; each is what it is here afterwards.

        Args:
            customer: With currency "" to leave it unsaid.

        Raises:
            InvalidInput: Unknown plan, too many labels.
            NotFound: Unknown customer.
            Conflict: It would change the currency, in which the balances are.
            StoreUnavailable: Repeat it.
        """
        plan_currency = self._plan_currency(customer)
        currency = (await self.read_customer(customer.customer_id)).currency
        if customer.currency not in ("", currency):
            raise Conflict(
                f"the currency is {currency} and cannot change to {customer.currency}: "
                "the customer's balances are in it; create another customer"
            )
        if plan_currency != currency:
            raise Conflict(
                f"plan {customer.plan!r} is in {plan_currency}; the customer's currency is "
                f"{currency}, which cannot change"
            )
        stored = await self._accounts.update_customer(customer)
        if stored is None:
            raise NotFound(f"there is no customer {customer.customer_id!r}")
        await put_customer_live(self._accounts, self._live, stored)
        return stored

    async def erase_customer(self, customer_id: str) -> Customer:
        """Clear a customer's personal data; see `erase_customer`. Raises NotFound."""
        return await erase_customer(self._accounts, self._live, customer_id)

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
        self,
        customer_id: str,
        *,
        user_id: str,
        name: str,
        team_id: str = "",
        expires_at: datetime | None = None,
    ) -> IssuedCredential:
        """
        Issue an API key.

        Raises:
            InvalidInput: Its end has come already.
            NotFound: Unknown customer.
            StoreUnavailable: The key may be recorded but is not shown; issue another.
        """
        if expires_at is not None and expires_at <= self.now():
            raise InvalidInput("expires_at must lie in the future", field="expires_at")
        secret = self._new_secret()
        credential = await self._accounts.create_credential(
            Credential(
                credential_id=self._new_id("crd"),
                customer_id=customer_id,
                team_id=team_id,
                user_id=user_id,
                name=name,
                secret_hash=self._digests.credential_hashes(secret)[0],
                expires_at=expires_at,
            )
        )
        await self._live.put_credential(credential)
        return IssuedCredential(credential=credential, secret=secret)

    async def rotate_credential(
        self, credential_id: str, *, overlap: timedelta, successor_id: str | None = None
    ) -> IssuedCredential:
        """
        Issue a credential in the place of another, which goes on working for a while.

        The successor has the same owner, name and end. A repeat with the same `successor_id`
        gives it another secret and moves nothing: the first one was not shown.

        Args:
            credential_id: Of the credential that is to end.
            overlap: Until then both work; zero revokes the old one at once.
            successor_id: For writes that may be repeated.

        Raises:
            InvalidInput: An overlap below zero or above OVERLAP_MAX.
            NotFound: Unknown credential.
            Conflict: It has been rotated or has ended.
            StoreUnavailable: Repeat it.
        """
        if not timedelta(0) <= overlap <= OVERLAP_MAX:
            raise InvalidInput(f"overlap must be 0 to {OVERLAP_MAX.days}d", field="overlap")
        retired = await self._find_credential(credential_id)
        successor_id = successor_id or self._new_id("crd")
        await self._check_rotation(retired, successor_id)
        secret = self._new_secret()
        rotation = await self._accounts.rotate_credential(
            retired,
            replace(
                retired,
                credential_id=successor_id,
                secret_hash=self._digests.credential_hashes(secret)[0],
                generation=1,
                replaced_by=None,
                revoked_at=None,
            ),
            ends_at=self.now() + overlap if overlap else None,
        )
        # The new one first: at no time does neither work.
        await self._live.put_credential(rotation.successor)
        await self._live.put_credential(rotation.retired)
        return IssuedCredential(credential=rotation.successor, secret=secret)

    async def revoke_credential(self, credential_id: str) -> Credential:
        """End a credential at once, on every gateway. Raises NotFound, StoreUnavailable."""
        credential = await self._find_credential(credential_id)
        revoked = await self._accounts.revoke_credential(credential)
        await self._live.put_credential(revoked)
        return revoked

    def now(self) -> datetime:
        """The instant by which lists tell the state of what is listed."""
        return self._clock.now()

    async def list_credentials(
        self, customer_id: str, *, after: str, limit: int
    ) -> Sequence[Credential]:
        """A page of a customer's credentials. Raises NotFound."""
        await self.read_customer(customer_id)
        return await self._accounts.list_credentials(customer_id, after=after, limit=limit)

    async def list_open_holds(self, customer_id: str, *, limit: int) -> Sequence[StoredHold]:
        """Holds in flight. Raises NotFound, StoreUnavailable."""
        await self.read_customer(customer_id)
        return await self._live.list_open_holds(customer_id, limit)

    def _plan_currency(self, customer: Customer) -> str:
        """The currency of the customer's plan. Raises InvalidInput, for too many labels too."""
        cards = self._policies.current().cards
        card = cards.get(customer.plan)
        if card is None:
            raise InvalidInput(
                f"plan {customer.plan!r} is not in the policy; it has {', '.join(sorted(cards))}",
                field="plan",
            )
        if not 0 <= customer.overdraft_nano <= AMOUNT_NANO_MAX:
            raise InvalidInput("overdraft must be zero or more", field="overdraft")
        if len(customer.labels) > LABELS_MAX:
            raise InvalidInput(f"at most {LABELS_MAX} labels are allowed", field="labels")
        return card.currency

    async def _find_credential(self, credential_id: str) -> Credential:
        credential = await self._accounts.find_credential(credential_id)
        if credential is None:
            raise NotFound(f"there is no credential {credential_id!r}")
        return credential

    async def _check_rotation(self, retired: Credential, successor_id: str) -> None:
        """
        Refuse to rotate what has ended or has another successor.

        An earlier attempt may have been recorded without having reached the live store: what
        stands on record is put there again, so that a repeat mends it all the same.
        """
        if retired.replaced_by == successor_id:
            return
        ended = retired.state_at(self.now()) is CredentialState.REVOKED
        if retired.replaced_by is None and not ended:
            return
        successor = retired.replaced_by and await self._accounts.find_credential(
            retired.replaced_by
        )
        if successor:
            await self._live.put_credential(successor)
        await self._live.put_credential(retired)
        found = f"credential {retired.credential_id!r}"
        if retired.replaced_by is not None:
            raise Conflict(f"{found} has been rotated; rotate {retired.replaced_by!r} instead")
        raise Conflict(f"{found} has ended; issue another")
