"""Who asks: the credential that a request presents, from sources that the policy names."""

from collections.abc import Sequence
from dataclasses import dataclass

from sidecar.domain.identity import ApiKeySource
from sidecar.domain.requests import AccessRequest

SECRET_BYTES_MAX = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Presented:
    """A secret, and the headers to hide from the upstream."""

    secret: str
    headers: tuple[str, ...]

    def __repr__(self) -> str:
        """Never shows the secret."""
        return f"Presented(headers={self.headers!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unidentified:
    """No usable credential; `unusable` says that one was presented. `detail` is safe to show."""

    detail: str
    unusable: bool = True


def present_credential(
    sources: Sequence[ApiKeySource], request: AccessRequest
) -> Presented | Unidentified:
    """
    Take the API key from the first configured header that has one.

    A repeated credential header is refused rather than guessed at: the upstream might read
    the other copy.
    """
    for source in sources:
        for name in source.headers:
            values = request.headers.get(name, ())
            if not values:
                continue
            if len(values) > 1 or (name != "authorization" and "," in values[0]):
                return Unidentified(detail=f"the {name} header is repeated")
            secret = _secret(name, values[0])
            if secret is None:
                return Unidentified(detail=f"the {name} header holds no usable key")
            return Presented(secret=secret, headers=_hidden(sources, request))
    return Unidentified(detail="no credential was presented", unusable=False)


def _hidden(sources: Sequence[ApiKeySource], request: AccessRequest) -> tuple[str, ...]:
    """Every header of the request that may carry a key: the one beside the used one too."""
    return tuple(
        name
        for source in sources
        if source.remove
        for name in source.headers
        if name in request.headers
    )


def _secret(header: str, value: str) -> str | None:
    if header == "authorization":
        scheme, _, value = value.strip().partition(" ")
        if scheme.lower() != "bearer":
            return None
    secret = value.strip()
    usable = secret.isascii() and secret.isprintable() and " " not in secret
    if not secret or len(secret) > SECRET_BYTES_MAX or not usable:
        return None
    return secret
