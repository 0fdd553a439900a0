"""The named statements of `queries.sql`, and of `queries_TOPIC.sql` beside it."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

_NAME: Final = re.compile(r"^-- name: ([a-z_]+)$", re.ASCII | re.MULTILINE)
_FILES: Final = "queries*.sql"


@cache
def named_queries() -> Mapping[str, str]:
    """
    All statements by name; the files are read once.

    Raises:
        ValueError: If two statements share a name.
    """
    found: dict[str, str] = {}
    for path in sorted(Path(__file__).parent.glob(_FILES)):
        parts = _NAME.split(path.read_text(encoding="utf-8"))[1:]
        for name, body in zip(parts[::2], parts[1::2], strict=True):
            if name in found:
                raise ValueError(f"{path.name}: statement {name} has the name of another")
            found[name] = body.strip()
    return found


def query(name: str) -> str:
    """One statement. Raises KeyError for a name that no file has."""
    return named_queries()[name]
