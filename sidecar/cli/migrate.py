"""`sidecar migrate`."""

from sidecar.cli.common import ConfigFile, run, settings_from
from sidecar.domain.errors import ConfigError


def migrate(config: ConfigFile = None) -> None:
    """Bring the configured Postgres to this version's schema; repeating it changes nothing."""
    from sidecar.outbound.postgres.migrating import migrate as apply

    settings = settings_from(config)
    if not settings.postgres_dsn:
        raise ConfigError(
            "SIDECAR_POSTGRES_DSN is not set; an embedded Postgres is migrated by `sidecar serve`"
        )
    applied = run(apply(settings.postgres_dsn))
    for revision in applied:
        print(f"applied {revision}")
    if not applied:
        print("nothing to do")
