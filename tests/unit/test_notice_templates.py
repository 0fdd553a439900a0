"""Templates: the shipped ones say something of each kind, and a bad one costs no notice."""

import os
import re
from pathlib import Path

import pytest
from fixtures.notice_parts import AT, notice
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from sidecar import telemetry
from sidecar.domain.notices import Notice, NoticeKind
from sidecar.outbound.notify.samples import sample_notices
from sidecar.outbound.notify.templates import SHIPPED, SUBJECT_CHARS_MAX, NoticeTemplates

SAMPLES = sample_notices(AT)
KIND = NoticeKind.THRESHOLD_REACHED


def with_template(folder: Path, name: str, text: str) -> NoticeTemplates:
    (folder / name).write_text(text)
    return NoticeTemplates("My AI API", folder)


def failures(part: str) -> float:
    return telemetry.NOTICE_TEMPLATE_FAILURES.labels(part)._value.get()


def test_each_kind_has_its_shipped_subject_and_text():
    names = {path.name for path in SHIPPED.iterdir()}
    wanted = {f"{kind.value}{end}" for kind in NoticeKind for end in (".subject.txt", ".txt")}
    assert wanted | {"message.html", "message.slack.txt"} == names


@pytest.mark.parametrize("kind", list(NoticeKind))
def test_each_kind_is_said_in_each_form_without_an_error_or_an_amount(kind: NoticeKind):
    templates = NoticeTemplates("My AI API")
    with capture_logs() as logs:
        told = SAMPLES[kind]
        forms = [form(told) for form in (templates.subject, templates.text, templates.html)]
        forms.append(templates.slack(told))
    assert logs == []
    assert templates.problems({kind: told}) == []
    assert all(len(form) > 10 and "{" not in form for form in forms)
    assert all("12.00" not in form for form in forms)
    if told.customer_id:
        assert told.customer_id in forms[1]


def test_an_operators_template_wins_and_may_show_amounts(tmp_path: Path):
    templates = with_template(
        tmp_path,
        "credit.running_out.txt",
        "{{ customer_id }} has {{ amounts.available | amount }} {{ facts.currency }}",
    )
    told = SAMPLES[NoticeKind.CREDIT_RUNNING_OUT]
    assert templates.text(told) == "cus_example has 12.00 USD"
    # Html and Slack wrap that text, unless they have templates of their own.
    assert "cus_example has 12.00 USD" in templates.html(told)
    (tmp_path / "credit.running_out.html").write_text("<b>{{ text }}</b>")
    assert templates.html(told) == "<b>cus_example has 12.00 USD</b>"


def test_an_edited_template_is_taken_up_without_a_restart(tmp_path: Path):
    templates = with_template(tmp_path, f"{KIND.value}.txt", "first")
    assert templates.text(notice()) == "first"
    path = tmp_path / f"{KIND.value}.txt"
    path.write_text("second")
    os.utime(path, (1, 1))
    assert templates.text(notice()) == "second"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("one\ntwo {% if %}", 2, "TemplateSyntaxError"),
        ("one\n\n{{ facts.nothing }}", 3, "UndefinedError"),
        ("{{ facts.percent | amount }}", 1, "amount takes"),
        ("\n{{ 1 // 0 }}", 2, "ZeroDivisionError"),
        ("\n{% include 'gone.txt' %}", 2, "TemplateNotFound"),
        ("\n{{ facts.__class__.__mro__[1].__subclasses__() }}", 2, "SecurityError"),
        ("\n{% set x = facts.update({'a': 1}) %}", 2, "SecurityError"),
        ("{% include '../../../etc/passwd' %}", 1, "TemplateNotFound"),
        ("\n{% for i in range(1000000) %}x{% endfor %}", 2, "OverflowError"),
        ("{% for i in range(99999) %}xxxxxxxxxx{% endfor %}", None, "more than"),
    ],
)
def test_a_bad_template_is_told_with_its_place_counted_and_the_shipped_one_used(
    tmp_path: Path, text: str, line: int | None, words: str
):
    templates = with_template(tmp_path, f"{KIND.value}.txt", text)
    before = failures("text")
    with capture_logs() as logs:
        assert templates.text(notice()) == NoticeTemplates("My AI API").text(notice())
    assert failures("text") == before + 1
    (log,) = logs
    assert log["event"] == "template_failed"
    assert words in log["problem"]
    place = str(tmp_path / f"{KIND.value}.txt")
    assert log["place"].startswith(place)
    if line is not None:
        assert log["place"] == f"{place}:{line}"
    (problem,) = {str(one) for one in templates.problems({KIND: notice()})}
    assert str(problem).startswith(place)


def test_a_template_that_is_no_text_costs_no_notice(tmp_path: Path):
    (tmp_path / f"{KIND.value}.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / f"{KIND.value}.subject.txt").mkdir()
    templates = NoticeTemplates("My AI API", tmp_path)
    shipped = NoticeTemplates("My AI API")
    assert templates.text(notice()) == shipped.text(notice())
    assert templates.subject(notice()) == shipped.subject(notice())


def test_a_notice_without_its_facts_is_still_said():
    """Such as one of a customer who was erased."""
    bare = notice(1, facts={})
    templates = NoticeTemplates("My AI API")
    assert templates.subject(bare) == templates.text(bare) == "threshold.reached cus_a"


@given(st.dictionaries(st.sampled_from(sorted(notice().facts)), st.text(max_size=300)))
def test_no_fact_makes_markup_a_second_line_or_a_longer_subject(facts: dict[str, str]):
    clean = {name: text.replace("\0", "") for name, text in facts.items()}
    told: Notice = notice(1, facts=dict(notice().facts) | clean)
    templates = NoticeTemplates("My AI API")
    subject = templates.subject(told)
    assert len(subject) <= SUBJECT_CHARS_MAX
    assert len(subject.splitlines()) == 1
    shape = re.sub(r"[^<>]", "", templates.html(told))
    assert shape == re.sub(r"[^<>]", "", templates.html(notice())) or "\n\n" in "".join(
        clean.values()
    )
    assert not re.search(r"[<>]|&(?!amp;|lt;|gt;)", templates.slack(told))
