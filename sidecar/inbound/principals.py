"""
Who calls us: token files to principals, compared in constant time.

A token file has one token per line, then its options:

    <token> [name=kong-eu] [gateways=a,b] [customers=a,b] [usage:unheld]

Empty lines and lines that begin with # are skipped. Several lines are several tokens that
are valid at once: rotation adds a line, moves the senders over, then removes the old one.
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from sidecar.domain.errors import ConfigError
from sidecar.services.hold_terms import MeterPrincipal

TOKEN_LENGTH_MIN = 8
TOKEN_LENGTH_MAX = 512
_FILE_BYTES_MAX = 65_536
_TOKENS_MAX = 100
_TOKEN = re.compile(r"[!-~]+", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}", re.ASCII)
_UNHELD = "usage:unheld"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminPrincipal:
    """Who administers; the name keys its idempotency records, so a rotated token keeps it."""

    name: str = "admin"


P = TypeVar("P", MeterPrincipal, AdminPrincipal)


class Tokens(Generic[P]):
    """The tokens that are valid now, each with its principal; never shows a token."""

    def __init__(self, entries: Sequence[tuple[str, P]]) -> None:
        """Keep digests only: equal lengths make the comparison's time say nothing."""
        self._entries: tuple[tuple[bytes, P], ...] = tuple(
            (_digest(token), principal) for token, principal in entries
        )

    def __len__(self) -> int:
        """How many tokens are valid."""
        return len(self._entries)

    def find(self, presented: str) -> P | None:
        """The principal of a presented token, or None; always compares with every token."""
        digest = _digest(presented)
        found: P | None = None
        for known, principal in self._entries:
            if hmac.compare_digest(known, digest):
                found = principal
        return found


GatewayTokens = Tokens[MeterPrincipal]
AdminTokens = Tokens[AdminPrincipal]


def load_gateway_tokens(path: Path) -> GatewayTokens:
    """
    Read a gateway token file.

    Raises:
        ConfigError: If it cannot be read or a line cannot be used; tokens are never quoted.
    """
    return parse_gateway_tokens(_read(path), source=str(path))


def load_admin_tokens(path: Path) -> AdminTokens:
    """Read an admin token file. Raises ConfigError; tokens are never quoted."""
    return parse_admin_tokens(_read(path), source=str(path))


def parse_gateway_tokens(text: str, *, source: str = "gateway tokens") -> GatewayTokens:
    """Tokens of gateways and other senders of usage. Raises ConfigError naming source:line."""
    return Tokens(_parse(text, source, MeterPrincipal(name="gateway"), _gateway_option))


def parse_admin_tokens(text: str, *, source: str = "admin tokens") -> AdminTokens:
    """Tokens of administrators; the only option is name=. Raises ConfigError."""
    return Tokens(_parse(text, source, AdminPrincipal(), _admin_option))


def bearer_token(authorization: str) -> str | None:
    """The token of an Authorization value, or None if it is no Bearer one."""
    scheme, _, token = authorization.strip().partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token or len(token) > TOKEN_LENGTH_MAX:
        return None
    return token


def is_name(text: str) -> bool:
    """Whether the text may name a gateway, a customer or a principal."""
    return _NAME.fullmatch(text) is not None


def _digest(token: str) -> bytes:
    # Header values may hold any octet, decoded with surrogates; none of those is a token.
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{path}: the token file cannot be read: {error.strerror}") from error
    if len(data) > _FILE_BYTES_MAX:
        raise ConfigError(f"{path}: a token file has at most {_FILE_BYTES_MAX} bytes")
    try:
        return data.decode("ascii")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: a token file holds ASCII only") from error


def _parse(
    text: str, source: str, default: P, apply: Callable[[P, str], P | None]
) -> list[tuple[str, P]]:
    entries: list[tuple[str, P]] = []
    seen: set[str] = set()
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        where = f"{source}:{number}"
        token = _check_token(words[0], where)
        if token in seen:
            raise ConfigError(f"{where}: this token stands in an earlier line too")
        seen.add(token)
        principal = default
        for word in words[1:]:
            changed = apply(principal, word)
            if changed is None:
                # The word is not quoted: it may be a second token on the line.
                raise ConfigError(f"{where}: an option cannot be used; {_allowed(default)}")
            principal = changed
        entries.append((token, principal))
    if not entries:
        raise ConfigError(f"{source}: the token file holds no token")
    if len(entries) > _TOKENS_MAX:
        raise ConfigError(f"{source}: at most {_TOKENS_MAX} tokens are allowed")
    return entries


def _check_token(token: str, where: str) -> str:
    if not TOKEN_LENGTH_MIN <= len(token) <= TOKEN_LENGTH_MAX or not _TOKEN.fullmatch(token):
        raise ConfigError(
            f"{where}: a token has {TOKEN_LENGTH_MIN} to {TOKEN_LENGTH_MAX} "
            "printable ASCII characters without spaces"
        )
    return token


def _allowed(default: MeterPrincipal | AdminPrincipal) -> str:
    if isinstance(default, AdminPrincipal):
        return "allowed: name=NAME"
    return f"allowed: name=NAME, gateways=A,B, customers=A,B, {_UNHELD}"


def _gateway_option(principal: MeterPrincipal, word: str) -> MeterPrincipal | None:
    if word == _UNHELD:
        return replace(principal, may_send_unheld=True)
    key, _, value = word.partition("=")
    names = value.split(",")
    if not all(is_name(name) for name in names):
        return None
    match key:
        case "name" if len(names) == 1:
            return replace(principal, name=value)
        case "gateways":
            return replace(principal, gateways=frozenset(names))
        case "customers":
            return replace(principal, customers=frozenset(names))
    return None


def _admin_option(principal: AdminPrincipal, word: str) -> AdminPrincipal | None:
    key, _, value = word.partition("=")
    if key != "name" or not is_name(value):
        return None
    return replace(principal, name=value)
