"""`sidecar config check`."""

import typer

from sidecar.cli.common import ConfigFile, settings_from

app = typer.Typer(help="Settings and policy files.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `check` a subcommand although it is the only one."""


@app.command("check")
def check(config: ConfigFile = None) -> None:
    """Read settings and policy as `serve` would, run the rules' tests, and say what is wrong."""
    from sidecar.cli.policies import load, run_tests

    loaded = load(settings_from(config))
    results = run_tests(loaded)
    failed = [result for result in results if not result.passed]
    for result in failed:
        for difference in result.differences:
            print(f"FAILED {result.test.place} {result.test.rule}: {difference}")
    policy = loaded.policy
    print(
        f"policy {policy.version}: {len(loaded.files)} files, {len(policy.rules)} rules, "
        f"{len(policy.cards)} plans, {len(policy.meters)} meters; "
        f"{len(results) - len(failed)} of {len(results)} tests passed"
    )
    if failed:
        raise typer.Exit(1)
