"""What can be told of a token before anybody has verified it: that it is one, and of whom."""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any

from sidecar.domain.identity import CREDENTIAL_HEADER
from sidecar.domain.requests import AccessRequest

TOKEN_BYTES_MAX = 8_192
_PART = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_PARTS = 3
"""Header, claims and signature; five would be encrypted, for which we have no key."""


def bearer_of(value: str) -> str | None:
    """What an Authorization value carries as a Bearer, or None if it is of another scheme."""
    scheme, _, rest = value.strip().partition(" ")
    return rest.strip() if scheme.lower() == "bearer" else None


def is_bearer(request: AccessRequest) -> bool:
    """Whether any Authorization header of the request is a Bearer's."""
    values = request.headers.get(CREDENTIAL_HEADER, ())
    return any(bearer_of(value) is not None for value in values)


def peek_claims(token: str) -> Mapping[str, Any] | None:
    """
    The claims of what looks like a signed token, unverified; None if it does not.

    They say which issuer's keys to try, and nothing else may be believed of them.
    """
    parts = token.split(".")
    if len(token) > TOKEN_BYTES_MAX or len(parts) != _PARTS:
        return None
    header, claims = _read_part(parts[0]), _read_part(parts[1])
    return None if header is None or claims is None else claims


def peek_header(token: str) -> Mapping[str, Any]:
    """The header of what `peek_claims` took for a token."""
    return _read_part(token.partition(".")[0]) or {}


def _read_part(text: str) -> dict[str, Any] | None:
    if _PART.fullmatch(text) is None:
        return None
    try:
        found = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
