"""The words of an expression: read just far enough to know its names; no grammar of our own."""

import re
from dataclasses import dataclass
from enum import StrEnum

from sidecar.domain.errors import InvalidInput

BYTES_MAX = 1_024
DEPTH_MAX = 32
"""The library's parser recurses; 480 brackets overflow a stack of 256 KiB."""


class TokenKind(StrEnum):
    """What a word is. NUMBER is any number; INDEX one that may count into a list."""

    NAME = "name"
    KEYWORD = "keyword"
    STRING = "string"
    BYTES = "bytes"
    INDEX = "index"
    NUMBER = "number"
    SIGN = "sign"
    END = "end"


@dataclass(frozen=True, slots=True)
class Token:
    """One word and where it stands: `text[start:end]`."""

    kind: TokenKind
    text: str
    start: int
    end: int


_PLAIN = r'''"""(?:\\[\s\S]|[^\\])*?"""|"(?:\\[^\r\n]|[^\\"\r\n])*"'''
_PLAIN += "|" + _PLAIN.replace('"', "'")
# A backslash of a raw string escapes nothing, not even the quote.
_RAW = r'''"""[\s\S]*?"""|"[^"\r\n]*"'''
_RAW += "|" + _RAW.replace('"', "'")
_WORD = re.compile(
    rf"""
    (?P<skip>   [ \t\r\n\f]+ | //[^\n]* )
  | (?P<bytes>  [bB][rR](?:{_RAW}) | [bB](?:{_PLAIN}) )
  | (?P<string> [rR](?:{_RAW}) | (?:{_PLAIN}) )
  | (?P<keyword>(?:true|false|null|in)(?![A-Za-z0-9_]) )
  | (?P<name>   [A-Za-z_][A-Za-z0-9_]* )
  | (?P<number> 0x[0-9a-fA-F]+[uU]? | [0-9]+[uU] | [0-9]*\.[0-9]+(?:[eE][+-]?[0-9]+)?
              | [0-9]+[eE][+-]?[0-9]+ )
  | (?P<index>  [0-9]+ )
  | (?P<sign>   && | \|\| | == | != | <= | >= | [-+*/%!<>?:.,()\[\]{{}}] )
    """,
    re.VERBOSE,
)
_CLOSING = {")": "(", "]": "[", "}": "{"}


def tokenize(text: str) -> tuple[Token, ...]:
    """
    The words in order, without blanks and comments, closed by one END.

    Raises:
        InvalidInput: If a character begins no word, or brackets do not pair or nest too deep.
    """
    tokens: list[Token] = []
    open_brackets: list[str] = []
    position = 0
    while position < len(text):
        match = _WORD.match(text, position)
        if match is None or match.lastgroup is None:
            raise InvalidInput(_unreadable(text, position))
        if match.lastgroup != "skip":
            word = match.group()
            tokens.append(Token(TokenKind(match.lastgroup), word, position, match.end()))
            _pair(word, open_brackets)
        position = match.end()
    if open_brackets:
        raise InvalidInput(f"the expression has a {open_brackets[-1]!r} that is not closed")
    tokens.append(Token(TokenKind.END, "", position, position))
    return tuple(tokens)


def _pair(word: str, open_brackets: list[str]) -> None:
    if word in ("(", "[", "{"):
        open_brackets.append(word)
        if len(open_brackets) > DEPTH_MAX:
            raise InvalidInput(f"the expression nests deeper than {DEPTH_MAX} brackets")
    elif word in _CLOSING and (not open_brackets or open_brackets.pop() != _CLOSING[word]):
        raise InvalidInput(f"the expression has a {word!r} that closes nothing")


def _unreadable(text: str, position: int) -> str:
    if text[position] in "\"'":
        return f"the expression has a string at character {position + 1} that is not closed"
    return (
        f"the expression has {text[position]!r} at character {position + 1}, which begins no word"
    )


def closers(tokens: tuple[Token, ...]) -> dict[int, int]:
    """For each opening bracket's number the number of the bracket that closes it."""
    pairs: dict[int, int] = {}
    opened: list[int] = []
    for number, token in enumerate(tokens):
        if token.kind is TokenKind.SIGN and token.text in ("(", "[", "{"):
            opened.append(number)
        elif token.kind is TokenKind.SIGN and token.text in _CLOSING:
            pairs[opened.pop()] = number
    return pairs


def split(
    tokens: tuple[Token, ...], pairs: dict[int, int], low: int, high: int, sign: str
) -> list[tuple[int, int]]:
    """The parts of `tokens[low:high]` between signs that stand outside all brackets."""
    parts: list[tuple[int, int]] = []
    begin = number = low
    while number < high:
        token = tokens[number]
        if token.kind is TokenKind.SIGN and token.text == sign:
            parts.append((begin, number))
            begin = number + 1
        number = pairs.get(number, number) + 1
    parts.append((begin, high))
    return parts
