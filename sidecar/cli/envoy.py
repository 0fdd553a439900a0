"""`sidecar envoy config`."""

from typing import Annotated

import typer

from sidecar.cli.common import ConfigFile, settings_from
from sidecar.domain.errors import ConfigError

app = typer.Typer(help="Configuration for Envoy.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `config` a subcommand although it is the only one."""


@app.command("config")
def config(
    settings_file: ConfigFile = None,
    listen: Annotated[str | None, typer.Option(help="Where Envoy listens.")] = None,
    upstream: Annotated[
        str | None, typer.Option(help="Where requests go, as http://HOST:PORT or https://HOST.")
    ] = None,
    authz: Annotated[
        str | None,
        typer.Option(
            help="Where Sidecar's gRPC listens; default: grpc_fast_listen, or grpc_listen where "
            "that is off or others may reach the gateway."
        ),
    ] = None,
    transport: Annotated[str | None, typer.Option(help="otlp, als or both.")] = None,
    body_bytes: Annotated[
        int | None, typer.Option(help="Bytes of a priced request's body that a check sees.")
    ] = None,
    admin: Annotated[str | None, typer.Option(help="Where Envoy's own admin listens.")] = None,
    keep_identity_headers: Annotated[
        bool,
        typer.Option(
            "--keep-identity-headers",
            help="Pass on headers that the policy believes; only behind a gateway that sets them.",
        ),
    ] = False,
) -> None:
    """Print an Envoy bootstrap for the policy's routes; the gateway token stands in it."""
    from sidecar.app.envoy_settings import envoy_options
    from sidecar.inbound.envoy.bootstrap import render_config

    settings = settings_from(settings_file)
    changes = {
        "listen": listen,
        "upstream": upstream,
        "authz": authz,
        "transport": transport,
        "body_bytes": body_bytes,
    }
    defaults = settings.envoy.model_copy(
        update={name: value for name, value in changes.items() if value is not None}
    )
    if not defaults.upstream:
        raise ConfigError("--upstream is needed, or `upstream` under `envoy:` in sidecar.yaml")
    options = envoy_options(
        settings, defaults, admin=admin, keep_identity_headers=keep_identity_headers
    )
    print(render_config(options), end="")
