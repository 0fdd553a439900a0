"""
A stateful stand-in of Stripe's billing API, for tests and the demo.

`python -m sidecar.standins.stripe --port 0` runs it as a process and prints its URL.
"""

import argparse
import asyncio
import itertools
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from aiohttp import web

from sidecar.standins.stripe_catalog import Catalog
from sidecar.standins.stripe_errors import NO_RETRY, ApiError, StandinBug, not_modelled
from sidecar.standins.stripe_events import ErrorReport, MeterEvents
from sidecar.standins.stripe_faults import Fault, Faults
from sidecar.standins.stripe_idempotency import IdempotencyKeys
from sidecar.standins.stripe_meters import MeterEvent, Meters
from sidecar.standins.stripe_preview import InvoicePreview, Previews
from sidecar.standins.stripe_replies import (
    Delivery,
    Reply,
    deliver,
    error_reply,
    lost_reply,
    rate_limited,
    server_error_reply,
    success_reply,
)
from sidecar.standins.stripe_requests import Call, parse_call
from sidecar.standins.stripe_schema import load_schema
from sidecar.standins.stripe_settings import Clock, StripeSettings, exact_sum, utc_now

BUGS_MAX = 100


class RequestRecord(NamedTuple):
    """A request that was served; status 0 means that no answer was sent."""

    method: str
    path: str
    status: int


_BEFORE_COMMIT = {
    Fault.DROP_BEFORE_COMMIT: Delivery.DROP,
    Fault.TIMEOUT_BEFORE_COMMIT: Delivery.HANG,
}
_AFTER_COMMIT = {
    Fault.DROP_AFTER_COMMIT: Delivery.DROP,
    Fault.TRUNCATE_AFTER_COMMIT: Delivery.TRUNCATE,
    Fault.TIMEOUT_AFTER_COMMIT: Delivery.HANG,
}


class StripeStandin:
    """
    One Stripe account in memory behind an HTTP server.

    Args:
        clock: What time it is for identifiers, keys, timestamps; must answer aware datetimes.
        faults: Which requests fail; None means none.
        settings: Behaviour and bounds.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        faults: Faults | None = None,
        settings: StripeSettings | None = None,
    ) -> None:
        self.settings = settings or StripeSettings()
        self.faults = faults or Faults()
        self.requests_log: deque[RequestRecord] = deque(maxlen=self.settings.requests_log_max)
        self.bugs: deque[str] = deque(maxlen=BUGS_MAX)
        self._clock = clock or utc_now
        self._schema = load_schema()
        self._meters = Meters(self.settings, self._clock)
        self._catalog = Catalog(self.settings, self._clock, self._meters.exists)
        self._events = MeterEvents(
            self.settings, self._clock, self._meters, self._catalog.customers.__contains__
        )
        self._previews = Previews(self._catalog, self._meters, self._events)
        self._keys = IdempotencyKeys(self.settings, self._clock)
        self._handlers = self._routes()
        self._locks: set[tuple[str, str]] = set()
        self._request_numbers = itertools.count(1)
        self._stopping = asyncio.Event()
        self._runner: web.AppRunner | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen and answer the base URL; state survives `stop` and a second `start`."""
        assert self._runner is None, "the stand-in is running"
        self._stopping = asyncio.Event()
        app = web.Application(client_max_size=self.settings.body_bytes_max)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        bound = self._runner.addresses[0]
        return f"http://{bound[0]}:{bound[1]}"

    async def stop(self) -> None:
        """Close the server and every connection; hanging requests end unanswered."""
        self._stopping.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Listen on a free port while the block runs; gives the base URL."""
        url = await self.start()
        try:
            yield url
        finally:
            await self.stop()

    def add_customer(self, customer_id: str) -> None:
        """Add a customer under this id. Raises ApiError if it is taken."""
        self._catalog.add_customer(customer_id, {})

    def add_meter(self, event_name: str, *, formula: str = "sum") -> str:
        """Add a meter with default keys and answer its id. Raises ApiError if taken."""
        params = {
            "display_name": event_name,
            "event_name": event_name,
            "default_aggregation": {"formula": formula},
        }
        return self._meters.create(params).id

    def meter_totals(self) -> dict[tuple[str, str], Decimal]:
        """Exact sum of the events that count, by (customer, event name)."""
        return self._events.totals()

    def values(self) -> dict[str, Decimal]:
        """Exact sum of the events that count, by event name."""
        totals = self.meter_totals()
        names = sorted({name for _, name in totals})
        return {
            name: exact_sum(
                total for (_, event_name), total in totals.items() if event_name == name
            )
            for name in names
        }

    def invoice_preview(
        self, customer_id: str, price_ids: list[str], *, start: datetime, end: datetime
    ) -> InvoicePreview:
        """Price a customer's events of [start, end) by metered prices. Raises ApiError."""
        return self._previews.preview(customer_id, price_ids, start=start, end=end)

    @property
    def meter_event_count(self) -> int:
        """How many events count: neither refused, nor in error, nor cancelled."""
        return sum(event.counts for event in self._events.events)

    @property
    def meter_events(self) -> tuple[MeterEvent, ...]:
        """Every event taken in, in order, those that do not count included."""
        return self._events.events

    @property
    def error_reports(self) -> tuple[ErrorReport, ...]:
        """Every asynchronous error so far, in order."""
        return tuple(self._events.error_reports)

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
        call = await parse_call(request, self._schema)
        if call.operation.id not in self._handlers:
            raise not_modelled(call.operation.id)
        if "expand" in call.params and not call.operation.id.startswith("price."):
            raise not_modelled("expansion of anything but a price's tiers")
        fault = self.faults.draw(call.path)
        if fault is Fault.RATE_LIMIT:
            raise rate_limited()
        if fault in _BEFORE_COMMIT:
            return lost_reply(_BEFORE_COMMIT[fault])
        if call.keeps_answer:
            reply = await self._perform_once(call, fault, request_id)
        else:
            reply = await self._perform(call, fault)
        return replace(reply, delivery=_AFTER_COMMIT.get(fault, Delivery.SEND))

    async def _perform_once(self, call: Call, fault: Fault, request_id: str) -> Reply:
        """Perform a call, or replay the answer to the first one with its key."""
        key = call.http_key or ""
        saved = self._keys.begin(key, call.path, call.params)
        if saved is not None:
            headers = {"idempotent-replayed": "true", "original-request": saved.request_id}
            return Reply(status=saved.status, body=saved.body, headers=headers)
        reply: Reply | None = None
        try:
            reply = await self._perform(call, fault)
        finally:
            # What never ran (429, a bug, a stopped server) leaves the key free, as at Stripe.
            if reply is None or (reply.status >= 500 and not self.settings.save_server_errors):  # noqa: PLR2004 - HTTP's border.
                self._keys.abandon(key)
            else:
                answer = (reply.status, reply.body, request_id)
                self._keys.save(key, call.path, call.params, answer)
        return reply

    async def _perform(self, call: Call, fault: Fault) -> Reply:
        """Take effect, once, under the lock of (customer, meter)."""
        with self._locked(call):
            wait = self.settings.latency_seconds
            if fault is Fault.LATENCY:
                wait += self.faults.latency_seconds
            if wait:
                await asyncio.sleep(wait)
            if fault is Fault.ERROR_BEFORE_COMMIT:
                return server_error_reply()
            reply = self._execute(call)
            return server_error_reply() if fault is Fault.ERROR_AFTER_COMMIT else reply

    def _execute(self, call: Call) -> Reply:
        try:
            body = self._handlers[call.operation.id](call)
        except ApiError as error:
            call.operation.check_response(error.status, error.body())
            return error_reply(error)
        call.operation.check_response(200, body)
        return success_reply(body)

    @contextmanager
    def _locked(self, call: Call) -> Iterator[None]:
        """One call at a time per customer and meter. Source: docs.stripe.com/rate-limits."""
        if call.operation.id != "billing.meter_event.create":
            yield
            return
        name = self._events.lock_name(call.params)
        if name in self._locks:
            raise ApiError(
                429,
                "This object cannot be accessed right now because another API request or Stripe "
                "process is currently accessing it. If you see this error intermittently, retry "
                "the request.",
                code="lock_timeout",
            )
        self._locks.add(name)
        try:
            yield
        finally:
            self._locks.discard(name)

    def _routes(self) -> dict[str, Callable[[Call], dict[str, Any]]]:
        catalog, events, meters = self._catalog, self._events, self._meters
        return {
            "billing.meter.create": lambda call: meters.create(call.params).to_json(),
            "billing.meter.retrieve": lambda call: meters.get(call.ids["id"]).to_json(),
            "billing.meter.update": lambda call: meters.update(
                call.ids["id"], call.params
            ).to_json(),
            "billing.meter.list": lambda call: meters.list(call.params),
            "billing.meter.deactivate": lambda call: meters.deactivate(call.ids["id"]).to_json(),
            "billing.meter.reactivate": lambda call: meters.reactivate(call.ids["id"]).to_json(),
            "billing.meter_event.create": lambda call: events.create(call.params, call.http_key),
            "billing.meter_event_adjustment.create": lambda call: events.cancel(call.params),
            "billing.meter_event_summary.list": lambda call: events.summaries(
                meters.get(call.ids["id"]), call.params
            ),
            "customer.create": lambda call: catalog.create_customer(call.params),
            "customer.retrieve": lambda call: catalog.find_customer(call.ids["customer"]),
            "customer.list": lambda call: catalog.list_customers(call.params),
            "product.create": lambda call: catalog.create_product(call.params),
            "product.retrieve": lambda call: catalog.find_product(call.ids["id"]),
            "product.update": lambda call: catalog.update_product(call.ids["id"], call.params),
            "product.list": lambda call: catalog.list_products(call.params),
            "price.create": lambda call: catalog.create_price(call.params),
            "price.retrieve": lambda call: catalog.retrieve_price(call.ids["price"], call.params),
            "price.update": lambda call: catalog.update_price(call.ids["price"], call.params),
            "price.list": lambda call: catalog.list_prices(call.params),
            "invoice.create_preview": lambda call: self._previews.create(
                call.params, self._clock()
            ),
        }


async def _run(arguments: argparse.Namespace) -> None:
    standin = StripeStandin()
    for customer in arguments.customer:
        standin.add_customer(customer)
    for event_name in arguments.meter:
        standin.add_meter(event_name)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    url = await standin.start(port=arguments.port)
    sys.stdout.write(f"{url}\n")
    sys.stdout.flush()
    await ended.wait()
    await standin.stop()


def main() -> None:
    """Serve on 127.0.0.1 until SIGINT or SIGTERM; the first line of output is the URL."""
    parser = argparse.ArgumentParser(prog="python -m sidecar.standins.stripe")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--customer", action="append", default=[], help="id to exist from start")
    parser.add_argument("--meter", action="append", default=[], help="event name of a sum meter")
    asyncio.run(_run(parser.parse_args()))


if __name__ == "__main__":
    main()
