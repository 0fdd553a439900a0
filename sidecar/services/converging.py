"""From the record to the live store, whoever else writes at the same time."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from sidecar.domain.errors import NotFound
from sidecar.services.control_ports import Accounts, Customer, LiveAccounts

_ROUNDS_MAX = 3

V = TypeVar("V")


async def converge(
    value: V, *, put: Callable[[V], Awaitable[None]], read: Callable[[], Awaitable[V]]
) -> None:
    """
    Bring a recorded value to the live store, and what was recorded meanwhile.

    Two writers may reach the record in one order and the live store in the other. Whoever is
    last there sees the record as it stays. After a few rounds it is left to those other writers.
    """
    for _ in range(_ROUNDS_MAX):
        await put(value)
        recorded = await read()
        if recorded == value:
            return
        value = recorded


async def put_customer_live(accounts: Accounts, live: LiveAccounts, customer: Customer) -> None:
    """Bring a customer to the live store as it stands on record. Raises NotFound."""

    async def read() -> Customer:
        found = await accounts.read_customer(customer.customer_id)
        if found is None:
            raise NotFound(f"there is no customer {customer.customer_id!r}")
        return found

    await converge(customer, put=live.put_customer, read=read)
