"""Which parts of a request are credentials: their values are shown to nobody."""

import re
from collections.abc import Iterable

from sidecar.domain.identity import ApiKeySource, HeaderSource, IdentitySource

HIDDEN = "(not shown)"
_CREDENTIAL = re.compile(
    r"auth|cookie|credential|key|passw|secret|session|signature|token", re.ASCII | re.IGNORECASE
)
_COUNTS = frozenset({"max_tokens", "max_completion_tokens", "max_output_tokens"})
SHOWN_CHARS_MAX = 120


class Redaction:
    """Shows values for people: credentials not at all, others cut to a length."""

    def __init__(self, identity: Iterable[IdentitySource]) -> None:
        """Take the policy's identity sources: the headers that they read are credentials."""
        self._headers = frozenset(
            name
            for source in identity
            if isinstance(source, ApiKeySource | HeaderSource)
            for name in source.headers
        )

    def hides(self, name: str) -> bool:
        """Whether the value under this name is a credential, or may be one."""
        if name in self._headers:
            return True
        return name not in _COUNTS and _CREDENTIAL.search(name) is not None

    def show(self, name: str, value: object) -> str:
        """The value under a name, in words."""
        if value is None:
            return "absent"
        return HIDDEN if self.hides(name) else shown(value)


def shown(value: object) -> str:
    """A value in words: what is long is cut, what is nested only counted."""
    if isinstance(value, dict):
        return f"an object of {len(value)} keys"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= SHOWN_CHARS_MAX else f"{text[:SHOWN_CHARS_MAX]}..."
