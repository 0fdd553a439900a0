"""Erasing a customer: what may name a person goes, what was used and paid stays."""

from sidecar.domain.errors import NotFound
from sidecar.services.control_ports import Accounts, Customer, LiveAccounts

_PAGE = 500


async def erase_customer(accounts: Accounts, live: LiveAccounts, customer_id: str) -> Customer:
    """
    Clear labels, Stripe customer, and names, teams and users of keys; revoke all keys.

    The ledger names the customer by id only, so it and its chains stay as they are. The record
    first, in one transaction, then the live store; a repeat finishes what a crash left.

    Raises:
        NotFound: Unknown customer.
        StoreUnavailable: Some keys may still work; repeat it.
    """
    customer = await accounts.erase_customer(customer_id)
    if customer is None:
        raise NotFound(f"there is no customer {customer_id!r}")
    await live.put_customer(customer)
    after = ""
    while page := await accounts.list_credentials(customer_id, after=after, limit=_PAGE):
        for credential in page:
            await live.put_credential(credential)
        after = page[-1].credential_id
    return customer
