"""Pages of lists: an opaque cursor is the id that the page before ended with."""

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from sidecar.domain.errors import InvalidInput
from sidecar.inbound.http.field_types import Cursor, CustomerId, PageLimit, QueryModel

_PAGE_DEFAULT = 50
_LISTED_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,190}", re.ASCII)
"""Ids of things that are listed: those of grants are the longest, and fit a cursor."""

T = TypeVar("T")


class PageQuery(QueryModel):
    """Which page of a list."""

    limit: PageLimit = _PAGE_DEFAULT
    after: Cursor | None = None


class CustomerPageQuery(PageQuery):
    """Which page of one customer's things."""

    customer_id: CustomerId


class LimitQuery(QueryModel):
    """How many at most."""

    limit: PageLimit = _PAGE_DEFAULT


def page_of(
    found: Sequence[T], query: PageQuery, id_of: Callable[[T], str]
) -> tuple[Sequence[T], str | None]:
    """The page and the cursor of the next: one more was asked for than it has, to know of it."""
    page = found[: query.limit]
    if len(found) <= query.limit:
        return page, None
    return page, base64.urlsafe_b64encode(id_of(page[-1]).encode()).decode().rstrip("=")


def read_cursor(query: PageQuery) -> str:
    """The id that a page comes after, "" for the first. Raises InvalidInput."""
    if query.after is None:
        return ""
    try:
        padded = query.after + "=" * (-len(query.after) % 4)
        last_id = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        last_id = ""
    if _LISTED_ID.fullmatch(last_id) is None:
        raise InvalidInput("after is not a cursor of this list", field="after")
    return last_id
