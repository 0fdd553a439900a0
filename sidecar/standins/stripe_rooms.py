"""Where objects of one kind are kept: found by id, listed newest first, never more than allowed."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from sidecar.standins.stripe_errors import ApiError, StandinFull, missing, refuse_unmodelled
from sidecar.standins.stripe_paging import page_of

Item = dict[str, Any]
"""An object as the API shows it."""

PAGE = frozenset({"limit", "starting_after", "ending_before"})


class Room:
    """
    The objects of one kind, each the JSON that the API shows.

    Args:
        kind: What refusals call it.
        prefix: How ids begin.
        url: What its lists say their address is.
        objects_max: More of them are refused loudly.
        path_name: The parameter that a 404 names.
    """

    def __init__(
        self, kind: str, prefix: str, url: str, objects_max: int, *, path_name: str = "id"
    ) -> None:
        self._kind = kind
        self._prefix = prefix
        self._url = url
        self._objects_max = objects_max
        self._path_name = path_name
        self._numbers = itertools.count(1)
        self.items: dict[str, Item] = {}

    def new_id(self) -> str:
        """An id that was not given before."""
        return f"{self._prefix}_standin{next(self._numbers):08d}"

    def add(self, item: Item) -> Item:
        """
        Keep an object.

        Raises:
            ApiError: If its id is taken.
            StandinFull: If objects_max are kept.
        """
        if item["id"] in self.items:
            raise ApiError(
                400,
                f"{self._kind.capitalize()} already exists.",
                code="resource_already_exists",
                param="id",
            )
        if len(self.items) >= self._objects_max:
            raise StandinFull(f"objects_max objects of type {self._kind} are kept")
        self.items[item["id"]] = item
        return item

    def get(self, item_id: str, *, param: str | None = None) -> Item:
        """One object. Raises ApiError: 404, or 400 if a parameter (`param`) names it."""
        if item_id not in self.items:
            name = param or self._path_name
            raise missing(self._kind, item_id, param=name, in_path=param is None)
        return self.items[item_id]

    def filtered(self, params: Mapping[str, Any], names: Sequence[str]) -> list[Item]:
        """The objects whose fields equal the given filters, newest first."""
        wanted = {name: params[name] for name in names if name in params}
        return [
            item
            for item in reversed(self.items.values())
            if all(item.get(name) == value for name, value in wanted.items())
            and created_within(item, params.get("created"))
        ]

    def page(self, params: Mapping[str, Any], names: Sequence[str]) -> Item:
        """
        One page of the objects that equal the filters `names`.

        Raises:
            ApiError: For filters beside these, or a wrong page.
        """
        refuse_unmodelled(params, PAGE | {*names, "created"})
        return self.page_of(self.filtered(params, names), params)

    def page_of(self, items: Sequence[Item], params: Mapping[str, Any]) -> Item:
        """One page of these objects of the room."""
        return page_of(items, params, self._url)


def created_within(item: Item, wanted: int | Mapping[str, int] | None) -> bool:
    """Whether an object's `created` equals a number or lies within gt, gte, lt, lte."""
    if wanted is None:
        return True
    created = item["created"]
    if isinstance(wanted, int):
        return bool(created == wanted)
    return all(
        {
            "gt": created > border,
            "gte": created >= border,
            "lt": created < border,
            "lte": created <= border,
        }[name]
        for name, border in wanted.items()
    )


def metadata_of(params: Mapping[str, Any]) -> dict[str, str]:
    """The metadata of a new object."""
    return merged_metadata({}, params)


def merged_metadata(known: Mapping[str, str], params: Mapping[str, Any]) -> dict[str, str]:
    """Metadata after an update: an empty value unsets a key, an empty `metadata` all of them."""
    if "metadata" not in params:
        return dict(known)
    given = params["metadata"]
    if given == "":
        return {}
    return {name: value for name, value in {**known, **given}.items() if value != ""}


def in_live_mode(value: Any) -> Any:
    """A copy in which every `livemode` is true."""
    if isinstance(value, dict):
        return {
            name: True if name == "livemode" else in_live_mode(item) for name, item in value.items()
        }
    return [in_live_mode(item) for item in value] if isinstance(value, list) else value
