"""
More requests at once than credit is worth, through four gateway processes on one Redis.

Exactly what the balance is worth may pass, however the requests fall among the processes. Each
asks the store for every hold, or places some from blocks of credit; one may die with its blocks.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fixtures.live_store import LiveStore
from fixtures.stack import REPOSITORY, Process

from sidecar.domain.credit_replay import replay_credit
from sidecar.outbound.embedded import read_key_file
from sidecar.outbound.keyed_hashes import KeyedDigests, KeyRing
from sidecar.services.control_ports import Credential, Customer, Grant

GATEWAYS = 4
REQUESTS = 2_000
WORTH = 100
REQUEST_NANO = 1_000_000
"""What a request costs on the shipped plan `per-request`."""
IN_FLIGHT_MAX = 500
ROUNDS = int(os.environ.get("SIDECAR_BURST_ROUNDS", "1"))
TOKEN = "gateway-token-of-the-burst"
START_SECONDS = 60.0
TRIES_MAX = 200
RECALL_SECONDS = 0.05


class Burst:
    """Four gateways, and a client that sends to all of them that are alive."""

    def __init__(self, store: LiveStore, digests: KeyedDigests) -> None:
        self.store = store
        self.digests = digests
        self.addresses: list[str] = []
        self.processes: list[Process] = []
        self.session: aiohttp.ClientSession

    async def customer(self, name: str, plan: str, grants: list[dict[str, Any]]) -> str:
        """A customer with these grants; returns its key."""
        secret = f"sk_{name}_of_the_burst"
        accounts = self.store.accounts
        await accounts.put_customer(Customer(customer_id=name, plan=plan, currency="USD"))
        await accounts.put_credential(
            Credential(
                credential_id=f"crd_{name}",
                customer_id=name,
                secret_hash=self.digests.credential_hashes(secret)[0],
            )
        )
        for number, fields in enumerate(grants):
            grant_id = f"{name}-{number}"
            await accounts.apply_grant(
                Grant(grant_id=grant_id, customer_id=name, currency="USD", **fields)
            )
        return secret

    async def check_all(
        self, secret: str, body: str, *, tries: int = TRIES_MAX, last: tuple[int, ...] = (200, 402)
    ) -> list[dict[str, Any]]:
        """REQUESTS checks at once, dealt out to the gateways; the answers of their last tries."""
        gate = asyncio.Semaphore(IN_FLIGHT_MAX)

        async def check(number: int) -> dict[str, Any]:
            asked = {
                "method": "POST",
                "path": "/ai/chat",
                "host": "api.example",
                "headers": {"authorization": f"Bearer {secret}"},
                "source_ip": "127.0.0.1",
                "body": body,
            }
            for _ in range(tries):
                try:
                    async with gate:
                        answer = await self.post(number, "/v1/check", asked)
                except aiohttp.ClientError:
                    # The gateway is gone; the next one is asked.
                    continue
                if answer["code"] != "store_unavailable":
                    break
                # What is missing is in a block: a gateway asks again, as Envoy does.
                await asyncio.sleep(RECALL_SECONDS)
            assert answer["status"] in last, answer
            return answer

        return await asyncio.gather(*(check(number) for number in range(REQUESTS)))

    async def report_all(self, allowed: list[dict[str, Any]], tokens: dict[str, int]) -> None:
        for number, answer in enumerate(allowed):
            event = {"hold_token": answer["hold_token"], "model": "gpt-4o-mini", "status": 200}
            body = {"events": [event | {"usage": tokens}]}
            result = await self.post(number, "/v1/usage", body)
            assert [one["outcome"] for one in result["results"]] == ["captured"], result

    async def post(self, number: int, path: str, body: Any) -> dict[str, Any]:
        url = f"http://{self.addresses[number % len(self.addresses)]}{path}"
        headers = {"authorization": f"Bearer {TOKEN}"}
        async with self.session.post(url, json=body, headers=headers) as response:
            answer = await response.json(content_type=None)
            assert response.status in (200, 202), (path, response.status, answer)
            assert isinstance(answer, dict)
            return answer

    async def blocks_are_back(self, name: str) -> None:
        """Wait until nobody has a block of the customer's credit."""
        key = self.store.keyspace.customer(name)
        for _ in range(600):
            if not await self.store.connection.command("HEXISTS", key, "blocks"):
                return
            await asyncio.sleep(0.05)
        raise AssertionError("a block was never returned")

    async def metric(self, name: str, label: str = "") -> list[float]:
        """The samples of a metric, of every gateway."""
        values = []
        for address in self.addresses:
            async with self.session.get(f"http://{address}/metrics") as response:
                lines = (await response.text()).splitlines()
            found = [line for line in lines if line.startswith(name + "{") and label in line]
            values += [float(line.rsplit(" ", 1)[1]) for line in found]
        return values

    async def check_books(self, name: str, *, worth: int) -> int:
        """Nothing is overspent or lost, in the store and in its stream; what was used."""
        await self.blocks_are_back(name)
        balance = await self.store.balance(name)
        assert balance.held_nano == balance.deficit_nano == 0
        assert balance.used_nano <= worth
        assert balance.available_nano == worth - balance.used_nano
        credit = replay_credit(await self.store.records(name))
        assert credit.fits
        assert (credit.used_nano, credit.deficit_nano) == (balance.used_nano, 0)
        assert not any(await self.metric("sidecar_overspend_nano_total"))
        return balance.used_nano


@pytest.fixture(params=["off", "auto"])
async def burst(
    redis_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Burst]:
    """The parameter is the setting `allotments`."""
    for name, text in {"keys": "k1:key-of-the-burst", "gateway-token": TOKEN}.items():
        (tmp_path / name).touch(mode=0o600)
        (tmp_path / name).write_text(text + "\n")
    async with AsyncExitStack() as stack:
        store = await LiveStore.open(redis_url)
        stack.push_async_callback(store.connection.aclose)
        made = Burst(store, KeyedDigests(KeyRing(read_key_file(tmp_path / "keys"))))
        made.session = await stack.enter_async_context(
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=IN_FLIGHT_MAX),
                timeout=aiohttp.ClientTimeout(total=60),
            )
        )
        for number in range(GATEWAYS):
            process = await Process.start(
                *(sys.executable, "-m", "sidecar", "serve", "--roles", "gateway"),
                log=tmp_path / f"gateway-{number}.log",
                env=_environment(tmp_path / f"data-{number}", redis_url, request.param),
            )
            stack.push_async_callback(process.stop)
            made.processes.append(process)
        for process in made.processes:
            made.addresses.append(await _until_ready(made.session, process))
        yield made


def _environment(folder: Path, redis_url: str, allotments: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SIDECAR_")}
    return kept | {
        "SIDECAR_REDIS_URL": redis_url,
        "SIDECAR_SHARDS": "4",
        "SIDECAR_ALLOTMENTS": allotments,
        "SIDECAR_GRPC_LISTEN": "127.0.0.1:0",
        "SIDECAR_GRPC_FAST_LISTEN": "off",
        # Whichever port is free when it starts: the log says which.
        "SIDECAR_HTTP_LISTEN": "127.0.0.1:0",
        "SIDECAR_POLICY_DIR": str(REPOSITORY / "config" / "policy"),
        "SIDECAR_DATA_DIR": str(folder),
        "SIDECAR_SECRET_KEYS_FILE": str(folder.parent / "keys"),
        "SIDECAR_GATEWAY_TOKEN_FILE": str(folder.parent / "gateway-token"),
        # The machine is busy with the burst itself; what a timeout does has tests of its own.
        "SIDECAR_CHECK_TIMEOUT_MS": "30000",
        "SIDECAR_STORE_TIMEOUT_MS": "10000",
    }


async def _until_ready(session: aiohttp.ClientSession, process: Process) -> str:
    """Where it listens, once it is ready."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + START_SECONDS
    while True:
        assert process.alive, process.log.read_text()[-2_000:]
        assert loop.time() < deadline, "a gateway is not ready"
        for line in process.log.read_text().splitlines():
            if '"sidecar_started"' in line:
                address = str(json.loads(line)["http"])
                async with session.get(f"http://{address}/readyz") as response:
                    if response.status == 200:
                        return address
        await asyncio.sleep(0.05)


def one_grant() -> list[dict[str, Any]]:
    return [{"amount_nano": WORTH * REQUEST_NANO}]


def four_grants() -> list[dict[str, Any]]:
    """Different priorities and expiries, a quarter each."""
    soon = datetime.now(UTC) + timedelta(days=1)
    fields = [
        {"priority": 10, "expires_at": soon + timedelta(days=1)},
        {"priority": 10, "expires_at": soon},
        {"priority": 20, "expires_at": soon},
        {"meters": ("requests",)},
    ]
    return [{"amount_nano": WORTH * REQUEST_NANO // 4} | one for one in fields]


@pytest.mark.timeout(120 + 60 * ROUNDS)
async def test_exactly_what_the_balance_is_worth_passes(burst: Burst) -> None:
    for number in range(ROUNDS):
        for shape in (one_grant, four_grants):
            name = f"cus_{shape.__name__}_{number}"
            secret = await burst.customer(name, "per-request", shape())
            answers = await burst.check_all(secret, "{}")
            allowed = [answer for answer in answers if answer["allow"]]
            assert len(allowed) == WORTH
            await burst.report_all(allowed, {"input": 3, "output": 5})
            used = await burst.check_books(name, worth=WORTH * REQUEST_NANO)
            assert used == WORTH * REQUEST_NANO
            assert await burst.store.accounts.list_live_grants(name) == []


@pytest.mark.timeout(120 + 60 * ROUNDS)
async def test_token_prices_are_never_overspent(burst: Burst) -> None:
    body = '{"model": "gpt-4o-mini", "max_tokens": 400, "messages": []}'
    for number in range(ROUNDS):
        name, worth = f"cus_tokens_{number}", 50_000_000
        secret = await burst.customer(name, "prepaid", [{"amount_nano": worth}])
        answers = await burst.check_all(secret, body)
        allowed = [answer for answer in answers if answer["allow"]]
        assert 0 < len(allowed) < REQUESTS
        await burst.report_all(allowed, {"input": 20, "output": 400})
        used = await burst.check_books(name, worth=worth)
        assert used == len(allowed) * (20 * 500 + 400 * 1_500)


@pytest.mark.parametrize("burst", ["auto"], indirect=True)
@pytest.mark.timeout(180)
async def test_a_gateway_that_dies_with_its_blocks_spends_nothing_twice(burst: Burst) -> None:
    """What it let pass finds its credit by its token; the rest of its block ends as an orphan."""
    name, worth, store = "cus_death", REQUESTS // 2, burst.store
    secret = await burst.customer(name, "per-request", [{"amount_nano": worth * REQUEST_NANO}])
    victim, *others = burst.addresses
    # Most are asked of one gateway, so that it has a block however slow the machine is.
    burst.addresses = [victim] * 6 + others
    # What the dead one has of the credit may still be spent by what it let pass: nobody is told
    # that there is none until that is over.
    checking = asyncio.create_task(
        burst.check_all(secret, "{}", tries=20, last=(200, 402, 503)),
    )
    while not await burst.metric("sidecar_allotted_holds_total", "opened"):
        assert not checking.done(), "no block was ever used"
        await asyncio.sleep(0.01)
    burst.addresses = others
    await burst.processes[0].kill()
    allowed = [answer for answer in await checking if answer["allow"]]
    assert allowed
    await burst.report_all(allowed, {"input": 3, "output": 5})
    # Then time passes: what the dead one had set aside, and requests that nobody got an answer
    # to, end by themselves.
    shard = store.keyspace.shard_of(name)
    await store.set_clock(int(datetime.now(UTC).timestamp() * 1_000) + 600_000, name)
    for customer_id, hold_id in await store.balances.due_holds(shard, 10_000):
        await store.balances.orphan_hold(customer_id, hold_id)
    used = await burst.check_books(name, worth=worth * REQUEST_NANO)
    assert used == len(allowed) * REQUEST_NANO
    assert len(allowed) <= worth
