"""`sidecar notify`: what is told to people, and whether it can be."""

from typing import Annotated, Any

import typer

from sidecar.cli.admin import AsJson, Limit, call_admin, print_one, print_rows
from sidecar.cli.common import ConfigFile, run, settings_from
from sidecar.domain.errors import ConfigError
from sidecar.domain.notices import Channel, NoticeKind, is_address
from sidecar.services.notice_ports import DeliveryState, SendVerdict

app = typer.Typer(
    help="Notices: email, signed webhooks and Slack about what happened.", no_args_is_help=True
)

_COLUMNS = (
    *("id", "kind", "customer_id", "occurred_at", "channel", "target", "state", "attempts"),
    *("next_attempt_at", "detail"),
)


@app.command("test")
def send_test(
    channel: Annotated[Channel | None, typer.Option(help="This channel alone.")] = None,
    kind: Annotated[NoticeKind, typer.Option(help="Which notice to send.")] = (
        NoticeKind.NOTIFY_TEST
    ),
    to: Annotated[str | None, typer.Option(help="Email: here, not to the operators.")] = None,
    config: ConfigFile = None,
) -> None:
    """Send a notice that never happened; exit 1 if one is not taken or a template is bad."""
    from sidecar.app.notices import send_tests
    from sidecar.app.parts import SystemClock

    if to is not None and not is_address(to):
        raise ConfigError("--to must be one plain address such as ops@example.com")
    # Channels are settlement's, so its settings are read as it would.
    settings = settings_from(config, roles="settlement")
    results, problems = run(send_tests(settings, SystemClock(), channel=channel, kind=kind, to=to))
    for result in results:
        sent = result.outcome.verdict is SendVerdict.SENT
        words = result.outcome.detail or "sent"
        print(
            f"{'ok  ' if sent else 'FAIL'} {result.channel.value:<8} {result.to} {words}".rstrip()
        )
    for problem in problems:
        print(f"FAIL template {problem}")
    if problems or any(one.outcome.verdict is not SendVerdict.SENT for one in results):
        raise typer.Exit(1)


@app.command("list")
def list_notices(
    customer: Annotated[str | None, typer.Option(help="Of this customer alone.")] = None,
    state: Annotated[DeliveryState | None, typer.Option(help="With a delivery that is so.")] = None,
    config: ConfigFile = None,
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """List notices and what became of them, the newest first."""
    query = {"customer_id": customer, "state": None if state is None else state.value}
    found = call_admin(
        config,
        lambda api: api.list_notices(
            {name: value for name, value in query.items() if value is not None}, limit
        ),
    )
    rows = found if as_json else [row for notice in found for row in _rows(notice)]
    print_rows(rows, _COLUMNS, as_json=as_json)


@app.command("retry")
def retry(
    notice: Annotated[str, typer.Argument(help="The notice's id.")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Try a notice's failed deliveries anew."""
    print_one(call_admin(config, lambda api: api.retry_notice(notice)), as_json=as_json)


def _rows(notice: dict[str, Any]) -> list[dict[str, Any]]:
    """A line for each delivery; one for a notice without any."""
    return [{**notice, **delivery} for delivery in notice["deliveries"] or [{}]]
