"""Decode Stripe's bracketed form bodies: `a[b][0]=x` to nested values, typed by a schema."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

PAIRS_MAX = 1_000
DEPTH_MAX = 8

_KEY = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_NUMBER = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?")
_BOOLEANS = {"true": True, "false": False}


class FormError(ValueError):
    """
    A body that is no bracketed form.

    Attributes:
        param: The name as the caller wrote it, at most 100 characters, or None.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = None if param is None else param[:100]


def decode_form(text: str) -> dict[str, Any]:
    """
    Decode a query string or form body into nested dictionaries of strings.

    `a[b]=1` becomes {"a": {"b": "1"}}. A list stays a dictionary with the keys "0", "1", ...
    until `coerce` sees in the schema that it is one: `payload[0]=1` may be a map as well.
    Empty brackets (`expand[]=x`) take the next number.

    Raises:
        FormError: For bad escapes, malformed or repeated names, a name that is both a value and
            an object, more than PAIRS_MAX pairs, or deeper nesting than DEPTH_MAX.
    """
    try:
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=PAIRS_MAX)
    except ValueError as error:  # UnicodeDecodeError is one too.
        raise FormError("Invalid request: the body is not a form in UTF-8.") from error
    root: dict[str, Any] = {}
    for name, value in pairs:
        _insert(root, name, value)
    return root


def coerce(value: Any, schema: Mapping[str, Any]) -> Any:
    """
    Give decoded strings the types that the schema names, where they can have them.

    What cannot be converted is returned as it is, so that the schema check names it.
    """
    if "anyOf" in schema:
        for option in schema["anyOf"]:
            candidate = coerce(value, option)
            if _fits(candidate, option):
                return candidate
        return value
    if isinstance(value, str):
        return _coerce_scalar(value, schema.get("type"))
    if schema.get("type") == "array" and _is_list(value):
        items = schema.get("items", {})
        return [coerce(value[str(index)], items) for index in range(len(value))]
    known = schema.get("properties", {})
    other = schema.get("additionalProperties")
    fallback: Mapping[str, Any] = other if isinstance(other, Mapping) else {}
    return {name: coerce(item, known.get(name, fallback)) for name, item in value.items()}


def _insert(root: dict[str, Any], name: str, value: str) -> None:
    match = _KEY.fullmatch(name)
    if match is None:
        raise FormError("Invalid request: a parameter name is malformed.", name)
    path = [match[1], *re.findall(r"\[([^\[\]]*)\]", match[2])]
    if len(path) > DEPTH_MAX or "" in path[:-1]:
        raise FormError("Invalid request: a parameter name is malformed.", name)
    node = root
    for part in path[:-1]:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise FormError("Invalid request: a parameter is a value and an object.", name)
    leaf = path[-1] or str(len(node))
    if leaf in node:
        raise FormError("Invalid request: a parameter stands there twice.", name)
    node[leaf] = value


def _coerce_scalar(value: str, kind: object) -> Any:
    if kind == "integer" and _INTEGER.fullmatch(value):
        return int(value)
    if kind == "number" and _NUMBER.fullmatch(value):
        return float(value)  # Sizes and weights only; no amount in the schema is a number.
    if kind == "boolean":
        return _BOOLEANS.get(value, value)
    return value


def _is_list(value: Mapping[str, Any]) -> bool:
    return all(str(index) in value for index in range(len(value)))


def _fits(value: Any, option: Mapping[str, Any]) -> bool:
    if "enum" in option:
        return value in option["enum"]
    kinds = {"string": str, "integer": int, "array": list, "object": dict, "boolean": bool}
    expected = kinds.get(str(option.get("type")))
    return expected is None or type(value) is expected
