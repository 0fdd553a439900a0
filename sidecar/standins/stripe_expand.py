"""`expand[]`: the object in place of its id. Source: docs.stripe.com/api/expanding_objects."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

from sidecar.standins.stripe_errors import ApiError, not_modelled
from sidecar.standins.stripe_rooms import Item

DEPTH_MAX = 4


def expanded(body: Item, paths: Sequence[str], find: Callable[[str], Item | None]) -> Item:
    """
    A copy of an answer with the fields at `paths` expanded.

    Args:
        body: An object or a list of them, whose paths begin with `data`.
        paths: Like `latest_invoice.payments`; a field that is no id or is null stays as it is.
        find: The object of an id.

    Raises:
        ApiError: For a path that leads nowhere here (501), or deeper than Stripe goes.
    """
    shown = copy.deepcopy(body)
    for path in paths:
        parts = path.split(".")
        if len(parts) - (parts[0] == "data") > DEPTH_MAX:
            raise ApiError(400, f"You cannot expand more than {DEPTH_MAX} levels.", param="expand")
        _expand(shown, parts, path, find)
    return shown


def _expand(node: Any, parts: Sequence[str], path: str, find: Callable[[str], Item | None]) -> None:
    if isinstance(node, list):
        for item in node:
            _expand(item, parts, path, find)
        return
    if node is None or not parts:
        return
    name, rest = parts[0], parts[1:]
    if not isinstance(node, dict) or name not in node:
        raise not_modelled(f"the expansion of `{path[:100]}`")
    if isinstance(node[name], str):
        found = find(node[name])
        if found is None:
            raise ApiError(400, f"This property cannot be expanded ({path[:100]}).", param="expand")
        node[name] = copy.deepcopy(found)
    _expand(node[name], rest, path, find)
