"""With a journal, what was acknowledged and not settled survives the loss of Redis, to the nano."""

from pathlib import Path

import pytest
from fixtures.losing_redis import losing_redis
from fixtures.recovering import recovering, usage_of
from fixtures.stack import free_port

from sidecar.outbound.journal import FileJournal
from sidecar.outbound.redis.shard_marks import RedisShardMarks
from sidecar.services.journal_ports import JournalRecord
from sidecar.services.journal_replay import JournalReplay

ADA, BOB = "cus_ada", "cus_bob"
GRANTED = 10_000


@pytest.mark.parametrize("loss", ["wiped", "replica"])
async def test_acknowledged_usage_is_charged_once_after_a_loss(
    loss: str, postgres_pool, tmp_path: Path
):
    with losing_redis() as redis:
        port = free_port()
        redis.start("first", None, "--port", str(port))
        async with (
            recovering(redis.url, postgres_pool) as world,
            FileJournal(tmp_path / "j", shard_of=world.store.keyspace.shard_of) as journal,
        ):
            replay = JournalReplay(
                journal=journal,
                marks=RedisShardMarks(world.store.connection, world.store.keyspace),
                balances=world.store.balances,
                quarantine=world.quarantine,
            )
            charged = dict.fromkeys((ADA, BOB), 0)
            number = 0

            async def acknowledge(count: int) -> None:
                nonlocal number
                for _ in range(count):
                    for customer_id in charged:
                        number += 1
                        hold = await world.place(customer_id, number, 50)
                        event = usage_of(hold, number)
                        outcome = await world.store.balances.capture_hold(event, (), prepaid=True)
                        record = JournalRecord(
                            event=event,
                            quota_lines=(),
                            prepaid=True,
                            epoch=outcome.epoch,
                            seq=outcome.seq,
                        )
                        await journal.append([record])
                        charged[customer_id] += number

            for customer_id in charged:
                await world.customer(customer_id, GRANTED)
            await acknowledge(3)
            await world.settle()
            if loss == "replica":
                replica = redis.start_replica(port)
                redis.cut_off(replica)
            await acknowledge(3)
            if loss == "replica":
                redis.replace(replica)
                await world.reconnect()
            else:
                redis.wipe()
            assert await world.refused(ADA, 999)
            assert await world.recover() > 0
            shards = {world.store.keyspace.shard_of(customer_id) for customer_id in charged}
            for _ in range(2):
                for shard in shards:
                    await replay.replay(shard)
            await world.settle()
            await world.assert_equal(*charged)
            for customer_id, amount in charged.items():
                assert (await world.store.balance(customer_id)).used_nano == amount
