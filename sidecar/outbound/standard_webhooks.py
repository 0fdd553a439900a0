"""
Signed requests as Standard Webhooks has them: secrets, the signature, and where they may go.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import binascii
import hashlib
import hmac
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from sidecar.domain.errors import ConfigError

_PREFIX: Final = "whsec_"
_SECRET_BYTES_MIN: Final = 24
_SECRET_BYTES_MAX: Final = 64
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
