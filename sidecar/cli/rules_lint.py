"""`sidecar rules lint`: what is wrong, or likely wrong, with rules that load."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidecar.cli.common import ConfigFile, run, settings_from
from sidecar.cli.decisions import LogFile, open_events, read_span
from sidecar.domain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.outbound.policy_files.loader import LoadedPolicy
    from sidecar.services.linting.findings import Finding, SeenRequest
    from sidecar.settings import Settings

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
    since: Annotated[
        str, typer.Option(help="Compare routes with decisions recorded since then, such as 7d.")
    ] = "",
    log: LogFile = None,
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
            traffic=_traffic(settings, traffic, since, log),
            body_bytes=settings.envoy.body_bytes,
        )
    )
    if as_json:
        print(json.dumps(_data(loaded, findings), indent=2))
    else:
        _print(loaded, findings)
    if fails(findings, strict=strict):
        raise typer.Exit(1)


def _traffic(
    settings: "Settings", traffic: Path | None, since: str, log: Path | None
) -> "list[SeenRequest] | None":
    """Requests of a file, or of recorded decisions; None where neither was named."""
    if traffic is not None:
        return read_traffic(traffic)
    if not since and log is None:
        return None
    return run(_recorded(settings, since or "7d", log))


async def _recorded(settings: "Settings", since: str, log: Path | None) -> "list[SeenRequest]":
    from sidecar.domain.decision_records import DecisionRecord
    from sidecar.services.linting.findings import SeenRequest

    begin, end = read_span(since, "")
    counts: dict[tuple[str, str, str], int] = {}
    async with open_events(settings, log, begin, end, "") as events:
        async for event in events:
            # A path that was cut may have gone on to match; it says nothing.
            if isinstance(event, DecisionRecord) and not event.request.path_cut:
                kept = event.request
                key = (kept.method, kept.path, kept.host)
                counts[key] = counts.get(key, 0) + 1
    return [
        SeenRequest(method=method, path=path, host=host, count=count)
        for (method, path, host), count in counts.items()
    ]


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
