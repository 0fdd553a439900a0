"""Webhooks on their way: signed, at least once, late, twice, out of order or lost."""

import asyncio
import contextlib
import hashlib
import hmac
import json
import random
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

import aiohttp

from sidecar.standins.stripe_errors import StandinFull
from sidecar.standins.stripe_rooms import Item
from sidecar.standins.stripe_settings import Clock, epoch_seconds, utc_now
from sidecar.standins.stripe_webhook_endpoints import Target, WebhookEndpoints

SUCCESS = range(200, 300)
DRAIN_PASSES_MAX = 100
CONCURRENT_MAX = 8


@dataclass(slots=True, kw_only=True)
class WebhookKnobs:
    """
    How deliveries misbehave. May be changed between two passes.

    Attributes:
        duplicate: Probability 0..1 that an event is delivered once more.
        drop: Probability 0..1 that an event is never delivered; `GET /v1/events` still has it.
        shuffle: Whether a pass sends in random order, not in order of the events.
        delay_seconds: How long a delivery waits at first, in automatic mode.
        retry_seconds: How long it waits after an answer that is no 2xx, in automatic mode.
        attempts_max: After so many attempts a delivery is given up.
        timeout_seconds: How long an answer may take.
        queue_max: Deliveries that may wait; one more is a bug of the test.
        log_max: Attempts remembered.
        signed_at: The clock of the signatures. Receivers compare it with their own, so it is the
            machine's and not the account's.
    """

    duplicate: float = 0.0
    drop: float = 0.0
    shuffle: bool = False
    delay_seconds: float = 0.0
    retry_seconds: float = 0.2
    attempts_max: int = 5
    timeout_seconds: float = 10.0
    queue_max: int = 100_000
    log_max: int = 10_000
    signed_at: Clock = utc_now


class Attempt(NamedTuple):
    """One delivery that was tried; status 0 means that no answer came."""

    event_id: str
    type: str
    url: str
    attempt: int
    status: int


@dataclass(slots=True, kw_only=True)
class _Pending:
    target: Target
    event: Item
    due: float
    attempt: int = 0


class Deliveries:
    """
    What waits to be delivered.

    Nothing is sent by itself: `deliver` or `drain` send, or the automatic mode does (`run`).
    """

    def __init__(self, endpoints: WebhookEndpoints, knobs: WebhookKnobs, seed: int) -> None:
        self._endpoints = endpoints
        self.knobs = knobs
        self._random = random.Random(seed)  # noqa: S311 - Deliveries must repeat from a seed.
        self._pending: list[_Pending] = []
        self._arrived = asyncio.Event()
        self.log: deque[Attempt] = deque(maxlen=knobs.log_max)
        self.given_up: int = 0
        self.dropped: int = 0

    @property
    def pending(self) -> int:
        """How many deliveries wait."""
        return len(self._pending)

    def enqueue(self, event: Item) -> None:
        """
        Let an event wait for each endpoint that wants it.

        Raises:
            StandinFull: If queue_max deliveries wait.
        """
        for target in self._endpoints.targets(event):
            if self._random.random() < self.knobs.drop:
                self.dropped += 1
                continue
            twice = self._random.random() < self.knobs.duplicate
            for _ in range(2 if twice else 1):
                if len(self._pending) >= self.knobs.queue_max:
                    raise StandinFull("queue_max webhooks wait")
                due = _now() + self.knobs.delay_seconds
                self._pending.append(_Pending(target=target, event=event, due=due))
            if "pending_webhooks" in event:
                event["pending_webhooks"] += 1
        self._arrived.set()

    async def deliver(self) -> list[Attempt]:
        """Send what waits now, once, due or not; what fails waits again. Answers the attempts."""
        batch, self._pending = self._pending, []
        return await self._send(batch)

    async def drain(self) -> list[Attempt]:
        """Send until nothing waits: failed deliveries too, until they are given up."""
        attempts: list[Attempt] = []
        for _ in range(DRAIN_PASSES_MAX):
            if not self._pending:
                return attempts
            attempts += await self.deliver()
        message = "webhooks still wait: each pass brings new ones"
        raise StandinFull(message)

    async def run(self) -> None:
        """Send what is due, as it becomes due, until cancelled."""
        while True:
            now = _now()
            due = [item for item in self._pending if item.due <= now]
            if due:
                self._pending = [item for item in self._pending if item.due > now]
                await self._send(due)
                continue
            self._arrived.clear()
            wait = min((item.due - now for item in self._pending), default=None)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), wait)

    async def _send(self, batch: list[_Pending]) -> list[Attempt]:
        if self.knobs.shuffle:
            self._random.shuffle(batch)
        timeout = aiohttp.ClientTimeout(total=self.knobs.timeout_seconds)
        connector = aiohttp.TCPConnector(limit=CONCURRENT_MAX)
        attempts: list[Attempt] = []
        unsent = list(batch)
        try:
            async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
                for item in batch:
                    if self._endpoints.exists(item.target.endpoint_id):
                        attempts.append(await self._attempt(session, item))
                    unsent.pop(0)
        finally:
            self._pending = unsent + self._pending  # A cancelled pass loses nothing.
        return attempts

    async def _attempt(self, session: aiohttp.ClientSession, item: _Pending) -> Attempt:
        item.attempt += 1
        body = encode_event(item.event)
        headers = {
            "content-type": "application/json; charset=utf-8",
            "stripe-signature": signature(item.target.secret, body, self.knobs.signed_at),
            "user-agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
        }
        status = 0
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with session.post(
                item.target.url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                status = answer.status
        if status in SUCCESS:
            if "pending_webhooks" in item.event:
                item.event["pending_webhooks"] = max(0, item.event["pending_webhooks"] - 1)
        elif item.attempt < self.knobs.attempts_max:
            item.due = _now() + self.knobs.retry_seconds
            self._pending.append(item)
        else:
            self.given_up += 1
        attempt = Attempt(
            event_id=item.event["id"],
            type=item.event["type"],
            url=item.target.url,
            attempt=item.attempt,
            status=status,
        )
        self.log.append(attempt)
        return attempt


def encode_event(event: Item) -> bytes:
    """The body that is sent: of a thin event without its data, which must be fetched."""
    shown = event
    if event["object"] == "v2.core.event":
        shown = {name: value for name, value in event.items() if name != "data"}
    return json.dumps(shown, indent=2).encode()


def signature(secret: str, body: bytes, clock: Clock) -> str:
    """The Stripe-Signature header. Source: docs.stripe.com/webhooks, "Verify manually"."""
    stamp = epoch_seconds(clock())
    digest = hmac.new(secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={stamp},v1={digest}"


def _now() -> float:
    return asyncio.get_running_loop().time()
