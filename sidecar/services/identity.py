"""Who asks: the policy's identity sources, asked in their order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sidecar.domain.identity import (
    CREDENTIAL_HEADER,
    ApiKeySource,
    CertificateSource,
    ConsumerSource,
    HeaderSource,
    IdentitySource,
    JwtSource,
)
from sidecar.domain.requests import AccessRequest
from sidecar.services.claims import CLAIMS_UNCLEAR, claim_text, find_payload, is_identity_name
from sidecar.services.token_ports import JwtVerifier, KeysAway, NoKeys, TokenRefused
from sidecar.services.token_texts import (
    TOKEN_BYTES_MAX,
    bearer_of,
    is_bearer,
    peek_claims,
)

SECRET_BYTES_MAX = 512
PRINCIPAL_LENGTH_MAX = 1_024
_GROUPS = ("customer", "team", "user")


@dataclass(frozen=True, slots=True, kw_only=True)
class Presented:
    """A secret to look up, and the headers to hide from the upstream."""

    secret: str
    headers: tuple[str, ...]

    def __repr__(self) -> str:
        """Never shows the secret."""
        return f"Presented(headers={self.headers!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A customer, and team and user below it, that somebody vouches for; and what to hide."""

    customer_id: str
    team_id: str = ""
    user_id: str = ""
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Unidentified:
    """No usable credential; `unusable` says that one was presented. `detail` is safe to show."""

    detail: str
    retry_after_seconds: int | None = None


Identity = Presented | Claimed | Unidentified | KeysAway
_Found = Identity | None
"""None: the source has nothing to say of this request."""

NOT_PRESENTED = Unidentified(detail="no credential was presented")
NO_TOKENS: JwtVerifier = NoKeys()


def identify(
    sources: Sequence[IdentitySource], request: AccessRequest, verifier: JwtVerifier = NO_TOKENS
) -> Identity:
    """
    Ask the sources in order; the first that finds a credential decides.

    A credential that is there but cannot be used is nobody's. It is not passed over for a
    weaker source: whoever can spoil the strong one could otherwise choose who they are.
    Where two sources name different customers the first wins, and what the others read is
    hidden from the upstream, which might believe it.
    """
    for source in sources:
        found = _ask(source, sources, request, verifier)
        if found is None:
            continue
        hidden = _hidden(sources, request, source)
        if isinstance(found, Presented):
            return Presented(secret=found.secret, headers=hidden)
        if isinstance(found, Claimed):
            return Claimed(
                customer_id=found.customer_id,
                team_id=found.team_id,
                user_id=found.user_id,
                headers=hidden,
            )
        return found
    return NOT_PRESENTED


def _ask(
    source: IdentitySource,
    sources: Sequence[IdentitySource],
    request: AccessRequest,
    verifier: JwtVerifier,
) -> _Found:
    match source:
        case ApiKeySource():
            return _from_key(source, request)
        case JwtSource() if source.verified_here:
            return _from_token(source, sources, request, verifier)
        case JwtSource():
            return _from_metadata(source, request)
        case CertificateSource():
            return _from_certificate(source, request.verified.principal)
        case ConsumerSource():
            return _from_consumer(source, request.verified.consumer)
        case HeaderSource():
            return _from_headers(source, request)


def _hidden(
    sources: Sequence[IdentitySource], request: AccessRequest, decided: IdentitySource
) -> tuple[str, ...]:
    """Every header of the request that may name or prove somebody: those not used too."""
    names: dict[str, None] = {}
    for source in sources:
        match source:
            case ApiKeySource() if source.remove:
                names |= dict.fromkeys(source.headers)
            case JwtSource() if source.verified_here and source.remove and is_bearer(request):
                names[CREDENTIAL_HEADER] = None
            case HeaderSource() if source is not decided:
                names |= dict.fromkeys(source.headers)
    return tuple(name for name in names if name in request.headers)


def _from_key(source: ApiKeySource, request: AccessRequest) -> _Found:
    """
    Take the API key from the first configured header that is there.

    A repeated credential header is refused rather than guessed at: the upstream might read
    the other copy.
    """
    for name in source.headers:
        values = request.headers.get(name, ())
        if not values:
            continue
        if len(values) > 1 or (name != CREDENTIAL_HEADER and "," in values[0]):
            return Unidentified(detail=f"the {name} header is repeated")
        secret = _secret(name, values[0])
        if secret is None:
            return Unidentified(detail=f"the {name} header holds no usable key")
        return Presented(secret=secret, headers=())
    return None


def _secret(header: str, value: str) -> str | None:
    secret = bearer_of(value) if header == CREDENTIAL_HEADER else value.strip()
    if not secret or len(secret) > SECRET_BYTES_MAX:
        return None
    usable = secret.isascii() and secret.isprintable() and " " not in secret
    return secret if usable else None


def _from_token(
    source: JwtSource,
    sources: Sequence[IdentitySource],
    request: AccessRequest,
    verifier: JwtVerifier,
) -> _Found:
    """
    Verify a Bearer token of the source's issuer.

    What is no token is left to an API key source behind that reads the same header, a token
    of another issuer to the source of that issuer. Any other Bearer is a credential that
    cannot be used.
    """
    if not is_bearer(request):
        return None
    values = request.headers[CREDENTIAL_HEADER]
    if len(values) > 1:
        return Unidentified(detail=f"the {CREDENTIAL_HEADER} header is repeated")
    token = bearer_of(values[0]) or ""
    if len(token) > TOKEN_BYTES_MAX:
        return Unidentified(detail=f"the token is longer than {TOKEN_BYTES_MAX} bytes")
    peeked = peek_claims(token)
    if peeked is None:
        if _reads_keys_behind(source, sources):
            return None
        return Unidentified(detail="the authorization header holds no usable token")
    issuer = peeked.get("iss")
    if issuer != source.issuer:
        if any(one is not source and _is_of_issuer(one, issuer) for one in sources):
            return None
        return Unidentified(detail="the token's issuer is not known")
    claims = verifier.verify(source, token)
    if isinstance(claims, TokenRefused):
        return Unidentified(detail=claims.detail, retry_after_seconds=claims.retry_after_seconds)
    if isinstance(claims, KeysAway):
        return claims
    return _from_claims(source, claims)


def _reads_keys_behind(source: JwtSource, sources: Sequence[IdentitySource]) -> bool:
    behind = sources[next(i for i, one in enumerate(sources) if one is source) + 1 :]
    return any(isinstance(one, ApiKeySource) and CREDENTIAL_HEADER in one.headers for one in behind)


def _is_of_issuer(source: IdentitySource, issuer: object) -> bool:
    return isinstance(source, JwtSource) and source.verified_here and source.issuer == issuer


def _from_metadata(source: JwtSource, request: AccessRequest) -> _Found:
    """Read what the gateway verified; another namespace is not even looked at."""
    namespace = request.verified.claims.get(source.metadata)
    if namespace is None:
        return None
    claims = find_payload(namespace, source.payload, source.names.customer)
    if claims is None:
        return Unidentified(detail=CLAIMS_UNCLEAR)
    return _from_claims(source, claims)


def _from_claims(source: JwtSource, claims: Mapping[str, Any]) -> Claimed | Unidentified:
    names = source.names
    customer = claim_text(claims, names.customer)
    if not customer:
        return Unidentified(detail=f"the token's claim {names.customer!r} names no customer")
    below: list[str] = []
    for level, path in (("team", names.team), ("user", names.user)):
        # Absent is nobody below the customer; present and unusable is not the same.
        text = claim_text(claims, path) if path else ""
        if text is None:
            return Unidentified(detail=f"the token's claim {path!r} names no {level}")
        below.append(text)
    team, user = below
    return Claimed(customer_id=customer, team_id=team, user_id=user)


def _from_certificate(source: CertificateSource, principal: str) -> _Found:
    if not principal:
        return None
    if len(principal) > PRINCIPAL_LENGTH_MAX or not principal.isprintable():
        # RE2 takes UTF-8 only, and a line break would end a record.
        return Unidentified(detail="the certificate's name cannot be used")
    found = source.pattern.fullmatch(principal)
    names = found.groupdict() if found else {}
    customer, team, user = (names.get(group) or "" for group in _GROUPS)
    return _vouched(customer, team, user, "the certificate names no customer")


def _from_consumer(source: ConsumerSource, consumer: Mapping[str, str]) -> _Found:
    if not consumer:
        return None
    name = consumer.get(source.field, "")
    return _vouched(name, "", "", f"the consumer's {source.field} names no customer")


def _from_headers(source: HeaderSource, request: AccessRequest) -> _Found:
    """
    Believe the operator's headers.

    Only ASCII, and no comma: a gateway may join two headers of a name with one, and the
    octets beyond are not read alike everywhere.
    """
    names = []
    for header in (source.customer, source.team, source.user):
        values = request.headers.get(header, ()) if header else ()
        if not values:
            if header == source.customer:
                return None
            names.append("")
            continue
        if len(values) > 1 or "," in values[0]:
            return Unidentified(detail=f"the {header} header is repeated")
        if not values[0].isascii() or not is_identity_name(values[0]):
            return Unidentified(detail=f"the {header} header names nobody")
        names.append(values[0])
    customer, team, user = names
    return Claimed(customer_id=customer, team_id=team, user_id=user)


def _vouched(customer: str, team: str, user: str, detail: str) -> Claimed | Unidentified:
    usable = all(not name or is_identity_name(name) for name in (customer, team, user))
    if not customer or not usable:
        return Unidentified(detail=detail)
    return Claimed(customer_id=customer, team_id=team, user_id=user)
