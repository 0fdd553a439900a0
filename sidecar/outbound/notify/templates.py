"""
What a notice says: Jinja templates in a sandbox, the operator's own before the shipped ones.

Parts of a kind are `KIND.subject.txt`, `KIND.txt`, `KIND.html` and `KIND.slack.txt`; where there is
no `KIND.html` or `KIND.slack.txt`, `message.html` and `message.slack.txt` wrap subject and text. A
template that cannot be used is told with file and line, counted, and the shipped one is used.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jinja2 import (
    BaseLoader,
    ChoiceLoader,
    FileSystemLoader,
    StrictUndefined,
    Template,
    TemplateError,
    TemplateSyntaxError,
)
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sidecar import telemetry
from sidecar.domain.money import format_amount
from sidecar.domain.notices import Notice, NoticeKind

SHIPPED: Final = Path(__file__).parent / "templates"
SUBJECT_CHARS_MAX: Final = 200
TEXT_CHARS_MAX: Final = 20_000
HTML_CHARS_MAX: Final = 100_000
SLACK_CHARS_MAX: Final = 3_000
_UNPRINTABLE: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateProblem:
    """A template that cannot be used: where, and what is wrong, in words without facts."""

    place: str
    problem: str

    def __str__(self) -> str:
        """As compilers say it."""
        return f"{self.place}: {self.problem}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A part of a message: its templates' names, the first that exists, and its bound."""

    label: str
    names: tuple[str, ...]
    chars_max: int


class NoticeTemplates:
    """Renders notices; bounded in length, never without an answer."""

    def __init__(self, name: str, templates_dir: Path | None = None) -> None:
        """
        Take the folder; templates are read when they are used, and again when they change.

        Args:
            name: Who speaks.
            templates_dir: The operator's own templates.
        """
        self._name = name
        self._dir = templates_dir
        shipped = FileSystemLoader(SHIPPED)
        own = shipped if templates_dir is None else _choice(templates_dir, shipped)
        self._own = _Environments(own)
        self._shipped = _Environments(shipped)

    def subject(self, notice: Notice) -> str:
        """One line without control characters."""
        part = _Part(
            label="subject",
            names=(f"{notice.kind.value}.subject.txt",),
            chars_max=SUBJECT_CHARS_MAX * 4,
        )
        text = self._render(part, notice, {}, lambda one: one.text)
        return " ".join(_UNPRINTABLE.sub(" ", text).split())[:SUBJECT_CHARS_MAX]

    def text(self, notice: Notice) -> str:
        """The plain text."""
        part = _Part(label="text", names=(f"{notice.kind.value}.txt",), chars_max=TEXT_CHARS_MAX)
        return _UNPRINTABLE.sub(" ", self._render(part, notice, {}, lambda one: one.text))

    def html(self, notice: Notice) -> str:
        """The same as a page; facts are escaped."""
        part = _Part(
            label="html",
            names=(f"{notice.kind.value}.html", "message.html"),
            chars_max=HTML_CHARS_MAX,
        )
        return self._render(part, notice, self._parts(notice), lambda one: one.html)

    def slack(self, notice: Notice) -> str:
        """Slack's markup; `&`, `<` and `>` of facts are escaped, so that none is a command."""
        part = _Part(
            label="slack",
            names=(f"{notice.kind.value}.slack.txt", "message.slack.txt"),
            # An escaped character must not be cut in two, so there is some room.
            chars_max=SLACK_CHARS_MAX * 4,
        )
        text = self._render(part, notice, self._parts(notice), lambda one: one.slack)
        return _cut_escaped(_UNPRINTABLE.sub(" ", text).strip(), SLACK_CHARS_MAX)

    def problems(self, notices: Mapping[NoticeKind, Notice]) -> list[TemplateProblem]:
        """What is wrong with the operator's own templates, tried with notices of each kind."""
        found: dict[str, TemplateProblem] = {}
        for notice in notices.values():
            parts = {"subject": "", "text": ""}
            for names, env in (
                ((f"{notice.kind.value}.subject.txt",), self._own.text),
                ((f"{notice.kind.value}.txt",), self._own.text),
                ((f"{notice.kind.value}.html", "message.html"), self._own.html),
                ((f"{notice.kind.value}.slack.txt", "message.slack.txt"), self._own.slack),
            ):
                try:
                    template = env.select_template(names)
                    _bounded(template, self._context(notice, parts), HTML_CHARS_MAX)
                except Exception as error:  # noqa: BLE001  A template may raise whatever it likes.
                    telemetry.NOTICE_TEMPLATE_FAILURES.labels("checked").inc()
                    problem = self._problem(error)
                    found[problem.place] = problem
        return list(found.values())

    def _parts(self, notice: Notice) -> dict[str, str]:
        return {"subject": self.subject(notice), "text": self.text(notice).strip()}

    def _render(
        self,
        part: _Part,
        notice: Notice,
        parts: Mapping[str, str],
        env: "Callable[[_Environments], ImmutableSandboxedEnvironment]",
    ) -> str:
        """The operator's own template, else the shipped one, else the bare fact."""
        context = self._context(notice, parts)
        for environments in (self._own, self._shipped):
            try:
                template = env(environments).select_template(part.names)
                return _bounded(template, context, part.chars_max)
            except Exception as error:  # noqa: BLE001  A template may raise whatever it likes.
                problem = self._problem(error)
                telemetry.NOTICE_TEMPLATE_FAILURES.labels(part.label).inc()
                telemetry.get_logger().error(
                    "template_failed", place=problem.place, problem=problem.problem
                )
        return f"{notice.kind.value} {notice.customer_id}".strip()

    def _context(self, notice: Notice, parts: Mapping[str, str]) -> dict[str, Any]:
        return {
            "name": self._name,
            "kind": notice.kind.value,
            "customer_id": notice.customer_id,
            "occurred_at": notice.occurred_at,
            "facts": dict(notice.facts),
            "amounts": dict(notice.amounts),
            **parts,
        }

    def _problem(self, error: Exception) -> TemplateProblem:
        """Where the operator finds it; of an error that is not Jinja's, its kind alone."""
        words = type(error).__name__
        if isinstance(error, TemplateError):
            words = f"{words}: {error.message or error}"[:300]
        if isinstance(error, TemplateSyntaxError):
            return TemplateProblem(
                place=f"{error.filename or error.name}:{error.lineno}", problem=words
            )
        if isinstance(error, TooLongError):
            return TemplateProblem(place=error.filename, problem=words)
        place = str(self._dir or SHIPPED)
        trace = error.__traceback__
        while trace is not None:
            # Jinja rewrites the frames of a template to its own file and line.
            filename = trace.tb_frame.f_code.co_filename
            if filename.endswith((".txt", ".html")):
                place = f"{filename}:{trace.tb_lineno}"
            trace = trace.tb_next
        return TemplateProblem(place=place, problem=words)


class _Environments:
    """One environment for each way to escape."""

    def __init__(self, loader: BaseLoader) -> None:
        self.text = _environment(loader)
        self.html = _environment(loader, autoescape=True)
        self.slack = _environment(loader, finalize=_escape_slack)


class TooLongError(TemplateError):
    """A template, by its file, that wrote more than a message may have."""

    def __init__(self, filename: str, chars_max: int) -> None:
        super().__init__(f"it writes more than {chars_max} characters")
        self.filename = filename


def _environment(
    loader: BaseLoader,
    *,
    autoescape: bool = False,
    finalize: Callable[[Any], Any] | None = None,
) -> ImmutableSandboxedEnvironment:
    env = ImmutableSandboxedEnvironment(
        loader=loader,
        undefined=StrictUndefined,
        autoescape=autoescape,
        finalize=finalize,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters["amount"] = _amount
    return env


def _choice(templates_dir: Path, shipped: BaseLoader) -> BaseLoader:
    return ChoiceLoader([FileSystemLoader(templates_dir), shipped])


def _bounded(template: Template, context: Mapping[str, Any], chars_max: int) -> str:
    """Render piece by piece, so that a template without an end of its own is stopped."""
    pieces, length = [], 0
    for piece in template.generate(context):
        length += len(piece)
        if length > chars_max:
            raise TooLongError(template.filename or str(template.name), chars_max)
        pieces.append(piece)
    return "".join(pieces)


def _amount(nano: object) -> str:
    if not isinstance(nano, int):
        raise TemplateError("amount takes one of `amounts`")
    return format_amount(nano)


def _escape_slack(value: object) -> str:
    """Source: https://docs.slack.dev/messaging/formatting-message-text#escaping."""
    return str(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _cut_escaped(text: str, chars_max: int) -> str:
    """At most so many characters, and no half of an escape at the end."""
    if len(text) <= chars_max:
        return text
    return re.sub(r"&[a-z]{0,3}$", "", text[:chars_max])
