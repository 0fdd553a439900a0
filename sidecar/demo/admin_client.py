"""The demo's hands on the admin API: the same calls that an operator would make."""

from types import TracebackType
from typing import Any, Self

import aiohttp


class AdminClient:
    """Creates customers, keys, credit and standing, and reads balances, over REST."""

    def __init__(self, base_url: str, token: str) -> None:
        """Nothing is opened before `async with`."""
        self._base_url = base_url
        self._token = token
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the session."""
        self._session = aiohttp.ClientSession(
            base_url=self._base_url,
            headers={"authorization": f"Bearer {self._token}"},
            timeout=aiohttp.ClientTimeout(total=15),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the session."""
        assert self._session is not None
        await self._session.close()

    async def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """One call; the answer's JSON. Raises RuntimeError with the problem's words."""
        assert self._session is not None
        async with self._session.request(method, path, json=body) as response:
            answer = await response.json(content_type=None)
            if response.status >= 400:  # noqa: PLR2004  The first status that is an error.
                raise RuntimeError(f"{method} {path} answered {response.status}: {answer}")
            return answer

    async def create_customer(
        self, customer_id: str, plan: str, stripe_customer_id: str | None = None
    ) -> str:
        """Create a customer with one API key; returns the key."""
        await self.call(
            "POST",
            "/api/v1/customers",
            {
                "id": customer_id,
                "plan": plan,
                "currency": "USD",
                "labels": {},
                "stripe_customer_id": stripe_customer_id,
            },
        )
        credential = await self.call(
            "POST",
            "/api/v1/credentials",
            {"customer_id": customer_id, "user_id": "demo", "name": "demo"},
        )
        return str(credential["secret"])

    async def grant(self, customer_id: str, amount: str) -> None:
        """Give paid credit."""
        await self.call(
            "POST",
            "/api/v1/grants",
            {"customer_id": customer_id, "amount": amount, "currency": "USD", "kind": "paid"},
        )

    async def put_standing(self, customer_id: str, standing: str, reason: str) -> None:
        """Set a standing, as the webhook of an overdue invoice would."""
        await self.call(
            "PUT",
            f"/api/v1/customers/{customer_id}/standing",
            {"standing": standing, "reason": reason, "until": None},
        )

    async def balance(self, customer_id: str) -> dict[str, Any]:
        """The live balance."""
        answer = await self.call("GET", f"/api/v1/customers/{customer_id}/balance")
        assert isinstance(answer, dict)
        return answer
