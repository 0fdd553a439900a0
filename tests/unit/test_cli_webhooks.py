"""`sidecar webhooks` against an admin API that is being served."""

import asyncio
import json

from fixtures.http_edges import World
from fixtures.served_admin import admin, world
from fixtures.shell import Shell, sidecar

from sidecar.services.inbox_ports import ObjectKind, ObjectRef, ReceivedEvent

__all__ = ["admin", "sidecar", "world"]


def receive(world: World, name: str, reason: str = "") -> None:
    ref = ObjectRef(provider="stripe", kind=ObjectKind.INVOICE, object_id=name)
    event = ReceivedEvent(
        provider="stripe", event_id=f"evt_{name}", event_type="invoice.paid", ref=ref, reason=reason
    )
    asyncio.run(world.inbox.receive(event))


def test_what_providers_told_is_listed_and_tried_again(admin: Shell, world: World):
    receive(world, "in_1")
    receive(world, "in_2", reason="unknown_customer")
    listed = admin("webhooks", "list", "--json")
    assert [one["id"] for one in json.loads(listed.out)] == [
        "stripe:invoice:in_1",
        "stripe:invoice:in_2",
    ]
    parked = admin("webhooks", "list", "--state", "parked")
    assert "unknown_customer" in parked.out
    assert "in_1" not in parked.out
    again = admin("webhooks", "retry", "stripe:invoice:in_2")
    assert (again.code, "state: pending" in again.out) == (0, True)
    assert admin("webhooks", "retry", "stripe:invoice:in_9").code == 1
    assert admin("webhooks", "list", "--state", "bad").code == 2


def test_a_standing_that_was_set_is_taken_back(admin: Shell, world: World):
    assert admin("customers", "create", "cus_1", "--plan", "prepaid").code == 0
    assert admin("customers", "set-standing", "cus_1", "delinquent").code == 0
    cleared = admin("customers", "clear-standing", "cus_1", "--json")
    shown = json.loads(cleared.out)
    assert (shown["standing"], shown["source"]) == ("good", "invoices")
