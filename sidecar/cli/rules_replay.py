"""`sidecar rules replay` and `sidecar rules shadow`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidecar.cli.common import ConfigFile, run, settings_from
from sidecar.cli.decisions import Customer, LogFile, Since, Until, open_events, read_span

if TYPE_CHECKING:
    from sidecar.domain.replay_report import Flip, ReplayReport
    from sidecar.domain.shadow_report import ShadowReport

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]
_SHOWN = 10


def add_commands(app: typer.Typer) -> None:
    """Register both commands on the `rules` application."""
    app.command("replay")(replay)
    app.command("shadow")(shadow)


def replay(
    config: ConfigFile = None,
    rules: Annotated[
        Path | None, typer.Option("--rules", help="Changed policy files; default: the policy's.")
    ] = None,
    since: Since = "1d",
    until: Until = "",
    customer: Customer = "",
    log: LogFile = None,
    as_json: AsJson = False,
) -> None:
    """Judge recorded decisions by changed rules, prices or plans, and say what would differ."""
    from sidecar.outbound.policy_files.loader import load_policy
    from sidecar.services import replaying

    settings = settings_from(config)
    policy = load_policy(rules or settings.policy_dir).policy
    begin, end = read_span(since, until)

    async def work() -> "ReplayReport":
        async with open_events(settings, log, begin, end, customer) as events:
            return await replaying.replay(policy, events)

    report = run(work())
    if as_json:
        print(json.dumps(report.as_json(), indent=2))
    else:
        _print_replay(report)


def shadow(
    config: ConfigFile = None,
    since: Since = "1d",
    until: Until = "",
    customer: Customer = "",
    log: LogFile = None,
    as_json: AsJson = False,
) -> None:
    """Say what rules that do not enforce would have refused, to whom, and what it was worth."""
    from sidecar.services import replaying

    settings = settings_from(config)
    begin, end = read_span(since, until)

    async def work() -> "ShadowReport":
        async with open_events(settings, log, begin, end, customer) as events:
            return await replaying.report_shadow(events)

    report = run(work())
    if as_json:
        print(json.dumps(report.as_json(), indent=2))
    else:
        _print_shadow(report)


def _print_replay(report: "ReplayReport") -> None:
    content = report.as_json()
    print(
        f"policy {report.policy_version}: {report.decisions} decisions, "
        f"{report.usage_events} usage events"
    )
    print(f"  as recorded         {report.reproduced}")
    print(f"  other words         {report.reworded}")
    print(f"  kept, not judged    {report.kept}  (before the rules, or without the store)")
    for reason, count in report.unjudged.most_common():
        print(f"  cannot be judged    {count}: {reason}")
    for reason, count in report.unrated.most_common():
        print(f"  cannot be rated     {count}: {reason}")
    print(f"  other headers       {report.headers_changed}")
    denied, allowed = content["allow_to_deny"], content["deny_to_allow"]
    print(f"allow -> deny: {report.to_deny} decisions of {denied['customers']} customers")
    _print_money("held", denied["held"])
    _print_money("captured", denied["captured"])
    if report.first_denial is not None:
        print(f"  first: {_flip_words(report.first_denial)}")
    print(f"deny -> allow: {report.to_allow} decisions of {allowed['customers']} customers")
    _print_money("estimated", allowed["estimated"])
    changes = content["revenue"]
    print(f"revenue changes for {content['revenue_customers']} customers")
    for change in changes[:_SHOWN]:
        print(f"  {change['customer_id']}: {change['change']} {change['currency']}")
    for flip in report.flips[:_SHOWN]:
        print(f"  {_flip_words(flip)}")
    more = report.to_deny + report.to_allow - _SHOWN
    if more > 0:
        print(f"  ... and {more} more; --json lists them")


def _print_money(what: str, amounts: dict[str, dict[str, str]]) -> None:
    for currency, amount in amounts.items():
        print(f"  {what}: {amount['amount']} {currency}")


def _flip_words(flip: "Flip") -> str:
    from sidecar.domain.periods import from_epoch_ms

    at = from_epoch_ms(flip.at_ms).isoformat(timespec="milliseconds")
    word = "allow" if flip.allow else "deny"
    return f"{at} {flip.customer_id or '-'} {word} ({flip.rule}, {flip.code}) {flip.decision_id}"


def _print_shadow(report: "ShadowReport") -> None:
    content = report.as_json()
    print(f"{report.decisions} decisions")
    if not content["rules"]:
        print("no rule that does not enforce would have refused any")
    for rule in content["rules"]:
        print(
            f"{rule['rule']}: would deny {rule['would_deny']}, of which {rule['allowed_live']} "
            f"were let through and {rule['denied_live']} were refused by other rules"
        )
        _print_money("held", rule["held"])
        _print_money("captured", rule["captured"])
        for customer, count in list(rule["by_customer"].items())[:_SHOWN]:
            print(f"  {customer or '-'}: {count}")
