"""`sidecar rules explain`: which rule decided a request, and why the others did not."""

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidecar.cli.common import ConfigFile, run, settings_from
from sidecar.domain.errors import ConfigError, InvalidInput, NotFound

if TYPE_CHECKING:
    from sidecar.domain.decision_records import DecisionRecord
    from sidecar.domain.policy import Policy
    from sidecar.services.asking import Asked
    from sidecar.services.explanation import Explanation
    from sidecar.settings import Settings

_MANY = "NAME=VALUE; may be given several times."


DecisionId = Annotated[
    str | None, typer.Argument(help="A recorded decision; leave it out to ask by options.")
]
PolicyDir = Annotated[
    Path | None, typer.Option(help="The policy's folder; default: the settings' own.")
]
Method = Annotated[str, typer.Option(help="The request's method.")]
PathText = Annotated[str | None, typer.Option(help="Its path, with a query if it has one.")]
Host = Annotated[str, typer.Option(help="Its host.")]
SourceIp = Annotated[str, typer.Option(help="The caller's address.")]
Header = Annotated[list[str] | None, typer.Option(help="NAME: VALUE; may be given several times.")]
Context = Annotated[list[str] | None, typer.Option(help=f"Route context, {_MANY}")]
Body = Annotated[str | None, typer.Option(help="A file with its body, or - to read it.")]
Customer = Annotated[str | None, typer.Option(help="The customer's id.")]
PlanName = Annotated[str | None, typer.Option(help="The customer's plan.")]
Label = Annotated[list[str] | None, typer.Option(help=f"A label, {_MANY}")]
User = Annotated[str, typer.Option(help="The user's id.")]
Team = Annotated[str, typer.Option(help="The team's id.")]
Key = Annotated[str, typer.Option(help="The id of the API key.")]
Credit = Annotated[str | None, typer.Option(help='Available credit, such as "5.00".')]
Used = Annotated[list[str] | None, typer.Option(help=f"What a quota or limit has counted, {_MANY}")]
Standing = Annotated[str, typer.Option(help="good, grace or delinquent.")]
OverdueDays = Annotated[int | None, typer.Option(help="Age of the oldest invoice.")]
Overdue = Annotated[str | None, typer.Option(help="What is overdue, an amount.")]
Disputed = Annotated[bool, typer.Option("--disputed", help="A payment is disputed.")]
At = Annotated[str | None, typer.Option(help="RFC 3339 instant; default: now.")]
Live = Annotated[
    bool, typer.Option("--live", help="Read the customer and its numbers from the store.")
]
Record = Annotated[
    str | None, typer.Option(help="A file with a decision's record, or - to read it.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def explain(
    decision_id: DecisionId = None,
    policy: PolicyDir = None,
    config: ConfigFile = None,
    method: Method = "GET",
    path: PathText = None,
    host: Host = "",
    source_ip: SourceIp = "",
    header: Header = None,
    context: Context = None,
    body: Body = None,
    customer: Customer = None,
    plan: PlanName = None,
    label: Label = None,
    user: User = "",
    team: Team = "",
    key: Key = "",
    credit: Credit = None,
    used: Used = None,
    standing: Standing = "good",
    overdue_days: OverdueDays = None,
    overdue: Overdue = None,
    disputed: Disputed = False,
    at: At = None,
    live: Live = False,
    record: Record = None,
    as_json: AsJson = False,
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
        assert decision_id is not None
        found = run(_find(settings, decision_id))
    else:
        found = decode_record(_bytes(record) or b"")
    return explainer_of(policy).explain_record(found)


async def _find(settings: "Settings", decision_id: str) -> "DecisionRecord":
    from sidecar.cli.decisions import open_table

    async with open_table(settings) as table:
        found = await table.find(decision_id)
    if found is None:
        raise NotFound(f"there is no record of decision {decision_id}")
    return found


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
