"""Customers who pay for credit: on pages and by saved cards; and whose money goes back."""

from collections import Counter
from typing import Any

from chaos.outside import at_stripe, is_open
from chaos.world import World

from sidecar.domain.top_ups import TopUpRule
from sidecar.outbound.postgres.top_ups import PostgresTopUps

PLAN = "packs"
BUYERS = {
    "cus_buyer_0": TopUpRule(threshold_nano=50_000_000, amount_nano=500_000_000),
    "cus_buyer_1": TopUpRule(threshold_nano=50_000_000, target_nano=1_000_000_000),
}
TOP_UP = "sidecar_top_up"
MINOR_NANO = 10_000_000
WANTED_MAX = 3
GRANTS_MAX = 20
USES_A_PAGE = 40
"""Requests that use up what a page gives."""
ACTS = {"want": 4, "pay": 4, "refund": 2, "fail": 1, "dispute": 1, "close": 2, "rest": 1}
USES = 3
"""Times as often as others, so that credit runs out."""


class Buyers:
    """Each payment gives credit once, and takes it back as far as the money went back."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._stripe = world.outside.stripe
        self._account = self._stripe.account
        self._wanted = 0

    async def open(self) -> None:
        world, rules = self._world, PostgresTopUps(self._world.pool)
        for name, rule in BUYERS.items():
            world.outside.add_customer(name)
            await world.add_customer(name, PLAN, at_stripe(name))
            world.users += [(name, PLAN)] * USES
            await rules.put_rule(name, rule)

    async def go_on(self) -> None:
        acts = {
            "want": self._want,
            "pay": self._pay,
            "refund": self._refund,
            "fail": self._fail,
            "dispute": self._dispute,
            "close": self._close,
            "rest": lambda: None,
        }
        (act,) = self._world.rng.choices(list(ACTS), list(ACTS.values()))
        acts[act]()

    def _want(self) -> None:
        # There is room for so many grants that are not used up, and no more is given until then.
        if len(self._charges()) + len(self._refunds()) >= self._bought_max():
            return
        self._wanted += 1
        wanted = (self._world.rng.choice(list(BUYERS)), f"page_{self._wanted}")
        # Whose page does not come gives up in the end.
        self._world.pages = (*self._world.pages, wanted)[-WANTED_MAX:]

    def _bought_max(self) -> int:
        used = [one for one in self._world.sent if one.customer in BUYERS]
        return GRANTS_MAX + len(used) // USES_A_PAGE

    def _pay(self) -> None:
        for one in list(self._account.checkout.room.items.values()):
            if one["status"] == "open":
                self._stripe.complete_checkout(one["id"])

    def _fail(self) -> None:
        if taken := [one for one in self._refunds() if one["status"] == "succeeded"]:
            self._stripe.fail_refund(self._world.rng.choice(taken)["id"])

    def _dispute(self) -> None:
        charges = [one for one in self._charges() if not one["amount_refunded"]]
        if charges := [one for one in charges if not one["disputed"]]:
            self._stripe.open_dispute(self._world.rng.choice(charges)["id"])

    def _close(self) -> None:
        if mine := [one for one in self._disputes() if is_open(one)]:
            won = self._world.rng.random() < 0.5
            self._stripe.close_dispute(self._world.rng.choice(mine)["id"], won=won)

    def _refund(self) -> None:
        if len(self._charges()) + len(self._refunds()) >= self._bought_max():
            return
        charges = [one for one in self._charges() if not one["disputed"] and not one["refunded"]]
        if charges:
            charge = self._world.rng.choice(charges)
            left = charge["amount"] - charge["amount_refunded"]
            amount = self._world.rng.choice([left, self._world.rng.randint(1, left)])
            self._account.refunds.create({"charge": charge["id"], "amount": amount})

    def given_nano(self, customer_id: str) -> int:
        """What Stripe has taken for credit and not given back."""
        charges = {
            one["id"]: one["amount"] - one["amount_refunded"]
            for one in self._charges()
            if one["customer"] == at_stripe(customer_id)
        }
        minor = sum(charges.values())
        for one in self._disputes():
            if one["charge"] in charges and one["status"] != "won":
                minor -= one["amount"]
        return minor * MINOR_NANO

    async def story_of(self, customer_id: str) -> str:
        """What both sides say, for whoever looks for a difference."""
        charges = {one["id"]: one for one in self._charges()}
        told = [
            (one["id"], one["metadata"][TOP_UP], one["amount"], one["amount_refunded"])
            for one in charges.values()
            if one["customer"] == at_stripe(customer_id)
        ]
        told += [
            (one["id"], one["charge"], one["amount"], one["status"])
            for one in [*self._refunds(), *self._disputes()]
        ]
        rows = await self._world.pool.fetch(
            "SELECT to_jsonb(g)::text FROM grants g WHERE customer_id = $1"
            " UNION ALL SELECT to_jsonb(w)::text FROM withdrawals w WHERE customer_id = $1",
            customer_id,
        )
        return "\n".join([customer_id, *map(str, told), *(row[0] for row in rows)])

    async def check(self) -> None:
        """One payment a reference, one grant a payment; what became of it is in `check_ledger`."""
        pool, charges = self._world.pool, self._charges()
        paid = Counter(one["metadata"][TOP_UP] for one in charges)
        assert set(paid.values()) <= {1}, paid
        pages = Counter(
            one["client_reference_id"] for one in self._account.checkout.room.items.values()
        )
        assert set(pages.values()) <= {1}, pages
        grants = await pool.fetch("SELECT grant_id, state FROM grants")
        assert all(row["state"] == "posted" for row in grants), grants
        given = {row["grant_id"] for row in grants if row["grant_id"].startswith("top:")}
        assert given == {f"top:{reference}" for reference in paid}
        attempts = await pool.fetch("SELECT state FROM top_up_attempts")
        assert {row["state"] for row in attempts} <= {"given"}
        self._world.totals["bought"] = {
            "payments": len(charges),
            "by_themselves": len(attempts),
            "refunds": len(self._refunds()),
            "disputes": len(self._disputes()),
        }

    def _charges(self) -> list[dict[str, Any]]:
        items = self._account.payments.charges.items.values()
        return [one for one in items if one["paid"] and TOP_UP in one["metadata"]]

    def _refunds(self) -> list[dict[str, Any]]:
        mine = {one["id"] for one in self._charges()}
        items = self._account.refunds.room.items.values()
        return [one for one in items if one["charge"] in mine]

    def _disputes(self) -> list[dict[str, Any]]:
        mine = {one["id"] for one in self._charges()}
        items = self._account.disputes.room.items.values()
        return [one for one in items if one["charge"] in mine]
