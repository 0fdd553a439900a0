"""Where a caller's identity may be read from: only sources that somebody has verified."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sidecar.domain.thawing import quickly_made

CREDENTIAL_HEADER = "authorization"
"""Carries API keys and tokens as a Bearer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKeySource:
    """Headers that may carry an API key, in order; `authorization` carries it as a Bearer."""

    headers: tuple[str, ...]
    remove: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimNames:
    """
    Paths of claims that name the customer and, below it, team and user.

    A path is a claim's whole name, or names that lead inwards with dots between. `team` and
    `user` are empty where no claim is read for them.
    """

    customer: str = "sub"
    team: str = ""
    user: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtSource:
    """
    Claims of a JSON Web Token.

    With `metadata` they are those that the gateway verified and handed over under that
    namespace, below the key `payload` if it is not empty. With `issuer` and `jwks` they are
    verified here, from the Bearer in `authorization`; `remove` then hides it from the upstream.
    """

    names: ClaimNames = ClaimNames()
    metadata: str = ""
    payload: str = ""
    issuer: str = ""
    jwks: str = ""
    audiences: tuple[str, ...] = ()
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    remove: bool = True

    @property
    def verified_here(self) -> bool:
        """Whether it is us who check the token's signature."""
        return bool(self.jwks)


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateSource:
    """
    The name in a client certificate that the gateway verified.

    `pattern` is a compiled RE2 expression over the whole name. Its group `customer` is the
    customer, `team` and `user` what is below it, where it has such groups.
    """

    pattern: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerSource:
    """Kong's consumer, by its `custom_id`, `username` or `id`."""

    field: str = "custom_id"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderSource:
    """Headers that the operator vouches for: the gateway in front must set or strip them."""

    customer: str
    team: str = ""
    user: str = ""

    @property
    def headers(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(name for name in (self.customer, self.team, self.user) if name)


IdentitySource = ApiKeySource | JwtSource | CertificateSource | ConsumerSource | HeaderSource


@quickly_made
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


def metadata_namespaces(sources: Iterable[IdentitySource]) -> tuple[str, ...]:
    """The namespaces whose claims the gateway has to hand over, each once."""
    found = [one.metadata for one in sources if isinstance(one, JwtSource) and one.metadata]
    return tuple(dict.fromkeys(found))


def trusted_headers(sources: Iterable[IdentitySource]) -> tuple[str, ...]:
    """The headers that are believed as they stand, each once."""
    found = [name for one in sources if isinstance(one, HeaderSource) for name in one.headers]
    return tuple(dict.fromkeys(found))


def key_sets(sources: Iterable[IdentitySource]) -> tuple[str, ...]:
    """Where the keys of tokens that are verified here come from, each once."""
    found = [one.jwks for one in sources if isinstance(one, JwtSource) and one.verified_here]
    return tuple(dict.fromkeys(found))
