"""POST /v1/check: a gateway's question as JSON, the decision as JSON."""

import asyncio
import base64
import ipaddress
import time
from datetime import timedelta

from aiohttp import web

from sidecar import telemetry
from sidecar.domain.decisions import Allow, Decision, Deny, DenyReason
from sidecar.domain.errors import StoreUnavailable
from sidecar.domain.holds import make_hold_id
from sidecar.domain.identity import VerifiedFacts
from sidecar.domain.periods import to_epoch_ms
from sidecar.domain.requests import AccessRequest
from sidecar.inbound.denials import word_denial
from sidecar.inbound.envoy.attributes import OWN_HEADER_PREFIX
from sidecar.inbound.http.authentication import gateway_id
from sidecar.inbound.http.edge import EDGE, GATEWAY, GatewayUseCases
from sidecar.inbound.http.gateway_models import CheckAnswer, CheckBody
from sidecar.inbound.http.problems import ProblemError
from sidecar.inbound.http.routing import Call
from sidecar.services.check import CheckService

EDGE_NAME = "http"
HEADERS_MAX = 256
HEADER_BYTES_MAX = 65_536
_REQUEST_ID_BYTES_MAX = 128


async def post_check(call: Call) -> web.StreamResponse:
    """
    Decide on one request and write the answer, or give the hold back.

    The hold is released where no answer was written: the client went away, the deadline
    passed, or writing failed. Then its request cannot have passed.
    """
    started = time.perf_counter()
    assert isinstance(call.body, CheckBody)
    gateway = call.request.app[GATEWAY]
    finishing = call.request.app[EDGE].finishing
    access = access_request(call.body, gateway, gateway_id(call.request, call.principal))
    refusal = _refusal(access)
    work = finishing.start(_known(refusal) if refusal else gateway.checks.check(access))
    answered = False
    try:
        done, _ = await asyncio.wait({work}, timeout=gateway.check_deadline_ms / 1_000)
        decision = _outcome(work, access) if done else _without_store(access)
        response = web.Response(
            body=check_answer(decision).model_dump_json().encode(),
            content_type="application/json",
        )
        written = await _write(response, call.request)
        answered = bool(done) and written
    except Exception:
        telemetry.CHECKS.labels(EDGE_NAME, "error", "internal_error").inc()
        raise
    finally:
        if not answered:
            finishing.leave(_abandon(gateway.checks, work))
    _count(decision)
    telemetry.CHECK_DURATION.labels(EDGE_NAME).observe(time.perf_counter() - started)
    return response


def access_request(body: CheckBody, gateway: GatewayUseCases, gateway_name: str) -> AccessRequest:
    """
    Turn a check's body into the access request.

    The hold id is fresh for each check: no id in the body is known to be the gateway's own,
    so a gateway that repeats a check holds twice, and the first hold expires.

    Raises:
        ProblemError: 400 where the gateway itself misspoke.
    """
    now = gateway.clock.now()
    content = _content(body)
    headers = _headers(body)
    request_id = (headers.get("x-request-id") or ("",))[0]
    return AccessRequest(
        edge=EDGE_NAME,
        gateway_id=gateway_name,
        hold_id=make_hold_id(to_epoch_ms(now) // 1_000, gateway.random_bytes(16)),
        method=body.method.upper(),
        path=body.path,
        headers=headers,
        received_at=now,
        deadline=now + timedelta(milliseconds=gateway.check_deadline_ms),
        host=body.host,
        source=_source(body.source_ip),
        body=content,
        body_complete=_complete(content, headers),
        request_id=request_id.encode()[:_REQUEST_ID_BYTES_MAX],
        verified=_verified(body),
    )


def check_answer(decision: Decision) -> CheckAnswer:
    """Word a decision for a gateway that speaks JSON."""
    match decision:
        case Allow():
            return CheckAnswer(
                allow=True,
                status=200,
                headers={name.lower(): value for name, value in decision.headers.items()},
                body=None,
                hold_id=decision.hold.hold_id if decision.hold else None,
                hold_token=decision.hold.token if decision.hold else None,
                decision_id=decision.decision_id,
                rule=decision.rule or None,
                code=None,
            )
        case Deny():
            words = word_denial(decision)
            return CheckAnswer(
                allow=False,
                status=words.status,
                headers=dict(words.headers),
                body=words.body,
                hold_id=None,
                hold_token=None,
                decision_id=decision.decision_id,
                rule=decision.rule or None,
                code=decision.reason,
            )


async def _write(response: web.Response, request: web.Request) -> bool:
    """Write the whole answer here, so that a client that has gone is noticed here."""
    try:
        await response.prepare(request)
        await response.write_eof()
    except ConnectionError:
        return False
    return True


async def _abandon(checks: CheckService, work: "asyncio.Task[Decision]") -> None:
    """Give back the hold of a check whose answer nobody has, once the check has ended."""
    await asyncio.wait({work})
    if not work.cancelled() and work.exception() is None:
        await checks.abandon(work.result())


def _outcome(work: "asyncio.Task[Decision]", access: AccessRequest) -> Decision:
    """The decision; a gateway is told of a store's failure as it is told of any denial."""
    try:
        return work.result()
    except StoreUnavailable:
        return _without_store(access)


async def _known(decision: Decision) -> Decision:
    return decision


def _refusal(access: AccessRequest) -> Deny | None:
    """Deny what is out of bounds: the end client chose it, so it is an answer, not an error."""
    count = sum(len(values) for values in access.headers.values())
    size = sum(
        len(name) + sum(len(value.encode()) for value in values)
        for name, values in access.headers.items()
    )
    if count <= HEADERS_MAX and size <= HEADER_BYTES_MAX:
        return None
    return Deny(
        decision_id=access.decision_id,
        reason=DenyReason.INVALID_REQUEST,
        rule="headers",
        detail=f"more than {HEADERS_MAX} headers or {HEADER_BYTES_MAX} bytes of them",
    )


def _without_store(access: AccessRequest) -> Deny:
    return Deny(
        decision_id=access.decision_id,
        reason=DenyReason.STORE_UNAVAILABLE,
        rule="on_store_failure",
        detail="the decision could not be taken in time",
    )


def _headers(body: CheckBody) -> dict[str, tuple[str, ...]]:
    """All values by lower-case name; a client's copies of our own headers are dropped."""
    headers: dict[str, tuple[str, ...]] = {}
    for name, values in body.headers.items():
        key = name.lower()
        if not key.startswith(OWN_HEADER_PREFIX):
            headers[key] = headers.get(key, ()) + values
    return headers


def _verified(body: CheckBody) -> VerifiedFacts:
    """The gateway's own word: only a gateway may call here, and it copies none of a client's."""
    fields = body.consumer.model_dump() if body.consumer else {}
    return VerifiedFacts(
        principal=body.client_certificate_san,
        consumer={name: value for name, value in fields.items() if value is not None},
    )


def _content(body: CheckBody) -> bytes | None:
    if body.body is not None and body.body_base64 is not None:
        raise ProblemError.of_field("body_base64", "stands beside body; send one of them")
    if body.body_base64 is None:
        return None if body.body is None else body.body.encode()
    return base64.b64decode(body.body_base64)  # Its form was checked by the model.


def _complete(content: bytes | None, headers: dict[str, tuple[str, ...]]) -> bool:
    """Whether the body is all of it, as far as the headers can tell; one may not have been sent."""
    lengths = headers.get("content-length", ())
    if not content:
        return "transfer-encoding" not in headers and all(one.strip() == "0" for one in lengths)
    return not lengths or lengths == (str(len(content)),)


def _source(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text)) if text else ""
    except ValueError:
        raise ProblemError.of_field("source_ip", "is no IP address") from None


def _count(decision: Decision) -> None:
    if isinstance(decision, Allow):
        telemetry.CHECKS.labels(EDGE_NAME, "allow", "").inc()
    else:
        telemetry.CHECKS.labels(EDGE_NAME, "deny", decision.reason.value).inc()
