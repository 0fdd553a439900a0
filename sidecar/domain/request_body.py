"""A request's JSON body as rules see it: only what cannot be read in two ways."""

import json
import re
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import Any, Final

from sidecar.domain.requests import AccessRequest


class _Body(Enum):
    UNREADABLE = auto()


UNREADABLE: Final = _Body.UNREADABLE
"""A body that claims to be JSON and is cut, malformed, or says one thing twice."""

PARTS_MAX = 30_000
"""Lists, objects and texts of a body that is read: more take longer than a check may last."""
_DEPTH_MAX = 64
_JSON_BEGINS = (b"{", b"[")
_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
_CHARSET = re.compile(r";\s*charset\s*=\s*\"?([^\s;\"]*)", re.IGNORECASE)


class _UncertainError(ValueError):
    """The body is JSON, and servers may differ on what it says."""


def read_body(request: AccessRequest) -> Any:
    """
    The body's JSON value, None where there is none, UNREADABLE where servers may differ on it.

    One without a type may be JSON to the upstream, so it is read as such. A body of another
    type is none to the rules, unless it is JSON all the same: many upstreams never look at the
    type, and the caller chose it.
    """
    if not request.body:
        # Or there is one that the gateway did not send: nothing says that it does.
        return None
    claimed = _claims_json(request)
    if not claimed and (is_encoded(request) or request.body.lstrip()[:1] not in _JSON_BEGINS):
        return None
    if not request.body_complete or is_encoded(request) or names_other_charset(request):
        return UNREADABLE
    if has_many_parts(request.body):
        return UNREADABLE
    try:
        value = json.loads(
            request.body.decode("utf-8"),
            object_pairs_hook=_refuse_repeats,
            parse_constant=_refuse_constant,
        )
    except (_UncertainError, RecursionError):
        return UNREADABLE
    except ValueError:
        return UNREADABLE if claimed else None
    if _depth(value) > _DEPTH_MAX or (isinstance(value, dict) and _says_twice(value)):
        return UNREADABLE
    return value


def body_field(body: Any, path: str) -> str | None:
    """
    The text of a field, dots going inwards; None where it is absent, null or no plain value.

    Numbers, true and false read as JSON writes them.
    """
    value = body
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            return None
        value = value[name]
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, dict | list):
        return None
    return json.dumps(value)


def is_encoded(request: AccessRequest) -> bool:
    """Whether the body is compressed, or otherwise not what its octets say."""
    encodings = request.headers.get("content-encoding", ())
    return any(value.strip().lower() not in ("", "identity") for value in encodings)


def names_other_charset(request: AccessRequest) -> bool:
    """Whether the type names another charset than JSON's, by which an upstream may read it."""
    return any(
        named.lower() not in _CHARSETS
        for value in request.headers.get("content-type", ())
        for named in _CHARSET.findall(value)
    )


def has_many_parts(body: bytes) -> bool:
    """
    Whether a JSON text has more lists, objects and texts than are read.

    Told from its octets, since reading is what takes the time: 349,000 empty lists fit into
    1 MiB and take 100 ms, a text of 1 MiB takes one.
    """
    if _parts(body) <= PARTS_MAX:
        return False
    # Perhaps they only stand inside of texts: without those, what is left is structure.
    plain = body.replace(b"\\\\", b"--").replace(b'\\"', b"--")
    if plain.count(b'"') // 2 > PARTS_MAX:
        return True
    pieces = plain.split(b'"')
    return len(pieces) // 2 + _parts(b"".join(pieces[::2])) > PARTS_MAX


def _parts(text: bytes) -> int:
    return text.count(b"[") + text.count(b"{") + text.count(b'"') // 2


def _claims_json(request: AccessRequest) -> bool:
    """Whether the body claims to be JSON or claims nothing; of several types the worst counts."""
    values = request.headers.get("content-type", ())
    kinds = {value.partition(";")[0].strip().lower() for value in values} - {""}
    return not kinds or any(
        kind in ("application/json", "text/json") or kind.endswith("+json") for kind in kinds
    )


def _refuse_repeats(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _UncertainError("a key stands twice")
    return found


def _refuse_constant(_name: str) -> float:
    raise _UncertainError("NaN and infinities are no JSON")


def _says_twice(value: Mapping[str, Any]) -> bool:
    """Whether keys differ in their case only: Go's decoder takes them for one."""
    return len({key.casefold() for key in value}) < len(value)


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level:
        depth += 1
        level = [
            item
            for one in level
            if isinstance(one, dict | list)
            for item in (one.values() if isinstance(one, dict) else one)
        ]
    return depth
