"""Port: who verifies a JSON Web Token, and what comes of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sidecar.domain.identity import JwtSource


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRefused:
    """
    The token proves nothing.

    `detail` is safe to show and never holds any of the token. `retry_after_seconds` is set
    where the same token may be good once newer keys have come.
    """

    detail: str
    retry_after_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class KeysAway:
    """The issuer's keys were never loaded, or are too old: nothing can be said of any token."""


class JwtVerifier(Protocol):
    """Verifies tokens with keys that are at hand; the check path waits for no network."""

    def verify(self, source: JwtSource, token: str) -> Mapping[str, Any] | TokenRefused | KeysAway:
        """The claims of a token that the source's issuer signed, for one of its audiences."""


class NoKeys:
    """Implements JwtVerifier where no key was given: nothing can be verified."""

    def verify(self, source: JwtSource, token: str) -> KeysAway:  # noqa: ARG002  The port's form.
        """Never any claims."""
        return KeysAway()
