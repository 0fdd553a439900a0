"""`sidecar meters test`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidecar.cli.common import ConfigFile, settings_from
from sidecar.domain.errors import ConfigError, InvalidInput

if TYPE_CHECKING:
    from sidecar.services.meter_tests import MeterVerdict

app = typer.Typer(help="Meters of the policy.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `test` a subcommand although it is the only one."""


@app.command("test")
def try_event(
    event: Annotated[Path, typer.Argument(help="A captured request and response, as JSON.")],
    policy: Annotated[
        Path | None, typer.Option(help="The policy's folder; default: policy_dir.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config: ConfigFile = None,
) -> None:
    """Show what each meter would take of an event, or the first condition that keeps it away."""
    import json

    from sidecar.inbound.captured_events import read_captured_event
    from sidecar.outbound.policy_files.loader import load_policy
    from sidecar.services.meter_tests import try_meters

    folder = policy or settings_from(config).policy_dir
    loaded = load_policy(folder)
    try:
        captured = read_captured_event(event.read_bytes())
    except OSError as error:
        raise ConfigError(f"{event} cannot be read: {error.strerror}") from error
    except InvalidInput as error:
        raise ConfigError(f"{event}: {error}") from error
    verdicts = try_meters(loaded.policy, captured)
    if as_json:
        content = [asdict(verdict) for verdict in verdicts]
        print(json.dumps({"policy": loaded.policy.version, "meters": content}, indent=2))
        return
    for verdict in verdicts:
        print(_line(verdict))


def _line(verdict: "MeterVerdict") -> str:
    from sidecar.domain.money import format_amount

    if verdict.problem:
        return f"! {verdict.meter}: {verdict.problem}: {verdict.reason}"
    if not verdict.matched:
        return f"- {verdict.meter}: {verdict.reason}"
    parts = [f"+ {verdict.meter}: {verdict.quantity}"]
    if verdict.text_hash:
        parts.append(f"distinct value {verdict.text_hash[:8]}...")
    if verdict.estimated:
        parts.append(f"estimated ({verdict.reason})")
    if verdict.groups:
        groups = ", ".join(f"{name}={value or '-'}" for name, value in verdict.groups.items())
        parts.append(f"by {groups}")
    prices = ", ".join(
        f"{price.plan} {format_amount(price.amount_nano)} {price.currency}"
        for price in verdict.prices
    )
    return "; ".join([*parts, prices] if prices else parts)
