"""
Usage that cannot be captured: implements `Quarantine`.

It travels on the usage stream like every decision, so that settlement brings it to where
people look, once: the ledger's database collapses repeats of (key, reason).
"""

import json

from sidecar.domain.usage import TOKEN_KINDS, UsageReport
from sidecar.outbound.redis import scripts
from sidecar.outbound.redis.connection import RedisConnection
from sidecar.outbound.redis.keys import Keyspace

_TEXT_CHARS_MAX = 256
_FACTS_CHARS_MAX = 4_096


class RedisQuarantine:
    """Implements Quarantine."""

    def __init__(self, connection: RedisConnection, keyspace: Keyspace) -> None:
        """Wire it."""
        self._connection = connection
        self._keyspace = keyspace

    async def put(self, report: UsageReport, *, reason: str, key: str) -> None:
        """Append it to the stream of the key's shard. Raises StoreUnavailable: repeat it."""
        shard = self._keyspace.shard_of(key)
        keys = (self._keyspace.shard(shard), self._keyspace.usage(shard))
        await self._connection.run(scripts.ASIDE, keys, (key, reason, _payload(report)))


def _facts(report: UsageReport) -> str:
    """What meters could have read, as the start of its JSON: enough for people to see why."""
    facts = report.facts
    told = {"raw": facts.raw, "headers": dict(facts.headers), "metadata": facts.metadata}
    return json.dumps(told, separators=(",", ":"), default=str)[:_FACTS_CHARS_MAX]


def _payload(report: UsageReport) -> str:
    """What a person needs to decide; no token, and no text of a length that a client chooses."""
    content = {
        "edge": report.edge,
        "gateway_id": report.gateway_id,
        "hold_id": report.hold_id,
        "customer_id": report.customer_id,
        "event_id": report.event_id,
        "model": report.model,
        "route": report.route,
        "status": report.status,
        "received_at": report.received_at.isoformat(),
        "occurred_at": report.occurred_at.isoformat() if report.occurred_at else None,
        "usage": {kind: getattr(report.usage, kind) for kind in TOKEN_KINDS},
        "from_header": report.from_header,
        "duration_ms": report.duration_ms,
        "request_bytes": report.request_bytes,
        "response_bytes": report.response_bytes,
        "facts": _facts(report),
    }
    return json.dumps(
        {
            name: value[:_TEXT_CHARS_MAX] if isinstance(value, str) and name != "facts" else value
            for name, value in content.items()
        },
        separators=(",", ":"),
    )
