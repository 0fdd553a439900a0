"""
What a request's JSON body promises about the largest possible usage.

A bound is given only where no response can exceed it; everything else is left to the
policy's estimate. The rules, for OpenAI's chat, completions, responses and embeddings and
for Anthropic's messages:

- Input: a token is at least one byte of text, so a body of text alone has at most as many
  tokens as bytes. Tools and schemas make a provider add a prompt of its own: a stated
  allowance for it. Images, audio, files, URLs, searches, stored prompts and conversations
  bring what the body does not show: no bound.
- Output: the largest limit that the body states for its kind of call, times the number of
  answers asked for.
- A body that is cut, compressed, no JSON, or says something twice may be read otherwise by
  the provider: no bounds. The model stays only where it is certain; where it is not, the body
  counts as unread, and the policy assumes its largest model.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sidecar.domain.errors import InvalidInput
from sidecar.domain.request_body import has_many_parts, is_encoded, names_other_charset
from sidecar.domain.requests import AccessRequest, RequestFacts, normalise_path
from sidecar.domain.usage import QUANTITY_MAX
from sidecar.inbound.extraction.content import TOP_LEVEL_REMOTE, is_text, tools_are_text
from sidecar.inbound.extraction.text import printable

CHOICES_MAX = 1_024
TOOL_PROMPT_TOKENS = 1_000
"""
More than any provider's own prompt for tools or schemas.

Source: Anthropic's "Pricing for tool use" lists 159 to 530 tokens, 2025.
"""

_CHAT_LIMITS = ("max_tokens", "max_completion_tokens")
_RESPONSES_LIMITS = ("max_output_tokens",)
_LIMITS = (*_CHAT_LIMITS, *_RESPONSES_LIMITS)
_MULTIPLIERS = ("n", "best_of")
_PROMPTED = frozenset({"tools", "functions", "response_format", "output_format", "text"})
_CONTENT = (
    "messages",
    "input",
    "prompt",
    "system",
    "instructions",
    "prediction",
    "suffix",
    # As Gemini, Cohere and those who speak like them write it.
    "contents",
    "systemInstruction",
    "system_instruction",
    "message",
    "chat_history",
    "documents",
    "inputs",
)
_FOLDED_CONTENT = frozenset(name.casefold() for name in _CONTENT)
_PRICING = frozenset({"model", "models", "prompt", *_MULTIPLIERS})
"""Keys that decide on the price or on the number of answers."""
_DECISIVE = _PRICING | frozenset(_LIMITS)
_ONCE_IN_THIS_CASE = _DECISIVE | TOP_LEVEL_REMOTE | _FOLDED_CONTENT
_UNREAD = RequestFacts(unread=True)


@dataclass(frozen=True, slots=True)
class _Document:
    """A parsed body; `uncertain` are top-level keys that a provider could read differently."""

    values: Mapping[str, Any]
    repeats: bool
    uncertain: frozenset[str]


def read_request_facts(request: AccessRequest) -> RequestFacts:
    """
    Read the bounds that a request's body promises.

    Raises:
        InvalidInput: If a limit or a multiplier is no whole number in its range; `field` names
            it. Nothing else is raised, whatever the body is.
    """
    if not request.body_complete:
        return _UNREAD
    if not request.body:
        return RequestFacts()
    if is_encoded(request) or names_other_charset(request) or has_many_parts(request.body):
        return _UNREAD
    document = _parse(request.body)
    if document is None:
        return _UNREAD
    values = document.values
    limits = {name: _whole(values, name, 0, QUANTITY_MAX) for name in _LIMITS}
    choices = _choices(values)
    if document.uncertain & _PRICING or "models" in values:
        return _UNREAD
    model = values.get("model")
    name = printable(model) if isinstance(model, str) else ""
    if document.repeats or document.uncertain:
        return RequestFacts(model=name, choices=choices)
    output = _output_limit(values, limits)
    if output is None and _is_embedding(request, values):
        output = 0
    if output is not None:
        output *= choices
        if output > QUANTITY_MAX:
            raise InvalidInput("the output limit times n is out of range", field="n")
    return RequestFacts(
        model=name,
        input_bound=_input_bound(values, len(request.body)),
        output_bound=output,
        choices=choices,
    )


class _Objects:
    """Builds a document's objects, innermost first, and notices repeated keys at any depth."""

    def __init__(self) -> None:
        self.repeats = False
        self.outermost: list[tuple[str, Any]] = []

    def build(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        self.outermost = pairs
        found = dict(pairs)
        self.repeats = self.repeats or len(found) != len(pairs)
        return found


def _parse(body: bytes) -> _Document | None:
    """
    The body as one JSON object, or None.

    By the standard library's parser: a faster one does not show repeated keys.
    """
    objects = _Objects()
    try:
        values = json.loads(
            body.decode("utf-8"), object_pairs_hook=objects.build, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict):
        return None
    return _Document(values, objects.repeats, _uncertain(objects.outermost))


def _refuse_constant(_name: str) -> float:
    raise ValueError("NaN and infinities are no JSON")


def _uncertain(pairs: Sequence[tuple[str, Any]]) -> frozenset[str]:
    """
    Keys, case folded, that stand twice or in another case than the one that counts.

    Go's decoder, which many upstreams use, matches keys without regard to case.
    """
    seen: set[str] = set()
    uncertain: set[str] = set()
    for key, _ in pairs:
        folded = key.casefold()
        other_case = folded != key and key not in _CONTENT and folded in _ONCE_IN_THIS_CASE
        if folded in seen or other_case:
            uncertain.add(folded)
        seen.add(folded)
    return frozenset(uncertain)


def _whole(values: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    value = values.get(name)
    if value is None:
        return None
    if type(value) is not int or not least <= value <= most:
        raise InvalidInput(f"{name} must be a whole number from {least} to {most}", field=name)
    return value


def _choices(values: Mapping[str, Any]) -> int:
    """How many answers are generated: best_of ones for each of n, for each prompt of a batch."""
    choices = 1
    for name in _MULTIPLIERS:
        choices *= _whole(values, name, 1, CHOICES_MAX) or 1
    prompt = values.get("prompt")
    if isinstance(prompt, list) and any(not isinstance(part, int) for part in prompt):
        choices *= len(prompt)
    return choices


def _output_limit(values: Mapping[str, Any], limits: Mapping[str, int | None]) -> int | None:
    """
    The largest limit that this kind of call obeys.

    A limit of another kind is not one: a provider that does not know a key skips it.
    """
    kinds: list[tuple[str, ...]] = []
    if "messages" in values or "prompt" in values:
        kinds.append(_CHAT_LIMITS)
    if "input" in values:
        kinds.append(_RESPONSES_LIMITS)
    largest = 0
    for kind in kinds or [_LIMITS]:
        stated = [limit for name in kind if (limit := limits[name]) is not None]
        if not stated:
            return None
        largest = max(largest, *stated)
    return largest


def _is_embedding(request: AccessRequest, values: Mapping[str, Any]) -> bool:
    """Whether the call returns vectors and no tokens."""
    if "input" not in values or "messages" in values or "prompt" in values:
        return False
    return normalise_path(request.path).endswith("/embeddings")


def _input_bound(values: Mapping[str, Any], body_bytes: int) -> int | None:
    present = {key for key, value in values.items() if value is not None}
    if present & TOP_LEVEL_REMOTE or not tools_are_text(values.get("tools")):
        return None
    if not all(is_text(values[key]) for key in _CONTENT if key in present):
        return None
    return body_bytes + (TOOL_PROMPT_TOKENS if present & _PROMPTED else 0)
