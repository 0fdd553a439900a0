"""What makes two events about one hold say the same, from the parts that the ledger keeps too."""

import hashlib
import json
from collections.abc import Iterable

from sidecar.domain.usage import TokenUsage

_STATUS_CLASS = 100


def digest_of(
    lines: Iterable[tuple[str, int]], model: str, status: int | None, usage: TokenUsage
) -> str:
    """
    Hash quantities by meter, model, class of status and token counts.

    A meter that counted nothing says nothing: the ledger has no line for it.
    """
    facts = {
        "lines": sorted((meter, quantity) for meter, quantity in lines if quantity),
        "model": model,
        "status": (status or 0) // _STATUS_CLASS,
        "tokens": (usage.input, usage.output),
        # A sum that is stated and one that follows from its parts say the same.
        "total": usage.known_total,
        "parts": (usage.cache_read or 0, usage.cache_creation or 0, usage.reasoning or 0),
    }
    content = json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(content).hexdigest()[:32]
