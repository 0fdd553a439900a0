"""From a row of the route table to a handler of aiohttp, and the frame around all of them."""

import json
from collections.abc import Awaitable, Callable

from aiohttp import web

from sidecar import telemetry
from sidecar.domain.errors import SidecarError
from sidecar.inbound.http.authentication import authenticate, check_host
from sidecar.inbound.http.bodies import read_model, read_query
from sidecar.inbound.http.edge import EDGE
from sidecar.inbound.http.problems import (
    ProblemCode,
    ProblemError,
    problem_of,
    problem_response,
)
from sidecar.inbound.http.routing import Answer, Auth, Call, Route
from sidecar.services.idempotency import (
    IdempotencyClaim,
    WriteAnswer,
    check_key,
    hash_fields,
    write_once,
)

Endpoint = Callable[[web.Request], Awaitable[web.StreamResponse]]

_KEY_HEADER = "Idempotency-Key"
_SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Server": "sidecar",
}


def make_endpoint(route: Route) -> Endpoint:
    """A handler that authenticates, checks query and body, and words the answer."""

    async def endpoint(request: web.Request) -> web.StreamResponse:
        principal = authenticate(route.auth, request)
        query = None
        # Probes, scrapers and whoever set a webhook's URL add parameters of their own.
        if route.auth not in (Auth.OPEN, Auth.SIGNATURE):
            query = read_query(request, route.query_model)
        body = None
        if route.request_model is not None:
            body = await read_model(request, route.request_model)
        call = Call(request=request, principal=principal, query=query, body=body)
        claim = _claim(route, call)
        if claim is not None:
            return await _write_once(route, call, claim)
        answer = await route.handler(call)
        return answer if isinstance(answer, web.StreamResponse) else _respond(answer)

    return endpoint


@web.middleware
async def frame(request: web.Request, handler: Endpoint) -> web.StreamResponse:
    """Around every request: bounds how many are in progress, and words what goes wrong."""
    edge = request.app[EDGE]
    if edge.in_flight >= edge.in_flight_max:
        return problem_response(
            ProblemError(
                ProblemCode.OVERLOADED,
                "too many requests are in progress",
                headers={"Retry-After": "1"},
            ),
            edge.new_id("err"),
        )
    edge.in_flight += 1
    try:
        check_host(edge, request)
        return await handler(request)
    except ProblemError as problem:
        return problem_response(problem, edge.new_id("err"))
    except web.HTTPException as error:
        return problem_response(_problem_of_http(error), edge.new_id("err"))
    except SidecarError as error:
        worded = problem_of(error)
        if worded is None:
            return _fail(request, error)
        return problem_response(worded, edge.new_id("err"))
    except Exception as error:  # noqa: BLE001  The top: counted, logged, and worded as a 500.
        return _fail(request, error)
    finally:
        edge.in_flight -= 1


async def secure_headers(request: web.Request, response: web.StreamResponse) -> None:
    """On every answer: nothing of it is cached or guessed at."""
    del request
    response.headers.update(_SECURITY_HEADERS)


async def answer_expectation(request: web.Request) -> web.StreamResponse | None:
    """Answer `Expect`: 100-continue invites the body, anything else is a problem."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # The answer itself has not begun.
        return None
    return problem_response(
        ProblemError(ProblemCode.EXPECTATION_FAILED, "only 100-continue can be expected"),
        request.app[EDGE].new_id("err"),
    )


def _claim(route: Route, call: Call) -> IdempotencyClaim | None:
    keys = call.request.headers.getall(_KEY_HEADER, [])
    if not route.takes_key or not keys:
        return None
    if len(keys) > 1:
        raise ProblemError.of_field("idempotency-key", "is given more than once")
    assert call.principal is not None
    content = {} if call.body is None else call.body.model_dump(mode="json")
    return IdempotencyClaim(
        principal=call.principal.name,
        key=check_key(keys[0]),
        route=f"{route.method} {call.request.path}",
        body_hash=hash_fields(content, route.shown_fields),
    )


async def _write_once(route: Route, call: Call, claim: IdempotencyClaim) -> web.Response:
    store = call.request.app[EDGE].idempotency
    assert store is not None

    async def write() -> WriteAnswer:
        answer = await route.handler(
            Call(
                request=call.request,
                principal=call.principal,
                query=call.query,
                body=call.body,
                claim=claim,
            )
        )
        assert isinstance(answer, Answer)
        content = answer.body.model_dump(mode="json")
        stored = content | dict.fromkeys(route.secret_fields)
        return WriteAnswer(
            status=int(answer.status),
            body=json.dumps(content).encode(),
            stored_body=json.dumps(stored).encode(),
            headers=answer.headers,
        )

    answer = await write_once(store, claim, write)
    response = web.Response(
        status=answer.status,
        body=answer.body,
        content_type="application/json",
        headers=answer.headers,
    )
    if answer.replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return response


def _respond(answer: Answer) -> web.Response:
    return web.Response(
        status=int(answer.status),
        body=answer.body.model_dump_json().encode(),
        content_type="application/json",
        headers=answer.headers,
    )


def _problem_of_http(error: web.HTTPException) -> ProblemError:
    """Errors of the router, the only ones that aiohttp raises by itself here."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return ProblemError(
            ProblemCode.METHOD_NOT_ALLOWED,
            f"this resource allows {allowed}",
            headers={"Allow": allowed},
        )
    if isinstance(error, web.HTTPNotFound):
        return ProblemError(ProblemCode.NOT_FOUND, "there is no such resource")
    return ProblemError(ProblemCode.INVALID_REQUEST, "the request cannot be served")


def _fail(request: web.Request, error: Exception) -> web.Response:
    """A fault of ours: the log has what happened, the caller a reference to it."""
    edge = request.app[EDGE]
    reference = edge.new_id("err")
    resource = request.match_info.route.resource
    route = resource.canonical if resource else "none"
    telemetry.HTTP_FAILURES.labels(edge.role.value, route).inc()
    telemetry.get_logger().error(
        "http_request_failed",
        role=edge.role.value,
        route=route,
        method=request.method,
        reference=reference,
        exc_info=error,
    )
    problem = ProblemError(ProblemCode.INTERNAL_ERROR, "the server failed; quote the reference")
    return problem_response(problem, reference)
