"""
The settlement worker in a process of its own, so that its time and memory are nobody else's.

Takes its set-up as one line (JSON), then settles everything once for each further line and
writes what that took. Run by path.
"""

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from sidecar.outbound.policy_files.collecting import calm_collector
from sidecar.outbound.postgres.ledger import PostgresLedger
from sidecar.outbound.postgres.pool import open_pool
from sidecar.outbound.redis.connection import RedisConnection, fix_shards
from sidecar.outbound.redis.rate_cards import RedisRateCards
from sidecar.outbound.redis.stream import RedisUsageStream
from sidecar.services.settlement import SettlementWorker


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


def resident_kib() -> int:
    """Memory of this process that is in RAM now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


async def main() -> None:
    # As `sidecar serve` does.
    calm_collector()
    order = json.loads(sys.stdin.readline())
    connection = RedisConnection.from_url(order["redis_url"])
    keyspace = await fix_shards(connection, order["shards"])
    pool = await open_pool(order["postgres_dsn"], command_timeout_seconds=60.0)
    worker = SettlementWorker(
        RedisUsageStream(connection, keyspace),
        PostgresLedger(pool),
        RedisRateCards(connection),
        SystemClock(),
        owner=order["owner"],
        shards=range(order["shards"]),
        batch_max=order["batch"],
        lease_seconds=600,
    )
    _answer({})
    # Nothing else runs while an order is awaited, so a blocking read harms nobody.
    while sys.stdin.readline():
        cpu, started = time.process_time(), time.perf_counter()
        settled = await worker.settle_once()
        _answer(
            {
                "settled": settled,
                "seconds": time.perf_counter() - started,
                "cpu_seconds": time.process_time() - cpu,
                "resident_kib": resident_kib(),
            }
        )
    await worker.release()
    await pool.close()
    await connection.aclose()


def _answer(content: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(main())
