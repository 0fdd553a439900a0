"""The access request: what is checked, parsed and bounded by an edge; and its normal path."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import parse_qsl

from sidecar.domain.errors import InvalidInput
from sidecar.domain.identity import VerifiedFacts
from sidecar.domain.thawing import quickly_made

PATH_BYTES_MAX = 8_192
_NORMAL = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+/?", re.ASCII)
"""Paths that are normal as they are, which most are."""
_FORBIDDEN = re.compile(r"%(?:2f|5c|00)|\\|\x00", re.IGNORECASE)
_ESCAPE = re.compile(r"%([0-9a-fA-F]{2})")
_BAD_ESCAPE = re.compile(r"%(?![0-9a-fA-F]{2})")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFacts:
    """
    What the body says about the largest possible usage.

    `input_bound` and `output_bound` are token counts no response can exceed, or None where
    the body cannot promise one (cut, compressed, stateful). Counts are whole numbers >= 0.
    `unread` says that there is a body which does not even tell its model for certain.
    """

    model: str = ""
    input_bound: int | None = None
    output_bound: int | None = None
    choices: int = 1
    unread: bool = False


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRequest:
    """
    One request as an edge read it.

    Header names are lower case, each with all its values in order. `path` is as sent, with
    the query. `hold_id` is derived from the gateway's own facts, never the client's choice.
    `source` is the caller's address. `deadline` is when the gateway stops waiting. `context`
    is the operator's word about the route, `verified` the gateway's about the caller.
    """

    edge: str
    gateway_id: str
    hold_id: str
    method: str
    path: str
    headers: Mapping[str, tuple[str, ...]]
    received_at: datetime
    deadline: datetime
    scheme: str = "https"
    host: str = ""
    source: str = ""
    body: bytes | None = None
    body_complete: bool = True
    request_id: bytes = b""
    context: Mapping[str, str] = field(default_factory=dict)
    verified: VerifiedFacts = VerifiedFacts()

    def header(self, name: str) -> str | None:
        """The header's first value, or None."""
        values = self.headers.get(name)
        return values[0] if values else None

    @property
    def decision_id(self) -> str:
        """Same for each repeat of this check; says nothing of the hold id, which stays inside."""
        return decision_id_for(self.hold_id)


def decision_id_for(hold_id: str) -> str:
    """The decision's public reference: a one-way function of the hold id."""
    return "dec_" + hashlib.sha256(b"decision:" + hold_id.encode()).hexdigest()[:32]


def normalise_path(path: str) -> str:
    """
    The path that rules match: query cut, unreserved octets decoded, dots and slashes merged.

    Source: RFC 3986 section 6.2.2; slashes merged as Envoy's merge_slashes does.

    Raises:
        InvalidInput: If the path is absent, too long, holds an encoded slash, backslash or
            NUL (which servers read differently), or a broken escape.
    """
    if not path.startswith("/"):
        raise InvalidInput("the request has no absolute path", field="path")
    if len(path) > PATH_BYTES_MAX:
        raise InvalidInput(f"the path is longer than {PATH_BYTES_MAX} bytes", field="path")
    if _NORMAL.fullmatch(path):
        return path
    bare = re.split(r"[?#]", path, maxsplit=1)[0]
    if _FORBIDDEN.search(bare):
        raise InvalidInput("the path holds an encoded slash, a backslash or a NUL", field="path")
    if _BAD_ESCAPE.search(bare):
        raise InvalidInput("the path holds a % that begins no escape", field="path")
    decoded = _ESCAPE.sub(_decode_unreserved, bare)
    segments: list[str] = []
    parts = decoded.split("/")
    for part in parts:
        if part == "..":
            if segments:
                segments.pop()
        elif part not in ("", "."):
            segments.append(part)
    tail = "/" if segments and parts[-1] in ("", ".", "..") else ""
    return "/" + "/".join(segments) + tail


def parse_query(path: str) -> dict[str, tuple[str, ...]]:
    """The parameters of a path's query, decoded, each with all its values in order."""
    query = path.partition("?")[2].partition("#")[0]
    # All of them, since the upstream reads them all; the path's length bounds how many.
    fields: dict[str, list[str]] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        fields.setdefault(name, []).append(value)
    return {name: tuple(values) for name, values in fields.items()}


def _decode_unreserved(match: re.Match[str]) -> str:
    octet = int(match.group(1), 16)
    return chr(octet) if octet in _UNRESERVED else match.group(0).upper()
