"""Pages at the billing provider on which a customer pays for credit."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from sidecar.domain.customers import is_test
from sidecar.domain.errors import Conflict, InvalidInput, NotFound, ProviderRefused
from sidecar.domain.minor_units import Rounding, from_minor, to_minor
from sidecar.services.control_ports import Accounts
from sidecar.services.credits import CreditService


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRequest:
    """
    What is to be paid, in the provider's minor units, by whom, and where the payer goes after.

    `reference` names the payment: the same reference is the same page.
    """

    customer_id: str
    provider_customer_id: str | None
    amount_minor: int
    currency: str
    reference: str
    success_url: str
    cancel_url: str
    save_card: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentPage:
    """Where the payer goes, and until when."""

    page_id: str
    url: str
    expires_at: datetime | None


class PaymentPages(Protocol):
    """A provider's pages."""

    provider: str

    async def open(self, request: PageRequest) -> PaymentPage:
        """Make a page. Raises ProviderRefused, StoreUnavailable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopUpSession:
    """A page that was made. The credit comes once the provider says that it was paid."""

    customer_id: str
    reference: str
    amount_nano: int
    currency: str
    page: PaymentPage


class TopUpSessionService:
    """The use case about pages."""

    def __init__(
        self, *, accounts: Accounts, credit: CreditService, pages: PaymentPages | None
    ) -> None:
        """Wire the ports; without pages every call is refused."""
        self._accounts = accounts
        self._credit = credit
        self._pages = pages

    async def open(
        self,
        customer_id: str,
        *,
        amount_nano: int,
        currency: str,
        reference: str,
        success_url: str,
        cancel_url: str,
        save_card: bool = False,
    ) -> TopUpSession:
        """
        Make a page on which credit is paid for; a repeat under one reference is one page.

        Raises:
            InvalidInput: An amount that nobody can pay to the last part of it.
            NotFound: Unknown customer.
            Conflict: There is no provider, another currency than the customer's, a customer who is
                marked as a test, no room for the credit, or the provider refuses.
            StoreUnavailable: The page may have been made; repeat it under the same reference.
        """
        if self._pages is None:
            raise Conflict("no billing provider is set, so there is nobody to pay to")
        customer = await self._accounts.read_customer(customer_id)
        if customer is None:
            raise NotFound(f"there is no customer {customer_id!r}")
        if is_test(customer.labels):
            raise Conflict(f"customer {customer_id!r} is marked as a test and never pays")
        await self._credit.check_top_up(
            customer_id, amount_nano=amount_nano, currency=currency, reference=reference
        )
        minor = to_minor(amount_nano, currency, self._pages.provider, Rounding.DOWN)
        if from_minor(minor, currency, self._pages.provider) != amount_nano:
            raise InvalidInput(f"amount must be one that can be paid in {currency}", field="amount")
        try:
            page = await self._pages.open(
                PageRequest(
                    customer_id=customer_id,
                    provider_customer_id=customer.stripe_customer_id,
                    amount_minor=minor,
                    currency=currency,
                    reference=reference,
                    success_url=success_url,
                    cancel_url=cancel_url,
                    save_card=save_card,
                )
            )
        except ProviderRefused as error:
            raise Conflict(f"{self._pages.provider} {error}") from error
        return TopUpSession(
            customer_id=customer_id,
            reference=reference,
            amount_nano=amount_nano,
            currency=currency,
            page=page,
        )
