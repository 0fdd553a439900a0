"""A request's JSON body as rules see it: only what cannot be read in two ways."""

import json
from collections.abc import Sequence
from enum import Enum, auto
from typing import Any, Final

from sidecar.domain.requests import AccessRequest


class _Body(Enum):
    UNREADABLE = auto()


UNREADABLE: Final = _Body.UNREADABLE
"""A body that claims to be JSON and is cut, malformed, or says one thing twice."""

_DEPTH_MAX = 64


def read_body(request: AccessRequest) -> Any:
    """
    The body's JSON value, None where there is none, UNREADABLE where servers may differ on it.

    A body of another content type is none to the rules. One without a type may be JSON to the
    upstream, so it is read as such.
    """
    if not request.body and request.body_complete:
        return None
    content_type = request.header("content-type")
    if content_type is not None and not _is_json(content_type):
        return None
    if not request.body:
        # There is a body, and the gateway did not send it: nothing says that it does.
        return None
    if not request.body_complete or "content-encoding" in request.headers:
        return UNREADABLE
    try:
        value = json.loads(request.body, object_pairs_hook=_refuse_repeats)
    except (ValueError, RecursionError):
        return UNREADABLE
    return UNREADABLE if _depth(value) > _DEPTH_MAX else value


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


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind in ("application/json", "text/json") or kind.endswith("+json")


def _refuse_repeats(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


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
