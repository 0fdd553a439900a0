"""
Token counts of a finished response, from whatever Envoy could tell, in the normal form.

Three sources, in this order: the typed usage of ai_protocol_manager (all dialects, already
in the normal form), the numbers that sse_to_metadata copied (each dialect keeps its own
keys and meaning), response headers. A source that has both input and output beats one that
has only a part; sources are never mixed, since they may not count the same thing.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec

from sidecar.domain.errors import InvalidInput
from sidecar.domain.thawing import quickly_made
from sidecar.domain.usage import QUANTITY_MAX, TokenUsage, check_quantity, token_usage
from sidecar.inbound.extraction.text import printable

DOUBLE_EXACT_MAX = 2**53
"""Beyond it a double no longer tells neighbours apart, so its count is not to be believed."""

SSE_JSON_BYTES_MAX = 16_384
_DIGITS_MAX = 20  # Of 2^64.
_STATUS_FAILED = "3"


class UsageKey(StrEnum):
    """
    Keys of the numbers that sse_to_metadata copies; each dialect keeps its own.

    They are not merged because they do not mean the same: Anthropic's input excludes its
    cache counts, OpenAI's includes them, Gemini's candidates exclude the thoughts.
    """

    # OpenAI chat completions: `usage` of the last chunk.
    PROMPT = "prompt_tokens"
    COMPLETION = "completion_tokens"
    TOTAL = "total_tokens"
    CACHED = "cached_tokens"
    REASONING = "reasoning_tokens"
    # OpenAI responses: `response.usage` of response.completed.
    RESPONSE_INPUT = "response_input_tokens"
    RESPONSE_OUTPUT = "response_output_tokens"
    RESPONSE_CACHED = "response_cached_tokens"
    RESPONSE_REASONING = "response_reasoning_tokens"
    # Anthropic messages: `message.usage` of message_start, `usage` of message_delta.
    INPUT = "input_tokens"
    OUTPUT = "output_tokens"
    CACHE_READ = "cache_read_input_tokens"
    CACHE_CREATION = "cache_creation_input_tokens"
    # Gemini: `usageMetadata` of every chunk, cumulative.
    GEMINI_PROMPT = "prompt_token_count"
    GEMINI_CANDIDATES = "candidates_token_count"
    GEMINI_THOUGHTS = "thoughts_token_count"
    GEMINI_CACHED = "cached_content_token_count"


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class AiUsage:
    """
    What ai_protocol_manager counted: decimal digits, or None where it saw nothing.

    `status` is the extraction status as a number (1 complete, 2 partial, 3 failed) or None.
    """

    input: str | None = None
    output: str | None = None
    cached: str | None = None
    cache_creation: str | None = None
    reasoning: str | None = None
    total: str | None = None
    status: str | None = None


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderUsage:
    """Values of the x-tokens-* response headers, as received."""

    total: str | None = None
    input: str | None = None
    output: str | None = None


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class UsageSources:
    """All that one log entry says about tokens; `sse` is JSON text or decoded numbers."""

    ai: AiUsage = field(default_factory=AiUsage)
    sse: str | Mapping[str, object] | None = None
    headers: HeaderUsage = field(default_factory=HeaderUsage)
    ai_model: str | bytes | None = None
    sse_model: str | bytes | None = None

    @property
    def model(self) -> str:
        """The model that served, made printable and cut; "" if nothing names it."""
        return printable(self.ai_model or self.sse_model or "")


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractedUsage:
    """Counts in the normal form; `from_header` says that only a header vouches for them."""

    usage: TokenUsage
    from_header: bool = False


def extract_usage(sources: UsageSources) -> ExtractedUsage:
    """
    Read the best source that says anything; no source at all is usage that says nothing.

    Raises:
        InvalidInput: If that source holds what is no count. Set it aside; it is never 0.
    """
    ai = _from_ai(sources.ai)
    if ai is not None and ai.input is not None and ai.output is not None:
        return ExtractedUsage(usage=ai)
    sse = _from_sse(sources.sse)
    if sse is not None and (ai is None or _is_whole(sse)):
        return ExtractedUsage(usage=sse)
    if ai is not None:
        return ExtractedUsage(usage=ai)
    usage = _from_headers(sources.headers)
    if usage is not None:
        return ExtractedUsage(usage=usage, from_header=True)
    return ExtractedUsage(usage=TokenUsage())


def _is_whole(usage: TokenUsage) -> bool:
    return usage.input is not None and usage.output is not None


def _from_ai(ai: AiUsage) -> TokenUsage | None:
    if ai.status == _STATUS_FAILED:
        return None
    input_, output = _count(ai.input, "ai_input"), _count(ai.output, "ai_output")
    total = _count(ai.total, "ai_total")
    if input_ is None and output is None and total is None:
        return None
    return token_usage(
        input=input_,
        output=_infer_output(input_, output, total),
        cache_read=_count(ai.cached, "ai_cached"),
        cache_creation=_count(ai.cache_creation, "ai_cache_creation"),
        reasoning=_count(ai.reasoning, "ai_reasoning"),
        total=total,
    )


def _from_headers(headers: HeaderUsage) -> TokenUsage | None:
    total = _count(headers.total, "x-tokens-used")
    input_ = _count(headers.input, "x-tokens-input")
    output = _count(headers.output, "x-tokens-output")
    if total is None and input_ is None and output is None:
        return None
    if total is not None:
        if (input_ or 0) + (output or 0) > total:
            raise InvalidInput("x-tokens-used is less than its parts", field="x-tokens-used")
        if input_ is not None and output is not None and input_ + output != total:
            raise InvalidInput("x-tokens-used is not the sum of its parts", field="x-tokens-used")
        input_ = _rest(total, output) if input_ is None else input_
        output = _rest(total, input_) if output is None else output
    return TokenUsage(input=input_, output=output, total=total)


def _from_sse(sse: str | Mapping[str, object] | None) -> TokenUsage | None:
    if sse is None:
        return None
    values = _decode_object(sse) if isinstance(sse, str) else sse
    counts = {key: _number(values[key], key) for key in UsageKey if values.get(key) is not None}
    partial: TokenUsage | None = None
    for read in _DIALECTS:
        usage = read(counts)
        if usage is not None and _is_whole(usage):
            return usage
        partial = partial or usage
    if partial is None and UsageKey.TOTAL in counts:
        return TokenUsage(total=counts[UsageKey.TOTAL])
    return partial


_Counts = Mapping[UsageKey, int]


def _openai_chat(counts: _Counts) -> TokenUsage | None:
    input_, output = counts.get(UsageKey.PROMPT), counts.get(UsageKey.COMPLETION)
    if input_ is None and output is None:
        return None
    total, reasoning = counts.get(UsageKey.TOTAL), counts.get(UsageKey.REASONING)
    if (
        reasoning
        and input_ is not None
        and output is not None
        and total == input_ + output + reasoning
    ):
        # Some who speak this dialect leave reasoning out of completion; their total shows it.
        output += reasoning
    return TokenUsage(
        input=input_,
        output=_infer_output(input_, output, total),
        cache_read=counts.get(UsageKey.CACHED),
        reasoning=reasoning,
        total=total,
    )


def _openai_responses(counts: _Counts) -> TokenUsage | None:
    input_ = counts.get(UsageKey.RESPONSE_INPUT)
    output = counts.get(UsageKey.RESPONSE_OUTPUT)
    if input_ is None and output is None:
        return None
    return TokenUsage(
        input=input_,
        output=output,
        cache_read=counts.get(UsageKey.RESPONSE_CACHED),
        reasoning=counts.get(UsageKey.RESPONSE_REASONING),
    )


def _anthropic(counts: _Counts) -> TokenUsage | None:
    """Anthropic's input excludes both cache counts."""
    input_, output = counts.get(UsageKey.INPUT), counts.get(UsageKey.OUTPUT)
    read = counts.get(UsageKey.CACHE_READ)
    creation = counts.get(UsageKey.CACHE_CREATION)
    if input_ is None and output is None:
        return None
    return TokenUsage(
        input=None if input_ is None else input_ + (read or 0) + (creation or 0),
        output=output,
        cache_read=read,
        cache_creation=creation,
    )


def _gemini(counts: _Counts) -> TokenUsage | None:
    """Gemini's candidates exclude the thoughts; its prompt includes what was cached."""
    input_ = counts.get(UsageKey.GEMINI_PROMPT)
    output = counts.get(UsageKey.GEMINI_CANDIDATES)
    thoughts = counts.get(UsageKey.GEMINI_THOUGHTS)
    if input_ is None and output is None and thoughts is None:
        return None
    if output is not None or thoughts is not None:
        output = (output or 0) + (thoughts or 0)
    return TokenUsage(
        input=input_,
        output=output,
        cache_read=counts.get(UsageKey.GEMINI_CACHED),
        reasoning=thoughts,
    )


_DIALECTS: tuple[Callable[[_Counts], TokenUsage | None], ...] = (
    _openai_chat,
    _openai_responses,
    _anthropic,
    _gemini,
)


def _infer_output(input_: int | None, output: int | None, total: int | None) -> int | None:
    """Embeddings have no output count; their total says that there was none."""
    if output is None and input_ is not None and total is not None:
        return _rest(total, input_)
    return output


def _rest(total: int, part: int | None) -> int | None:
    if part is None:
        return None
    if part > total:
        raise InvalidInput("a total is less than its part", field="usage.total")
    return total - part


def _count(text: str | None, name: str) -> int | None:
    """A count from decimal digits and nothing else: no sign, point, space or other script."""
    if text is None:
        return None
    if not text or len(text) > _DIGITS_MAX or not text.isascii() or not text.isdigit():
        raise InvalidInput(f"{name} is no whole number of at most {_DIGITS_MAX} digits", field=name)
    value = int(text)
    if value <= QUANTITY_MAX:
        return value
    check_quantity(value, field=name)
    return value


def _number(value: object, name: str) -> int:
    """A count from a JSON number or a double of Envoy's metadata."""
    if isinstance(value, float):
        if not math.isfinite(value) or value != int(value) or abs(value) > DOUBLE_EXACT_MAX:
            raise InvalidInput(f"{name} is no whole number below 2^53", field=name)
        value = int(value)
    if type(value) is not int:
        raise InvalidInput(f"{name} is no number", field=name)
    check_quantity(value, field=name)
    return value


def _decode_object(text: str) -> Mapping[str, Any]:
    if len(text) > SSE_JSON_BYTES_MAX:
        raise InvalidInput(f"sse_usage has more than {SSE_JSON_BYTES_MAX} characters")
    try:
        decoded = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise InvalidInput("sse_usage is no JSON", field="sse_usage") from error
    if not isinstance(decoded, dict):
        raise InvalidInput("sse_usage is no JSON object", field="sse_usage")
    return decoded
