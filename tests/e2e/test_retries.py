"""Envoy asks again: however often, one request is one hold, captured once."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
import redis.asyncio as redis
from fixtures.grpc_proxy import CHECK, EXPORT, Fault, Proxy, late, lost_answer, slow, unavailable
from fixtures.hostile import (
    RawUpstream,
    chat_body,
    envoy_before,
    expire_holds,
    listening,
    request,
    speak,
)
from fixtures.stack import Stack

from sidecar.wire import envoy_authz_pb2 as authz

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

USED_NANO = 11 * 500 + 7 * 1_500
HELD_NANO = len(chat_body()) * 500 + 50 * 1_500
CHECK_SECONDS = 3.0
"""What Envoy waits for a check, over all tries."""


class Path:
    """Envoy, then a proxy that fails on demand, then the sidecar."""

    def __init__(self, stack: Stack, proxy: Proxy, upstream: RawUpstream, address: str) -> None:
        self.stack = stack
        self.proxy = proxy
        self.upstream = upstream
        self.address = address

    async def ask(self, key: str, *faults: Fault, headers: Any = ()) -> int:
        """One request whose first checks meet these faults; its status."""
        self.proxy.seen[CHECK] = []
        self.proxy.faults[CHECK] = list(faults)
        return (await speak(self.address, request(chat_body(), key=key, headers=headers))).status

    @property
    def checks(self) -> list[authz.CheckRequest]:
        """What each try of the last request said."""
        return [authz.CheckRequest.FromString(data) for data in self.proxy.seen[CHECK]]

    async def holds(self, transition: str) -> float:
        return await self.stack.metric("sidecar_holds_total", transition=transition)

    async def until_holds(self, transition: str, count: float) -> None:
        """Counters follow the store; wait, then make sure that no more comes."""

        async def reached() -> bool:
            return await self.holds(transition) >= count

        await self.stack.until(reached, f"{count} holds are {transition}")
        assert await self.holds(transition) == count


@asynccontextmanager
async def path_of(stack: Stack) -> AsyncIterator[Path]:
    proxy, upstream = Proxy(stack.grpc), RawUpstream()
    async with AsyncExitStack() as parts:
        url = await parts.enter_async_context(listening(upstream))
        authz_address = await parts.enter_async_context(proxy.serving())
        envoy = envoy_before(stack, upstream=url, authz=authz_address)
        yield Path(stack, proxy, upstream, await parts.enter_async_context(envoy))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def path(make_stack: Any) -> AsyncIterator[Path]:
    settings = {
        "SIDECAR_CHECK_TIMEOUT_MS": str(int(CHECK_SECONDS * 1_000)),
        "SIDECAR_STORE_TIMEOUT_MS": "1000",
        "SIDECAR_SWEEP_INTERVAL_SECONDS": "0.2",
    }
    async with path_of(await make_stack(settings=settings)) as path:
        yield path


@pytest.mark.parametrize(
    "faults",
    [
        [unavailable],
        [lost_answer],
        [unavailable, unavailable, unavailable],
        [lost_answer, lost_answer, lost_answer],
        [lost_answer, unavailable, lost_answer],
    ],
    ids=lambda faults: " ".join(fault.__name__ for fault in faults),
)
async def test_every_try_says_the_same_and_one_hold_is_captured(path: Path, faults: list[Fault]):
    name = "_".join(fault.__name__[0] for fault in faults)
    key = await path.stack.customer(f"cus_try_{name}", "prepaid", grant="1")
    placed, captured = await path.holds("placed"), await path.holds("captured")
    status = await path.ask(key, *faults, headers=[(b"x-request-id", b"chosen")])
    assert status == 200
    assert len(path.checks) == len(faults) + 1
    facts = {
        (
            check.attributes.request.http.id,
            check.attributes.request.time.SerializeToString(deterministic=True),
            check.attributes.source.address.SerializeToString(deterministic=True),
            next(h.value for h in _headers(check) if h.key == b"x-request-id"),
        )
        for check in path.checks
    }
    assert len(facts) == 1
    (stream, moment, source, request_id) = facts.pop()
    assert stream
    assert moment
    assert source
    # Were it the client's choice, two requests could share a hold.
    assert request_id != b"chosen"
    balance = await path.stack.until_captured(f"cus_try_{name}")
    assert balance["used_nano"] == USED_NANO
    await path.until_holds("placed", placed + 1)
    await path.until_holds("captured", captured + 1)


async def test_two_requests_at_once_are_told_apart_in_every_try(path: Path):
    key = await path.stack.customer("cus_pair", "prepaid", grant="1")
    path.proxy.seen[CHECK] = []
    path.proxy.faults[CHECK] = [lost_answer] * 8
    raw = request(chat_body(), key=key)
    answers = await asyncio.gather(*(speak(path.address, raw) for _ in range(8)))
    assert {answer.status for answer in answers} == {200}
    ids = [check.attributes.request.http.id for check in path.checks]
    assert len(set(ids)) == 8
    balance = await path.stack.until_captured("cus_pair")
    assert balance["used_nano"] == 8 * USED_NANO


async def test_a_sidecar_that_never_answers_is_503_and_the_hold_is_no_usage(path: Path):
    key = await path.stack.customer("cus_never", "prepaid", grant="1")
    served = len(path.upstream.heads)
    assert await path.ask(key, *[lost_answer] * 4) == 503
    assert len(path.checks) == 4
    assert len(path.upstream.heads) == served
    # The sidecar believes that its answer was heard: the hold stays until it expires.
    balance = await path.stack.balance("cus_never")
    assert (balance["used_nano"], balance["held_nano"]) == (0, HELD_NANO)
    await _assert_orphaned(path, "cus_never")


async def test_an_answer_that_comes_too_late_is_503_and_its_hold_an_orphan(path: Path):
    key = await path.stack.customer("cus_slow", "prepaid", grant="1")
    served = len(path.upstream.heads)
    assert await path.ask(key, slow(CHECK_SECONDS * 3)) == 503
    assert len(path.upstream.heads) == served
    assert (await path.stack.balance("cus_slow"))["held_nano"] == HELD_NANO
    await _assert_orphaned(path, "cus_slow")


async def test_a_check_that_arrives_after_envoy_gave_up_holds_nothing(path: Path):
    key = await path.stack.customer("cus_late", "prepaid", grant="1")
    served = len(path.upstream.heads)
    assert await path.ask(key, late(CHECK_SECONDS * 3)) == 503
    assert len(path.upstream.heads) == served
    balance = await path.stack.balance("cus_late")
    assert (balance["used_nano"], balance["held_nano"]) == (0, 0)


async def test_a_store_that_answers_too_late_gets_its_hold_given_back(path: Path):
    """Placed or not, nobody knows in time: 503, and what was placed is released, not orphaned."""
    stack = path.stack
    key = await stack.customer("cus_frozen", "prepaid", grant="1")
    assert await path.ask(key) == 200  # Known to the sidecar from here on.
    used = (await stack.until_captured("cus_frozen"))["used_nano"]
    client = redis.from_url(stack.environment()["SIDECAR_REDIS_URL"])
    try:
        pid = int((await client.info("server"))["process_id"])
    finally:
        await client.aclose()
    served, expired = len(path.upstream.heads), await path.holds("expired")
    os.kill(pid, signal.SIGSTOP)
    try:
        assert await path.ask(key) == 503
    finally:
        os.kill(pid, signal.SIGCONT)
    assert len(path.upstream.heads) == served
    await stack.until(stack.ready, "the store is back")
    assert (await stack.until_captured("cus_frozen"))["used_nano"] == used
    assert (await stack.balance("cus_frozen"))["available_nano"] == 10**9 - used
    assert await path.holds("expired") == expired
    assert await path.ask(key) == 200
    assert (await stack.until_captured("cus_frozen"))["used_nano"] == used + USED_NANO


@pytest.mark.parametrize("fault", [unavailable, lost_answer])
async def test_usage_sent_again_counts_once(path: Path, fault: Fault):
    customer = f"cus_usage_{fault.__name__}"
    key = await path.stack.customer(customer, "prepaid", grant="1")
    duplicates = await path.stack.metric("sidecar_usage_events_total", outcome="duplicate")
    seen = len(path.proxy.seen.get(EXPORT, []))
    path.proxy.faults[EXPORT] = [fault, fault]
    assert await path.ask(key) == 200

    async def tried_thrice() -> bool:
        return len(path.proxy.seen.get(EXPORT, [])) >= seen + 3

    await path.stack.until(tried_thrice, "Envoy has sent the usage three times")
    tries = path.proxy.seen[EXPORT][seen : seen + 3]
    assert len(set(tries)) == 1
    assert (await path.stack.until_captured(customer))["used_nano"] == USED_NANO
    if fault is lost_answer:

        async def collapsed() -> bool:
            now = await path.stack.metric("sidecar_usage_events_total", outcome="duplicate")
            return now == duplicates + 2

        await path.stack.until(collapsed, "both repeats are duplicates")
    assert (await path.stack.balance(customer))["used_nano"] == USED_NANO


async def _assert_orphaned(path: Path, customer: str) -> None:
    expired = await path.holds("expired")
    assert await expire_holds(path.stack, [customer]) == 1
    balance = await path.stack.until_captured(customer)
    assert (balance["used_nano"], balance["available_nano"]) == (0, 10**9)
    await path.until_holds("expired", expired + 1)


def _headers(check: authz.CheckRequest) -> Any:
    http = check.attributes.request.http
    return http.header_map.headers or http.headers
