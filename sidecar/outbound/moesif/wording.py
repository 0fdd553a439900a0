"""
Texts with `{{name|default}}` to our templates, and an entity's values for them.

A rule without variables is not a template, so its braces are meant as they stand. Where a
rule has no values for anybody (for unidentified callers, outside a cohort) what each hole
becomes is known now, and the text is written out.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sidecar.domain.value_texts import value_text
from sidecar.outbound.moesif.findings import shown
from sidecar.outbound.moesif.reading import truthy

UNKNOWN = "UNKNOWN"
_HOLE = re.compile(r"\{\{([^{}|]+)(?:\|([^}]+))?\}\}")
_NUMBER = re.compile(r"[0-9]{1,4}", re.ASCII)
_BRACES = re.compile(r"[{}]+")
_NAME_MAX = 48
_VALUES = "values."
Note = Callable[[str, str], None]


@dataclass(slots=True)
class Wording:
    """
    One rule's templates.

    `templated` says that it has variables, `keys` are their names with the name that each has
    here. `odd` are holes whose default our templates cannot hold: by their name here, the
    variable and its default.
    """

    templated: bool
    keys: Mapping[str, str]
    note: Note
    odd: dict[str, tuple[str, str]] = field(default_factory=dict)
    used: dict[str, None] = field(default_factory=dict)

    def text(self, text: str, *, has_values: bool) -> str:
        """The text as one of our templates."""
        if not self.templated:
            return _escape(text)
        parts = list(_parts(text))
        written = [
            part if isinstance(part, str) else self._hole(*part, has_values=has_values)
            for part in parts
        ]
        return _joined(written)

    @staticmethod
    def plain(text: str) -> str:
        """A text that is no template, as one of ours."""
        return _escape(text)

    def value(self, value: Any, *, has_values: bool, in_list: bool = False) -> Any:
        """The same for every text inside a JSON value; keys stay as they are."""
        if isinstance(value, str):
            return self.text(value, has_values=has_values)
        if isinstance(value, list):
            if self.templated and not in_list:
                self.note("array-template", "the body has a list")
            return [self.value(item, has_values=has_values, in_list=True) for item in value]
        if isinstance(value, dict):
            return {
                key: self.value(item, has_values=has_values, in_list=in_list)
                for key, item in value.items()
            }
        return value

    def values_for(self, values: Any) -> dict[str, str]:
        """One entity's values, by the names that our templates use."""
        found: dict[str, str] = {}
        for name, key in self.keys.items():
            value = _lookup(values, name)
            if truthy(value):
                if not isinstance(value, str):
                    self.note("number-value", f"{{{{{name}}}}} is {shown(value)} for some entity")
                found[key] = value_text(value)
            elif value is not None:
                self.note(
                    "empty-value", f"the value of {{{{{name}}}}} is {value!r} for some entity"
                )
        for key, (name, default) in self.odd.items():
            found[key] = found.get(self.keys[name], default)
        wanted = {self.keys[name] for name in self.used} | set(self.odd)
        return {key: value for key, value in found.items() if key in wanted}

    def missing_in(self, values: Any) -> str:
        """The first variable that a text uses and an entity has no value for, or nothing."""
        return next((name for name in self.used if not truthy(_lookup(values, name))), "")

    def _hole(self, name: str, default: str | None, *, has_values: bool) -> "_Hole | str":
        default = UNKNOWN if default is None else default
        if default != UNKNOWN:
            self.note("template-default", f"{{{{{name}|{default}}}}}")
        key = self.keys.get(name)
        if key is None or not has_values:
            if key is None:
                self.note("missing-template-value", f"{{{{{name}}}}} is no variable of the rule")
            return default
        self.used[name] = None
        if default.strip() == default and not _BRACES.search(default):
            return _Hole(f"{{{{{key}|{default}}}}}")
        odd = f"{_VALUES}or-{len(self.odd) + 1}"
        self.odd[odd] = (name, default)
        return _Hole(f"{{{{{odd}}}}}")


class _Hole(str):
    """A finished hole, as opposed to text that may have to be escaped."""

    __slots__ = ()


def variable_keys(variables: Sequence[Any]) -> dict[str, str]:
    """Names of variables, each with the name that it has in our templates."""
    names = [
        value_text(item["name"]) for item in variables if isinstance(item, dict) and "name" in item
    ]
    keys: dict[str, str] = {}
    for name in names:
        if name in keys:
            continue
        if _NUMBER.fullmatch(name):
            keys[name] = name
            continue
        base = re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-")[:_NAME_MAX] or "value"
        key, count = f"{_VALUES}{base}", 1
        while key in keys.values():
            count += 1
            key = f"{_VALUES}{base}-{count}"
        keys[name] = key
    return keys


def _parts(text: str) -> Iterator[str | tuple[str, str | None]]:
    """The text between holes, and holes as (name, default)."""
    position = 0
    for hole in _HOLE.finditer(text):
        yield text[position : hole.start()]
        yield hole[1], hole[2]
        position = hole.end()
    yield text[position:]


def _joined(parts: Sequence[str]) -> str:
    """Text and holes as one template: braces beside a hole would change what it is."""
    merged: list[str] = []
    for part in parts:
        if merged and not isinstance(part, _Hole) and not isinstance(merged[-1], _Hole):
            merged[-1] += part
        else:
            merged.append(part)
    written = []
    for number, part in enumerate(merged):
        if isinstance(part, _Hole):
            written.append(str(part))
            continue
        written.append(_escape(part, after_hole=number > 0, before_hole=number + 1 < len(merged)))
    return "".join(written)


def _escape(text: str, *, after_hole: bool = False, before_hole: bool = False) -> str:
    """Text that means itself in a template."""

    def literal(braces: re.Match[str]) -> str:
        lone = len(braces[0]) == 1
        touches = (after_hole and braces.start() == 0) or (
            before_hole and braces.end() == len(text)
        )
        return braces[0] if lone and not touches else f'{{{{"{braces[0]}"}}}}'

    return _BRACES.sub(literal, text)


def _lookup(values: Any, name: str) -> Any:
    """A value by its name, or by its name as a path whose dots go inwards."""
    if isinstance(values, dict) and name in values:
        return values[name]
    found: Any = values
    for part in re.sub(r"\[([0-9]+)\]", r".\1", name).split("."):
        if isinstance(found, list) and part.isascii() and part.isdigit() and int(part) < len(found):
            found = found[int(part)]
        elif isinstance(found, dict) and part in found:
            found = found[part]
        else:
            return None
    return found
