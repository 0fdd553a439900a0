"""`sidecar rules explain`: which rule decided a request, and why the others did not."""

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidecar.cli.common import ConfigFile, run, settings_from
from sidecar.domain.errors import ConfigError, InvalidInput

if TYPE_CHECKING:
    from sidecar.domain.policy import Policy
    from sidecar.services.asking import Asked
    from sidecar.services.explanation import Explanation
    from sidecar.settings import Settings

_MANY = "NAME=VALUE; may be given several times."


def explain(
    decision_id: Annotated[
        str | None, typer.Argument(help="A recorded decision; leave it out to ask by options.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="The policy's folder; default: the settings' own.")
    ] = None,
    config: ConfigFile = None,
    method: Annotated[str, typer.Option(help="The request's method.")] = "GET",
    path: Annotated[str | None, typer.Option(help="Its path, with a query if it has one.")] = None,
    host: Annotated[str, typer.Option(help="Its host.")] = "",
    source_ip: Annotated[str, typer.Option(help="The caller's address.")] = "",
    header: Annotated[
        list[str] | None, typer.Option(help="NAME: VALUE; may be given several times.")
    ] = None,
    context: Annotated[list[str] | None, typer.Option(help=f"Route context, {_MANY}")] = None,
    body: Annotated[str | None, typer.Option(help="A file with its body, or - to read it.")] = None,
    customer: Annotated[str | None, typer.Option(help="The customer's id.")] = None,
    plan: Annotated[str | None, typer.Option(help="The customer's plan.")] = None,
    label: Annotated[list[str] | None, typer.Option(help=f"A label, {_MANY}")] = None,
    user: Annotated[str, typer.Option(help="The user's id.")] = "",
    team: Annotated[str, typer.Option(help="The team's id.")] = "",
    key: Annotated[str, typer.Option(help="The id of the API key.")] = "",
    credit: Annotated[str | None, typer.Option(help='Available credit, such as "5.00".')] = None,
    used: Annotated[
        list[str] | None, typer.Option(help=f"What a quota or limit has counted, {_MANY}")
    ] = None,
    standing: Annotated[str, typer.Option(help="good, grace or delinquent.")] = "good",
    overdue_days: Annotated[int | None, typer.Option(help="Age of the oldest invoice.")] = None,
    overdue: Annotated[str | None, typer.Option(help="What is overdue, an amount.")] = None,
    disputed: Annotated[bool, typer.Option("--disputed", help="A payment is disputed.")] = False,
    at: Annotated[str | None, typer.Option(help="RFC 3339 instant; default: now.")] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Read the customer and its numbers from the store.")
    ] = False,
    record: Annotated[
        str | None, typer.Option(help="A file with a decision's record, or - to read it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what each rule makes of a request, and what would be answered. Nothing is held."""
    from sidecar.cli.explain_text import print_explanation
    from sidecar.cli.policies import load
    from sidecar.services.asking import Asked
    from sidecar.services.explanation import as_data

    settings = settings_from(config)
    loaded = load(settings, policy)
    if decision_id is not None or record is not None:
        found = _of_record(loaded.policy, settings, decision_id, record)
    else:
        if path is None:
            raise ConfigError("--path is needed, or the id of a recorded decision")
        asked = Asked(
            method=method,
            path=path,
            host=host,
            source_ip=source_ip,
            headers=_pairs(header, ":", "--header"),
            context=dict(_pairs(context, "=", "--context")),
            body=_bytes(body),
            customer_id=customer,
            plan=plan,
            labels=dict(_pairs(label, "=", "--label")),
            user_id=user,
            team_id=team,
            credential_id=key,
            credit=credit,
            used=dict(_pairs(used, "=", "--used")),
            standing=standing,
            overdue_days=overdue_days,
            overdue=overdue,
            disputed=disputed,
            at=_instant(at),
        )
        found = _of_request(loaded.policy, settings, asked, live=live)
    if as_json:
        print(json.dumps(as_data(found), indent=2))
    else:
        print_explanation(found)


def _of_request(
    policy: "Policy", settings: "Settings", asked: "Asked", *, live: bool
) -> "Explanation":
    from sidecar.app.parts import SystemClock
    from sidecar.cli.policies import explainer_of
    from sidecar.services.asking import ask

    explainer = explainer_of(policy)
    if not live:
        return ask(explainer, asked, now=SystemClock().now())
    from sidecar.app.explaining import explain_live

    return run(explain_live(settings, explainer, asked))


def _of_record(
    policy: "Policy", settings: "Settings", decision_id: str | None, record: str | None
) -> "Explanation":
    from sidecar.cli.policies import explainer_of
    from sidecar.domain.decision_records import decode_record

    if record is None:
        from sidecar.app.explaining import find_record

        assert decision_id is not None
        found = run(find_record(settings, decision_id))
    else:
        found = decode_record(_bytes(record) or b"")
    return explainer_of(policy).explain_record(found)


def _pairs(texts: list[str] | None, separator: str, option: str) -> list[tuple[str, str]]:
    found = []
    for text in texts or ():
        name, between, value = text.partition(separator)
        if not between or not name.strip():
            raise ConfigError(
                f"{option} {text.partition(separator)[0]!r} is not NAME{separator}VALUE"
            )
        found.append((name.strip(), value.strip()))
    return found


def _bytes(source: str | None) -> bytes | None:
    if source is None:
        return None
    if source == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise ConfigError(f"{source} cannot be read: {error.strerror}") from error


def _instant(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise InvalidInput(f"--at {text[:40]!r} is not RFC 3339, such as 2026-01-15T12:00:00Z")
    return instant
