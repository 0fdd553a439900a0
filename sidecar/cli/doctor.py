"""`sidecar doctor`: what is missing, and how to mend it."""

import asyncio
import platform
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from sidecar.cli.common import ConfigFile, run, settings_from
from sidecar.domain.errors import ConfigError, StoreUnavailable
from sidecar.settings import Settings

STORE_SECONDS_MAX = 5.0
STRIPE_SECONDS_MAX = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line: what was looked at, whether it is well, and what was found or what mends it."""

    what: str
    ok: bool
    detail: str


def doctor(
    config: ConfigFile = None,
    servers_only: Annotated[
        bool, typer.Option("--servers-only", help="Look for the servers' programs, no more.")
    ] = False,
) -> None:
    """Look at this machine, the settings, the policy and the stores; exit 1 if one is not well."""
    settings = settings_from(config)
    findings = [_look("python", _python), *_programs(settings)]
    if not servers_only:
        findings += [_look("policy", lambda: _policy(settings))]
        if settings.stripe.plans or settings.stripe.ended_plan:
            findings += [_look("plans", lambda: _plans(settings))]
        findings += run(_stores(settings))
        findings += run(_stripe(settings))
        findings += run(_notices(settings))
    for finding in findings:
        print(f"{'ok  ' if finding.ok else 'MISS'} {finding.what:<10} {finding.detail}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def _programs(settings: Settings) -> list[Finding]:
    findings = []
    if settings.embedded_redis:
        findings.append(_look("redis", lambda: _redis(settings)))
    if settings.embedded_postgres:
        findings.append(_look("postgres", _postgres))
    findings.append(_look("envoy", _envoy))
    return findings


def _look(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what=what, ok=True, detail=look())
    except (ConfigError, StoreUnavailable) as error:
        return Finding(what=what, ok=False, detail=str(error))


def _python() -> str:
    return f"{platform.python_version()} on {sys.platform} {platform.machine()}"


def _redis(settings: Settings) -> str:
    from sidecar.outbound.embedded import find_redis_server

    found = find_redis_server(settings.redis_server or None)
    return f"{found.version} ({found.source}: {found.path})"


def _postgres() -> str:
    from sidecar.outbound.embedded import find_postgres_binaries

    found = find_postgres_binaries()
    return f"{found.version} ({found.bin_dir})"


def _envoy() -> str:
    from sidecar.demo.gateway import find_envoy

    return f"{find_envoy()} (for the demo and tests; yours may run anywhere)"


def _policy(settings: Settings) -> str:
    from sidecar.outbound.policy_files.loader import load_policy

    loaded = load_policy(settings.policy_dir)
    return f"{loaded.policy.version}, {len(loaded.files)} files in {settings.policy_dir}"


def _plans(settings: Settings) -> str:
    from sidecar.app.looking import look_at_plans
    from sidecar.outbound.policy_files.loader import load_policy

    return look_at_plans(settings, load_policy(settings.policy_dir).policy)


async def _stores(settings: Settings) -> list[Finding]:
    """External stores; embedded ones have been looked for as programs."""
    findings = []
    if not settings.embedded_redis:
        findings.append(await _ask("redis", _ask_redis(settings)))
    if settings.postgres_dsn:
        findings.append(await _ask("postgres", _ask_postgres(settings)))
    return findings


async def _stripe(settings: Settings) -> list[Finding]:
    """Key, webhooks and grace at Stripe, where there is a key."""
    from sidecar.app.reports import look_at_stripe

    try:
        async with asyncio.timeout(STRIPE_SECONDS_MAX):
            found = await look_at_stripe(settings)
    except TimeoutError:
        detail = f"no answer within {STRIPE_SECONDS_MAX:g} s"
        return [Finding(what="stripe", ok=False, detail=detail)]
    except ConfigError as error:
        return [Finding(what="stripe", ok=False, detail=str(error))]
    return [Finding(what=one.what, ok=one.ok, detail=one.detail) for one in found]


async def _notices(settings: Settings) -> list[Finding]:
    """Channels by which people are told, where there are any; nothing is sent."""
    from sidecar.app.looking import look_at_notices

    return [
        Finding(what=one.what, ok=one.ok, detail=one.detail)
        for one in await look_at_notices(settings)
    ]


async def _ask(what: str, asking: Coroutine[Any, Any, str]) -> Finding:
    try:
        async with asyncio.timeout(STORE_SECONDS_MAX):
            return Finding(what=what, ok=True, detail=await asking)
    except TimeoutError:
        detail = f"no answer within {STORE_SECONDS_MAX:g} s; is it running, and is the URL right?"
    except (ConfigError, StoreUnavailable) as error:
        detail = str(error)
    return Finding(what=what, ok=False, detail=detail)


async def _ask_redis(settings: Settings) -> str:
    from sidecar.outbound.redis.connection import RedisConnection
    from sidecar.outbound.redis.health import check_shards, describe_server

    connection = RedisConnection.from_url(settings.redis_url)
    try:
        await check_shards(connection, settings.shards)
        return await describe_server(connection)
    finally:
        await connection.aclose()


async def _ask_postgres(settings: Settings) -> str:
    from sidecar.outbound.postgres.migrating import schema_status

    current, head = await schema_status(settings.postgres_dsn)
    if current != head:
        raise ConfigError(f"the schema is {current}, this version needs {head}: `sidecar migrate`")
    return f"schema {current}"
