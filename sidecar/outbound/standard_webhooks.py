"""
Signed HTTP requests of Standard Webhooks: the signature, the secret's form, where to post.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import binascii
import hashlib
import hmac
from datetime import datetime
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
    The URL, if something that matters may be posted there.

    Args:
        url: https, or http on this machine.
        setting: What the error calls it.

    Raises:
        ConfigError: It may not.
    """
    parts = urlsplit(url)
    local = parts.scheme == "http" and parts.hostname in _LOCAL
    if not parts.hostname or not (parts.scheme == "https" or local):
        raise ConfigError(f"{setting} must be https://..., or http:// on this machine")
    if parts.username or parts.password:
        raise ConfigError(f"{setting} must hold no password: the request is signed")
    return url


def read_signing_secret(secret: str, *, setting: str) -> bytes:
    """
    The key of a secret in Standard Webhooks' form.

    Args:
        secret: "whsec_" and 24 to 64 octets in base64.
        setting: What the error calls it.

    Raises:
        ConfigError: It has another form; the message shows none of it.
    """
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


def signed_headers(key: bytes, message_id: str, now: datetime, body: bytes) -> dict[str, str]:
    """All headers of a signed JSON request."""
    timestamp = str(int(now.timestamp()))
    return {
        "content-type": "application/json",
        # What is read is bounded, so nothing may unfold.
        "accept-encoding": "identity",
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": sign(key, message_id, timestamp, body),
    }


async def read_bounded(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    """The body, or a little more than `bytes_max` of one that is longer."""
    raw = b""
    while len(raw) <= bytes_max and not response.content.at_eof():
        raw += await response.content.readany()
    return raw
