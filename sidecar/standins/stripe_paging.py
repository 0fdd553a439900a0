"""Stripe's lists: newest first, a page at a time, cursors that are object ids."""

from collections.abc import Mapping, Sequence
from typing import Any

from sidecar.standins.stripe_errors import ApiError, missing

PAGE_DEFAULT = 10
PAGE_MAX = 100


def page_of(
    items: Sequence[Mapping[str, Any]], params: Mapping[str, Any], url: str
) -> dict[str, Any]:
    """
    Cut one page out of objects that stand newest first.

    Args:
        items: Every object that matches, newest first, each with an `id`.
        params: May hold limit (1 to 100), starting_after or ending_before.
        url: What the list says its address is.

    Raises:
        ApiError: For a limit out of range, both cursors, or a cursor that is not in the list.
    """
    limit = params.get("limit", PAGE_DEFAULT)
    if not 1 <= limit <= PAGE_MAX:
        raise ApiError(400, f"This value must be between 1 and {PAGE_MAX}.", param="limit")
    after, before = params.get("starting_after"), params.get("ending_before")
    if after is not None and before is not None:
        raise ApiError(400, "You may only specify one of: starting_after, ending_before.")
    if before is not None:
        end = _position(items, before, "ending_before")
        start = max(0, end - limit)
        more = start > 0
    else:
        start = 0 if after is None else _position(items, after, "starting_after") + 1
        end = start + limit
        more = end < len(items)
    return {"object": "list", "url": url, "has_more": more, "data": list(items[start:end])}


def _position(items: Sequence[Mapping[str, Any]], cursor: str, param: str) -> int:
    for index, item in enumerate(items):
        if item["id"] == cursor:
            return index
    raise missing("object", cursor, param=param, in_path=False)
