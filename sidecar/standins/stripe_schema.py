"""Stripe's OpenAPI description: which requests and responses it allows."""

import functools
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from openapi_schema_validator import OAS30Validator

from sidecar.standins.forms import FormError, coerce, decode_form
from sidecar.standins.stripe_errors import ApiError, ResponseDoesNotFit

_FORM = "application/x-www-form-urlencoded"
_JSON = "application/json"
_SHOWN_CHARACTERS = 40
# The trimmed description of billing, and what it lacks of payments, searches and v2 events.
_DOCUMENTS = ("stripe-openapi.json", "stripe-openapi-payments.json")


class Operation:
    """One method of one path, able to check a request and a response."""

    def __init__(
        self, method: str, template: str, spec: Mapping[str, Any], components: Mapping[str, Any]
    ) -> None:
        self.method = method
        self.template = template
        self.id: str = spec["operationId"]
        self._spec = spec
        self._components = components

    @property
    def takes_json(self) -> bool:
        """Whether the request's body is JSON: writes of the v2 API."""
        return _JSON in self._spec.get("requestBody", {}).get("content", {})

    def parse_params(self, text: str) -> dict[str, Any]:
        """
        Decode and check a body (POST: a form, or JSON for v2) or a query string (GET, DELETE).

        Raises:
            ApiError: With status 400 and `param`, worded as Stripe words it.
        """
        params = self._parse_json(text) if self.takes_json else self._parse_form(text)
        problems = sorted(
            self._request_validator.iter_errors(params),
            key=lambda problem: (len(problem.absolute_path), str(problem.absolute_path)),
        )
        if problems:
            raise _refusal(problems[0])
        return params

    def check_response(self, status: int, body: Mapping[str, Any]) -> None:
        """
        Refuse a response of ours that Stripe could not have sent.

        Beyond the schema, which leaves objects open, a top-level field of an object or of a
        list's objects must be one that Stripe has.

        Raises:
            ResponseDoesNotFit: Names operation, place and reason.
        """
        success = status < 400  # noqa: PLR2004 - The border between success and error in HTTP.
        validator = self._validators["200" if success else "default"]
        for problem in validator.iter_errors(body):
            place = "/".join(str(part) for part in problem.absolute_path)
            raise ResponseDoesNotFit(f"{self.id} {status} at '{place}': {problem.message}")
        if success:
            # Lists of v2 have no `object`; an event of v2 has, and `data` of its own.
            is_list = body.get("object", "list") in ("list", "search_result")
            for item in body["data"] if is_list else [body]:
                self._check_names(item)

    def _parse_form(self, text: str) -> dict[str, Any]:
        try:
            params: dict[str, Any] = coerce(decode_form(text), self._request_schema)
        except FormError as error:
            raise ApiError(400, str(error), param=error.param) from error
        return params

    def _parse_json(self, text: str) -> dict[str, Any]:
        try:
            params = json.loads(text or "{}")
        except ValueError as error:
            raise ApiError(400, "Invalid request: the body is not JSON.") from error
        if not isinstance(params, dict):
            raise ApiError(400, "Invalid request: the body is no JSON object.")
        return params

    def _check_names(self, item: Mapping[str, Any]) -> None:
        known = self._components["schemas"][item["object"]]["properties"]
        for name in item.keys() - known.keys():
            raise ResponseDoesNotFit(f"{self.id}: Stripe's {item['object']} has no `{name}`")

    @functools.cached_property
    def _request_schema(self) -> Mapping[str, Any]:
        if "requestBody" in self._spec:
            content = self._spec["requestBody"]["content"]
            schema: Mapping[str, Any] = content[_JSON if self.takes_json else _FORM]["schema"]
            return schema
        query = [item for item in self._spec.get("parameters", []) if item["in"] == "query"]
        return {
            "type": "object",
            "properties": {item["name"]: item["schema"] for item in query},
            "required": [item["name"] for item in query if item["required"]],
            "additionalProperties": False,
        }

    @functools.cached_property
    def _request_validator(self) -> Any:
        return OAS30Validator(self._request_schema)

    @functools.cached_property
    def _validators(self) -> Mapping[str, Any]:
        responses = self._spec["responses"]
        return {
            # `#/components/...` is looked up in the schema's own root.
            status: OAS30Validator(
                {**responses[status]["content"][_JSON]["schema"], "components": self._components}
            )
            for status in ("200", "default")
        }


class StripeSchema:
    """All operations of the description, found by method and path."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.version: str = document["info"]["version"]
        self._routes: dict[int, list[tuple[list[str], Operation]]] = {}
        for template, methods in document["paths"].items():
            segments = template.split("/")
            routes = self._routes.setdefault(len(segments), [])
            for method, spec in methods.items():
                operation = Operation(method.upper(), template, spec, document["components"])
                routes.append((segments, operation))
        for routes in self._routes.values():
            # `/v1/invoices/create_preview` before `/v1/invoices/{invoice}`.
            routes.sort(key=lambda route: route[1].template.count("{"))

    def find(self, method: str, path: str) -> tuple[Operation, dict[str, str]]:
        """
        The operation of a request and its path parameters.

        Raises:
            ApiError: With status 404 for anything that the description does not have.
        """
        given = path.split("/")
        for segments, operation in self._routes.get(len(given), []):
            if operation.method == method and _matches(segments, given):
                pairs = zip(segments, given, strict=True)
                return operation, {name[1:-1]: value for name, value in pairs if name[:1] == "{"}
        raise ApiError(
            404,
            f"Unrecognized request URL ({method}: {path[:200]}). "
            "Please see https://stripe.com/docs or we can help at https://support.stripe.com/.",
        )


@functools.cache
def load_schema() -> StripeSchema:
    """Read the packaged descriptions: once per process, since parsing them takes a while."""
    folder = resources.files("sidecar.standins").joinpath("data")
    document, payments = (json.loads(folder.joinpath(name).read_text()) for name in _DOCUMENTS)
    for path, methods in payments["paths"].items():
        document["paths"].setdefault(path, {}).update(methods)
    document["components"]["schemas"].update(payments["components"]["schemas"])
    return StripeSchema(document)


def _matches(segments: list[str], given: list[str]) -> bool:
    return all(
        bool(value) if segment[:1] == "{" else segment == value
        for segment, value in zip(segments, given, strict=True)
    )


def _refusal(problem: Any) -> ApiError:
    """Word one violation of a schema as Stripe does, with the code that it uses."""
    path = [str(part) for part in problem.absolute_path]
    if problem.validator == "required":
        name = next(item for item in problem.validator_value if item not in problem.instance)
        param = _bracketed([*path, name])
        return ApiError(
            400, f"Missing required param: {param}.", code="parameter_missing", param=param
        )
    if problem.validator == "additionalProperties":
        name = min(problem.instance.keys() - problem.schema.get("properties", {}).keys())
        param = _bracketed([*path, name])
        return ApiError(
            400, f"Received unknown parameter: {param}", code="parameter_unknown", param=param
        )
    param = _bracketed(path)
    if problem.validator == "enum":
        allowed = ", ".join(str(item) for item in problem.validator_value[:20])
        return ApiError(400, f"Invalid {param}: must be one of {allowed}", param=param)
    shown = str(problem.instance)[:_SHOWN_CHARACTERS]
    if problem.validator == "maxLength":
        limit = problem.validator_value
        return ApiError(
            400, f"Invalid string: {shown}...; must be at most {limit} characters", param=param
        )
    kind = problem.validator_value if problem.validator == "type" else "value"
    code = "parameter_invalid_integer" if kind == "integer" else None
    return ApiError(400, f"Invalid {kind}: {shown}", code=code, param=param)


def _bracketed(path: list[str]) -> str:
    shown = [part[:100] for part in path]
    return shown[0] + "".join(f"[{part}]" for part in shown[1:]) if shown else ""
