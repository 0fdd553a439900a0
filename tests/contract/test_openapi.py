"""What the OpenAPI documents promise, against what the applications do."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import schemathesis
from fixtures.http_edges import ADMIN_TOKEN, METER_TOKEN, World
from hypothesis import HealthCheck, Phase, settings
from openapi_schema_validator import OAS31Validator
from schemathesis.specs.openapi.checks import negative_data_rejection

from sidecar.domain.collecting import CollectState
from sidecar.inbound.http.edge import EDGE
from sidecar.inbound.http.listening import serve
from sidecar.inbound.http.routing import Auth, Role
from sidecar.inbound.http.table import routes_for

EXAMPLES = 25
KNOWN_NAMES = {
    "provider": ["paystack", "webhook"],
    "invoice_id": ["inv_1", "inv_2"],
    **{key: ["2026-02-01T00:00:00Z"] for key in ("since", "until", "ends_from", "ends_before")},
}


def narrowed(document: dict[str, Any]) -> dict[str, Any]:
    """
    The document with what no schema can say: which plans exist, their currency, good instants.

    Without this each generated customer is refused, and nothing behind that is tried.
    """
    document = json.loads(json.dumps(document))
    schemas = document["components"]["schemas"]
    known = {
        "CustomerBody": {
            "plan": {"enum": ["prepaid", "postpaid"]},
            "currency": {"const": "USD"},
            "overdraft": {"enum": ["0", "12.50"]},
        },
        "GrantBody": {
            "amount": {"type": "string", "pattern": "^[1-9]{1,6}$"},
            "currency": {"const": "USD"},
            "effective_at": {"enum": [None, "2026-02-01T00:00:00Z"]},
            "expires_at": {"enum": [None, "2026-03-01T00:00:00Z"]},
            "meters": {"enum": [[], ["input-tokens"]]},
        },
        "ScheduleBody": {
            "amount": {"type": "string", "pattern": "^[1-9]{1,6}$"},
            "currency": {"const": "USD"},
            "meters": {"enum": [[], ["input-tokens"]]},
            "tz": {"enum": ["UTC", "Europe/Berlin"]},
            "anchor": {"enum": [None, "2026-01-31T00:00:00Z"]},
            "starts_at": {"const": "2026-02-01T00:00:00Z"},
            "ends_at": {"type": "null"},
            "rollover": {"enum": [None, {"min": "1", "max": "5"}]},
        },
        "WithdrawalBody": {"amount": {"enum": [None, "0.000000001"]}},
        "DisputeBody": {"amount": {"const": "0.000000001"}},
        "TopUpBody": {
            "amount": {"type": "string", "pattern": "^[1-9]{1,6}$"},
            "currency": {"const": "USD"},
        },
        "TopUpSessionBody": {
            "amount": {"type": "string", "pattern": "^[1-9]{1,6}$"},
            "currency": {"const": "USD"},
        },
        "TopUpRuleBody": {
            "threshold": {"enum": ["0", "1.5"]},
            "amount": {"enum": ["5", "7.25"]},
            "target": {"type": "null"},
        },
        "CustomerChangeBody": {
            "plan": {"enum": ["prepaid", "postpaid"]},
            "currency": {"enum": [None, "USD"]},
            "overdraft": {"enum": ["0", "12.50"]},
        },
        "CustomerPatchBody": {
            "plan": {"enum": [None, "prepaid", "postpaid"]},
            "overdraft": {"enum": [None, "0", "12.50"]},
        },
        "CredentialBody": {"expires_at": {"enum": [None, "2026-02-01T00:00:00Z"]}},
        "RotationBody": {"overlap": {"enum": ["0", "90s", "24h", "30d"]}},
        "StandingBody": {
            "until": {"enum": [None, "2026-02-01T00:00:00Z"]},
            "overdue_since": {"enum": [None, "2026-02-01T00:00:00Z"]},
            "overdue_amount": {"enum": [None, "0", "12.50"]},
        },
        "AnchorBody": {"anchor": {"enum": [None, "2026-01-15T00:00:00Z"]}},
        "CreditNoteBody": {"amount": {"enum": ["0.01", "5"]}, "lines": {"const": []}},
        "ExplainBody": {"at": {"enum": [None, "2026-02-01T00:00:00Z"]}},
        "ProviderCustomerBody": {
            "provider_customer_id": {"enum": ["", "CUS_1"]},
            "email": {"const": "ada@example.com"},
            "authorization_code": {"type": "null"},
            "collect": {"const": False},
        },
        "CheckBody": {"body_base64": {"type": "null"}},
    }
    for name, properties in known.items():
        if name in schemas:
            schemas[name]["properties"] |= properties
    if "TopUpRuleBody" in schemas:  # One of amount and target; no schema of ours says so.
        schemas["TopUpRuleBody"]["required"].append("amount")
    if "CreditNoteBody" in schemas:  # An amount or lines.
        schemas["CreditNoteBody"]["required"] = ["amount"]
    # Otherwise tokens are made up beside the real one, and most calls end at 401.
    del document["components"]["securitySchemes"]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            del operation["security"]
            for parameter in operation.get("parameters", []):
                schema = json.dumps(parameter["schema"])
                opaque = not any(part in schema for part in ("dec_", "{40}", "{0,17}", "inv_"))
                if parameter["name"] == "after" and opaque:
                    parameter["schema"] = {"enum": ["YQ", "Y3VzXzE"]}
                # No schema says how a webhook is signed: whoever is known is refused without it.
                if parameter["name"] in KNOWN_NAMES and not path.startswith("/webhooks/"):
                    parameter["schema"] = {"enum": KNOWN_NAMES[parameter["name"]]}
    return document


ADMIN = json.loads(World().admin()[EDGE].openapi)
GATEWAY = json.loads(World().gateway()[EDGE].openapi)
DOCUMENTS = {Role.ADMIN: ADMIN, Role.GATEWAY: GATEWAY}
admin_schema = schemathesis.openapi.from_dict(narrowed(ADMIN))
gateway_schema = schemathesis.openapi.from_dict(narrowed(GATEWAY))


class Server:
    """An application on a loop of its own, since schemathesis calls without one."""

    def __init__(self, role: Role) -> None:
        self.role = role
        self.url = ""
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(30)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        assert not self._thread.is_alive()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        world = World()
        await world.customer("a")
        world.collections.add("inv_1", "a", CollectState.FAILED)
        async with AsyncExitStack() as stack:
            app = world.admin() if self.role is Role.ADMIN else world.gateway()
            address = await stack.enter_async_context(serve(app, "127.0.0.1:0"))
            self.url = f"http://{address}"
            self._ready.set()
            await self._stop.wait()


@pytest.fixture(scope="module")
def admin_server() -> Iterator[Server]:
    server = Server(Role.ADMIN)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def gateway_server() -> Iterator[Server]:
    server = Server(Role.GATEWAY)
    server.start()
    yield server
    server.stop()


few = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@admin_schema.parametrize()
@few
def test_the_admin_role_keeps_what_its_document_promises(case, admin_server: Server):
    case.call_and_validate(
        base_url=admin_server.url, headers={"Authorization": f"Bearer {ADMIN_TOKEN}"}
    )


@gateway_schema.parametrize()
@few
def test_the_gateway_role_keeps_what_its_document_promises(case, gateway_server: Server):
    # A batch is accepted event by event: a bad one is rejected inside a 202.
    excluded = [negative_data_rejection] if case.path == "/v1/usage" else []
    case.call_and_validate(
        base_url=gateway_server.url,
        headers={"Authorization": f"Bearer {METER_TOKEN}"},
        excluded_checks=excluded,
    )


@pytest.mark.parametrize("role", list(Role))
def test_a_document_is_valid_openapi_with_a_reference_behind_each_name(role: Role):
    document = DOCUMENTS[role]
    assert document["openapi"] == "3.1.0"
    assert document["info"]["title"]
    assert document["info"]["version"]
    for name, schema in document["components"]["schemas"].items():
        OAS31Validator.check_schema(schema)
        assert (
            schema.get("additionalProperties") is not None
            or name == "ProblemCode"
            or ("enum" in schema)
        ), name
    for reference in references(document):
        found: Any = document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]


@pytest.mark.parametrize("role", list(Role))
def test_a_document_has_each_route_with_its_statuses_and_who_may_call(role: Role):
    document = DOCUMENTS[role]
    operations = {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    routes = {(route.method, route.path): route for route in routes_for(role)}
    assert set(operations) == set(routes)
    names = [operation["operationId"] for operation in operations.values()]
    assert len(set(names)) == len(names)
    for row, route in routes.items():
        operation = operations[row]
        assert [int(status) for status in operation["responses"]] == [
            int(status) for status in route.all_statuses
        ]
        if route.auth in (Auth.ADMIN, Auth.METER):
            assert operation["security"] == [{"bearer": []}, {"token": []}]
        if route.auth is Auth.OPEN:
            assert operation["security"] == []


def test_checks_are_open_in_the_document_only_where_they_are_open():
    beyond = json.loads(World().gateway(listen="0.0.0.0:9000")[EDGE].openapi)
    assert {} in GATEWAY["paths"]["/v1/check"]["post"]["security"]
    assert {} not in beyond["paths"]["/v1/check"]["post"]["security"]


def test_lists_are_paged_and_writes_take_a_key():
    customers = ADMIN["paths"]["/api/v1/customers"]
    assert {p["name"]: p["schema"] for p in customers["get"]["parameters"]}["limit"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 200,
        "default": 50,
        "title": "Limit",
    }
    assert "after" in [p["name"] for p in customers["get"]["parameters"]]
    assert [p["name"] for p in customers["post"]["parameters"]] == ["Idempotency-Key"]


@pytest.mark.parametrize("role", list(Role))
def test_no_bound_is_lost_in_words_that_no_reader_of_a_schema_knows(role: Role):
    # Pydantic writes a bound that stands behind a validator as `ge` and `le`.
    text = json.dumps(DOCUMENTS[role]["components"]["schemas"])
    for word in ("ge", "gt", "le", "lt"):
        assert f'"{word}":' not in text


def references(node: Any) -> Iterator[str]:
    """Each $ref of a document."""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from references(item)
