"""
Paystack's API: one HTTP call at a time, its answer read and told apart. No retries here.

Source: https://paystack.com/docs/api/ and https://paystack.com/docs/api/errors/.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from sidecar import telemetry
from sidecar.domain.errors import (
    ConfigError,
    ProviderFailed,
    ProviderRefused,
    StoreUnavailable,
)
from sidecar.outbound.standard_webhooks import check_url, read_bounded

PAYSTACK_API: Final = "https://api.paystack.co"
TIMEOUT_SECONDS: Final = 20.0
CONNECTIONS_MAX: Final = 16
ANSWER_BYTES_MAX: Final = 1_048_576
KEY_BEGINS: Final = "sk_"
_PAUSE_SECONDS_MAX: Final = 300.0
_PAUSE_SECONDS_DEFAULT: Final = 30.0
_DETAIL_CHARS_MAX: Final = 300
_HTTP_REFUSED: Final = 400
_HTTP_TOO_MANY: Final = 429
_HTTP_SERVER_ERROR: Final = 500
_HTTP_CREDENTIALS: Final = frozenset({401, 403})
_HTTP_LATER: Final = frozenset({408, 409, 425, _HTTP_TOO_MANY})


class PaystackBusy(StoreUnavailable):
    """Paystack asks to be left alone; what was to be asked was not taken. `wait` says how long."""

    def __init__(self, wait: timedelta) -> None:
        super().__init__(f"Paystack: too many requests, for {wait.total_seconds():.0f} s")
        self.wait = wait


@dataclass(frozen=True, slots=True, kw_only=True)
class PaystackReply:
    """A success: `data` as JSON reads it, `meta` about pages."""

    data: Any
    meta: Mapping[str, Any]


class PaystackClient:
    """
    Bearer secret, JSON, bounded answers.

    Where the headers say that nothing is left of the rate limit, later calls fail here, without
    being sent, until it is full again.
    """

    def __init__(
        self,
        secret: str,
        *,
        base_url: str = PAYSTACK_API,
        timeout_seconds: float = TIMEOUT_SECONDS,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        """
        Prepare a session; nothing is sent. Needs a running event loop.

        Args:
            secret: A secret key ("sk_..."). Never logged.
            base_url: Paystack's API, or a stand-in's address.
            timeout_seconds: Longest call.
            connections_max: Most connections at a time.

        Raises:
            ConfigError: The secret is none, or the URL is not safe.
        """
        if not secret.startswith(KEY_BEGINS) or not secret.isascii():
            raise ConfigError("the secret of paystack_secret_file must begin with sk_")
        self._base_url = check_url(base_url, setting="paystack_base_url").rstrip("/")
        self._paused_until = 0.0
        self._session = aiohttp.ClientSession(
            headers={
                "authorization": f"Bearer {secret}",
                # What is read is bounded, so nothing may unfold.
                "accept-encoding": "identity",
            },
            connector=aiohttp.TCPConnector(limit=connections_max),
            timeout=aiohttp.ClientTimeout(total=timeout_seconds),
            auto_decompress=False,
        )

    def __repr__(self) -> str:
        """Never shows the secret."""
        return f"PaystackClient({urlsplit(self._base_url).hostname})"

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> PaystackReply:
        """
        Make one call.

        Raises:
            PaystackBusy: Over the rate limit: not taken.
            ProviderRefused: A 4xx about this request: not taken.
            ProviderFailed: A 5xx: it may have been taken.
            StoreUnavailable: No answer, one that is no JSON, is too large, or refuses our key:
                it may have been taken, and asking again cannot hurt.
        """
        now = asyncio.get_running_loop().time()
        if now < self._paused_until:
            raise PaystackBusy(timedelta(seconds=self._paused_until - now))
        try:
            async with self._session.request(
                method,
                f"{self._base_url}{path}",
                json=body,
                params=query,
                allow_redirects=False,
            ) as response:
                status, headers = response.status, response.headers
                raw = await read_bounded(response, ANSWER_BYTES_MAX)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise StoreUnavailable(f"Paystack: no answer ({type(error).__name__})") from error
        self._heed(status, headers)
        return _read(status, raw)

    def _heed(self, status: int, headers: Mapping[str, str]) -> None:
        """Pause when the limit is reached. Raises PaystackBusy for a refusal because of it."""
        left = headers.get("x-ratelimit-remaining", "")
        if status != _HTTP_TOO_MANY and left.strip() != "0":
            return
        seconds = _seconds(headers.get("x-ratelimit-reset") or headers.get("retry-after") or "")
        self._paused_until = asyncio.get_running_loop().time() + seconds
        if status == _HTTP_TOO_MANY:
            raise PaystackBusy(timedelta(seconds=seconds))


def _seconds(text: str) -> float:
    """A header's seconds, bounded; an instant or nonsense is taken as the default."""
    text = text.strip()
    seconds = int(text) if text.isdecimal() and len(text) <= 4 else _PAUSE_SECONDS_DEFAULT  # noqa: PLR2004  Ten thousand seconds and more are no pause but an instant.
    return float(min(max(seconds, 1), _PAUSE_SECONDS_MAX))


def _read(status: int, raw: bytes) -> PaystackReply:
    if status in _HTTP_CREDENTIALS:
        # Our key, not this request. Paystack's words may quote it, so they are not kept.
        telemetry.get_logger().error("paystack_key_refused", status=status)
        raise StoreUnavailable(f"Paystack: {status}, the key is refused")
    if status >= _HTTP_SERVER_ERROR:
        raise ProviderFailed(f"Paystack: {status}")
    if status in _HTTP_LATER:
        raise StoreUnavailable(f"Paystack: {status}")
    if len(raw) > ANSWER_BYTES_MAX:
        raise StoreUnavailable(f"Paystack: {status}, the answer is too large")
    try:
        answer: Any = json.loads(raw)
    except (ValueError, RecursionError):
        raise StoreUnavailable(f"Paystack: {status}, the answer is no JSON") from None
    if not isinstance(answer, dict) or not isinstance(answer.get("status"), bool):
        raise StoreUnavailable(f"Paystack: {status}, the answer is not Paystack's")
    if status >= _HTTP_REFUSED:
        code = answer.get("code")
        raise ProviderRefused(
            status, code if isinstance(code, str) else "", words(answer.get("message"))
        )
    if not answer["status"]:
        # A success that says no: whether it was taken is for `verify` to say.
        raise StoreUnavailable(f"Paystack: {status}, {words(answer.get('message'))}")
    meta = answer.get("meta")
    return PaystackReply(data=answer.get("data"), meta=meta if isinstance(meta, dict) else {})


def words(value: object) -> str:
    """A provider's text as one bounded, printable line; "" for anything else."""
    if not isinstance(value, str):
        return ""
    return "".join(one if one.isprintable() else " " for one in value[:_DETAIL_CHARS_MAX])
