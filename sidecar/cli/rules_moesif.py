"""`sidecar rules import moesif` and `sidecar rules conformance`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

RulesFile = Annotated[Path, typer.Argument(help="The rules, as `GET /v1/rules` gives them.")]
ConfigFile = Annotated[
    Path | None,
    typer.Argument(help="The configuration, as `GET /v1/config` gives it: who is in a cohort."),
]
Output = Annotated[Path, typer.Option("-o", "--output", help="The folder to write into.")]
CasesFile = Annotated[Path, typer.Argument(help="Cases in the published format.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def import_moesif(rules: RulesFile, output: Output, config: ConfigFile = None) -> None:
    """Turn governance rules into a policy folder, and say what agents read differently."""
    from sidecar.outbound.moesif.importing import import_rules
    from sidecar.outbound.moesif.reading import read_config, read_rules
    from sidecar.outbound.moesif.writing import REPORT_FILE, write_import
    from sidecar.outbound.policy_files.loader import load_policy

    imported = import_rules(read_rules(rules), {} if config is None else read_config(config))
    write_import(imported, output)
    for finding in imported.findings:
        kind = "NOT IMPORTED" if finding.lost else "warning"
        print(f"{kind}: {finding}", file=sys.stderr)
    loaded = load_policy(output)  # What was written can be served, or this says why not.
    print(
        f"{output}: {len(imported.rules)} rules in {len(loaded.files)} files, "
        f"{len(imported.findings) - len(imported.lost)} warnings, "
        f"{len(imported.lost)} not imported; {REPORT_FILE} tells them all"
    )
    if imported.lost:
        raise typer.Exit(1)


def conformance(cases: CasesFile, as_json: AsJson = False) -> None:
    """Play cases of decisions through the importer and the evaluator."""
    from sidecar.inbound.denials import word_denial
    from sidecar.outbound.moesif.conformance import read_cases, run_cases

    results = run_cases(read_cases(cases), word_denial)
    failed = [result for result in results if not result.passed]
    totals = {
        "total": len(results),
        "passed": len(results) - len(failed),
        "failed": len(failed),
    }
    if as_json:
        listed = [
            {
                "name": result.name,
                "passed": result.passed,
                "expected": result.expected,
                "actual": result.actual,
                "differences": result.differences,
            }
            for result in results
        ]
        print(json.dumps({**totals, "cases": listed}, indent=2))
    else:
        for result in results:
            print(f"{'passed' if result.passed else 'FAILED'} {result.name}")
            for difference in result.differences:
                print(f"    {difference}")
        print(f"{totals['passed']} of {totals['total']} cases passed")
    if failed:
        raise typer.Exit(1)
