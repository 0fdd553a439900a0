"""
The reporter in a process of its own, so that its time is nobody else's.

Takes its set-up as one line (JSON), then reports everything once for each further line and
writes what that took. Run by path.
"""

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from sidecar.outbound.postgres.outbox import PostgresOutbox
from sidecar.outbound.postgres.pool import open_pool
from sidecar.outbound.stripe.reporter import StripeMeterReporter
from sidecar.services.reporting import Reporter


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


def resident_kib() -> int:
    """Memory of this process that is in RAM now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


async def main() -> None:
    order = json.loads(sys.stdin.readline())
    pool = await open_pool(order["postgres_dsn"], command_timeout_seconds=60.0)
    concurrency = order["concurrency"]
    provider = StripeMeterReporter(
        "sk_test_bench", base_url=order["stripe_url"], connections_max=concurrency
    )
    reporter = Reporter(
        PostgresOutbox(pool),
        provider,
        SystemClock(),
        owner="bench",
        concurrency_max=concurrency,
    )
    _answer({})
    # Nothing else runs while an order is awaited, so a blocking read harms nobody.
    while sys.stdin.readline():
        cpu, started = time.process_time(), time.perf_counter()
        reported = await reporter.report_once(force=True)
        _answer(
            {
                "reported": reported,
                "seconds": time.perf_counter() - started,
                "cpu_seconds": time.process_time() - cpu,
                "resident_kib": resident_kib(),
            }
        )
    await provider.close()
    await pool.close()


def _answer(content: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(main())
