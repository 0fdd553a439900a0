"""
Derive `stripe-openapi-payments.json` from the type stubs of the installed stripe SDK.

The packaged billing description lacks payments, searches and v2 events. This reads the stubs as
text (nothing of the SDK runs) and writes what the Stripe stand-in needs of them.
"""  # noqa: INP001 - a script, not a package.

import argparse
import ast
import json
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

DEPTH_MAX = 4
OUTPUT = Path(__file__).parent.parent / "sidecar/standins/data/stripe-openapi-payments.json"
SCALARS = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
# Variants of every payment method of the world: not modelled, so not described.
OPEN = {"payment_method_options", "payment_method_data", "payment_method_details", "evidence"}
KEPT_OF_PAYMENT_METHOD = {
    *("id", "object", "billing_details", "card", "created", "customer", "customer_account"),
    *("livemode", "metadata", "type", "allow_redisplay"),
}
# (object, module of the SDK, class)
OBJECTS = [
    ("account", "_account", "Account"),
    ("charge", "_charge", "Charge"),
    ("dispute", "_dispute", "Dispute"),
    ("payment_intent", "_payment_intent", "PaymentIntent"),
    ("payment_link", "_payment_link", "PaymentLink"),
    ("payment_method", "_payment_method", "PaymentMethod"),
    ("v2.core.event", "v2/core/_event", "Event"),
    ("v2.core.event_destination", "v2/core/_event_destination", "EventDestination"),
]
# (method, path, operation, object, module of params or "", kind of answer)
OPERATIONS = [
    ("get", "/v1/account", "account.retrieve_current", "account", "", "one"),
    ("get", "/v1/charges", "charge.list", "charge", "_charge_list", "list"),
    ("get", "/v1/charges/{charge}", "charge.retrieve", "charge", "_charge_retrieve", "one"),
    ("get", "/v1/checkout/sessions/{session}", "checkout.session.retrieve", "checkout.session",
     "checkout/_session_retrieve", "one"),
    ("get", "/v1/customers/search", "customer.search", "customer", "_customer_search", "search"),
    ("get", "/v1/customers/{customer}/payment_methods", "customer.payment_method.list",
     "payment_method", "_customer_payment_method_list", "list"),
    ("get", "/v1/subscriptions/search", "subscription.search", "subscription",
     "_subscription_search", "search"),
    ("get", "/v1/disputes", "dispute.list", "dispute", "_dispute_list", "list"),
    ("get", "/v1/disputes/{dispute}", "dispute.retrieve", "dispute", "_dispute_retrieve", "one"),
    ("get", "/v1/payment_intents", "payment_intent.list", "payment_intent",
     "_payment_intent_list", "list"),
    ("post", "/v1/payment_intents", "payment_intent.create", "payment_intent",
     "_payment_intent_create", "one"),
    ("get", "/v1/payment_intents/{intent}", "payment_intent.retrieve", "payment_intent",
     "_payment_intent_retrieve", "one"),
    ("post", "/v1/payment_intents/{intent}/confirm", "payment_intent.confirm", "payment_intent",
     "_payment_intent_confirm", "one"),
    ("post", "/v1/payment_intents/{intent}/cancel", "payment_intent.cancel", "payment_intent",
     "_payment_intent_cancel", "one"),
    ("get", "/v1/payment_links", "payment_link.list", "payment_link", "_payment_link_list",
     "list"),
    ("post", "/v1/payment_links", "payment_link.create", "payment_link",
     "_payment_link_create", "one"),
    ("get", "/v1/payment_links/{payment_link}", "payment_link.retrieve", "payment_link",
     "_payment_link_retrieve", "one"),
    ("post", "/v1/payment_links/{payment_link}", "payment_link.update", "payment_link",
     "_payment_link_update", "one"),
    ("get", "/v1/payment_methods/{payment_method}", "payment_method.retrieve", "payment_method",
     "_payment_method_retrieve", "one"),
    ("post", "/v1/payment_methods/{payment_method}/attach", "payment_method.attach",
     "payment_method", "_payment_method_attach", "one"),
    ("get", "/v2/core/events", "v2.core.event.list", "v2.core.event", "v2/core/_event_list",
     "v2 list"),
    ("get", "/v2/core/events/{id}", "v2.core.event.retrieve", "v2.core.event", "", "one"),
    ("get", "/v2/core/event_destinations", "v2.core.event_destination.list",
     "v2.core.event_destination", "v2/core/_event_destination_list", "v2 list"),
    ("post", "/v2/core/event_destinations", "v2.core.event_destination.create",
     "v2.core.event_destination", "v2/core/_event_destination_create", "one"),
    ("get", "/v2/core/event_destinations/{id}", "v2.core.event_destination.retrieve",
     "v2.core.event_destination", "v2/core/_event_destination_retrieve", "one"),
]  # fmt: skip


class Stubs:
    """The classes of one stub module, by name; nested ones are found from their parent."""

    def __init__(self, path: Path, *, response: bool) -> None:
        tree = ast.parse(path.read_text())
        self._top = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        self._response = response

    def schema(self, name: str) -> dict[str, Any]:
        """The schema of a top-level class."""
        return self._of_class(self._top[name], [self._top], 0)

    def _of_class(
        self, node: ast.ClassDef, scopes: list[dict[str, ast.ClassDef]], depth: int
    ) -> dict[str, Any]:
        inner = {item.name: item for item in node.body if isinstance(item, ast.ClassDef)}
        properties: dict[str, Any] = {}
        required: list[str] = []
        fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
        for item in fields:
            assert isinstance(item.target, ast.Name)
            name = item.target.id
            if name == "_inner_class_types" or name.endswith("_NAME"):
                continue
            if name in OPEN:
                properties[name] = {"type": "object", "nullable": True}
            else:
                kind = self._of_type(item.annotation, [*scopes, inner], depth + 1)
                optional = kind.pop("x-optional", False)
                properties[name] = kind
                if not optional and not self._response:
                    required.append(name)
        if self._response:
            return {"type": "object", "properties": properties}
        asked = {"required": sorted(required)} if required else {}
        return {"type": "object", "properties": properties, **asked, "additionalProperties": False}

    def _of_type(  # noqa: C901 - One case for each form of a type.
        self, node: ast.expr, scopes: list[dict[str, ast.ClassDef]], depth: int
    ) -> dict[str, Any]:
        match node:
            case ast.Constant(value=str(text)):
                return self._of_type(ast.parse(text, mode="eval").body, scopes, depth)
            case ast.Constant(value=None):
                return {"nullable": True}
            case ast.Subscript(value=ast.Name(id=name), slice=part):
                return self._of_generic(name, part, scopes, depth)
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return self._of_union([left, right], scopes, depth)
            case ast.Name(id=name) if name in SCALARS:
                return {"type": SCALARS[name]}
            case ast.Name(id="Decimal"):
                return {"type": "string", "format": "decimal"}
            case ast.Name(id=name) | ast.Attribute(attr=name):
                for scope in reversed(scopes):
                    if name in scope:
                        if depth > DEPTH_MAX:
                            return {"type": "object"}
                        return self._of_class(scope[name], scopes, depth)
                return {"type": "object"}
        return {}

    def _of_generic(
        self, name: str, part: ast.expr, scopes: list[dict[str, ast.ClassDef]], depth: int
    ) -> dict[str, Any]:
        items = part.elts if isinstance(part, ast.Tuple) else [part]
        if name == "Literal":
            return {"type": "string", "enum": sorted(ast.literal_eval(item) for item in items)}
        if name == "NotRequired":
            return {**self._of_type(part, scopes, depth), "x-optional": True}
        if name == "Optional":
            return {**self._of_type(part, scopes, depth), "nullable": True}
        if name == "ExpandableField":
            return {"anyOf": [{"type": "string"}, {"type": "object"}], "x-expandable": True}
        if name == "Union":
            return self._of_union(items, scopes, depth)
        if name == "List":
            return {"type": "array", "items": self._of_type(part, scopes, depth)}
        if name == "Dict":
            value = self._of_type(items[1], scopes, depth)
            return {"type": "object", "additionalProperties": value}
        return {"type": "object"}

    def _of_union(
        self, items: list[ast.expr], scopes: list[dict[str, ast.ClassDef]], depth: int
    ) -> dict[str, Any]:
        options = [self._of_type(item, scopes, depth) for item in items]
        options = [
            option
            for item in options
            for option in (
                item["anyOf"] if "x-expandable" not in item and "anyOf" in item else [item]
            )
        ]
        # `Literal[...] | str`: an open enum, which the given list closes for requests only.
        named = [option for option in options if option.get("enum") not in (None, [""])]
        if named and {"type": "string"} in options:
            options.remove({"type": "string"})
            if self._response:
                options = [option for option in options if option not in named]
                options.append({"type": "string", "x-known-values": named[0]["enum"]})
        maps = [option for option in options if "additionalProperties" in option]
        if maps and {"type": "object"} in options:  # `Dict[str, str] | UntypedStripeObject[str]`.
            options.remove({"type": "object"})
        return options[0] if len(options) == 1 else {"anyOf": options}


def _answer(kind: str, name: str) -> dict[str, Any]:
    reference = {"$ref": f"#/components/schemas/{name}"}
    if kind == "one":
        return reference
    data = {"type": "array", "items": reference}
    if kind == "v2 list":
        pages = {
            f"{name}_page_url": {"type": "string", "nullable": True}
            for name in ("next", "previous")
        }
        return {"type": "object", "required": ["data"], "properties": {"data": data, **pages}}
    asked = ["data", "has_more", "object", "url"]
    word = "list" if kind == "list" else "search_result"
    more: dict[str, Any] = {}
    if kind == "search":
        more = {
            "next_page": {"type": "string", "nullable": True},
            "total_count": {"type": "integer"},
        }
    properties = {
        "object": {"type": "string", "enum": [word]},
        "data": data,
        "has_more": {"type": "boolean"},
        "url": {"type": "string"},
        **more,
    }
    return {"type": "object", "required": asked, "properties": properties}


def _operation(root: Path, row: tuple[str, str, str, str, str, str]) -> dict[str, Any]:
    method, path, operation_id, name, module, kind = row
    params: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
    if module:
        folder, _, stem = module.rpartition("/")
        words = [word.capitalize() for word in stem.strip("_").split("_")]
        stubs = Stubs(root / "params" / folder / f"{stem}_params.py", response=False)
        params = stubs.schema(f"{''.join(words)}Params")
    content = {"application/json": {"schema": _answer(kind, name)}}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/error"}}}
    spec: dict[str, Any] = {
        "operationId": operation_id,
        "responses": {
            "200": {"description": "ok", "content": content},
            "default": {"description": "error", "content": error},
        },
    }
    if method == "post":
        media = "application/json" if path[:4] == "/v2/" else "application/x-www-form-urlencoded"
        spec["requestBody"] = {"required": False, "content": {media: {"schema": params}}}
    else:
        asked = params.get("required", [])
        spec["parameters"] = [
            {"name": item, "in": "query", "required": item in asked, "schema": schema}
            for item, schema in params["properties"].items()
        ]
    return spec


def derive(root: Path) -> dict[str, Any]:
    """The description of OPERATIONS and OBJECTS as the SDK below `root` types them."""
    schemas: dict[str, Any] = {}
    for name, module, class_name in OBJECTS:
        schema = Stubs(root / f"{module}.py", response=True).schema(class_name)
        properties = schema["properties"]
        if name == "payment_method":
            properties = {key: properties[key] for key in sorted(KEPT_OF_PAYMENT_METHOD)}
        if name == "account":
            properties = {
                **properties,
                "requirements": {"type": "object"},
                "company": {"type": "object"},
            }
        if name == "v2.core.event":  # The event's data and object differ by type, so by subclass.
            properties = {
                **properties,
                "data": {"type": "object"},
                "related_object": {"type": "object"},
            }
        schemas[name] = {
            "type": "object",
            "required": ["id", "object"],
            "properties": {
                **properties,
                "object": {"type": "string", "enum": [name]},
                "id": {"type": "string"},
            },
        }
    paths: dict[str, Any] = {}
    for row in OPERATIONS:
        paths.setdefault(row[1], {})[row[0]] = _operation(root, row)
    # stripe-python 16.1's `fetch_event_async` sends its own bookkeeping along in the query.
    leak = {"type": "array", "items": {"type": "string"}}
    paths["/v2/core/events/{id}"]["get"]["parameters"].append(
        {"name": "usage", "in": "query", "required": False, "schema": leak}
    )
    version = metadata.version("stripe")
    return {
        "openapi": "3.0.3",
        "info": {
            "title": "Stripe API (payments subset, derived)",
            "version": "2026-10-28.endive",
            "x-derived-from": f"stripe-python {version} (MIT) type stubs (derive_stripe.py)",
        },
        "paths": paths,
        "components": {"schemas": schemas},
    }


def main() -> None:
    """Write the description, or with --check fail if the packaged one differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    spec = find_spec("stripe")
    assert spec is not None, "the stripe SDK is not installed"
    assert spec.origin is not None
    text = (
        json.dumps(derive(Path(spec.origin).parent), separators=(",", ":"), sort_keys=True) + "\n"
    )
    if arguments.check:
        sys.exit(0 if OUTPUT.read_text() == text else f"{OUTPUT.name} differs from the SDK's stubs")
    OUTPUT.write_text(text)


if __name__ == "__main__":
    main()
