"""
What can be said of a pattern for certain, by reading its text.

Only literal text is read: runs of characters that each match must contain. Where a pattern
has more to it, nothing is said, so that nothing said is wrong.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import re2

_QUANTIFIERS = "?*+{"
_LITERAL_ESCAPES = frozenset(r".^$*+?()[]{}|\/-_~!@#%&=:;,<>'\" ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """
    A pattern's certain text.

    `runs` stand in every match, in order; `prefix` is the run that every match begins with.
    With `literal` the pattern is one text and no more. `begins` and `ends` are its anchors.
    `plain` is False where nothing is known beyond the pattern's own text.
    """

    text: str
    begins: bool = False
    ends: bool = False
    runs: tuple[str, ...] = ()
    prefix: str = ""
    literal: bool = False
    plain: bool = False


class _Scanner:
    """Reads one pattern from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.runs: list[str] = []
        self.run = ""
        self.simple = True
        self.first_run_leads = True

    def scan(self) -> Shape:
        text = self.text
        unknown = Shape(text=text)
        if "|" in _outside_classes(text) or text.startswith("(?") or r"\Q" in text:
            return unknown
        begins = text.startswith("^")
        ends = text.endswith("$") and not text.endswith(r"\$")
        self.at, end = int(begins), len(text) - int(ends)
        while self.at < end:
            if not self._item(end):
                return unknown
        self._close(leads=False)
        runs = tuple(run for run in self.runs if run)
        literal = self.simple and len(runs) <= 1
        prefix = self.runs[0] if begins and self.runs else ""
        return Shape(
            text=text,
            begins=begins,
            ends=ends,
            runs=runs,
            prefix=prefix,
            literal=literal,
            plain=True,
        )

    def _item(self, end: int) -> bool:
        """One character, class or group with its quantifier; False where it is not understood."""
        char = self.text[self.at]
        literal = ""
        if char == "\\":
            escaped = self.text[self.at + 1 : self.at + 2]
            literal = escaped if escaped in _LITERAL_ESCAPES else ""
            self.at += 2
            if escaped in ("p", "P", "x", "A", "z", "b", "B", "C"):
                return False
        elif char == "[":
            close = _class_end(self.text, self.at)
            if close < 0:
                return False
            inner = self.text[self.at + 1 : close]
            literal = inner if len(inner) == 1 else ""
            self.at = close + 1
        elif char == "(":
            close = _group_end(self.text, self.at)
            if close < 0:
                return False
            self.at = close + 1
        elif char in "^$":
            return False
        elif char == ".":
            self.at += 1
        else:
            literal = char
            self.at += 1
        quantifier = self._quantifier(end)
        self._take(literal, quantifier)
        return True

    def _quantifier(self, end: int) -> str:
        if self.at >= end or self.text[self.at] not in _QUANTIFIERS:
            return ""
        begin = self.at
        if self.text[self.at] == "{":
            close = self.text.find("}", self.at)
            self.at = end if close < 0 else close
        self.at += 1
        quantifier = self.text[begin : self.at]
        if self.at < end and self.text[self.at] == "?":
            self.at += 1  # Lazy or not, it matches the same.
        return quantifier

    def _take(self, literal: str, quantifier: str) -> None:
        if literal and not quantifier:
            self.run += literal
            return
        self.simple = False
        if literal and quantifier == "+":
            self.run += literal
        self._close(leads=True)

    def _close(self, *, leads: bool) -> None:
        """End a run; an empty first one is kept, since it says that no text leads."""
        if self.run or leads:
            self.runs.append(self.run)
        self.run = ""


@lru_cache(maxsize=20_000)
def shape_of(text: str) -> Shape:
    """The certain text of a pattern."""
    return _Scanner(text).scan()


@lru_cache(maxsize=20_000)
def compiled(text: str) -> Any:
    """The pattern, ready."""
    return re2.compile(text)


def covers_pattern(outer: str, inner: str) -> bool:
    """Whether every path in which `inner` is found is one in which `outer` is, for certain."""
    if outer == inner:
        return True
    wide, narrow = shape_of(outer), shape_of(inner)
    if narrow.literal and narrow.begins and narrow.ends:
        return compiled(outer).search("".join(narrow.runs)) is not None  # One path, no other.
    if not wide.literal or wide.ends:
        return False
    wanted = "".join(wide.runs)
    if wide.begins:
        return narrow.begins and narrow.prefix.startswith(wanted)
    return any(wanted in run for run in narrow.runs)


def sample_path(pattern: str) -> str | None:
    """A path that the pattern surely matches, or None."""
    shape = shape_of(pattern)
    if not shape.plain or not shape.begins:
        return None
    tails = ("", "x", "1") if not shape.literal else ("",)
    for tail in tails:
        path = shape.prefix + tail
        if path.startswith("/") and compiled(pattern).search(path) is not None:
            return path
    return None


def _outside_classes(text: str) -> str:
    """The text outside classes and groups, escapes removed."""
    found, at, depth = "", 0, 0
    while at < len(text):
        char = text[at]
        if char == "\\":
            at += 2
            continue
        if char == "[":
            close = _class_end(text, at)
            at = len(text) if close < 0 else close + 1
            continue
        depth += (char == "(") - (char == ")")
        if depth == 0:
            found += char
        at += 1
    return found


def _class_end(text: str, begin: int) -> int:
    """Where a class ends; -1 if it does not."""
    at = begin + 1
    if text[at : at + 1] == "^":
        at += 1
    if text[at : at + 1] == "]":
        at += 1
    while at < len(text):
        if text[at] == "\\":
            at += 2
        elif text.startswith("[:", at):
            close = text.find(":]", at)
            at = len(text) if close < 0 else close + 2
        elif text[at] == "]":
            return at
        else:
            at += 1
    return -1


def _group_end(text: str, begin: int) -> int:
    """Where a group ends; -1 if it does not."""
    at, depth = begin, 0
    while at < len(text):
        char = text[at]
        if char == "\\":
            at += 2
            continue
        if char == "[":
            close = _class_end(text, at)
            if close < 0:
                return -1
            at = close + 1
            continue
        depth += (char == "(") - (char == ")")
        if depth == 0:
            return at
        at += 1
    return -1
