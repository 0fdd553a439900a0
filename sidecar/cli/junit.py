"""Results of rules' tests as JUnit XML, which CI systems show."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from xml.etree import ElementTree as ET

from sidecar.domain.errors import ConfigError
from sidecar.services.rule_test_cases import RuleTestResult


def write_junit(path: Path, results: Sequence[RuleTestResult], *, at: datetime) -> None:
    """
    Write one suite per policy file, one case per test.

    Source: the de facto schema, https://github.com/testmoapp/junitxml.

    Raises:
        ConfigError: If the file cannot be written.
    """
    suites: dict[str, list[RuleTestResult]] = {}
    for result in results:
        suites.setdefault(result.test.place.rpartition(":")[0], []).append(result)
    root = ET.Element("testsuites", {"name": "sidecar rules", **_counts(results)})
    for file, of_file in suites.items():
        stamp = at.isoformat(timespec="seconds")
        suite = ET.SubElement(
            root, "testsuite", {"name": file, "timestamp": stamp, **_counts(of_file)}
        )
        for result in of_file:
            _add_case(suite, file, result)
    ET.indent(root)
    try:
        ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error


def _counts(results: Sequence[RuleTestResult]) -> dict[str, str]:
    failures = sum(not result.passed for result in results)
    return {
        "tests": str(len(results)),
        "failures": str(failures),
        "errors": "0",
        "skipped": "0",
        "time": "0",
    }


def _add_case(suite: ET.Element, file: str, result: RuleTestResult) -> None:
    test = result.test
    line = test.place.rpartition(":")[2]
    case = ET.SubElement(
        suite,
        "testcase",
        classname=_text(test.rule),
        name=_text(f"{test.request.method} {test.request.path} (line {line})"),
        file=file,
        line=line,
        time="0",
    )
    if result.differences:
        message = _text("; ".join(result.differences))
        failure = ET.SubElement(case, "failure", message=message, type="difference")
        failure.text = _text(
            "\n".join(f"{test.place}: {difference}" for difference in result.differences)
        )


def _text(text: str) -> str:
    """What XML can hold: a path or header of a test may have control characters."""
    return "".join(char if char.isprintable() or char == "\n" else "?" for char in text)
