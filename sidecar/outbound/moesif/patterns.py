"""
Patterns in JavaScript's syntax to the same patterns in RE2's.

The rules' own reference agent compiles each pattern without flags (ECMA-262 with annex B).
RE2 takes most of them as they are; some read differently there, such as an inline flag,
which JavaScript refuses. What RE2 cannot do (look-around, references) is refused.
"""

import re

from sidecar.domain.errors import InvalidInput
from sidecar.outbound.policy_files.texts import PATTERN_LENGTH_MAX, compile_pattern

REPEATS_MAX = 1_000
"""RE2's own bound."""
_COUNT = re.compile(r"\{([0-9]+)(,([0-9]*))?\}")
_GROUP_NAME = re.compile(r"\(\?<([A-Za-z_$][A-Za-z0-9_$]*)>")
_SAME_ESCAPES = frozenset("dDsSwWbBtnvfr")
_CLASS_ESCAPES = frozenset({r"\d", r"\D", r"\s", r"\S", r"\w", r"\W"})
_LOOK_AROUND = ("(?=", "(?!", "(?<=", "(?<!")
_ANY, _NONE = r"[\x00-\x{10FFFF}]", r"[^\x00-\x{10FFFF}]"


class PatternInvalid(InvalidInput):
    """JavaScript refuses the pattern, so it never matched."""


class PatternUnsupported(InvalidInput):
    """JavaScript takes the pattern, RE2 cannot."""


def translate(source: str) -> str:
    """
    The RE2 pattern that finds what JavaScript's finds.

    Raises:
        PatternInvalid: If JavaScript refuses the pattern too.
        PatternUnsupported: If RE2 has no such pattern.
    """
    pattern = _Translator(source).run()
    if len(pattern) > PATTERN_LENGTH_MAX:
        raise PatternUnsupported(f"the pattern is longer than {PATTERN_LENGTH_MAX} characters")
    try:
        compile_pattern(pattern)
    except InvalidInput as error:
        raise PatternUnsupported(str(error)) from error
    return pattern


def matches_nothing_too(pattern: str) -> bool:
    """Whether an RE2 pattern is found in the empty text."""
    return compile_pattern(pattern).search("") is not None


class _Translator:
    """One pass over a pattern. `repeatable` says whether a quantifier may follow."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.position = 0
        self.written: list[str] = []
        self.depth = 0
        self.repeatable = False
        self.groups = len(re.findall(r"(?<!\\)\((?!\?)|\(\?<(?![=!])", source))
        self.named = _GROUP_NAME.search(source) is not None
        self.names: set[str] = set()

    def run(self) -> str:
        """Translate to the end."""
        while self.position < len(self.source):
            self._term(self.source[self.position])
        if self.depth:
            raise PatternInvalid("a group is not closed")
        return "".join(self.written)

    def _emit(self, text: str, *, taken: int, repeatable: bool = True) -> None:
        self.written.append(text)
        self.position += taken
        self.repeatable = repeatable

    def _term(self, character: str) -> None:
        match character:
            case "\\":
                self._escape()
            case "[":
                self._class()
            case "(":
                self._open()
            case ")":
                if not self.depth:
                    raise PatternInvalid("a bracket closes no group")
                self.depth -= 1
                self._emit(")", taken=1)
            case "*" | "+" | "?":
                self._quantifier(character, taken=1)
            case "{":
                self._brace()
            case "}" | "]":
                self._emit(f"\\{character}", taken=1)
            case "^" | "$" | "|":
                self._emit(character, taken=1, repeatable=False)
            case _:
                self._emit(character, taken=1)

    def _quantifier(self, text: str, *, taken: int) -> None:
        if not self.repeatable:
            raise PatternInvalid("there is nothing to repeat")
        if self.source[self.position + taken : self.position + taken + 1] == "?":
            text, taken = text + "?", taken + 1
        self._emit(text, taken=taken, repeatable=False)

    def _brace(self) -> None:
        count = _COUNT.match(self.source, self.position)
        if count is None:
            self._emit(r"\{", taken=1)
            return
        low, high = int(count[1]), int(count[3]) if count[3] else None
        if high is not None and high < low:
            raise PatternInvalid("a repetition's bounds are out of order")
        if max(low, high or 0) > REPEATS_MAX:
            raise PatternUnsupported(f"a repetition is beyond {REPEATS_MAX}")
        self._quantifier(count[0], taken=len(count[0]))

    def _open(self) -> None:
        rest = self.source[self.position :]
        self.depth += 1
        if rest.startswith(_LOOK_AROUND):
            raise PatternUnsupported("RE2 has no look-around")
        if rest.startswith("(?:"):
            self._emit("(?:", taken=3, repeatable=False)
        elif rest.startswith("(?"):
            name = _GROUP_NAME.match(rest)
            if name is None or name[1] in self.names:
                raise PatternInvalid("JavaScript knows no group of this kind; no inline flags")
            self.names.add(name[1])
            self._emit("(", taken=len(name[0]), repeatable=False)
        else:
            self._emit("(", taken=1, repeatable=False)

    def _escape(self) -> None:
        following = self.source[self.position + 1 : self.position + 2]
        if not following:
            raise PatternInvalid("the pattern ends in a backslash")
        if following in "bB":
            self._emit(f"\\{following}", taken=2, repeatable=False)
            return
        if following in "123456789" and int(self._digits()) <= self.groups:
            raise PatternUnsupported("RE2 has no references to groups")
        if following == "k" and self.named:
            raise PatternUnsupported("RE2 has no references to groups")
        text, taken = self._character_escape(self.position)
        self._emit(text, taken=taken)

    def _digits(self) -> str:
        found = re.match("[0-9]+", self.source[self.position + 1 :])
        return found[0] if found else "0"

    def _character_escape(self, position: int) -> tuple[str, int]:
        """What a backslash and the characters after it stand for, and how many they are."""
        following = self.source[position + 1]
        rest = self.source[position + 2 :]
        if following in _SAME_ESCAPES:
            return f"\\{following}", 2
        if following in "01234567":
            octal = re.match("[0-3]?[0-7]{1,2}", self.source[position + 1 :])
            assert octal is not None
            return f"\\x{{{int(octal[0], 8):x}}}", 1 + len(octal[0])
        if following == "c":
            if rest[:1].isascii() and rest[:1].isalpha():
                return f"\\x{{{ord(rest[0]) % 32:x}}}", 3
            return r"\\", 1
        for letter, length in (("x", 2), ("u", 4)):
            if following == letter and re.match(f"[0-9a-fA-F]{{{length}}}", rest):
                return f"\\x{{{rest[:length]}}}", 2 + length
        # Any other character stands for itself; RE2 refuses to escape letters that mean nothing.
        return _literal(following), 2

    def _class(self) -> None:
        end, items = self._class_items()
        inverted = self.source.startswith("[^", self.position)
        if not items:
            self._emit(_ANY if inverted else _NONE, taken=end - self.position)
            return
        text = _class_text(items)
        self._emit(f"[{'^' if inverted else ''}{text}]", taken=end - self.position)

    def _class_items(self) -> tuple[int, list[str]]:
        """The class's characters as RE2 writes them, one each, and where it ends."""
        position = self.position + (2 if self.source.startswith("[^", self.position) else 1)
        items: list[str] = []
        while position < len(self.source):
            character = self.source[position]
            if character == "]":
                return position + 1, items
            if character == "\\" and position + 1 < len(self.source):
                text, taken = self._class_escape(position)
            else:
                text, taken = (character if character == "-" else _in_class(character)), 1
            items.append(text)
            position += taken
        raise PatternInvalid("a class of characters is not closed")

    def _class_escape(self, position: int) -> tuple[str, int]:
        following = self.source[position + 1]
        if following == "b":
            return r"\x{8}", 2
        if following == "B":
            return "B", 2
        text, taken = self._character_escape(position)
        return (r"\-" if text == "-" else text), taken


def _class_text(items: list[str]) -> str:
    """Items with each lone `-` as what it is: a range, or itself."""
    written: list[str] = []
    number = 0
    while number < len(items):
        low, dash, high = [*items[number : number + 3], "", ""][:3]
        if dash == "-" and high:
            ends = [r"\-" if end == "-" else end for end in (low, high)]
            if any(end in _CLASS_ESCAPES for end in ends):
                written.append(f"{ends[0]}\\-{ends[1]}")
            else:
                written.append(f"{ends[0]}-{ends[1]}")
                _check_range(*ends)
            number += 3
        else:
            written.append(r"\-" if low == "-" else low)
            number += 1
    return "".join(written)


def _check_range(low: str, high: str) -> None:
    try:
        compile_pattern(f"[{low}-{high}]")
    except InvalidInput as error:
        raise PatternInvalid("a range of characters is out of order") from error


def _literal(character: str) -> str:
    if character == "-":
        return r"\-"
    if (
        character.isascii()
        and not (character.isalnum() or character in "_ /")
        and (character.isprintable())
    ):
        return f"\\{character}"
    return character


def _in_class(character: str) -> str:
    return f"\\{character}" if character in "[^" else character
