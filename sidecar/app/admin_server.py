"""The admin role's listener."""

from contextlib import AsyncExitStack

from sidecar.app.data_plane import DataPlane
from sidecar.app.servers import new_id
from sidecar.domain.errors import ConfigError
from sidecar.inbound.http.admin_app import admin_app
from sidecar.inbound.http.admin_edge import AdminUseCases
from sidecar.inbound.http.listening import serve
from sidecar.inbound.principals import load_admin_tokens
from sidecar.outbound.postgres.idempotency import PostgresIdempotencyKeys
from sidecar.outbound.postgres.pool import Pool


async def start_admin(
    plane: DataPlane, stack: AsyncExitStack, use_cases: AdminUseCases, pool: Pool
) -> str:
    """
    Serve the REST API until the stack is closed; returns the address.

    Raises:
        ConfigError: There is no token file, or the address cannot be had.
    """
    token_file = plane.secrets.admin_token_file
    if token_file is None:
        raise ConfigError("the admin role needs SIDECAR_ADMIN_TOKEN_FILE")
    settings = plane.settings
    admin = admin_app(
        listen=settings.admin_listen,
        use_cases=use_cases,
        idempotency=PostgresIdempotencyKeys(pool),
        tokens=load_admin_tokens(token_file),
        ready=plane.problems,
        new_id=new_id,
        hosts=frozenset(settings.hosts),
    )
    return await stack.enter_async_context(
        serve(admin, settings.admin_listen, shutdown_seconds=settings.drain_seconds)
    )
