"""
One YAML file to a tree of nodes that know their line.

The parser's events are counted before a tree is built: libyaml composes recursively in C, so
a file of a few hundred thousand brackets would end the process. Anchors and aliases are
refused, since a few lines of them unfold into gigabytes.
"""

from collections.abc import Iterator
from typing import Protocol

import yaml

from sidecar.outbound.policy_files.places import Place, Problems

FILE_BYTES_MAX = 10_000_000
DEPTH_MAX = 20
DEPTH_UNSENDABLE_MAX = 200
"""Where a policy is only judged, the bodies of its answers may be deeper."""
NODES_MAX = 2_000_000


class _Mark(Protocol):
    line: int
    column: int


def compose_document(
    file: str, data: bytes, problems: Problems, *, depth_max: int = DEPTH_MAX
) -> yaml.Node | None:
    """
    Parse one file.

    Args:
        file: Its name in messages.
        data: Its bytes, UTF-8.
        problems: Where to note what is wrong.
        depth_max: How many levels it may have.

    Returns:
        The document's root, or None where there is none or it cannot be used.
    """
    if len(data) > FILE_BYTES_MAX:
        problems.add(Place(file, 1, 1), f"the file is larger than {FILE_BYTES_MAX} bytes")
        return None
    text = _decode(file, data, problems)
    if text is None:
        return None
    try:
        if not _within_limits(file, yaml.CSafeLoader(text), problems, depth_max):
            return None
        root: yaml.Node | None = yaml.CSafeLoader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        _note_syntax(file, error, problems)
        return None
    except yaml.reader.ReaderError as error:
        # Raised for control characters; it tells an offset only.
        problems.add(
            _place_at(file, text[: error.position]), f"the file is not YAML: {error.reason}"
        )
        return None
    return root


def place_of(file: str, node: yaml.Node) -> Place:
    """Where a node begins."""
    return _place(file, node.start_mark)


def _decode(file: str, data: bytes, problems: Problems) -> str | None:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig", errors="replace")
        problems.add(_place_at(file, before), "the file is not UTF-8 text; save it as UTF-8")
        return None


def _within_limits(file: str, loader: yaml.CSafeLoader, problems: Problems, depth_max: int) -> bool:
    """Whether building the tree is safe: no anchors, bounded depth and size."""
    depth = 0
    for count, event in enumerate(_events(loader)):
        if isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        message = _limit_message(event, depth, count, depth_max)
        if message:
            assert event.start_mark is not None
            problems.add(_place(file, event.start_mark), message)
            return False
    return True


def _events(loader: yaml.CSafeLoader) -> Iterator[yaml.Event]:
    while (event := loader.get_event()) is not None:
        yield event


def _limit_message(event: yaml.Event, depth: int, count: int, depth_max: int) -> str:
    if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
        return "anchors (&) and aliases (*) are not allowed; write the value out, or quote the text"
    if depth > depth_max:
        return f"the file is nested deeper than {depth_max} levels"
    if count > NODES_MAX:
        return f"the file has more than {NODES_MAX} values"
    return ""


def _note_syntax(file: str, error: yaml.MarkedYAMLError, problems: Problems) -> None:
    mark = error.problem_mark or error.context_mark
    place = Place(file, 1, 1) if mark is None else _place(file, mark)
    if isinstance(error, yaml.composer.ComposerError):
        problems.add(place, "a second YAML document begins here; use one document per file")
        return
    context = f" ({error.context})" if error.context else ""
    hint = ""
    if error.context in ("while scanning an alias", "while scanning an anchor"):
        hint = "; put text that begins with * or & in quotes"
    problems.add(place, f"the file is not YAML: {error.problem}{context}{hint}")


def _place(file: str, mark: _Mark) -> Place:
    return Place(file, mark.line + 1, mark.column + 1)


def _place_at(file: str, before: str) -> Place:
    """The place that follows a text."""
    return Place(file, before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)
