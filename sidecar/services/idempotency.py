"""
Idempotency keys: a write that is repeated under its key gets the answer of the first time.

A key is claimed before the write and finished with the answer after it. A key whose process
died is taken over after a while: every write behind a key is itself safe to repeat, because
what it creates is named after the key, never minted per attempt. Only
answers of writes that succeeded are kept; a refused write gives its key back.
"""

import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import quote, unquote

from sidecar import telemetry
from sidecar.domain.errors import Conflict, InvalidInput, SidecarError, StoreUnavailable

KEY_LENGTH_MAX = 255
SHOWN_CHARS_MAX = 200
"""Longest value, as JSON, that is kept to name a difference with."""
KEY = re.compile(rf"[!-~]{{1,{KEY_LENGTH_MAX}}}", re.ASCII)


class KeyReused(Conflict):
    """The key has been used for another request; `fields` say how each part differs."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        super().__init__(
            "this Idempotency-Key was used for another request; they differ in " + ", ".join(fields)
        )
        self.fields = fields


class KeyInProgress(Conflict):
    """A request with this key is being worked on; repeat it in a moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyClaim:
    """
    A write that is about to happen.

    `principal` and `key` name it, `route` is its method and path, `body_hash` comes from
    `hash_fields`.
    """

    principal: str
    key: str
    route: str
    body_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyRecord:
    """What is known of a key. `status` is None until the write is finished; `body` is JSON."""

    route: str
    body_hash: str
    status: int | None = None
    body: bytes = b""


class IdempotencyStore(Protocol):
    """Records of keys, by (principal, key). Every method may raise StoreUnavailable."""

    async def begin(
        self, principal: str, key: str, *, route: str, body_hash: str
    ) -> IdempotencyRecord | None:
        """
        Take a key for a write, atomically.

        Returns:
            None if the key is now this caller's: it was free, or its first use had the same
            route and body_hash and has stayed unfinished so long, by the store's clock, that
            its process must be gone. Otherwise the record that stands, whatever it is of.
        """

    async def finish(self, principal: str, key: str, *, status: int, body: bytes) -> None:
        """Keep the answer; no effect on a record that is finished."""

    async def abandon(self, principal: str, key: str) -> None:
        """Give an unfinished key back; no effect on a finished one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteAnswer:
    """
    The answer to a write.

    `stored_body` is what a repeat is told: no secret stands in it. `headers` are said the
    first time only.
    """

    status: int
    body: bytes
    stored_body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    replayed: bool = False


def check_key(key: str) -> str:
    """
    Refuse what is no idempotency key.

    Raises:
        InvalidInput: If it is empty, too long, or holds anything but visible ASCII.
    """
    if KEY.fullmatch(key) is None:
        raise InvalidInput(
            f"Idempotency-Key must be 1 to {KEY_LENGTH_MAX} visible ASCII characters",
            field="idempotency-key",
        )
    return key


def hash_fields(body: Mapping[str, object], shown: Collection[str] = ()) -> str:
    """
    A body as `name:hash` words, sorted by name: equal content has an equal text.

    Each top-level field has its own SHA-256 (cut to 128 bits, over canonical JSON), so that
    two requests' differing fields can be named; what they hold cannot be told from it. Fields
    of `shown` keep what they hold as well (`name:hash=value`, quoted), where it is short: amounts
    and the like, never a secret or a personal text.
    """
    return " ".join(
        f"{name}:{_hash(body[name])}{_shown(body[name]) if name in shown else ''}"
        for name in sorted(body)
    )


def derived_id(prefix: str, claim: IdempotencyClaim) -> str:
    """The id of what a keyed write creates: the same at each attempt, even after a crash."""
    return f"{prefix}_{_hash([claim.principal, claim.key, claim.route])}"


async def write_once(
    store: IdempotencyStore, claim: IdempotencyClaim, write: Callable[[], Awaitable[WriteAnswer]]
) -> WriteAnswer:
    """
    Do a write unless its key has an answer already.

    A crash between the write and its record costs nothing: the repeat takes the key over
    after a while and writes the same facts again.

    Raises:
        KeyReused: The key belongs to a request with another route or body.
        KeyInProgress: The same request is being worked on.
        StoreUnavailable: It may or may not have happened; repeat it with the same key.
    """
    record = await store.begin(
        claim.principal, claim.key, route=claim.route, body_hash=claim.body_hash
    )
    if record is not None:
        return _replay(claim, record)
    try:
        answer = await write()
    except SidecarError:
        # Refused, or not known to have happened: a repeat may try at once.
        await _give_back(store, claim)
        raise
    await store.finish(claim.principal, claim.key, status=answer.status, body=answer.stored_body)
    return answer


async def _give_back(store: IdempotencyStore, claim: IdempotencyClaim) -> None:
    """Free the key; if the store is away now, time frees it later."""
    try:
        await store.abandon(claim.principal, claim.key)
    except StoreUnavailable as error:
        telemetry.get_logger().warning(
            "idempotency_key_not_freed", route=claim.route, error=str(error)
        )


def _replay(claim: IdempotencyClaim, record: IdempotencyRecord) -> WriteAnswer:
    differing = _differing(claim, record)
    if differing:
        raise KeyReused(differing)
    if record.status is None:
        raise KeyInProgress("a request with this Idempotency-Key is still being worked on")
    return WriteAnswer(
        status=record.status, body=record.body, stored_body=record.body, replayed=True
    )


def _differing(claim: IdempotencyClaim, record: IdempotencyRecord) -> dict[str, str]:
    """How each part differs, in words; values only where both requests show theirs."""
    if claim.route != record.route:
        return {f"the route ({record.route} before)": f"is {claim.route} now"}
    ours, theirs = _read_hashes(claim.body_hash), _read_hashes(record.body_hash)
    found = {}
    for name in sorted({*ours, *theirs}):
        our_hash, our_value = ours.get(name, ("", ""))
        their_hash, their_value = theirs.get(name, ("", ""))
        if our_hash != their_hash:
            found[name] = "differs from the first request with this key"
            if our_value and their_value:
                found[name] = (
                    f"was {their_value} in the first request with this key, is {our_value}"
                )
    return found


def _read_hashes(body_hash: str) -> dict[str, tuple[str, str]]:
    """Each field's hash and, where it is shown, its value as JSON."""
    found = {}
    for word in body_hash.split():
        name, _, rest = word.partition(":")
        digest, _, value = rest.partition("=")
        found[name] = (digest, unquote(value))
    return found


def _shown(value: object) -> str:
    text = json.dumps(value)
    return f"={quote(text, safe='')}" if len(text) <= SHOWN_CHARS_MAX else ""


def _hash(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
