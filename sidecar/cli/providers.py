"""`sidecar providers` and `sidecar collections`: who collects, and how far it has come."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from sidecar.cli.admin import AsJson, Limit, call_admin, print_one, print_rows
from sidecar.cli.common import ConfigFile
from sidecar.domain.errors import ConfigError

app = typer.Typer(help="Customers as billing providers know them.", no_args_is_help=True)
collections = typer.Typer(help="Invoices on their way to being paid.", no_args_is_help=True)

CustomerId = Annotated[str, typer.Argument(help="The customer's id.")]
Provider = Annotated[str, typer.Argument(help="paystack, webhook or stripe.")]
InvoiceId = Annotated[str, typer.Argument(help="The invoice's id.")]
_KNOWN = ("provider", "provider_customer_id", "email", "has_authorization", "collect")
_COLLECTION_COLUMNS = (
    *("invoice_id", "customer_id", "provider", "state", "amount", "currency"),
    *("attempt", "next_look_at", "detail"),
)
_SECRET_CHARS_MAX = 191


@app.command("list")
def list_known(customer: CustomerId, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """List what providers know of a customer; a saved card's code is never shown."""
    found = call_admin(config, lambda api: api.list_providers(customer))
    print_rows(found, _KNOWN, as_json=as_json)


@app.command("set")
def set_known(
    customer: CustomerId,
    provider: Provider,
    provider_customer_id: Annotated[str, typer.Option("--id", help="The provider's own id.")] = "",
    email: Annotated[str, typer.Option(help="Where the provider writes to.")] = "",
    authorization_file: Annotated[
        Path | None,
        typer.Option(help="Holds a saved card's code; - reads standard input. Default: unchanged."),
    ] = None,
    forget_card: Annotated[
        bool, typer.Option("--forget-card", help="Ask the customer to pay instead.")
    ] = False,
    collect: Annotated[
        bool, typer.Option("--collect", help="This provider collects the customer's invoices.")
    ] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Set what a provider knows; what is not given is empty afterwards, but for a saved card."""
    code = "" if forget_card else None
    if authorization_file is not None:
        # Not an option's value: those are seen by everybody on the machine.
        code = _read_code(authorization_file)
    body = {
        "provider_customer_id": provider_customer_id,
        "email": email,
        "authorization_code": code,
        "collect": collect,
    }
    found = call_admin(config, lambda api: api.put_provider(customer, provider, body))
    print_one(found, as_json=as_json)


@app.command("forget")
def forget_known(
    customer: CustomerId, provider: Provider, config: ConfigFile = None, as_json: AsJson = False
) -> None:
    """Forget what a provider knows; nothing is collected through it any more."""
    found = call_admin(config, lambda api: api.delete_provider(customer, provider))
    print_one(found, as_json=as_json)


@collections.command("list")
def list_collections(
    customer: Annotated[str | None, typer.Option(help="Of one customer only.")] = None,
    state: Annotated[
        str | None,
        typer.Option(help="demanded, sent, unknown, paid, failed or withdrawn."),
    ] = None,
    config: ConfigFile = None,
    limit: Limit = 1_000,
    as_json: AsJson = False,
) -> None:
    """List how far collecting has come, by invoice."""
    given = {"customer_id": customer, "state": state}
    query = {name: value for name, value in given.items() if value is not None}
    found = call_admin(config, lambda api: api.list_collections(query, limit))
    print_rows(found, _COLLECTION_COLUMNS, as_json=as_json)


@collections.command("show")
def show(invoice: InvoiceId, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show one, with every reference that was sent."""
    print_one(call_admin(config, lambda api: api.read_collection(invoice)), as_json=as_json)


@collections.command("retry")
def retry(invoice: InvoiceId, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Look at a failed one again at once; its last reference is asked about first."""
    found = call_admin(config, lambda api: api.retry_collection(invoice))
    print_one(found, as_json=as_json)


def _read_code(path: Path) -> str:
    try:
        text = sys.stdin.read(_SECRET_CHARS_MAX + 2) if str(path) == "-" else path.read_text()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"{path}: cannot be read") from None
    code = text.strip()
    if not code or len(code) > _SECRET_CHARS_MAX or len(code.split()) != 1:
        raise ConfigError(f"{path}: holds no card's code")
    return code
