"""The OpenAPI 3.1 document of one role, made from the route table and its models."""

import json
import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from sidecar import __version__
from sidecar.inbound.denials import PROBLEM_CONTENT_TYPE
from sidecar.inbound.grpc.metadata import GATEWAY_HEADER, TOKEN_HEADER
from sidecar.inbound.http.gateway_models import UsageItem
from sidecar.inbound.http.problems import ProblemBody
from sidecar.inbound.http.routing import Auth, Role, Route, path_id_pattern
from sidecar.inbound.http.system import Readiness, Unreadiness
from sidecar.services.idempotency import KEY_LENGTH_MAX

_REF = "#/components/schemas/{model}"
_PATH_PARAMETER = re.compile(r"\{(\w+)\}")
_TITLES = {
    Role.GATEWAY: "Sidecar gateway API: checks and usage",
    Role.ADMIN: "Sidecar admin API: customers, credentials, credit",
}

Schema = dict[str, Any]


def openapi_document(role: Role, routes: Sequence[Route], *, checks_open: bool) -> bytes:
    """
    The document as JSON bytes.

    Args:
        role: Whose routes these are.
        routes: Rows of the table.
        checks_open: Whether checks may come without a token on this listener.
    """
    names, schemas = _schemas(routes)
    paths: dict[str, Schema] = {}
    for route in routes:
        operation = _operation(route, names, schemas, checks_open=checks_open)
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    document = {
        "openapi": "3.1.0",
        "info": {"title": _TITLES[role], "version": __version__},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {"Problem": _problem_response()},
            "securitySchemes": _security_schemes(role),
        },
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _schemas(
    routes: Sequence[Route],
) -> tuple[dict[type[BaseModel], Schema], dict[str, Schema]]:
    """Each model's reference, and all definitions."""
    wanted: dict[type[BaseModel], JsonSchemaMode] = {ProblemBody: "serialization"}
    for route in routes:
        if route.request_model is not None:
            wanted[route.request_model] = "validation"
        if route.query_model is not None:
            wanted[route.query_model] = "validation"
        if route.response_model is not None:
            wanted[route.response_model] = "serialization"
        if route.response_model is Readiness:
            wanted[Unreadiness] = "serialization"
    if any(route.path == "/v1/usage" for route in routes):
        wanted[UsageItem] = "validation"  # Its items are judged one by one, so not by the batch.
    found, root = models_json_schema(list(wanted.items()), ref_template=_REF)
    references = {model: found[(model, mode)] for model, mode in wanted.items()}
    definitions: dict[str, Schema] = root["$defs"]
    return references, definitions


def _operation(
    route: Route,
    names: dict[type[BaseModel], Schema],
    schemas: dict[str, Schema],
    *,
    checks_open: bool,
) -> Schema:
    operation: Schema = {
        "operationId": route.handler.__name__,
        "summary": route.summary,
        "responses": _responses(route, names),
        "security": _security(route.auth, checks_open=checks_open),
    }
    parameters = list(_parameters(route, names, schemas))
    if parameters:
        operation["parameters"] = parameters
    if route.request_model is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": names[route.request_model]}},
        }
    return operation


def _parameters(
    route: Route, names: dict[type[BaseModel], Schema], schemas: dict[str, Schema]
) -> Iterable[Schema]:
    for name in _PATH_PARAMETER.findall(route.path):
        schema = {"type": "string", "pattern": path_id_pattern(name)}
        yield {"name": name, "in": "path", "required": True, "schema": schema}
    if route.query_model is not None:
        model = schemas[names[route.query_model]["$ref"].rpartition("/")[2]]
        required = model.get("required", [])
        for name, schema in model["properties"].items():
            yield {
                "name": name,
                "in": "query",
                "required": name in required,
                "schema": _without_null(schema),
                # As in filterGroupBy[model]=gpt-4o.
                **({"style": "deepObject"} if schema.get("type") == "object" else {}),
            }
    if route.takes_key:
        yield {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "description": "Names the write: a repeat gets the first answer.",
            "schema": {"type": "string", "pattern": rf"^[!-~]{{1,{KEY_LENGTH_MAX}}}$"},
        }
    if route.auth in (Auth.CHECK, Auth.METER) and route.request_model is not None:
        yield {
            "name": GATEWAY_HEADER,
            "in": "header",
            "required": False,
            "description": "The id of the gateway that calls.",
            "schema": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$"},
        }


def _without_null(schema: Schema) -> Schema:
    """A parameter is absent rather than null."""
    kinds = [kind for kind in schema.get("anyOf", []) if kind != {"type": "null"}]
    return kinds[0] if len(kinds) == 1 else schema


def _responses(route: Route, names: dict[type[BaseModel], Schema]) -> Schema:
    success, *errors = route.all_statuses
    content: Schema = {"schema": {"type": "string"}}
    if route.response_model is not None:
        content = {"schema": names[route.response_model]}
    response: Schema = {
        "description": success.phrase,
        "content": {route.response_type: content},
    }
    if route.takes_key:
        response["headers"] = {
            "Idempotency-Replayed": {
                "description": "true where the answer is that of an earlier request.",
                "schema": {"const": "true"},
            }
        }
    responses: Schema = {str(int(success)): response}
    for status in errors:
        responses[str(int(status))] = {"$ref": "#/components/responses/Problem"}
    if route.response_model is Readiness:
        unready = _problem_response()
        unready["content"]["application/json"] = {"schema": names[Unreadiness]}
        responses[str(int(HTTPStatus.SERVICE_UNAVAILABLE))] = unready
    return responses


def _problem_response() -> Schema:
    return {
        "description": "An error as problem details (RFC 9457).",
        "content": {PROBLEM_CONTENT_TYPE: {"schema": {"$ref": _REF.format(model="ProblemBody")}}},
    }


def _security_schemes(role: Role) -> Schema:
    who = "An admin token." if role is Role.ADMIN else "A gateway token."
    return {
        "bearer": {"type": "http", "scheme": "bearer", "description": who},
        "token": {"type": "apiKey", "in": "header", "name": TOKEN_HEADER, "description": who},
    }


def _security(auth: Auth, *, checks_open: bool) -> list[Schema]:
    if auth in (Auth.OPEN, Auth.SIGNATURE):
        return []
    schemes: list[Schema] = [{"bearer": []}, {"token": []}]
    return [*schemes, {}] if auth is Auth.CHECK and checks_open else schemes
