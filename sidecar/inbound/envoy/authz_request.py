"""
From Envoy's CheckRequest to an access request: bounded, and the gateway's own facts only.

What the end client chose and cannot be used becomes a denial, never an error: on an error
Envoy may be set to let the request pass.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from functools import lru_cache
from typing import Any, Final

from sidecar.domain.decisions import Deny, DenyReason
from sidecar.domain.holds import make_hold_id
from sidecar.domain.identity import VerifiedFacts
from sidecar.domain.periods import to_epoch_ms
from sidecar.domain.requests import AccessRequest, decision_id_for
from sidecar.domain.thawing import quickly_made
from sidecar.inbound.envoy.attributes import OWN_HEADER_PREFIX
from sidecar.inbound.envoy.claims import MetadataClaims
from sidecar.services.ports import RequestDigests
from sidecar.wire import envoy_authz_pb2 as wire
from sidecar.wire import envoy_core_pb2 as core

EDGE: Final = "envoy"
PARTIAL_BODY_HEADER: Final = "x-envoy-auth-partial-body"
"""Envoy's mark of a body that it sent along; the generated configuration drops a client's."""

_REQUEST_ID_BYTES_MAX: Final = 128
_SECOND_MAX: Final = 2**32 - 1  # A hold id has eight hex digits for it.
_METHOD = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,32}", re.ASCII)
_LENGTH = re.compile(rb"[0-9]{1,18}")
_NAMES_MAX: Final = 2_048
"""Header names that are remembered; a name has at most `header_bytes_max` bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckLimits:
    """
    How much of a request is looked at; a larger one is denied, a larger body counts as cut.

    Envoy itself refuses more than 100 headers of a client, then adds some of its own.
    """

    headers_max: int = 128
    header_bytes_max: int = 65_536
    path_bytes_max: int = 8_192
    body_bytes_max: int = 1_048_576


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class ReadCheck:
    """An access request, or why there is none; and the client's copies of our own headers."""

    request: AccessRequest | None = None
    refusal: Deny | None = None
    forged: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldIds:
    """
    Derives hold ids from the gateway's facts, so that Envoy's retries repeat a check.

    `random_bytes` makes an id of its own where Envoy did not send those facts.
    """

    digests: RequestDigests
    random_bytes: Callable[[int], bytes]

    def derive(
        self, attributes: wire.AttributeContext, gateway: str, request_id: bytes, now: datetime
    ) -> str:
        """The hold id: the request's second, then a keyed hash."""
        moment, stream = attributes.request.time, attributes.request.http.id
        timed = attributes.request.HasField("time") and 0 < moment.seconds <= _SECOND_MAX
        if not stream or not timed:
            return make_hold_id(to_epoch_ms(now) // 1_000, self.random_bytes(16))
        source = attributes.source.address.socket_address
        digest = self.digests.request_digest(
            gateway.encode(),
            stream,
            b"%d.%09d" % (moment.seconds, moment.nanos),
            b"%s:%d" % (source.address, source.port_value),
            request_id,
        )
        return make_hold_id(moment.seconds, digest)


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class _Headers:
    raw: dict[str, tuple[bytes, ...]]
    forged: tuple[str, ...]
    partial: bool
    problem: str = ""

    def first(self, name: str) -> bytes | None:
        """A header's first value; None if it is not there."""
        values = self.raw.get(name)
        return values[0] if values else None


def read_check(
    message: wire.CheckRequest,
    *,
    gateway_id: str,
    hold_ids: HoldIds,
    now: datetime,
    deadline: datetime,
    limits: CheckLimits,
) -> ReadCheck:
    """
    Read one check.

    Args:
        message: As decoded.
        gateway_id: The gateway's verified or configured name.
        hold_ids: Makes the hold id.
        now, deadline: Aware UTC; when Envoy stops waiting.
        limits: What is too large is refused.
    """
    attributes = message.attributes
    http = attributes.request.http
    headers = _read_headers(http, limits)
    request_id = headers.first("x-request-id") or b""
    hold_id = hold_ids.derive(attributes, gateway_id, request_id, now)
    method, path = _text(http.method), _text(http.path)
    problem = headers.problem or _problem(http, method, path, limits)
    if problem or method is None or path is None:
        return ReadCheck(refusal=refuse(hold_id, problem), forged=headers.forged)
    body, complete = _read_body(http, headers, limits)
    request = AccessRequest(
        edge=EDGE,
        gateway_id=gateway_id,
        hold_id=hold_id,
        method=method.upper(),  # Rules are written in capitals, and some upstreams take any.
        path=path,
        headers=_HeaderTexts(headers.raw),
        received_at=now,
        deadline=deadline,
        scheme="http" if http.scheme == b"http" else "https",
        host=_lenient(http.host[:256]),
        source=_lenient(attributes.source.address.socket_address.address[:64]),
        body=body,
        body_complete=complete,
        request_id=request_id[:_REQUEST_ID_BYTES_MAX],
        context=dict(attributes.context_extensions),
        verified=VerifiedFacts(
            claims=MetadataClaims(attributes.metadata_context),
            # Never cut, and no octet read as another: either could make two names one.
            principal=attributes.source.principal.decode("utf-8", "surrogateescape"),
        ),
    )
    return ReadCheck(request=request, forged=headers.forged)


def refuse(hold_id: str, detail: str) -> Deny:
    """Deny a request that cannot be judged."""
    return Deny(
        decision_id=decision_id_for(hold_id),
        reason=DenyReason.INVALID_REQUEST,
        rule="request",
        detail=detail,
    )


def _problem(
    http: wire.AttributeContext.HttpRequest,
    method: str | None,
    path: str | None,
    limits: CheckLimits,
) -> str:
    if method is None or not _METHOD.fullmatch(method):
        return "the request has no method that could be used"
    if len(http.path) > limits.path_bytes_max:
        return f"the path is longer than {limits.path_bytes_max} bytes"
    if path is None:
        return "the path is not UTF-8"
    if not path:
        return "the request has no path"
    return ""


def _read_headers(http: wire.AttributeContext.HttpRequest, limits: CheckLimits) -> _Headers:
    """Read either form: Envoy fills `headers`, or `header_map` if told to send raw headers."""
    rows: Sequence[core.Header] = http.header_map.headers or http.headers
    raw: dict[str, tuple[bytes, ...]] = {}
    forged: dict[str, None] = {}
    size = 0
    partial = False
    if len(rows) > limits.headers_max:
        return _too_many(limits)
    for row in rows:
        key, value = row.key, row.raw_value or row.value
        size += len(key) + len(value)
        kind, name = _name(key)
        if kind is _PLAIN:
            raw[name] = (*raw[name], value) if name in raw else (value,)
        elif kind is _Kind.PARTIAL:
            partial = partial or value.strip().lower() != b"false"
        elif kind is _Kind.OWN:
            forged[name] = None
    if size > limits.header_bytes_max:
        return _too_many(limits)
    return _Headers(raw=raw, forged=tuple(forged), partial=partial)


def _too_many(limits: CheckLimits) -> _Headers:
    """The id that Envoy gave the request stays out of the hold id then; nothing is held."""
    problem = f"more than {limits.headers_max} headers or {limits.header_bytes_max} bytes of them"
    return _Headers(raw={}, forged=(), partial=False, problem=problem)


class _Kind(Enum):
    PLAIN = 0
    PSEUDO = 1
    PARTIAL = 2
    OWN = 3


_PLAIN: Final = _Kind.PLAIN
"""Looked up once: each header of each request is compared to it."""


@lru_cache(maxsize=_NAMES_MAX)
def _name(key: bytes) -> tuple[_Kind, str]:
    """What a header is, and its name in lower case; the same few come with each request."""
    name = key.decode("latin-1").lower()
    if name.startswith(":"):
        return _Kind.PSEUDO, name
    if name == PARTIAL_BODY_HEADER:
        return _Kind.PARTIAL, name
    return _Kind.OWN if name.startswith(OWN_HEADER_PREFIX) else _Kind.PLAIN, name


class _HeaderTexts(Mapping[str, tuple[str, ...]]):
    """
    The headers' values as text, made when somebody asks: rules look at few of them.

    A value that is no UTF-8 is read octet by octet: no rule needs it, and it must not fail
    the check. Such a credential is not ASCII, so identity refuses it later.
    """

    __slots__ = ("_raw", "_texts")

    def __init__(self, raw: Mapping[str, tuple[bytes, ...]]) -> None:
        self._raw = raw
        self._texts: dict[str, tuple[str, ...]] = {}

    def __getitem__(self, name: str) -> tuple[str, ...]:
        texts = self._texts.get(name)
        if texts is None:
            texts = self._texts[name] = tuple(map(_lenient, self._raw[name]))
        return texts

    def get(self, name: str, default: Any = None) -> Any:
        # The mixin's own raises and catches an error for each header that is not there.
        return self[name] if name in self._raw else default

    def __contains__(self, name: object) -> bool:
        return name in self._raw

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def __len__(self) -> int:
        return len(self._raw)


def _read_body(
    http: wire.AttributeContext.HttpRequest, headers: _Headers, limits: CheckLimits
) -> tuple[bytes | None, bool]:
    """The body as far as Envoy sent it, and whether that is all of it; every doubt says no."""
    body = http.raw_body or http.body
    length = headers.first("content-length")
    stated = int(length) if length is not None and _LENGTH.fullmatch(length) else None
    if not body:
        # Nothing was there, or Envoy does not send bodies; a chunked one may be to come.
        chunked = "transfer-encoding" in headers.raw
        return None, not (headers.partial or chunked or stated or http.size > 0)
    complete = (
        not headers.partial
        and http.size <= len(body)
        and (length is None or stated == len(body))
        and len(body) <= limits.body_bytes_max
    )
    return body, complete


def _text(value: bytes) -> str | None:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _lenient(value: bytes) -> str:
    text = _text(value)
    return value.decode("latin-1") if text is None else text
