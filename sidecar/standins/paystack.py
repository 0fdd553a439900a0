"""
A stateful stand-in of Paystack's API, for tests and the demo.

It models what collecting needs, from the public API documents: saved cards, transactions, payment
requests, customers, webhooks. There is no schema to check against; what is not modelled is refused.
"""

import asyncio
import json
from collections import deque
from collections.abc import Callable
from typing import Any

from aiohttp import web

from sidecar.standins.paystack_errors import PaystackError
from sidecar.standins.paystack_hooks import Hooks
from sidecar.standins.paystack_requests import PaymentRequests
from sidecar.standins.paystack_transactions import Card, Transactions
from sidecar.standins.serving import AFTER_COMMIT, BEFORE_COMMIT, HttpStandin, RequestRecord
from sidecar.standins.stripe_faults import Fault, Faults
from sidecar.standins.stripe_replies import Delivery, Reply, deliver

BODY_BYTES_MAX = 65_536
LOG_MAX = 10_000
SECRET = "sk_test_standin"  # noqa: S105  A stand-in's, which opens nothing.


class PaystackStandin(HttpStandin):
    """
    One Paystack account in memory behind an HTTP server.

    Args:
        faults: Which requests fail; None means none. Its `paths` must be None or Paystack's.
        secret: The key that callers send and webhooks are signed with.
    """

    def __init__(self, *, faults: Faults | None = None, secret: str = SECRET) -> None:
        super().__init__(body_bytes_max=BODY_BYTES_MAX)
        self.faults = faults or Faults(paths=None)
        self.hooks = Hooks(secret)
        self.requests_log: deque[RequestRecord] = deque(maxlen=LOG_MAX)
        self.bugs: deque[str] = deque(maxlen=100)
        self._secret = secret
        self.transactions = Transactions(self.hooks.emit)
        self.requests = PaymentRequests(self.transactions, self.hooks.emit)

    def add_card(self, code: str, email: str, card: Card = Card.SUCCEEDS) -> None:
        """Save a card, or change what happens with it."""
        self.transactions.add_card(code, email, card)

    def taken(self) -> dict[str, list[int]]:
        """
        Amounts that customers have paid, by the invoice that they were told.

        The invoice is read from the charge's metadata or the payment request's description.
        """
        found: dict[str, list[int]] = {}
        for charge in self.transactions.charges.values():
            if charge.status == "success":
                found.setdefault(str(charge.metadata.get("invoice_id")), []).append(charge.amount)
        for request in self.requests.requests.values():
            name = request.description.split(" ")[1]
            found.setdefault(name, []).extend([request.amount] * request.payments)
        return {name: amounts for name, amounts in found.items() if amounts}

    def live_requests(self) -> dict[str, int]:
        """How many payment requests ask for money, by the invoice that customers were told."""
        found: dict[str, int] = {}
        for request in self.requests.requests.values():
            if request.status != "draft" and not request.archived:
                name = request.description.split(" ")[1]
                found[name] = found.get(name, 0) + 1
        return found

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        try:
            reply = await self._answer(request)
        except PaystackError as error:
            reply = _reply(error.status, error.body())
        except Exception as error:
            self.bugs.append(repr(error))  # A test that looks only at totals must see it too.
            raise
        self.requests_log.append(RequestRecord(request.method, request.path, reply.sent_status))
        return await deliver(
            request,
            reply,
            {"x-ratelimit-limit": "100", "x-ratelimit-remaining": "99", "x-ratelimit-reset": "60"},
            stopping=self._stopping,
            timeout_seconds=self.faults.timeout_seconds,
        )

    async def _answer(self, request: web.Request) -> Reply:
        if request.headers.get("Authorization") != f"Bearer {self._secret}":
            raise PaystackError(401, "Invalid key", code="invalid_Key")
        effect = self._find(request, await _read_body(request))
        fault = self.faults.draw(request.path)
        if fault is Fault.RATE_LIMIT:
            return _reply(
                429,
                {"status": False, "message": "Please wait a few minutes and try again."},
                {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1"},
            )
        if fault in BEFORE_COMMIT:
            return Reply(status=0, body=b"", delivery=BEFORE_COMMIT[fault])
        if fault is Fault.LATENCY:
            await asyncio.sleep(self.faults.latency_seconds)
        if fault is Fault.ERROR_BEFORE_COMMIT:
            return _server_error()
        reply = effect()
        if fault is Fault.ERROR_AFTER_COMMIT:
            return _server_error()
        delivery = AFTER_COMMIT.get(fault, Delivery.SEND)
        return Reply(status=reply.status, body=reply.body, headers=reply.headers, delivery=delivery)

    def _find(self, request: web.Request, body: dict[str, Any]) -> Callable[[], Reply]:
        """What a request will do; nothing is done before the faults were drawn."""
        transactions, requests = self.transactions, self.requests
        match request.method, request.path.strip("/").split("/"):
            case "POST", ["transaction", "charge_authorization"]:
                return lambda: _ok("Charge attempted", transactions.charge(body))
            case "GET", ["transaction", "verify", reference]:
                return lambda: _ok("Verification successful", transactions.verify(reference))
            case "POST", ["customer"]:
                return lambda: _ok("Customer created", transactions.create_customer(body))
            case "GET", ["customer", name]:
                return lambda: _ok("Customer", transactions.find_customer(name).to_json())
            case "POST", ["paymentrequest"]:
                return lambda: _ok("Payment request created", requests.create(body))
            case "GET", ["paymentrequest"]:
                return lambda: _page(requests, dict(request.query))
            case "GET", ["paymentrequest", "verify", code]:
                return lambda: _ok("Payment request retrieved", requests.verify(code))
            case "POST", ["paymentrequest", "finalize", code]:
                return lambda: _ok("Payment request finalized", requests.finalize(code, body))
            case "POST", ["paymentrequest", "archive", code]:
                return lambda: _ok("Payment request archived", requests.archive(code))
            case _:
                raise PaystackError(404, f"Stand-in: {request.path} is not modelled")


async def _read_body(request: web.Request) -> dict[str, Any]:
    raw = await request.read()
    if not raw:
        return {}
    try:
        body = json.loads(raw)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise PaystackError(400, "Invalid request body")
    return body


def _page(requests: PaymentRequests, query: dict[str, str]) -> Reply:
    items, meta = requests.list(query)
    return _reply(200, {"status": True, "message": "Payment requests", "data": items, "meta": meta})


def _ok(message: str, data: object) -> Reply:
    return _reply(200, {"status": True, "message": message, "data": data})


def _server_error() -> Reply:
    return Reply(status=502, body=b"<html>Bad Gateway</html>")


def _reply(status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> Reply:
    return Reply(status=status, body=json.dumps(body).encode(), headers=headers or {})
