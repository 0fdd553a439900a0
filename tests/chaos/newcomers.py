"""Customers who come while workers die, and customers whose subscriptions change at Stripe."""

from collections import Counter
from typing import Any

from chaos.jobs import ENDED_PLAN
from chaos.outside import at_stripe
from chaos.world import World

NEWCOMERS_MAX = 12
COMES = 0.2
PLAN = "invoiced"
FIRST_PLAN = "units"
PLANS = ("invoiced", "packs")
"""What subscriptions give."""
SUBSCRIBERS = ("cus_subscriber_0", "cus_subscriber_1", "cus_subscriber_2")
ACTS = {"begin": 2, "change": 3, "end": 1, "nothing": 3}


class Newcomers:
    """Each gets one account at Stripe and one subscription; its usage waits for the account."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.names: list[str] = []

    async def open(self) -> None:
        for meter in self._world.reported:
            self._world.outside.add_price(PLAN, meter)

    async def go_on(self) -> None:
        world = self._world
        if len(self.names) < NEWCOMERS_MAX and world.rng.random() < COMES:
            name = f"cus_new_{len(self.names)}"
            self.names.append(name)
            await world.add_customer(name, PLAN)
            world.users.append((name, PLAN))

    async def check(self) -> None:
        world, account = self._world, self._world.outside.stripe.account
        made = [
            (one["metadata"]["sidecar_customer"], one["id"])
            for one in account.customers.room.items.values()
            if "sidecar_customer" in one["metadata"]
        ]
        assert sorted(name for name, _ in made) == sorted(self.names)
        rows = await world.pool.fetch(
            "SELECT customer_id, stripe_customer_id FROM customers"
            " WHERE customer_id = ANY ($1::text[])",
            self.names,
        )
        assert {row["customer_id"]: row["stripe_customer_id"] for row in rows} == dict(made)
        subscribed = Counter(
            one["metadata"]["sidecar_customer"]
            for one in account.subscriptions.room.items.values()
            if "sidecar_customer" in one["metadata"]
        )
        assert subscribed == Counter(self.names)
        states = await world.pool.fetch("SELECT DISTINCT state FROM provider_customers")
        assert [row["state"] for row in states] == ["done"] * bool(self.names)
        world.totals["newcomers"] = len(self.names)


class Subscribers:
    """Their plan is what their subscription says."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._changes = 0

    async def open(self) -> None:
        world = self._world
        for name in SUBSCRIBERS:
            world.outside.add_customer(name)
            await world.add_customer(name, FIRST_PLAN, at_stripe(name))
        for plan in PLANS[1:]:
            world.outside.add_price(plan, world.reported[0])

    async def go_on(self) -> None:
        world, cycles = self._world, self._world.outside.stripe.account.cycles
        (act,) = world.rng.choices(list(ACTS), list(ACTS.values()))
        name = world.rng.choice(SUBSCRIBERS)
        live = self._live(name)
        price = world.rng.choice(world.outside.prices[world.rng.choice(PLANS)])
        if act == "begin" and live is None:
            cycles.create({"customer": at_stripe(name), "items": [{"price": price}]})
        elif act == "change" and live is not None:
            item = {"id": live["items"]["data"][0]["id"], "price": price}
            cycles.update(live["id"], {"items": [item], "proration_behavior": "none"})
        elif act == "end" and live is not None:
            cycles.cancel(live["id"], {})
        else:
            return
        self._changes += 1

    async def check(self) -> None:
        world = self._world
        for name in SUBSCRIBERS:
            expected = self._plan(name)
            recorded = await world.pool.fetchval(
                "SELECT plan FROM customers WHERE customer_id = $1", name
            )
            (live,) = await world.store.connection.command(
                "HMGET", world.store.keyspace.customer(name), "plan"
            )
            assert (recorded, live.decode()) == (expected, expected), name
        world.totals["changes_of_subscriptions"] = self._changes

    def _plan(self, name: str) -> str:
        live = self._live(name)
        if live is None:
            return ENDED_PLAN if self._all(name) else FIRST_PLAN
        return self._world.outside.plans[live["items"]["data"][0]["price"]["id"]]

    def _live(self, name: str) -> dict[str, Any] | None:
        return next((one for one in self._all(name) if one["status"] == "active"), None)

    def _all(self, name: str) -> list[dict[str, Any]]:
        items = self._world.outside.stripe.account.subscriptions.room.items.values()
        return [one for one in items if one["customer"] == at_stripe(name)]
