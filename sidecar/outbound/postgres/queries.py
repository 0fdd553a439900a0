"""The named statements of `queries.sql`."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

_NAME: Final = re.compile(r"^-- name: ([a-z_]+)$", re.ASCII | re.MULTILINE)


@cache
def named_queries() -> Mapping[str, str]:
    """
    All statements by name; the file is read once.

    Raises:
        ValueError: If two statements share a name.
    """
    text = Path(__file__).with_name("queries.sql").read_text(encoding="utf-8")
    parts = _NAME.split(text)[1:]
    names = parts[::2]
    if len(set(names)) != len(names):
        raise ValueError("queries.sql names a statement twice")
    return {name: body.strip() for name, body in zip(names, parts[1::2], strict=True)}


def query(name: str) -> str:
    """One statement. Raises KeyError for a name that is not in the file."""
    return named_queries()[name]
