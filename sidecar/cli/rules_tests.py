"""`sidecar rules test`: the tests beside rules, and what they have seen."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidecar.cli.common import ConfigFile, settings_from

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.outbound.policy_files.loader import LoadedPolicy
    from sidecar.services.rule_coverage import Coverage
    from sidecar.services.rule_test_cases import RuleTestResult


def run_tests_of_rules(
    directory: Annotated[
        Path | None, typer.Argument(help="The policy's folder; default: the settings' own.")
    ] = None,
    policy: Annotated[Path | None, typer.Option(help="The same, as an option.")] = None,
    config: ConfigFile = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML to this file.")] = None,
    coverage: Annotated[
        bool, typer.Option("--coverage", help="Say which rules the tests have seen speak.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run the tests beside rules; exit 1 if one fails."""
    from sidecar.cli.policies import explainer_of, load, run_tests
    from sidecar.services.rule_coverage import cover

    loaded = load(settings_from(config), directory or policy)
    results = run_tests(loaded)
    covered = cover(loaded.policy, explainer_of(loaded.policy), loaded.tests)
    if junit is not None:
        from sidecar.app.parts import SystemClock
        from sidecar.cli.junit import write_junit

        write_junit(junit, results, at=SystemClock().now())
    if as_json:
        print(json.dumps(_data(loaded, results, covered), indent=2))
    else:
        _print_results(results)
        if coverage:
            _print_coverage(covered)
        _print_total(loaded, results, covered)
    if not all(result.passed for result in results):
        raise typer.Exit(1)


def _by_file(results: "Sequence[RuleTestResult]") -> dict[str, "list[RuleTestResult]"]:
    found: dict[str, list[RuleTestResult]] = {}
    for result in results:
        found.setdefault(result.test.place.rpartition(":")[0], []).append(result)
    return found


def _print_results(results: "Sequence[RuleTestResult]") -> None:
    for file, of_file in _by_file(results).items():
        failed = [result for result in of_file if not result.passed]
        word = "ok    " if not failed else "FAILED"
        print(f"{word} {file}: {len(of_file) - len(failed)} of {len(of_file)} tests passed")
        for result in failed:
            for difference in result.differences:
                print(f"  {result.test.place} {result.test.rule}: {difference}")


def _print_coverage(covered: "Coverage") -> None:
    width = max((len(name) for name in covered.rules), default=0)
    print(f"{'rule':<{width}}  considered  condition  denied  warned")
    for one in covered.rules.values():
        word = "draft" if one.draft else "" if one.shown else "never seen to speak"
        line = (
            f"{one.rule:<{width}}  {one.considered:>10}  {one.condition_true:>9}"
            f"  {one.denied:>6}  {one.warned:>6}  {word}"
        )
        print(line.rstrip())


def _print_total(
    loaded: "LoadedPolicy", results: "Sequence[RuleTestResult]", covered: "Coverage"
) -> None:
    passed = sum(result.passed for result in results)
    print(
        f"policy {loaded.policy.version}: {passed} of {len(results)} tests passed; "
        f"{covered.shown} of {covered.total} rules seen to speak"
    )
    if not results:
        print("no rule has tests; put `tests:` beside a rule", file=sys.stderr)


def _data(
    loaded: "LoadedPolicy", results: "Sequence[RuleTestResult]", covered: "Coverage"
) -> dict[str, Any]:
    from sidecar.services.explanation import as_data

    return {
        "policy_version": loaded.policy.version,
        "total": len(results),
        "passed": sum(result.passed for result in results),
        "failed": sum(not result.passed for result in results),
        "tests": [
            {
                "place": result.test.place,
                "rule": result.test.rule,
                "passed": result.passed,
                "differences": list(result.differences),
            }
            for result in results
        ],
        "coverage": [as_data(one) | {"shown": one.shown} for one in covered.rules.values()],
    }
