"""Implements JwtVerifier: tokens against their issuers' keys, which are read beforehand."""

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp

from sidecar import telemetry
from sidecar.domain.identity import JwtSource
from sidecar.outbound.jwks_reading import KeySetError, read_key_set
from sidecar.services.token_ports import KeysAway, TokenRefused
from sidecar.services.token_texts import TOKEN_BYTES_MAX, peek_claims, peek_header

if TYPE_CHECKING:
    from sidecar.outbound.jwks_keys import KeySet

REFRESH_SECONDS = 300.0
"""How old keys get before they are read again."""
PAUSE_SECONDS = 10.0
"""Least time between two readings of one key set, whoever asks and however it ended."""
STALE_SECONDS = 3_600.0
"""How old keys may get while their issuer is away; after that no token is believed."""
_TICK_SECONDS = 1.0

ReadKeySet = Callable[[aiohttp.ClientSession, str], Awaitable[bytes]]


@dataclass(slots=True)
class _Known:
    """What is known of one key set; instants are of a clock that never runs backwards."""

    keys: "KeySet | None" = None
    loaded_at: float = -math.inf
    tried_at: float = -math.inf
    wanted: bool = False
    """Whether a token named a key that is not in it."""
    failure: str = ""

    def is_due(self, now: float) -> bool:
        if now - self.tried_at < PAUSE_SECONDS:
            return False
        return self.wanted or now - self.loaded_at >= REFRESH_SECONDS

    def pause_left(self, now: float) -> int:
        """Whole seconds until newer keys may have come."""
        return max(1, math.ceil(PAUSE_SECONDS - (now - self.tried_at)) + 1)


class JwksVerifier:
    """
    Implements JwtVerifier.

    `verify` never waits. Keys are read in the background, for the sources of the policy in
    force: every 5 minutes, and where a token names an unknown key; at most every 10 s,
    however many tokens do. Each key set is forgotten with the policy that named it.
    """

    def __init__(
        self,
        key_sets: Callable[[], Iterable[str]],
        *,
        read: ReadKeySet = read_key_set,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Name the key sets; nothing is read yet.

        Args:
            key_sets: URLs and files of the policy in force.
            read: Gives a key set's bytes; raises KeySetError.
            monotonic: Seconds of a clock that never runs backwards.
        """
        self._key_sets = key_sets
        self._read = read
        self._monotonic = monotonic
        self._known: dict[str, _Known] = {}
        self._wake = asyncio.Event()

    def verify(self, source: JwtSource, token: str) -> Mapping[str, Any] | TokenRefused | KeysAway:
        """The claims of a token that the source's issuer signed, for one of its audiences."""
        if len(token) > TOKEN_BYTES_MAX or peek_claims(token) is None:
            return TokenRefused(detail="the token cannot be read")
        header = peek_header(token)
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in source.algorithms:
            return TokenRefused(detail="the token's algorithm is not allowed")
        if "crit" in header or "b64" in header or not isinstance(kid, str | None):
            return TokenRefused(detail="the token's header asks for what is not supported")
        now = self._monotonic()
        known = self._known.get(source.jwks)
        if known is None or known.keys is None or now - known.loaded_at > STALE_SECONDS:
            self._wake.set()
            return KeysAway()
        candidates = known.keys.choose(kid, algorithm)
        if not candidates:
            if kid is None or kid in known.keys.kids:
                return TokenRefused(detail="no key of the issuer fits the token")
            known.wanted = True
            self._wake.set()
            return TokenRefused(
                detail="the token's key is not known", retry_after_seconds=known.pause_left(now)
            )
        return known.keys.verify(source, token, algorithm, candidates)

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the keys fresh until told to stop."""
        timeout = aiohttp.ClientTimeout(total=5)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while not stop.is_set():
                self._wake.clear()
                await self.refresh(session)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), _TICK_SECONDS)
                # A flood of unknown kids must not make this loop spin.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), _TICK_SECONDS / 10)

    async def refresh(self, session: aiohttp.ClientSession) -> None:
        """Read every key set that is due; one that fails keeps the keys that it has."""
        wanted = dict.fromkeys(self._key_sets())
        self._known = {where: self._known.get(where) or _Known() for where in wanted}
        now = self._monotonic()
        due = [(where, known) for where, known in self._known.items() if known.is_due(now)]
        async with asyncio.TaskGroup() as group:
            for where, known in due:
                known.tried_at, known.wanted = now, False
                group.create_task(self._load(session, where, known))

    async def _load(self, session: aiohttp.ClientSession, where: str, known: _Known) -> None:
        # A query may hold a secret.
        log = telemetry.get_logger().bind(jwks=where.partition("?")[0])
        try:
            data = await self._read(session, where)
            # A first time takes a twentieth of a second, which checks must not wait for.
            parse = await asyncio.to_thread(_parser)
            known.keys = parse(data)
        except KeySetError as error:
            telemetry.JWKS_REFRESHES.labels("failed").inc()
            if str(error) != known.failure:
                log.warning("jwks_refresh_failed", error=str(error))
            known.failure = str(error)
            return
        telemetry.JWKS_REFRESHES.labels("loaded").inc()
        if known.failure or known.loaded_at == -math.inf:
            log.info("jwks_loaded", keys=len(known.keys.keys))
        known.loaded_at, known.failure = self._monotonic(), ""


def _parser() -> Callable[[bytes], "KeySet"]:
    """What parses key sets; a gateway whose policy names none does without 9 MiB of libraries."""
    from sidecar.outbound.jwks_keys import parse_key_set  # noqa: PLC0415  As said.

    return parse_key_set
