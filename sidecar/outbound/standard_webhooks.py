"""
Signed requests as Standard Webhooks has them: secrets, the signature, and where they may go.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from sidecar.domain.errors import ConfigError
from sidecar.services.ports import Clock

_PREFIX: Final = "whsec_"
_SECRET_BYTES_MIN: Final = 24
_SECRET_BYTES_MAX: Final = 64
ANSWER_BYTES_MAX: Final = 65_536
_LOCAL: Final = frozenset({"127.0.0.1", "::1", "localhost"})


def check_url(url: str, *, setting: str) -> str:
    """
    The URL, if a signed request may go there: https, or http on this machine.

    Raises:
        ConfigError: Names the setting, and never shows the URL: a token may stand in it.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ConfigError(f"{setting} is no URL") from None
    local = parts.scheme == "http" and host in _LOCAL
    if not host or not (parts.scheme == "https" or local):
        raise ConfigError(f"{setting} must be https://..., or http:// on this machine")
    if parts.username or parts.password:
        raise ConfigError(f"{setting} must hold no password: the request is signed")
    return url


def read_signing_secret(secret: str, *, setting: str) -> bytes:
    """The key of a secret. Raises ConfigError, which names the setting and shows no secret."""
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(_PREFIX) or not (_SECRET_BYTES_MIN <= len(key) <= _SECRET_BYTES_MAX):
        raise ConfigError(
            f"the secret of {setting} must be {_PREFIX} and {_SECRET_BYTES_MIN} to "
            f"{_SECRET_BYTES_MAX} octets in base64"
        )
    return key


def sign(key: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    """The signature header: HMAC-SHA256 over id, timestamp and body."""
    content = b".".join((message_id.encode(), timestamp.encode(), body))
    return f"v1,{base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()}"


def signed_headers(key: bytes, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """
    The headers of a signed JSON request.

    Args:
        key: From `read_signing_secret`.
        message_id: The same for each repeat of one message.
        timestamp: Seconds since the epoch of this attempt.
        body: As it is sent.
    """
    return {
        "content-type": "application/json",
        "accept-encoding": "identity",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(key, message_id, str(timestamp), body),
    }


async def read_bounded(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    """An answer's first bytes: at most one piece more than the bound, so that excess shows."""
    raw = b""
    while len(raw) <= bytes_max and not response.content.at_eof():
        raw += await response.content.readany()
    return raw


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What came back; `raw` may be a little more than ANSWER_BYTES_MAX, so that excess shows."""

    status: int
    raw: bytes
    retry_after: str


class SignedEndpoint:
    """One URL that events are posted to, signed; neither the secret nor the URL ever shows."""

    def __init__(
        self,
        url: str,
        secret: str,
        clock: Clock,
        *,
        setting: str,
        timeout_seconds: float,
        connections_max: int,
    ) -> None:
        """
        Prepare a session; nothing is sent. Needs a running event loop.

        Args:
            url: Where to post to: https, or http on this machine.
            secret: "whsec_" and 24 to 64 octets in base64. Never logged.
            clock: Whose time is signed.
            setting: What errors name: its `_url` and its `_secret_file`.
            timeout_seconds: Longest call.
            connections_max: Most connections at a time.

        Raises:
            ConfigError: The URL or the secret cannot be used.
        """
        self._url = check_url(url, setting=f"{setting}_url")
        self._key = read_signing_secret(secret, setting=f"{setting}_secret_file")
        self._clock = clock
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections_max),
            timeout=aiohttp.ClientTimeout(total=timeout_seconds),
            auto_decompress=False,
        )

    def __repr__(self) -> str:
        """Never shows the secret, nor what may stand in the URL."""
        return f"{type(self).__name__}({urlsplit(self._url).hostname})"

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def post_event(self, kind: str, message_id: str, data: Mapping[str, Any]) -> Answered:
        """
        One attempt; redirections are not followed.

        Args:
            kind: The event's type.
            message_id: The same for each repeat of one message.
            data: JSON types only.

        Raises:
            ClientError, TimeoutError, OSError: No answer; the driver's, for the caller to say.
        """
        now = self._clock.now()
        body = json.dumps({"type": kind, "timestamp": now.isoformat(), "data": data}).encode()
        headers = signed_headers(self._key, message_id, int(now.timestamp()), body)
        async with self._session.post(
            self._url, data=body, headers=headers, allow_redirects=False
        ) as response:
            return Answered(
                status=response.status,
                raw=await read_bounded(response, ANSWER_BYTES_MAX),
                retry_after=response.headers.get("retry-after", ""),
            )
