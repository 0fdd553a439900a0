"""The house's rules about the sources themselves."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.settings import Settings

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path for path in (ROOT / "sidecar").rglob("*.py") if "wire" not in path.relative_to(ROOT).parts
)
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70
EXCUSE = "Length:"
"""A file that has to be longer, or has a longer function, says why after this word."""


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def lines_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    assert len(SOURCES) > 100
    return {str(path.relative_to(ROOT)): path.read_text() for path in SOURCES}


def test_no_file_and_no_function_is_longer_than_one_reads_at_once(texts: dict[str, str]):
    long = []
    for name, text in texts.items():
        if EXCUSE in text:
            continue
        count = len(text.splitlines())
        if count > FILE_LINES_MAX:
            long.append(f"{name}: {count} lines")
        long += [
            f"{name}:{node.lineno} {node.name}: {lines_of(node)} lines"
            for node in functions(ast.parse(text))
            if lines_of(node) > FUNCTION_LINES_MAX
        ]
    assert long == []


def test_no_module_is_called_utils():
    names = {path.stem for path in SOURCES} | {path.parent.name for path in SOURCES}
    assert not names & {"utils", "util", "helpers", "misc"}


def test_every_todo_has_its_issue(texts: dict[str, str]):
    found = [name for name, text in texts.items() if re.search(r"TODO(?!\(#\d+\))|FIXME|XXX", text)]
    assert found == []


def test_every_exception_from_the_linter_says_why(texts: dict[str, str]):
    bare = [
        f"{name}: {line.strip()}"
        for name, text in texts.items()
        for line in text.splitlines()
        if re.search(r"# noqa(: [A-Z]+\d+(, ?[A-Z]+\d+)*)?$", line)
        and "N818" not in line  # Explained once, at the first of the errors.
    ]
    assert bare == []


def test_nothing_catches_everything_and_goes_on_in_silence(texts: dict[str, str]):
    """Where all exceptions are caught, the handler counts, logs, or raises again."""
    silent = []
    for name, text in texts.items():
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.ExceptHandler):
                continue
            kind = ast.unparse(node.type) if node.type else "everything"
            if kind not in ("everything", "Exception", "BaseException"):
                continue
            body = ast.unparse(ast.Module(node.body, []))
            if not re.search(r"\braise\b|telemetry\.|_abort\(|_fail|_answer", body):
                silent.append(f"{name}:{node.lineno}: except {kind}")
    assert silent == []


def test_no_task_is_created_that_nobody_holds(texts: dict[str, str]):
    """The loop keeps weak references only: a task that is not kept may vanish."""
    dropped = [
        f"{name}:{node.lineno}"
        for name, text in texts.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and re.search(r"(asyncio|loop)\.(create_task|ensure_future)", ast.unparse(node.value.func))
    ]
    assert dropped == []


def test_time_of_day_is_asked_for_in_one_place(texts: dict[str, str]):
    asking = {
        name: len(found)
        for name, text in texts.items()
        if (found := re.findall(r"datetime\.(?:now|utcnow|today)\(|time\.time\(\)", text))
        and "standins" not in name
    }
    assert asking == {"sidecar/app/parts.py": 1}


def test_no_float_comes_near_an_amount(texts: dict[str, str]):
    """Names that end in nano are whole numbers: never divided, never a literal with a point."""
    division = re.compile(r"\w*(?:_nano|amount)\w*\s*/\s*[\w(]|float\(\s*\w*(?:nano|amount)")
    found = [
        f"{name}: {line.strip()}"
        for name, text in texts.items()
        for line in text.splitlines()
        if division.search(line.split("#")[0]) and "//" not in line and '"' not in line
    ]
    assert found == []
    for name, text in texts.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.keyword) and (node.arg or "").endswith("_nano"):
                assert not isinstance(getattr(node.value, "value", 0), float), (name, node.lineno)


def test_every_setting_is_used_by_something():
    """A setting that nothing reads would be believed to be in force."""
    sources = "\n".join(path.read_text() for path in SOURCES if path.name != "settings.py")
    idle = [
        name
        for name in Settings.model_fields
        if not re.search(rf"(settings|self)\.{name}\b", sources)
    ]
    assert idle == []


def test_every_document_that_the_readme_points_to_is_there():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), ROOT / "CONTRIBUTING.md"]
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert broken == []
