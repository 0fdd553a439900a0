"""The HTTP side of the Stripe stand-in: faults, keys, locks, and one account behind them."""

import asyncio
import itertools
from collections import deque
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace

from aiohttp import web

from sidecar.standins.serving import AFTER_COMMIT, BEFORE_COMMIT, HttpStandin, RequestRecord
from sidecar.standins.stripe_account import Account
from sidecar.standins.stripe_deliveries import WebhookKnobs
from sidecar.standins.stripe_errors import NO_RETRY, ApiError, StandinBug, not_modelled
from sidecar.standins.stripe_expand import expanded
from sidecar.standins.stripe_faults import Fault, Faults
from sidecar.standins.stripe_idempotency import IdempotencyKeys
from sidecar.standins.stripe_replies import (
    Delivery,
    Reply,
    deliver,
    error_reply,
    lock_timeout,
    lost_reply,
    rate_limited,
    server_error_reply,
    success_reply,
)
from sidecar.standins.stripe_requests import Call, parse_call
from sidecar.standins.stripe_rooms import Item, in_live_mode
from sidecar.standins.stripe_routes import make_routes
from sidecar.standins.stripe_schema import load_schema
from sidecar.standins.stripe_settings import Clock, StripeSettings, utc_now

BUGS_MAX = 100
TICK_SECONDS = 0.2


class StripeServer(HttpStandin):
    """
    One Stripe account in memory behind an HTTP server.

    Args:
        clock: What time it is for identifiers, keys, timestamps; must answer aware datetimes.
        faults: Which requests fail; None means none.
        settings: Behaviour and bounds.
        webhooks: How webhooks misbehave.
        automatic: Whether webhooks go out and time takes effect by themselves while the server
            listens; else `deliver`, `drain`, `run_due` and `advance` of the stand-in do it.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        faults: Faults | None = None,
        settings: StripeSettings | None = None,
        webhooks: WebhookKnobs | None = None,
        automatic: bool = False,
    ) -> None:
        self.settings = settings or StripeSettings()
        super().__init__(body_bytes_max=self.settings.body_bytes_max)
        self.faults = faults or Faults()
        self.requests_log: deque[RequestRecord] = deque(maxlen=self.settings.requests_log_max)
        self.bugs: deque[str] = deque(maxlen=BUGS_MAX)
        self.clock = clock or utc_now
        self._schema = load_schema()
        self.account = Account(
            self.settings, self.clock, self._schema.version, webhooks or WebhookKnobs()
        )
        self._keys = IdempotencyKeys(self.settings, self.clock)
        self._handlers = make_routes(self.account, self.clock)
        self._locks: set[tuple[str, str]] = set()
        self._request_numbers = itertools.count(1)
        self._automatic = automatic
        self._background: list[asyncio.Task[None]] = []

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen and answer the base URL; in the automatic mode time begins to take effect."""
        url = await super().start(host, port)
        if self._automatic:
            works = (self.account.deliveries.run(), self._tick())
            self._background = [asyncio.create_task(self._guarded(work)) for work in works]
        return url

    async def stop(self) -> None:
        """Close the server and every connection; hanging requests end unanswered."""
        self._stopping.set()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        self._background = []
        await super().stop()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self.account.run_due()

    async def _guarded(self, work: Coroutine[None, None, None]) -> None:
        """Run work of the automatic mode; a test that looks only at answers must see it fail."""
        try:
            await work
        except Exception as error:
            self.bugs.append(repr(error))
            raise

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        request_id = f"req_standin{next(self._request_numbers):08d}"
        try:
            reply = await self._answer(request, request_id)
        except ApiError as error:
            reply = error_reply(error)
        except StandinBug as bug:
            self.bugs.append(str(bug))
            problem = ApiError(500, f"Stand-in: {bug}", kind="api_error", headers=NO_RETRY)
            reply = error_reply(problem)
        except Exception as error:
            self.bugs.append(repr(error))  # A test that looks only at totals must see it too.
            raise
        self.requests_log.append(RequestRecord(request.method, request.path, reply.sent_status))
        return await deliver(
            request,
            reply,
            {"request-id": request_id, "stripe-version": self._schema.version},
            stopping=self._stopping,
            timeout_seconds=self.faults.timeout_seconds,
        )

    async def _answer(self, request: web.Request, request_id: str) -> Reply:
        """Everything of a request but its delivery: faults, keys, locks, effect."""
        call = await parse_call(request, self._schema, self.account.access)
        if call.operation.id not in self._handlers:
            raise not_modelled(call.operation.id)
        self.account.access.check_scope(call.api_key, call.operation.id, call.operation.method)
        fault = self.faults.draw(call.path)
        if fault is Fault.RATE_LIMIT:
            raise rate_limited()
        if fault is Fault.LOCK_TIMEOUT:
            raise lock_timeout()
        if fault in BEFORE_COMMIT:
            return lost_reply(BEFORE_COMMIT[fault])
        if call.keeps_answer:
            reply = await self._perform_once(call, fault, request_id)
        else:
            reply = await self._perform(call, fault, request_id)
        return replace(reply, delivery=AFTER_COMMIT.get(fault, Delivery.SEND))

    async def _perform_once(self, call: Call, fault: Fault, request_id: str) -> Reply:
        """Perform a call, or replay the answer to the first one with its key."""
        key = call.http_key or ""
        saved = self._keys.begin(key, call.path, call.params)
        if saved is not None:
            headers = {"idempotent-replayed": "true", "original-request": saved.request_id}
            return Reply(status=saved.status, body=saved.body, headers=headers)
        reply: Reply | None = None
        try:
            reply = await self._perform(call, fault, request_id)
        finally:
            # What never ran (429, a bug, a stopped server) leaves the key free, as at Stripe.
            if reply is None or (reply.status >= 500 and not self.settings.save_server_errors):  # noqa: PLR2004 - HTTP's border.
                self._keys.abandon(key)
            else:
                answer = (reply.status, reply.body, request_id)
                self._keys.save(key, call.path, call.params, answer)
        return reply

    async def _perform(self, call: Call, fault: Fault, request_id: str) -> Reply:
        """Take effect, once, under the lock of (customer, meter)."""
        with self._locked(call):
            wait = self.settings.latency_seconds
            if fault is Fault.LATENCY:
                wait += self.faults.latency_seconds
            if wait:
                await asyncio.sleep(wait)
            if fault is Fault.ERROR_BEFORE_COMMIT:
                return server_error_reply()
            reply = self._execute(call, request_id)
            return server_error_reply() if fault is Fault.ERROR_AFTER_COMMIT else reply

    def _execute(self, call: Call, request_id: str) -> Reply:
        self.account.log.request = (request_id, call.http_key)
        try:
            body = self._effect(call)
        except ApiError as error:
            call.operation.check_response(error.status, error.body())
            return error_reply(error)
        finally:
            self.account.log.request = (None, None)
        call.operation.check_response(200, body)
        return success_reply(body)

    def _effect(self, call: Call) -> Item:
        """Take effect and answer the object, with what `expand` asks for."""
        paths = call.params.get("expand", [])
        if call.operation.id.startswith("price."):
            return self._stamped(self._handlers[call.operation.id](call))  # Tiers are special.
        if not paths:
            return self._stamped(self._handlers[call.operation.id](call))
        params = {name: value for name, value in call.params.items() if name != "expand"}
        body = self._handlers[call.operation.id](replace(call, params=params))
        return self._stamped(expanded(body, paths, self.account.find))

    def _stamped(self, body: Item) -> Item:
        """The body with the account's mode in all its objects."""
        return in_live_mode(body) if self.settings.livemode else body

    @contextmanager
    def _locked(self, call: Call) -> Iterator[None]:
        """One call at a time per customer and meter. Source: docs.stripe.com/rate-limits."""
        if call.operation.id != "billing.meter_event.create":
            yield
            return
        name = self.account.events.lock_name(call.params)
        if name in self._locks:
            raise lock_timeout()
        self._locks.add(name)
        try:
            yield
        finally:
            self._locks.discard(name)
