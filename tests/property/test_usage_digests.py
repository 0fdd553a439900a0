"""Digests of usage are stored for days: however they are made, they stay the same."""

import hashlib
import json

from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.domain.usage import QUANTITY_MAX, TokenUsage
from sidecar.domain.usage_digests import digest_of

counts = st.none() | st.integers(0, QUANTITY_MAX // 4)
texts = st.text(st.characters(codec=None), max_size=12)


def plainly(lines, model, status, usage) -> str:
    """As the first version wrote it."""
    facts = {
        "lines": sorted((meter, quantity) for meter, quantity in lines if quantity),
        "model": model,
        "status": (status or 0) // 100,
        "tokens": (usage.input, usage.output),
        "total": usage.known_total,
        "parts": (usage.cache_read or 0, usage.cache_creation or 0, usage.reasoning or 0),
    }
    content = json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(content).hexdigest()[:32]


@given(
    st.dictionaries(texts, st.integers(-(2**70), 2**70), max_size=4),
    texts,
    st.none() | st.integers(0, 999),
    st.builds(TokenUsage, input=counts, output=counts, total=counts),
)
@example({"m": 1}, "\x7f", 200, TokenUsage())
@example({"m": 1}, "\ud800", 200, TokenUsage())
@example({"m": 1}, "caf\xe9 </script>\x00\x1f", 200, TokenUsage())
@example({"m": 2**70}, "", None, TokenUsage(input=1, output=2, cache_read=1, reasoning=2))
def test_a_digest_is_what_it_always_was(lines, model, status, usage):
    assert digest_of(lines.items(), model, status, usage) == plainly(
        lines.items(), model, status, usage
    )
