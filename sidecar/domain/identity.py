"""Where a caller's identity may be read from: only sources that somebody else has verified."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKeySource:
    """Headers that may carry an API key, in order; `authorization` carries it as a Bearer."""

    headers: tuple[str, ...]
    remove: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimNames:
    """Paths of claims (dots go inwards) that name the customer and, below it, team and user."""

    customer: str = "sub"
    team: str = ""
    user: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtSource:
    """
    Claims of a JSON Web Token.

    With `metadata` they are those that the gateway verified and handed over under that
    namespace. With `issuer` and `jwks` they are verified here, from the Bearer of a request
    over HTTP; `remove` then hides the header from the upstream.
    """

    names: ClaimNames = ClaimNames()
    metadata: str = ""
    issuer: str = ""
    jwks: str = ""
    audiences: tuple[str, ...] = ()
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    remove: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateSource:
    """The subject alternative name of a client certificate that the gateway verified."""

    pattern: str = r"^(?:spiffe://[^/]+/customer/)?(?P<customer>[^/]+)$"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerSource:
    """Kong's consumer, by its custom id or username."""

    field: str = "custom_id"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderSource:
    """A header that the operator vouches for: the gateway in front must set or strip it."""

    customer: str
    team: str = ""
    user: str = ""


IdentitySource = ApiKeySource | JwtSource | CertificateSource | ConsumerSource | HeaderSource


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedFacts:
    """
    What the gateway verified of a caller; no client can write it.

    `claims` are by metadata namespace. `principal` is a certificate's name. `consumer` holds
    Kong's `id`, `custom_id` and `username`.
    """

    claims: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    principal: str = ""
    consumer: Mapping[str, str] = field(default_factory=dict)
