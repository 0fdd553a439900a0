"""A JSON Web Key Set's text to the public keys that may verify tokens, and verifying by them."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from sidecar.domain.identity import JwtSource
from sidecar.outbound.jwks_reading import JWKS_BYTES_MAX, KeySetError
from sidecar.services.token_ports import TokenRefused

LEEWAY_SECONDS = 30
KEYS_MAX = 100
_RSA_BITS_MIN = 2_048
_KID_LENGTH_MAX = 256
_SAME_KID_MAX = 4
_CURVES: Mapping[str, type[ec.EllipticCurve]] = {
    "ES256": ec.SECP256R1,
    "ES384": ec.SECP384R1,
    "ES512": ec.SECP521R1,
}
_SAMPLE_ALGORITHMS = {"RSA": "RS256", "OKP": "EdDSA"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """One key; `algorithm` is the only one that it is for, or empty."""

    kid: str
    algorithm: str
    key: Any

    def fits(self, algorithm: str) -> bool:
        """Whether the key is of the algorithm's kind: no other key is ever tried with it."""
        if self.algorithm and self.algorithm != algorithm:
            return False
        match self.key:
            case rsa.RSAPublicKey():
                return algorithm[:2] in ("RS", "PS")
            case ec.EllipticCurvePublicKey():
                curve = _CURVES.get(algorithm)
                return curve is not None and isinstance(self.key.curve, curve)
            case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
                return algorithm == "EdDSA"
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySet:
    """The keys of one issuer."""

    keys: tuple[PublicKey, ...]
    kids: frozenset[str] = field(default_factory=frozenset)

    def choose(self, kid: str | None, algorithm: str) -> tuple[PublicKey, ...]:
        """
        The keys to try; none where the kid is unknown.

        A token without a kid is verified only where a single key could be meant: trying all
        of them would let each token cost as much as there are keys.
        """
        fitting = tuple(key for key in self.keys if key.fits(algorithm))
        if kid is None:
            return fitting if len(fitting) == 1 else ()
        return tuple(key for key in fitting if key.kid == kid)[:_SAME_KID_MAX]

    @staticmethod
    def verify(
        source: JwtSource, token: str, algorithm: str, candidates: Iterable[PublicKey]
    ) -> Mapping[str, Any] | TokenRefused:
        """The claims by the first of the keys that has signed the token, or why it is refused."""
        found: Mapping[str, Any] | TokenRefused = _BAD_SIGNATURE
        for candidate in candidates:
            found = _decode(source, token, algorithm, candidate.key)
            if found is not _BAD_SIGNATURE:
                break
        return found


def parse_key_set(data: bytes) -> KeySet:
    """
    Read a key set; keys that cannot verify a signature are left out.

    Raises:
        KeySetError: If it is no key set, or a larger one than is taken.
    """
    if len(data) > JWKS_BYTES_MAX:
        raise KeySetError(f"it is larger than {JWKS_BYTES_MAX} bytes")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise KeySetError("it is not JSON") from None
    rows = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(rows, list):
        raise KeySetError("it has no list of keys")
    if len(rows) > KEYS_MAX:
        raise KeySetError(f"it has {len(rows)} keys; at most {KEYS_MAX} are taken")
    keys = tuple(key for key in map(_read_key, rows) if key is not None)
    return KeySet(keys=keys, kids=frozenset(key.kid for key in keys if key.kid))


def _read_key(row: Any) -> PublicKey | None:
    if not isinstance(row, dict) or row.get("use", "sig") != "sig":
        return None
    operations = row.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    kid, algorithm = row.get("kid", ""), row.get("alg", "")
    if not isinstance(kid, str) or len(kid) > _KID_LENGTH_MAX or not isinstance(algorithm, str):
        return None
    public = _public_key(row)
    return None if public is None else PublicKey(kid=kid, algorithm=algorithm, key=public)


def _public_key(row: dict[str, Any]) -> Any:
    """A public key of a kind and strength that is taken; symmetric ones never are."""
    kind = row.get("kty")
    if kind not in ("RSA", "EC", "OKP"):
        return None
    # A private part has no business here, and would make a private key of it.
    public = {name: value for name, value in row.items() if name in _PUBLIC_PARTS}
    try:
        key = PyJWK.from_dict(public, algorithm=_SAMPLE_ALGORITHMS.get(kind)).key
    except (PyJWTError, ValueError, TypeError, KeyError):
        return None
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < _RSA_BITS_MIN:
        return None
    return key


_PUBLIC_PARTS = frozenset({"kty", "n", "e", "crv", "x", "y"})


_BAD_SIGNATURE = TokenRefused(detail="the token's signature is wrong")


def _decode(
    source: JwtSource, token: str, algorithm: str, key: Any
) -> Mapping[str, Any] | TokenRefused:
    """Signature first, then the claims. The library's own messages may quote the token."""
    required = ["exp", "iss", *(["aud"] if source.audiences else [])]
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            issuer=source.issuer,
            audience=source.audiences or None,
            leeway=LEEWAY_SECONDS,
            options={
                "require": required,
                "verify_aud": bool(source.audiences),
                # Which claim names whom, and in which form, is the policy's word.
                "verify_sub": False,
                "verify_jti": False,
            },
        )
    except jwt.InvalidSignatureError:
        return _BAD_SIGNATURE
    except jwt.ExpiredSignatureError:
        return TokenRefused(detail="the token has expired")
    except jwt.ImmatureSignatureError:
        return TokenRefused(detail="the token is not valid yet")
    except (jwt.InvalidIssuerError, jwt.InvalidAudienceError):
        return TokenRefused(detail="the token is of another issuer or for another audience")
    except jwt.MissingRequiredClaimError:
        return TokenRefused(detail=f"the token lacks a claim; needed: {', '.join(required)}")
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError):
        return TokenRefused(detail="the token cannot be read")
    return claims
