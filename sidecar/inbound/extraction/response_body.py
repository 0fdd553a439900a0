"""A provider's usage object in a whole response body, for tests of meters."""

from collections.abc import Mapping
from typing import Any

from sidecar.inbound.extraction.token_usage import (
    ExtractedUsage,
    UsageKey,
    UsageSources,
    extract_usage,
)

_CHAT = {
    UsageKey.PROMPT: ("prompt_tokens",),
    UsageKey.COMPLETION: ("completion_tokens",),
    UsageKey.TOTAL: ("total_tokens",),
    UsageKey.CACHED: ("prompt_tokens_details", "cached_tokens"),
    UsageKey.REASONING: ("completion_tokens_details", "reasoning_tokens"),
}
_RESPONSES = {
    UsageKey.RESPONSE_INPUT: ("input_tokens",),
    UsageKey.RESPONSE_OUTPUT: ("output_tokens",),
    UsageKey.RESPONSE_CACHED: ("input_tokens_details", "cached_tokens"),
    UsageKey.RESPONSE_REASONING: ("output_tokens_details", "reasoning_tokens"),
}
_MESSAGES = {
    UsageKey.INPUT: ("input_tokens",),
    UsageKey.OUTPUT: ("output_tokens",),
    UsageKey.CACHE_READ: ("cache_read_input_tokens",),
    UsageKey.CACHE_CREATION: ("cache_creation_input_tokens",),
}
_GEMINI = {
    UsageKey.GEMINI_PROMPT: ("promptTokenCount",),
    UsageKey.GEMINI_CANDIDATES: ("candidatesTokenCount",),
    UsageKey.GEMINI_THOUGHTS: ("thoughtsTokenCount",),
    UsageKey.GEMINI_CACHED: ("cachedContentTokenCount",),
}


def raw_usage(body: Any) -> Mapping[str, Any] | None:
    """The usage object as the provider wrote it, or None."""
    if not isinstance(body, Mapping):
        return None
    for name in ("usage", "usageMetadata"):
        found = body.get(name)
        if isinstance(found, Mapping):
            return found
    return None


def usage_of_body(body: Any) -> ExtractedUsage:
    """
    Token counts of a whole JSON response of OpenAI, Anthropic, Gemini or who speaks like them.

    Raises:
        InvalidInput: If the usage object holds what is no count.
    """
    usage = raw_usage(body)
    if usage is None:
        return extract_usage(UsageSources())
    keys = _keys(body, usage)
    found: dict[str, object] = {
        key: value for key, path in keys.items() if (value := _at(usage, path)) is not None
    }
    return extract_usage(UsageSources(sse=found))


def _keys(body: Mapping[str, Any], usage: Mapping[str, Any]) -> Mapping[UsageKey, tuple[str, ...]]:
    if "usageMetadata" in body:
        return _GEMINI
    if "prompt_tokens" in usage or "completion_tokens" in usage:
        return _CHAT
    # Both say input_tokens, but Anthropic's leaves out what its cache read or wrote.
    responses = body.get("object") == "response" or "input_tokens_details" in usage
    return _RESPONSES if responses else _MESSAGES


def _at(usage: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = usage
    for step in path:
        value = value.get(step) if isinstance(value, Mapping) else None
    return value
