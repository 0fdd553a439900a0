"""What `sidecar catalog` needs: the policy's wish, and the account that the settings name."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sidecar.app.keys import read_secret
from sidecar.app.parts import SystemClock
from sidecar.domain.catalog import WantedCatalog
from sidecar.domain.catalog_wanted import wanted_by_policy
from sidecar.domain.errors import ConfigError, ProviderRefused
from sidecar.domain.policy import Policy
from sidecar.outbound.policy_files.loader import load_policy
from sidecar.outbound.stripe.catalog import StripeCatalog
from sidecar.outbound.stripe.client import STRIPE_API, StripeConnection, key_livemode
from sidecar.outbound.stripe.subscription_moves import StripeSubscriptions
from sidecar.services.cataloguing import Cataloguer
from sidecar.services.moving_subscriptions import SubscriptionMover
from sidecar.settings import Settings

_PAUSE_SECONDS_FIRST = 0.25
_PAUSE_SECONDS_MAX = 8.0
_KEY_REFUSED = frozenset({401, 403})


def load_wanted(
    settings: Settings, directory: Path | None, plans: frozenset[str] | None
) -> tuple[Policy, WantedCatalog]:
    """
    The policy, and what its prices of this instant want of the provider.

    Raises:
        ConfigError: The policy cannot be loaded, or has no plan of a name that is asked for.
    """
    policy = load_policy(directory or settings.policy_dir).policy
    for plan in sorted(plans or ()):
        if plan not in policy.cards:
            raise ConfigError(
                f"the policy has no plan {plan!r}; there are {', '.join(sorted(policy.cards))}"
            )
    return policy, wanted_by_policy(policy, SystemClock().now())


def account_name(settings: Settings) -> str:
    """Which account the key belongs to, as far as its form tells. Raises as `stripe_catalog`."""
    mode = {True: "live", False: "test", None: "of an unknown"}[key_livemode(_key(settings))]
    return f"Stripe, {mode} mode"


@asynccontextmanager
async def stripe_connection(settings: Settings) -> AsyncIterator[StripeConnection]:
    """
    The account whose key the settings name.

    Raises:
        ConfigError: They name none, or it may not do what is asked of it.
    """
    connection = StripeConnection(_key(settings), base_url=settings.stripe_base_url or STRIPE_API)
    try:
        yield connection
    except ProviderRefused as error:
        if error.status not in _KEY_REFUSED:
            raise
        lacks = f"; it lacks {error.detail}" if error.detail else ""
        raise ConfigError(f"Stripe refuses the key with {error.status}{lacks}") from error
    finally:
        await connection.close()


@asynccontextmanager
async def stripe_catalog(settings: Settings) -> AsyncIterator[StripeCatalog]:
    """The catalog of that account. Raises as `stripe_connection` does."""
    async with stripe_connection(settings) as connection:
        yield StripeCatalog(connection, objects_max=settings.catalog_objects_max)


@asynccontextmanager
async def cataloguer_for(settings: Settings) -> AsyncIterator[Cataloguer]:
    """Compares and applies at that account. Raises as `stripe_catalog` does."""
    async with stripe_catalog(settings) as catalog:
        yield Cataloguer(catalog, pause=_pause)


@asynccontextmanager
async def mover_for(settings: Settings) -> AsyncIterator[SubscriptionMover]:
    """Moves subscriptions at that account. Raises as `stripe_catalog` does."""
    async with stripe_connection(settings) as connection:
        most = settings.catalog_objects_max
        yield SubscriptionMover(
            StripeCatalog(connection, objects_max=most),
            StripeSubscriptions(connection, subscriptions_max=most),
            SystemClock(),
            pause=_pause,
        )


def _key(settings: Settings) -> str:
    if settings.stripe_api_key_file is None:
        raise ConfigError("SIDECAR_STRIPE_API_KEY_FILE is not set, so there is no catalog")
    return read_secret(settings.stripe_api_key_file)


async def _pause(idle_round: int) -> None:
    await asyncio.sleep(min(_PAUSE_SECONDS_MAX, _PAUSE_SECONDS_FIRST * 2.0**idle_round))
