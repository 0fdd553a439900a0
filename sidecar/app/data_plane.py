"""What a process checks and meters with, apart from how it was made."""

from collections.abc import Callable
from dataclasses import dataclass

from sidecar.app.foresight import Foresight
from sidecar.app.keys import Secrets
from sidecar.outbound.policy_files.holder import PolicyHolder
from sidecar.outbound.redis.balances import RedisBalances
from sidecar.outbound.redis.connection import RedisConnection
from sidecar.outbound.redis.directory import RedisDirectory
from sidecar.outbound.redis.keys import Keyspace
from sidecar.outbound.redis.rate_cards import RedisRateCards
from sidecar.services.check import CheckService
from sidecar.services.metering import MeteringService
from sidecar.services.ports import Clock, HoldTokens, Quarantine, RequestDigests
from sidecar.services.publishing import PublishedPolicies
from sidecar.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPlane:
    """Checks and usage, and the live store that they work on."""

    settings: Settings
    secrets: Secrets
    clock: Clock
    redis: RedisConnection
    keyspace: Keyspace
    loaded: PolicyHolder
    policies: PublishedPolicies
    rate_cards: RedisRateCards
    balances: RedisBalances
    directory: RedisDirectory
    digests: RequestDigests
    tokens: HoldTokens
    quarantine: Quarantine
    checks: CheckService
    metering: MeteringService
    foresight: Foresight
    problems: Callable[[], list[str]]
