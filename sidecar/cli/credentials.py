"""`sidecar credentials`: API keys; a secret is printed once, when it is made."""

from typing import Annotated

import typer

from sidecar.cli.admin import AsJson, Limit, call_admin, print_one, print_rows
from sidecar.cli.common import ConfigFile

app = typer.Typer(help="API keys: issue, list, rotate, revoke.", no_args_is_help=True)

CustomerId = Annotated[str, typer.Argument(help="The customer's id.")]
CredentialId = Annotated[str, typer.Argument(help="The credential's id, as `list` shows it.")]
_COLUMNS = ("id", "state", "expires_at", "team_id", "user_id", "name", "created_at", "replaced_by")


@app.command("list")
def list_credentials(
    customer: CustomerId, config: ConfigFile = None, limit: Limit = 1_000, as_json: AsJson = False
) -> None:
    """List a customer's credentials and their states, never their secrets."""
    found = call_admin(config, lambda api: api.list_credentials(customer, limit))
    print_rows(found, _COLUMNS, as_json=as_json)


@app.command("issue")
def issue(
    customer: CustomerId,
    team: Annotated[str, typer.Option(help="The customer's team that it is for.")] = "",
    user: Annotated[str, typer.Option(help="The customer's user that it is for.")] = "",
    name: Annotated[str, typer.Option(help="For people.")] = "",
    expires_at: Annotated[str | None, typer.Option(help="RFC 3339; its end.")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Issue a credential and print its secret, which cannot be shown again."""
    body = {
        "customer_id": customer,
        "team_id": team,
        "user_id": user,
        "name": name,
        "expires_at": expires_at,
    }
    print_one(call_admin(config, lambda api: api.issue_credential(body)), as_json=as_json)


@app.command("rotate")
def rotate(
    credential: CredentialId,
    overlap: Annotated[
        str, typer.Option(help='How long the old one goes on working: "24h", at most 30d; or "0".')
    ] = "24h",
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Replace a credential and print the new one's secret, which cannot be shown again."""
    made = call_admin(config, lambda api: api.rotate_credential(credential, overlap))
    print_one(made, as_json=as_json)


@app.command("revoke")
def revoke(credential: CredentialId, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Revoke a credential at once, on every gateway."""
    ended = call_admin(config, lambda api: api.revoke_credential(credential))
    print_one(ended, as_json=as_json)
