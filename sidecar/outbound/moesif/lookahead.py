"""Look-ahead at a fixed place said without it: `^/(?!health).*` is `^/.*` and not `^/health`."""

import re
from collections.abc import Iterator

_FIXED_START = re.compile(r"\^(?:[A-Za-z0-9/_ :;,@#%&=~'\"<>!-]|\\[/.\-])*")
_ASSERTIONS = ("(?!", "(?=")


def without_lookahead(source: str) -> list[tuple[bool, str]] | None:
    """
    Patterns that together say the same, each with whether it has to be found.

    A text before the assertion that can be found in one way only makes the two sides
    independent of each other: both begin at the same place.

    Args:
        source: A pattern of the form `^text(?!a)(?=b)rest`, in JavaScript's syntax.

    Returns:
        The patterns, or None where the pattern has another form.
    """
    fixed = _FIXED_START.match(source)
    if fixed is None:
        return None
    start, position = fixed[0], fixed.end()
    said: list[tuple[bool, str]] = []
    while source.startswith(_ASSERTIONS, position):
        end = _closing(source, position)
        if end is None:
            return None
        wanted = source[position + 2] == "="
        said.append((wanted, f"{start}(?:{source[position + 3 : end]})"))
        position = end + 1
        if source[position : position + 1] in ("*", "+", "?", "{"):
            return None
    rest = source[position:]
    if not said or rest[:1] in ("*", "+", "?", "{") or _has_alternatives(rest):
        return None
    return [(True, start + rest), *said]


def _closing(source: str, opening: int) -> int | None:
    """Where the bracket that opens here closes."""
    depth = 0
    for position, character in _plain(source, opening):
        if character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
            if not depth:
                return position
    return None


def _has_alternatives(source: str) -> bool:
    depth = 0
    for _, character in _plain(source, 0):
        depth += (character == "(") - (character == ")")
        if character == "|" and depth <= 0:
            return True
    return False


def _plain(source: str, position: int) -> Iterator[tuple[int, str]]:
    """The characters that are neither escaped nor in a class."""
    in_class = False
    while position < len(source):
        character = source[position]
        if character == "\\":
            position += 2
            continue
        if in_class:
            in_class = character != "]"
        elif character == "[":
            in_class = True
        else:
            yield position, character
        position += 1
