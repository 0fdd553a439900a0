"""
The demo's story: who calls, what they send, and what comes back, told step by step.

Each step waits until the usage before it is captured, so that the same story is told every
time; the burst alone is concurrent.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp

from sidecar.demo.upstream import MODEL
from sidecar.outbound.admin_api import AdminApi

BURST_REQUESTS = 200
BURST_WORTH = 20
PREPAID_REQUESTS = 12
OVERDUE_REQUESTS = 2
POSTPAID_REQUESTS = 4
QUOTA_REQUESTS = 9
UNKNOWN_REQUESTS = 2
SETTLE_SECONDS_MAX = 30.0
PATH = "/v1/chat/completions"
CUSTOMERS = {
    "cus_prepaid": ("prepaid", None),
    "cus_overdue": ("postpaid", "cus_stripe_overdue"),
    "cus_postpaid": ("postpaid", "cus_stripe_postpaid"),
    "cus_quota": ("free", None),
    "cus_burst": ("per-request", None),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one request came to: `code` is the deny reason, or "" for an allow."""

    customer: str
    status: int
    code: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Chapter:
    """A new part of the story, and whose balance it is about ("" for nobody's)."""

    title: str
    customer: str


@dataclass(slots=True)
class Tally:
    """What the client itself saw; compared with what the stores say."""

    total: int = 0
    allowed: int = 0
    denied: Counter[str] = field(default_factory=Counter)

    def add(self, answer: Answer) -> None:
        """Count one answer."""
        self.total += 1
        if answer.code:
            self.denied[answer.code] += 1
        else:
            self.allowed += 1


class Story:
    """Sends the demo's traffic through the gateway."""

    def __init__(
        self,
        *,
        gateway_url: str,
        admin: AdminApi,
        tally: Tally,
    ) -> None:
        """
        Wire it.

        Args:
            gateway_url: Where Envoy listens.
            admin: The admin API.
            tally: Counts what the client sees.
        """
        self._url = gateway_url + PATH
        self._admin = admin
        self._tally = tally
        self._keys: dict[str, str] = {}

    @property
    def keys(self) -> dict[str, str]:
        """API keys by customer, for a person who goes on by hand."""
        return self._keys

    async def prepare(self) -> None:
        """Create the customers, their keys and credit."""
        for customer_id, (plan, stripe_id) in CUSTOMERS.items():
            await self._admin.create_customer(
                {
                    "id": customer_id,
                    "plan": plan,
                    "currency": "USD",
                    "stripe_customer_id": stripe_id,
                }
            )
            credential = await self._admin.issue_credential(
                {"customer_id": customer_id, "user_id": "demo", "name": "demo"}
            )
            self._keys[customer_id] = credential["secret"]
        for customer_id, amount in (("cus_prepaid", "0.0005"), ("cus_burst", "0.02")):
            await self._admin.create_grant(
                {"customer_id": customer_id, "amount": amount, "currency": "USD", "kind": "paid"}
            )

    async def tell(self) -> AsyncIterator[Chapter | Answer]:
        """Each chapter's title, then its answers as they come."""
        connector = aiohttp.TCPConnector(limit=BURST_REQUESTS)
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            yield Chapter("cus_prepaid spends its credit", "cus_prepaid")
            async for answer in self._sequence(session, "cus_prepaid", PREPAID_REQUESTS, 50):
                yield answer
            yield Chapter("cus_overdue has an unpaid invoice", "cus_overdue")
            async for answer in self._sequence(session, "cus_overdue", OVERDUE_REQUESTS, 50):
                yield answer
            yield Chapter("cus_postpaid is in good standing: JSON, then a stream", "cus_postpaid")
            async for answer in self._sequence(session, "cus_postpaid", POSTPAID_REQUESTS, 40):
                yield answer
            yield await self._stream(session, cut=False)
            yield Chapter("cus_postpaid's client hangs up mid-stream", "cus_postpaid")
            yield await self._stream(session, cut=True)
            yield Chapter("cus_quota reaches its monthly token quota", "cus_quota")
            async for answer in self._sequence(session, "cus_quota", QUOTA_REQUESTS, 16_000):
                yield answer
            yield Chapter("somebody guesses a key", "")
            for _ in range(UNKNOWN_REQUESTS):
                yield await self._ask(session, "", "sk-guess", 10)
            yield Chapter(
                f"cus_burst sends {BURST_REQUESTS} requests at once at credit worth {BURST_WORTH}",
                "cus_burst",
            )
            for answer in await self._burst(session):
                yield answer
            for customer_id in CUSTOMERS:
                await self._until_captured(customer_id)

    async def _sequence(
        self, session: aiohttp.ClientSession, customer: str, count: int, max_tokens: int
    ) -> AsyncIterator[Answer]:
        for _ in range(count):
            answer = await self._ask(session, customer, self._keys[customer], max_tokens)
            await self._until_captured(customer)
            yield answer

    async def _burst(self, session: aiohttp.ClientSession) -> list[Answer]:
        key = self._keys["cus_burst"]
        return await asyncio.gather(
            *(self._ask(session, "cus_burst", key, 10) for _ in range(BURST_REQUESTS))
        )

    async def _until_captured(self, customer: str) -> None:
        """Wait until no amount of the customer is in flight, so that the next check sees it all."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SETTLE_SECONDS_MAX
        while (await self._admin.read_balance(customer))["held_nano"]:
            if loop.time() > deadline:
                raise RuntimeError(f"the usage of {customer} did not arrive in time")
            await asyncio.sleep(0.02)

    async def _ask(
        self, session: aiohttp.ClientSession, customer: str, key: str, max_tokens: int
    ) -> Answer:
        body = {
            "model": MODEL,
            "max_tokens": max_tokens,
            "messages": [{"role": "user", "content": "What does this cost me?"}],
        }
        async with session.post(
            self._url, json=body, headers={"authorization": f"Bearer {key}"}
        ) as response:
            return self._count(customer, response.status, await _code(response))

    async def _stream(self, session: aiohttp.ClientSession, *, cut: bool) -> Answer:
        body = {
            "model": MODEL,
            "max_tokens": 40,
            "stream": True,
            "stream_options": {"include_usage": True},
            "user": "slow" if cut else "steady",
            "messages": [{"role": "user", "content": "Tell me slowly."}],
        }
        key = self._keys["cus_postpaid"]
        async with session.post(
            self._url, json=body, headers={"authorization": f"Bearer {key}"}
        ) as response:
            if cut:
                await response.content.readany()
                # Closing the connection, not reading to the end, is what hanging up is.
                response.close()
            else:
                await response.read()
            answer = self._count("cus_postpaid", response.status, "", "cut" if cut else "stream")
        await self._until_captured("cus_postpaid")
        return answer

    def _count(self, customer: str, status: int, code: str, note: str = "") -> Answer:
        answer = Answer(customer=customer, status=status, code=code, note=note)
        self._tally.add(answer)
        return answer


async def _code(response: aiohttp.ClientResponse) -> str:
    """The deny reason of an answer, or "" for an allow."""
    if response.status < 400:  # noqa: PLR2004  The first status that is an error.
        await response.read()
        return ""
    try:
        body = await response.json(content_type=None)
    except ValueError:
        return f"http_{response.status}"
    # The route has OpenAI's error format.
    error = body.get("error") if isinstance(body, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return str(code or f"http_{response.status}")
