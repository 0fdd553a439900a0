"""
Keyed hashes and signed hold tokens, from one ring of secret keys.

Each use has its own key, derived from the ring's by a label, so that no output of one can
stand for another. The newest key signs; all of them verify, which is how keys rotate.
"""

import base64
import binascii
import hmac
from collections.abc import Sequence

from google.protobuf.message import DecodeError

from sidecar.domain.errors import ConfigError, InvalidInput
from sidecar.domain.holds import HoldTerms
from sidecar.outbound.redis.records import terms_at, terms_from_payload
from sidecar.services.ports import HoldLifetime
from sidecar.wire.hold_token_pb2 import HoldToken, SignedHoldToken

TOKEN_CHARS_MAX = 4_096
DIGEST_BYTES = 16
KEYS_MAX = 16


class KeyRing:
    """Secret keys by id, newest first; what is derived from them never shows them."""

    def __init__(self, keys: Sequence[tuple[str, bytes]]) -> None:
        """Take (id, secret) pairs, newest first. Raises ConfigError if none or too many."""
        if not 1 <= len(keys) <= KEYS_MAX:
            raise ConfigError(f"there must be 1 to {KEYS_MAX} secret keys, not {len(keys)}")
        self._ids = tuple(key_id for key_id, _ in keys)
        self._secrets = dict(keys)

    def __repr__(self) -> str:
        """Names the ids only."""
        return f"KeyRing({', '.join(self._ids)})"

    @property
    def ids(self) -> tuple[str, ...]:
        """Key ids, newest first."""
        return self._ids

    def derive(self, key_id: str, label: str) -> bytes | None:
        """The 32-byte key for one use, or None for an unknown id."""
        secret = self._secrets.get(key_id)
        return None if secret is None else hmac.digest(secret, label.encode(), "sha256")


class KeyedDigests:
    """Implements RequestDigests."""

    def __init__(self, ring: KeyRing) -> None:
        """Derive the keys once."""
        self._request_key = _newest(ring, "request")
        self._credential_keys = tuple(
            key for key_id in ring.ids if (key := ring.derive(key_id, "credential")) is not None
        )

    def request_digest(self, *facts: bytes) -> bytes:
        """16 bytes over the facts; lengths are hashed too, so that no two lists collide."""
        text = b"".join([len(fact).to_bytes(4, "big") + fact for fact in facts])
        return hmac.digest(self._request_key, text, "sha256")[:DIGEST_BYTES]

    def credential_hashes(self, secret: str) -> tuple[str, ...]:
        """
        Hex hashes of a presented secret, newest key first.

        A plain keyed hash suffices: the secrets are ours, 32 random bytes, so there is
        nothing to guess that a slow hash would protect.
        """
        return tuple(
            hmac.digest(key, secret.encode(), "sha256").hex() for key in self._credential_keys
        )


class SignedHoldTokens:
    """Implements HoldTokens: an encoded HoldToken with HMAC-SHA-256 over exactly its bytes."""

    def __init__(self, ring: KeyRing) -> None:
        """Derive the keys once."""
        self._newest_id = ring.ids[0]
        self._named = HoldToken(key_id=self._newest_id).SerializeToString()
        # A copy of a keyed hash costs less than keying one for each token.
        self._begun = {
            key_id: hmac.new(key, digestmod="sha256")
            for key_id in ring.ids
            if (key := ring.derive(key_id, "hold-token")) is not None
        }

    def sign(self, terms: HoldTerms, lifetime: HoldLifetime | None = None) -> str:
        """URL-safe base64 without padding; about 300 characters."""
        # Fields of a message may stand in any order: the key's name goes behind the terms.
        if lifetime is None:
            lifetime = HoldLifetime(terms.decided_at_ms, terms.expires_at_ms)
        payload = terms_at(terms, *lifetime) + self._named
        signed = SignedHoldToken(
            payload=payload,
            key_id=self._newest_id,
            signature=_over(self._begun[self._newest_id], payload),
        )
        return base64.urlsafe_b64encode(signed.SerializeToString()).rstrip(b"=").decode()

    def read(self, token: str) -> HoldTerms:
        """The terms of a token that one of our keys signed. Raises InvalidInput."""
        if len(token) > TOKEN_CHARS_MAX:
            raise InvalidInput("hold_token is too long", field="hold_token")
        try:
            padded = (token + "=" * (-len(token) % 4)).replace("-", "+").replace("_", "/")
            raw = binascii.a2b_base64(padded, strict_mode=True)
            signed = SignedHoldToken.FromString(raw)
        except (binascii.Error, ValueError, DecodeError) as error:
            raise InvalidInput("hold_token is malformed", field="hold_token") from error
        begun = self._begun.get(signed.key_id)
        if begun is None:
            raise InvalidInput("hold_token was signed by an unknown key", field="hold_token")
        if not hmac.compare_digest(_over(begun, signed.payload), signed.signature):
            raise InvalidInput("hold_token has a wrong signature", field="hold_token")
        return terms_from_payload(signed.payload)


class LedgerRootKeys:
    """Implements RootSigner: HMAC-SHA-256 under a key of its own."""

    def __init__(self, ring: KeyRing) -> None:
        """Derive the keys once."""
        self.newest_id = ring.ids[0]
        self._keys = {key_id: ring.derive(key_id, "ledger-root") for key_id in ring.ids}

    def sign(self, content: bytes) -> bytes:
        """A signature by the newest key."""
        key = self._keys[self.newest_id]
        assert key is not None
        return hmac.digest(key, content, "sha256")

    def verify(self, key_id: str, content: bytes, signature: bytes) -> bool | None:
        """Whether a key of ours signed it; None if there is no such key."""
        key = self._keys.get(key_id)
        if key is None:
            return None
        return hmac.compare_digest(hmac.digest(key, content, "sha256"), signature)


def _over(begun: hmac.HMAC, content: bytes) -> bytes:
    mac = begun.copy()
    mac.update(content)
    return mac.digest()


def _newest(ring: KeyRing, label: str) -> bytes:
    key = ring.derive(ring.ids[0], label)
    assert key is not None
    return key
