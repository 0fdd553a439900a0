"""HTTP Idempotency-Keys: the first answer is kept and replayed. Source: docs.stripe.com/api."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sidecar.standins.stripe_errors import ApiError, StandinFull
from sidecar.standins.stripe_settings import Clock, StripeSettings

KEY_CHARACTERS_MAX = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """The answer to the first request with a key."""

    fingerprint: str
    path: str
    status: int
    body: bytes
    request_id: str
    saved_at: datetime


class IdempotencyKeys:
    """Answers by key. A key in flight answers 409; one with other parameters 400."""

    def __init__(self, settings: StripeSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._saved: dict[str, Saved] = {}
        self._in_flight: set[str] = set()

    def begin(self, key: str, path: str, params: Mapping[str, Any]) -> Saved | None:
        """
        Claim a key, or find its answer. A claimed key must be saved or abandoned.

        Raises:
            ApiError: For a key that is too long, in flight, or used with something else.
            StandinFull: If no further answer can be kept.
        """
        if not 1 <= len(key) <= KEY_CHARACTERS_MAX:
            raise ApiError(400, f"Idempotency keys must have 1 to {KEY_CHARACTERS_MAX} characters.")
        if key in self._in_flight:
            raise ApiError(
                409,
                "There is currently another in-progress request using this Idempotent Key (that "
                "probably means you submitted twice, and the other request is still going "
                f"through): {key}. Please try again once the other request is complete.",
                kind="idempotency_error",
                code="idempotency_key_in_use",
            )
        saved = self._saved.get(key)
        if saved and self._clock() - saved.saved_at < self._settings.idempotency_window:
            _refuse_other_request(key, saved, path, params)
            return saved
        if len(self._saved) >= self._settings.idempotency_keys_max:
            raise StandinFull("idempotency_keys_max answers are kept")
        self._in_flight.add(key)
        return None

    def save(
        self, key: str, path: str, params: Mapping[str, Any], answer: tuple[int, bytes, str]
    ) -> None:
        """Keep the answer (status, body, request id) to the request that claimed the key."""
        status, body, request_id = answer
        self._in_flight.discard(key)
        self._saved[key] = Saved(
            fingerprint=_fingerprint(params),
            path=path,
            status=status,
            body=body,
            request_id=request_id,
            saved_at=self._clock(),
        )

    def abandon(self, key: str) -> None:
        """Free a claimed key without an answer: the next request with it starts anew."""
        self._in_flight.discard(key)


def _refuse_other_request(key: str, saved: Saved, path: str, params: Mapping[str, Any]) -> None:
    if saved.path != path:
        raise ApiError(
            400,
            "Keys for idempotent requests can only be used for the same endpoint they were first "
            f"used for ('{path}' vs '{saved.path}'). Try using a key other than '{key}' if you "
            "meant to execute a different request.",
            kind="idempotency_error",
        )
    if saved.fingerprint != _fingerprint(params):
        raise ApiError(
            400,
            "Keys for idempotent requests can only be used with the same parameters they were "
            f"first used with. Try using a key other than '{key}' if you meant to execute a "
            "different request.",
            kind="idempotency_error",
        )


def _fingerprint(params: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()
