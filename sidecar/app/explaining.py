"""Explanations that need a store."""

import secrets
from datetime import datetime

from sidecar.app.parts import SystemClock
from sidecar.app.running import with_running_stores
from sidecar.domain.errors import ConfigError
from sidecar.domain.holds import make_hold_id
from sidecar.inbound.denials import word_denial
from sidecar.inbound.extraction.request_body import read_request_facts
from sidecar.outbound.redis.balances import RedisBalances
from sidecar.outbound.redis.connection import RedisConnection
from sidecar.outbound.redis.directory import RedisDirectory
from sidecar.outbound.redis.health import check_shards
from sidecar.outbound.redis.keys import Keyspace
from sidecar.services.asking import Asked
from sidecar.services.decision_ports import DecisionTable
from sidecar.services.explaining import Explainer
from sidecar.services.explanation import Explanation
from sidecar.services.explanations import ExplanationService
from sidecar.services.live_explaining import LiveNumbers
from sidecar.services.ports import Balances, Directory, Policies
from sidecar.settings import Settings

_STORE_SECONDS = 2.0
_DIGEST_BYTES = 16


def new_hold_id(at: datetime) -> str:
    """An id that no request has; a probe leaves nothing under it."""
    return make_hold_id(int(at.timestamp()), secrets.token_bytes(_DIGEST_BYTES))


async def explain_live(settings: Settings, explainer: Explainer, asked: Asked) -> Explanation:
    """
    Explain by what the configured Redis has.

    Raises:
        ConfigError: If no Redis is configured, and none runs in the data directory.
        StoreUnavailable: If it gives no answer.
    """
    redis_url = with_running_stores(settings).redis_url
    if not redis_url:
        raise ConfigError(
            "SIDECAR_REDIS_URL is not set, and no `sidecar serve` runs an embedded Redis in the "
            "data directory"
        )
    connection = RedisConnection.from_url(redis_url)
    try:
        await check_shards(connection, settings.shards)
        await connection.load_scripts()
        keyspace, clock = Keyspace(settings.shards), SystemClock()
        live = LiveNumbers(
            directory=RedisDirectory(connection, keyspace),
            balances=RedisBalances(
                connection, keyspace, clock, store_timeout_seconds=_STORE_SECONDS
            ),
            clock=clock,
            new_hold_id=new_hold_id,
        )
        return await live.explain(explainer, asked)
    finally:
        await connection.aclose()


def make_explanations(
    policies: Policies, directory: Directory, balances: Balances, decisions: DecisionTable
) -> ExplanationService:
    """Explanations under the policy in force, by the stores that checks use."""
    live = LiveNumbers(
        directory=directory, balances=balances, clock=SystemClock(), new_hold_id=new_hold_id
    )
    return ExplanationService(
        policies=policies,
        live=live,
        decisions=decisions,
        read_facts=read_request_facts,
        word=word_denial,
    )
