"""`sidecar rules lint`: what is wrong, or likely wrong, with rules that load."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidecar.cli.common import ConfigFile, settings_from
from sidecar.domain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.outbound.policy_files.loader import LoadedPolicy
    from sidecar.services.linting.findings import Finding, SeenRequest

TRAFFIC_LINES_MAX = 5_000_000


def lint(
    directory: Annotated[
        Path | None, typer.Argument(help="The policy's folder; default: the settings' own.")
    ] = None,
    policy: Annotated[Path | None, typer.Option(help="The same, as an option.")] = None,
    config: ConfigFile = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 1 on warnings too, not on errors alone.")
    ] = False,
    traffic: Annotated[
        Path | None,
        typer.Option(help="Recorded requests, JSON lines of {method, path, host, count}."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Look for rules that cannot work as they are meant; exit 1 on errors."""
    from sidecar.cli.policies import explainer_of, load, run_tests
    from sidecar.services.linting.findings import Linted
    from sidecar.services.linting.run import fails, lint_policy
    from sidecar.services.rule_coverage import cover

    settings = settings_from(config)
    loaded = load(settings, directory or policy)
    findings = lint_policy(
        Linted(
            policy=loaded.policy,
            places=loaded.places,
            results=run_tests(loaded),
            coverage=cover(loaded.policy, explainer_of(loaded.policy), loaded.tests),
            traffic=None if traffic is None else read_traffic(traffic),
            body_bytes=settings.envoy.body_bytes,
        )
    )
    if as_json:
        print(json.dumps(_data(loaded, findings), indent=2))
    else:
        _print(loaded, findings)
    if fails(findings, strict=strict):
        raise typer.Exit(1)


def read_traffic(path: Path) -> "list[SeenRequest]":
    """
    Recorded requests, the same ones counted together.

    Raises:
        ConfigError: If the file cannot be read, or a line is no request; it names the line.
    """
    from sidecar.services.linting.findings import SeenRequest

    counts: dict[tuple[str, str, str], int] = {}
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if number > TRAFFIC_LINES_MAX:
                    raise ConfigError(f"{path} has more than {TRAFFIC_LINES_MAX} lines")
                if line.strip():
                    method, where, host, count = _request(line, f"{path}:{number}")
                    key = (method, where, host)
                    counts[key] = counts.get(key, 0) + count
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8") from error
    return [
        SeenRequest(method=method, path=where, host=host, count=count)
        for (method, where, host), count in counts.items()
    ]


def _request(line: str, place: str) -> tuple[str, str, str, int]:
    try:
        data = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{place}: found no JSON; expected {{method, path, host}}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{place}: found no object; expected {{method, path, host}}")
    texts = [data.get("method", "GET"), data.get("path"), data.get("host", "")]
    count = data.get("count", 1)
    if not all(isinstance(text, str) for text in texts) or type(count) is not int or count < 1:
        raise ConfigError(
            f"{place}: expected `method`, `path` and `host` as text and `count` as a whole number"
        )
    method, where, host = texts
    return str(method), str(where), str(host), count


def _print(loaded: "LoadedPolicy", findings: "Sequence[Finding]") -> None:
    for finding in findings:
        rule = f" rule {finding.rule}:" if finding.rule else ""
        print(f"{finding.place}: {finding.severity} {finding.code}:{rule} {finding.message}")
        print(f"    mend: {finding.mend}")
    counts = _counts(findings)
    print(
        f"policy {loaded.policy.version}: {counts['error']} errors, {counts['warning']} warnings, "
        f"{counts['note']} notes"
    )


def _counts(findings: "Sequence[Finding]") -> dict[str, int]:
    found = {"error": 0, "warning": 0, "note": 0}
    for finding in findings:
        found[finding.severity] += 1
    return found


def _data(loaded: "LoadedPolicy", findings: "Sequence[Finding]") -> dict[str, Any]:
    from sidecar.services.explanation import as_data

    return {
        "policy_version": loaded.policy.version,
        "counts": _counts(findings),
        "findings": [as_data(finding) for finding in findings],
    }
