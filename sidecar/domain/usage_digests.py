"""What makes two events about one hold say the same, from the parts that the ledger keeps too."""

import hashlib
import json
from collections.abc import Iterable, Mapping

import msgspec

from sidecar.domain.usage import TokenUsage

_STATUS_CLASS = 100
_DELETE = b"\x7f"


def digest_of(
    lines: Iterable[tuple[str, int]], model: str, status: int | None, usage: TokenUsage
) -> str:
    """
    Hash quantities by meter, model, class of status and token counts.

    A meter that counted nothing says nothing: the ledger has no line for it.
    """
    facts = {  # In the order of their names, as the canonical text has them.
        "lines": sorted([(meter, quantity) for meter, quantity in lines if quantity]),
        "model": model,
        "parts": (usage.cache_read or 0, usage.cache_creation or 0, usage.reasoning or 0),
        "status": (status or 0) // _STATUS_CLASS,
        "tokens": (usage.input, usage.output),
        # A sum that is stated and one that follows from its parts say the same.
        "total": usage.known_total,
    }
    return hashlib.sha256(_canonical(facts)).hexdigest()[:32]


def _canonical(facts: Mapping[str, object]) -> bytes:
    """
    JSON in ASCII without spaces: digests of it are stored, so it never changes.

    msgspec takes a tenth of the time, and writes the same but for what cannot be printed in ASCII.
    """
    try:
        content = msgspec.json.encode(facts)
    except (UnicodeEncodeError, OverflowError):
        content = _DELETE  # A lone surrogate, or a number of more than 64 bits.
    if content.isascii() and _DELETE not in content:
        return content
    return json.dumps(facts, separators=(",", ":")).encode()
