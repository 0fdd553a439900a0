"""Our own admin API as its callers see it: the commands and the demo."""

import json
import secrets
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import aiohttp

from sidecar.domain.errors import (
    ConfigError,
    Conflict,
    InvalidInput,
    NotFound,
    SidecarError,
    StoreUnavailable,
)

_UNIX_PREFIX: Final = "unix:"
_CALL_SECONDS_MAX: Final = 15.0
_ANSWER_BYTES_MAX: Final = 4_194_304
_PAGE_MAX: Final = 200
_ERROR_CHARS_MAX: Final = 500
_FIRST_ERROR: Final = 400
_REFUSALS: Final[dict[int, type[SidecarError]]] = {
    400: InvalidInput,
    401: ConfigError,
    403: ConfigError,
    404: NotFound,
    409: Conflict,
    421: ConfigError,
    503: StoreUnavailable,
}

Answer = dict[str, Any]


class AdminApi:
    """
    Calls the admin role over REST, as an async context manager.

    Every method raises the error that the service met: NotFound, Conflict, InvalidInput; a
    ConfigError where the token is refused; StoreUnavailable where nobody answers or a store
    is away.
    """

    def __init__(self, address: str, token: str) -> None:
        """
        Nothing is opened before `async with`.

        Args:
            address: "host:port" or "unix:PATH".
            token: An admin token.
        """
        self._address = address
        self._token = token
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        """Never shows the token."""
        return f"AdminApi({self._address})"

    async def __aenter__(self) -> Self:
        """Open the session."""
        connector: aiohttp.BaseConnector | None = None
        base_url = f"http://{self._address}"
        if self._address.startswith(_UNIX_PREFIX):
            connector = aiohttp.UnixConnector(self._address.removeprefix(_UNIX_PREFIX))
            base_url = "http://localhost"
        self._session = aiohttp.ClientSession(
            base_url=base_url,
            connector=connector,
            headers={"authorization": f"Bearer {self._token}"},
            timeout=aiohttp.ClientTimeout(total=_CALL_SECONDS_MAX),
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

    async def list_customers(self, limit: int) -> list[Answer]:
        """Customers by id, at most `limit`."""
        return await self._list("/api/v1/customers", {}, limit)

    async def read_customer(self, customer_id: str) -> Answer:
        """One customer."""
        return await self._call("GET", _customer(customer_id))

    async def create_customer(self, body: Answer) -> Answer:
        """Create a customer."""
        return await self._call("POST", "/api/v1/customers", body)

    async def erase_customer(self, customer_id: str) -> Answer:
        """Clear personal data and revoke all keys."""
        return await self._call("DELETE", f"{_customer(customer_id)}/personal-data")

    async def read_balance(self, customer_id: str) -> Answer:
        """The live balance."""
        return await self._call("GET", f"{_customer(customer_id)}/balance")

    async def read_standing(self, customer_id: str) -> Answer:
        """The standing."""
        return await self._call("GET", f"{_customer(customer_id)}/standing")

    async def put_standing(self, customer_id: str, body: Answer) -> Answer:
        """Set the standing."""
        return await self._call("PUT", f"{_customer(customer_id)}/standing", body)

    async def clear_standing(self, customer_id: str) -> Answer:
        """Take back the standing that was set."""
        return await self._call("DELETE", f"{_customer(customer_id)}/standing")

    async def list_webhooks(self, state: str | None, limit: int) -> list[Answer]:
        """Objects that webhooks named, at most `limit`."""
        return await self._list("/api/v1/webhooks", {"state": state} if state else {}, limit)

    async def retry_webhook(self, key: str) -> Answer:
        """Have an object fetched now."""
        return await self._call("POST", f"/api/v1/webhooks/{quote(key, safe='')}/retry")

    async def list_holds(self, customer_id: str) -> Answer:
        """Open holds, as many as one answer has."""
        return await self._call("GET", f"{_customer(customer_id)}/holds")

    async def list_open_holds(self, customer_id: str | None, limit: int) -> list[Answer]:
        """Open holds of all customers or of one, at most `limit`."""
        query = {} if customer_id is None else {"customer_id": customer_id}
        return await self._list("/api/v1/holds", query, limit)

    async def patch_customer(self, customer_id: str, body: Answer) -> Answer:
        """Change what the body names."""
        return await self._call("PATCH", _customer(customer_id), body)

    async def create_grant(self, body: Answer) -> Answer:
        """Give credit."""
        return await self._call("POST", "/api/v1/grants", body)

    async def list_grants(self, customer_id: str, limit: int) -> list[Answer]:
        """A customer's grants, at most `limit`."""
        return await self._list("/api/v1/grants", {"customer_id": customer_id}, limit)

    async def read_grant(self, customer_id: str, grant_id: str) -> Answer:
        """One grant."""
        return await self._call("GET", _grant(grant_id), query={"customer_id": customer_id})

    async def list_live_grants(self, customer_id: str) -> list[Answer]:
        """What checks see of a customer's grants, in burn order."""
        answer = await self._call("GET", f"{_customer(customer_id)}/grants/live")
        return list(answer["items"])

    async def withdraw(self, kind: str, grant_id: str, body: Answer) -> Answer:
        """Void, refund or dispute a grant."""
        return await self._call("POST", f"{_grant(grant_id)}/{kind}", body)

    async def list_withdrawals(self, customer_id: str, limit: int) -> list[Answer]:
        """A customer's withdrawals, at most `limit`."""
        return await self._list("/api/v1/withdrawals", {"customer_id": customer_id}, limit)

    async def top_up(self, customer_id: str, body: Answer) -> Answer:
        """Give credit for a payment."""
        return await self._call("POST", f"{_customer(customer_id)}/top-ups", body)

    async def create_schedule(self, body: Answer) -> Answer:
        """Give credit in each period."""
        return await self._call("POST", "/api/v1/grant-schedules", body)

    async def list_schedules(self, customer_id: str, limit: int) -> list[Answer]:
        """A customer's schedules, at most `limit`."""
        return await self._list("/api/v1/grant-schedules", {"customer_id": customer_id}, limit)

    async def end_schedule(self, customer_id: str, schedule_id: str) -> Answer:
        """Issue no further grant."""
        path = f"/api/v1/grant-schedules/{quote(schedule_id, safe='')}"
        return await self._call("DELETE", path, query={"customer_id": customer_id})

    async def read_top_up_rule(self, customer_id: str) -> Answer:
        """The rule for automatic top-ups."""
        return await self._call("GET", f"{_customer(customer_id)}/top-up-rule")

    async def put_top_up_rule(self, customer_id: str, body: Answer) -> Answer:
        """Set the rule for automatic top-ups."""
        return await self._call("PUT", f"{_customer(customer_id)}/top-up-rule", body)

    async def delete_top_up_rule(self, customer_id: str) -> Answer:
        """Ask for no further payment; answers the rule that was."""
        return await self._call("DELETE", f"{_customer(customer_id)}/top-up-rule")

    async def list_top_up_attempts(self, customer_id: str, limit: int) -> list[Answer]:
        """Payments that were asked for, the newest first, as many as one answer has."""
        answer = await self._call(
            "GET",
            f"{_customer(customer_id)}/top-up-attempts",
            query={"limit": str(min(limit, _PAGE_MAX))},
        )
        return list(answer["items"])

    async def list_settlements(self, query: dict[str, str], limit: int) -> list[Answer]:
        """Quantities to report that the query names, at most `limit`."""
        return await self._list("/api/v1/settlements", query, limit)

    async def retry_settlement(self, number: int) -> Answer:
        """Send a failed quantity again."""
        return await self._call("POST", f"/api/v1/settlements/{number}/retry")

    async def list_reconciliations(self, query: dict[str, str], limit: int) -> list[Answer]:
        """Comparisons with the provider's sums, the newest first, as many as one answer has."""
        answer = await self._call(
            "GET",
            "/api/v1/settlement-reconciliations",
            query=query | {"limit": str(min(limit, _PAGE_MAX))},
        )
        return list(answer["items"])

    async def open_top_up_session(self, customer_id: str, body: Answer) -> Answer:
        """Make a page on which credit is paid for."""
        return await self._call("POST", f"{_customer(customer_id)}/top_up_sessions", body)

    async def list_providers(self, customer_id: str) -> list[Answer]:
        """What billing providers know of a customer."""
        answer = await self._call("GET", f"{_customer(customer_id)}/providers")
        return list(answer["items"])

    async def put_provider(self, customer_id: str, provider: str, body: Answer) -> Answer:
        """Set what one provider knows."""
        return await self._call("PUT", _provider(customer_id, provider), body)

    async def delete_provider(self, customer_id: str, provider: str) -> Answer:
        """Forget what one provider knows."""
        return await self._call("DELETE", _provider(customer_id, provider))

    async def list_collections(self, query: dict[str, str], limit: int) -> list[Answer]:
        """How far collecting has come, at most `limit`."""
        return await self._list("/api/v1/collections", query, limit)

    async def read_collection(self, invoice_id: str) -> Answer:
        """How far collecting one invoice has come."""
        return await self._call("GET", _collection(invoice_id))

    async def retry_collection(self, invoice_id: str) -> Answer:
        """Look at a failed one again."""
        return await self._call("POST", f"{_collection(invoice_id)}/retry")

    async def list_credentials(self, customer_id: str, limit: int) -> list[Answer]:
        """A customer's credentials, at most `limit`."""
        return await self._list("/api/v1/credentials", {"customer_id": customer_id}, limit)

    async def issue_credential(self, body: Answer) -> Answer:
        """Issue a credential; the answer holds its secret."""
        return await self._call("POST", "/api/v1/credentials", body)

    async def rotate_credential(self, credential_id: str, overlap: str) -> Answer:
        """Replace a credential; the answer holds the new one's secret."""
        return await self._call(
            "POST", f"{_credential(credential_id)}/rotate", {"overlap": overlap}
        )

    async def revoke_credential(self, credential_id: str) -> Answer:
        """Revoke a credential."""
        return await self._call("POST", f"{_credential(credential_id)}/revoke")

    async def list_notices(self, query: dict[str, str], limit: int) -> list[Answer]:
        """Notices, the newest first, at most `limit`."""
        return await self._list("/api/v1/notices", query, limit)

    async def retry_notice(self, notice_id: str) -> Answer:
        """Try a notice's failed deliveries anew."""
        return await self._call("POST", f"/api/v1/notices/{quote(notice_id, safe='')}/retry")

    async def list_pages(self, path: str, query: dict[str, str], limit: int) -> list[Answer]:
        """A list over its pages, at most `limit`; for parts of the API of their own."""
        return await self._list(path, query, limit)

    async def call(
        self,
        method: str,
        path: str,
        body: Answer | None = None,
        *,
        query: dict[str, str] | None = None,
    ) -> Answer:
        """One call; for parts of the API of their own."""
        return await self._call(method, path, body, query=query)

    async def _list(self, path: str, query: dict[str, str], limit: int) -> list[Answer]:
        found: list[Answer] = []
        after: str | None = None
        while len(found) < limit:
            page_query = query | {"limit": str(min(limit - len(found), _PAGE_MAX))}
            page = await self._call(
                "GET", path, query=page_query | ({"after": after} if after else {})
            )
            found += page["items"]
            after = page["next"]
            if after is None:
                break
        return found

    async def _call(
        self,
        method: str,
        path: str,
        body: Answer | None = None,
        *,
        query: dict[str, str] | None = None,
    ) -> Answer:
        assert self._session is not None
        headers = {} if method == "GET" else {"idempotency-key": secrets.token_hex(16)}
        try:
            async with self._session.request(
                method, path, json=body, params=query, headers=headers
            ) as response:
                raw = await response.content.read(_ANSWER_BYTES_MAX + 1)
                status = response.status
                while len(raw) <= _ANSWER_BYTES_MAX and not response.content.at_eof():
                    raw += await response.content.readany()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise StoreUnavailable(
                f"the admin API at {self._address} does not answer ({type(error).__name__}); "
                "is `sidecar serve` running, and is SIDECAR_ADMIN_LISTEN the same?"
            ) from error
        answer = _read(raw)
        if answer is None:
            raise StoreUnavailable(f"what answers at {self._address} is not Sidecar's admin API")
        if status >= _FIRST_ERROR:
            raise self._refusal(status, answer)
        return answer

    def _refusal(self, status: int, problem: Answer) -> SidecarError:
        """The error that the service met, in its own words."""
        words = str(problem.get("detail", f"it answered {status}"))[:_ERROR_CHARS_MAX]
        kind = _REFUSALS.get(status)
        if kind is ConfigError:
            return ConfigError(f"the admin API at {self._address} refuses the call: {words}")
        if kind is not None:
            return kind(words)
        reference = str(problem.get("reference", ""))[:_ERROR_CHARS_MAX]
        return SidecarError(f"the admin API answered {status}: {words} {reference}".rstrip())


def _read(raw: bytes) -> Answer | None:
    if len(raw) > _ANSWER_BYTES_MAX:
        return None
    try:
        answer = json.loads(raw)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _customer(customer_id: str) -> str:
    return f"/api/v1/customers/{quote(customer_id, safe='')}"


def _provider(customer_id: str, provider: str) -> str:
    return f"{_customer(customer_id)}/providers/{quote(provider, safe='')}"


def _collection(invoice_id: str) -> str:
    return f"/api/v1/collections/{quote(invoice_id, safe='')}"


def _grant(grant_id: str) -> str:
    return f"/api/v1/grants/{quote(grant_id, safe='')}"


def _credential(credential_id: str) -> str:
    return f"/api/v1/credentials/{quote(credential_id, safe='')}"
