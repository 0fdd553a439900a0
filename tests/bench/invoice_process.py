"""
The invoicing worker in a process of its own, so that its time and memory are nobody else's.

Takes its set-up as one line (JSON), then does one round for each further line and writes what
that took. Run by path.
"""

import json
import sys
import time
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import uvloop

from sidecar.domain.card_schedules import Timeline
from sidecar.domain.pricing import RateCard, parse_rate_card
from sidecar.outbound.postgres.invoice_book import PostgresInvoiceBook
from sidecar.outbound.postgres.pool import open_pool
from sidecar.services.invoice_making import CardShelf, InvoiceMaker
from sidecar.services.invoice_rounds import InvoicingOptions, InvoicingWorker


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


class OneCard:
    def __init__(self, card: RateCard) -> None:
        self.card = card

    async def read(self, version: str) -> RateCard | None:
        return self.card if version == self.card.version else None


class SettledStream:
    async def read(self, shard: int, after: str, limit: int) -> Sequence[object]:
        del shard, after, limit
        return ()


def resident_kib(name: str) -> int:
    """Memory of this process that is in RAM: now (VmRSS), or the most there was (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


async def main() -> None:
    order = json.loads(sys.stdin.readline())
    card = parse_rate_card(order["card"])
    pool = await open_pool(order["postgres_dsn"], command_timeout_seconds=300.0)
    book = PostgresInvoiceBook(pool)
    policy = SimpleNamespace(
        all_cards=(card,),
        timeline_for=lambda plan, customer: Timeline(cards=(card,)),
        late_usage={},
    )
    maker = InvoiceMaker(
        record=book,
        cards=CardShelf(book, OneCard(card)),
        policies=SimpleNamespace(current=lambda: policy),
    )
    worker = InvoicingWorker(
        book=book,
        stream=SettledStream(),
        maker=maker,
        clock=SystemClock(),
        shard_of=lambda customer: zlib.crc32(customer.encode()) % order["shards"],
        options=InvoicingOptions(grace=timedelta(hours=1), batch_max=order["batch"]),
    )
    _answer({})
    while sys.stdin.readline():
        before, cpu, started = resident_kib("VmRSS"), time.process_time(), time.perf_counter()
        done = await worker.run_once()
        _answer(
            {
                "closed": done.closed,
                "waiting": done.waiting,
                "seconds": time.perf_counter() - started,
                "cpu_seconds": time.process_time() - cpu,
                "resident_before_kib": before,
                "resident_most_kib": resident_kib("VmHWM"),
            }
        )
    await pool.close()


def _answer(content: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(main())
