"""What people tell and ask about providers: customers as they know them, and collections."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sidecar import telemetry
from sidecar.domain.collecting import CollectState, check_email
from sidecar.domain.errors import Conflict, InvalidInput, NotFound
from sidecar.domain.minor_units import PAYSTACK, STRIPE, WEBHOOK
from sidecar.services.collecting_ports import Collection, CollectionAttempt, CollectionRecord
from sidecar.services.control_ports import Accounts
from sidecar.services.provider_ports import Payer, Payers

_TOKEN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,190}", re.ASCII)


_OVER: Final = frozenset({"stale", CollectState.FAILED.value, CollectState.WITHDRAWN.value})
"""Where news of a payment is unexpected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PayerNeeds:
    """What a provider must be told before it can collect, and whether it has saved cards."""

    customer: bool = False
    email: bool = False
    cards: bool = False


PROVIDERS: Final[Mapping[str, PayerNeeds]] = {
    STRIPE: PayerNeeds(customer=True),
    PAYSTACK: PayerNeeds(email=True, cards=True),
    WEBHOOK: PayerNeeds(),
}
"""A new provider has its line here."""


class ProviderCustomerService:
    """Sets and tells what providers know of a customer."""

    def __init__(self, *, customers: Payers, accounts: Accounts) -> None:
        """Wire the ports."""
        self._customers = customers
        self._accounts = accounts

    async def put(self, payer: Payer, *, keep_authorization: bool) -> Payer:
        """
        Set what one provider knows.

        Args:
            payer: All of it.
            keep_authorization: A stored card stays, and the payer's own code is not looked at.

        Raises:
            InvalidInput: The provider is not known, or needs more to collect.
            NotFound: Unknown customer.
            Conflict: Another provider collects, or rates this customer's usage itself.
        """
        needs = needs_of(payer.provider)
        check_payer(payer, needs)
        customer = await self._accounts.read_customer(payer.customer_id)
        if customer is None:
            raise NotFound(f"there is no customer {payer.customer_id!r}")
        if payer.collect and customer.stripe_customer_id:
            # Its usage goes to Stripe's meters, whose invoice would ask for the same money.
            raise Conflict(
                f"the usage of customer {payer.customer_id!r} is reported to Stripe "
                f"({customer.stripe_customer_id}); clear stripe_customer_id to collect its "
                "invoices here"
            )
        return await self._customers.put(payer, keep_authorization=keep_authorization)

    async def read(self, customer_id: str, provider: str) -> Payer:
        """What one provider knows. Raises NotFound."""
        found = await self._customers.read(customer_id, provider)
        if found is None:
            raise NotFound(f"{provider} knows nothing of customer {customer_id!r}")
        return found

    async def list(self, customer_id: str) -> Sequence[Payer]:
        """By provider. Raises NotFound."""
        if await self._accounts.read_customer(customer_id) is None:
            raise NotFound(f"there is no customer {customer_id!r}")
        return await self._customers.list(customer_id)

    async def delete(self, customer_id: str, provider: str) -> Payer:
        """Forget it; what is being collected is asked about still. Raises NotFound."""
        found = await self.read(customer_id, provider)
        await self._customers.delete(customer_id, provider)
        return found


class CollectionService:
    """What people and webhooks do about collections."""

    def __init__(self, record: CollectionRecord) -> None:
        """Wire it."""
        self._record = record

    async def list(
        self, *, customer_id: str | None, state: CollectState | None, after: str, limit: int
    ) -> Sequence[Collection]:
        """By invoice id, those after `after`."""
        return await self._record.list(
            customer_id=customer_id, state=state, after=after, limit=limit
        )

    async def read(self, invoice_id: str) -> tuple[Collection, Sequence[CollectionAttempt]]:
        """One invoice's, with every reference that was sent. Raises NotFound."""
        found = await self._record.read(invoice_id)
        if found is None:
            raise NotFound(f"invoice {invoice_id!r} is not collected")
        return found, await self._record.attempts(found)

    async def retry(self, invoice_id: str) -> Collection:
        """
        Look at a failed one again at once; its last reference is asked about first.

        Raises:
            NotFound: It is not collected.
            Conflict: It has not failed.
        """
        retried = await self._record.retry(invoice_id)
        if retried is not None:
            return retried
        found, _ = await self.read(invoice_id)
        raise Conflict(f"the collection of invoice {invoice_id!r} is {found.state.value}")

    async def hear(self, provider: str, name: str) -> str | None:
        """
        News of a reference, from a webhook: it is looked at at once.

        Nothing that the news says is believed. News of an attempt that is over, or has failed,
        may mean a payment that nobody expects, so it is an alarm.

        Args:
            provider: Whose news it is.
            name: Our reference, or the provider's own name of it.

        Returns:
            The collection's state, "stale" for an earlier attempt, None for an unknown name.
        """
        state = await self._record.wake(provider, name)
        if state in _OVER:
            telemetry.COLLECTIONS.labels(provider, "stale").inc()
            telemetry.get_logger().error(
                "collection_stale_news", provider=provider, reference=name, state=state
            )
        return state


def needs_of(provider: str) -> PayerNeeds:
    """What a provider must be told. Raises InvalidInput for an unknown one."""
    found = PROVIDERS.get(provider)
    if found is None:
        raise InvalidInput(
            f"provider {provider[:40]!r} is not known; use one of {', '.join(sorted(PROVIDERS))}",
            field="provider",
        )
    return found


def check_payer(payer: Payer, needs: PayerNeeds) -> None:
    """Whether a provider can work with this. Raises InvalidInput; never shows a card's code."""
    if payer.email:
        check_email(payer.email)
    if payer.provider_customer_id and not _TOKEN.fullmatch(payer.provider_customer_id):
        raise InvalidInput(
            "provider_customer_id must be letters, digits and _.:-", field="provider_customer_id"
        )
    if payer.authorization_code and not _TOKEN.fullmatch(payer.authorization_code):
        raise InvalidInput(
            "authorization_code must be letters, digits and _.:-", field="authorization_code"
        )
    if payer.authorization_code and not needs.cards:
        raise InvalidInput(
            f"{payer.provider} has no saved cards to charge", field="authorization_code"
        )
    if payer.collect and needs.customer and not payer.provider_customer_id:
        raise InvalidInput(
            f"{payer.provider} collects from one of its customers only: give its id",
            field="provider_customer_id",
        )
    if payer.collect and needs.email and not payer.email:
        raise InvalidInput(f"{payer.provider} needs an email to collect", field="email")
