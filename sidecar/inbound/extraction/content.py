"""Whether the content of an LLM request is text alone, so that its bytes bound its tokens."""

from collections.abc import Mapping
from typing import Any

DEPTH_MAX = 16

TOP_LEVEL_REMOTE = frozenset(
    {
        "assistant_id",
        "attachments",
        "cached_content",
        "cachedcontent",
        "connectors",
        "container",
        "context_id",
        "conversation",
        "data_sources",
        "document",
        "enable_search",
        "file",
        "file_id",
        "file_ids",
        "files",
        "image",
        "image_url",
        "images",
        "mcp_servers",
        "plugins",
        "previous_response_id",
        "search_parameters",
        "session_id",
        "thread_id",
        "url",
        "urls",
        "video",
        "video_url",
        "web_search",
        "web_search_options",
    }
)
"""Top-level keys that bring in text the body does not show; case folded."""

_TEXT_TYPES = frozenset(
    {
        "content",
        "custom_tool_call",
        "custom_tool_call_output",
        "function",
        "function_call",
        "function_call_output",
        "input_text",
        "message",
        "output_text",
        "refusal",
        "summary_text",
        "text",
        "thinking",
        "tool_result",
        "tool_use",
    }
)

_PAYLOADS = (
    "arguments",
    "content",
    "function",
    "function_call",
    "input",
    "output",
    "parts",
    "refusal",
    "text",
    "thinking",
    "tool_calls",
)
_FREE_FORM = frozenset({"annotations", "arguments", "cache_control", "input", "logprobs"})
"""Values that providers render as the JSON they are, or not at all."""

_KEYS = frozenset(_PAYLOADS) | frozenset(
    {
        "annotations",
        "cache_control",
        "call_id",
        "id",
        "index",
        "is_error",
        "logprobs",
        "name",
        "prefix",
        "reasoning",
        "reasoning_content",
        "role",
        "signature",
        "status",
        "tool_call_id",
        "tool_use_id",
        "type",
    }
)


def is_text(value: object, depth: int = 0) -> bool:
    """
    Whether a message, a part, a prompt, or a list of them shows all its text.

    What is not known to be text is not text.
    """
    if depth > DEPTH_MAX:
        return False
    if isinstance(value, list):
        return all(is_text(part, depth + 1) for part in value)
    if isinstance(value, dict):
        return _part_is_text(value, depth)
    return True


def tools_are_text(tools: object) -> bool:
    """Whether all tools are the caller's own functions; others search, read files, or run."""
    if tools is None:
        return True
    if not isinstance(tools, list):
        return False
    return all(isinstance(tool, dict) and _is_function(tool) for tool in tools)


def _is_function(tool: Mapping[str, Any]) -> bool:
    kind = tool.get("type")
    if kind == "function":
        return True
    # Anthropic's own kinds (web_search_20250305, bash_...) have a type and no schema.
    return kind in (None, "custom") and "input_schema" in tool


def _part_is_text(part: Mapping[str, Any], depth: int) -> bool:
    kind = part.get("type")
    if kind is not None and (not isinstance(kind, str) or kind not in _TEXT_TYPES):
        return False
    if any(key not in _KEYS for key, value in part.items() if value is not None):
        return False
    if "id" in part and not any(key in part for key in _PAYLOADS):
        return False  # A reference to something that the provider has stored.
    return all(is_text(value, depth + 1) for key, value in part.items() if key not in _FREE_FORM)
