"""Subscriptions on replaced prices at the stand-in: shown, moved once, under faults and in time."""

import asyncio
import io
import json
import sys
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal

import pytest
from fixtures.catalog_account import KEY, PLANS, account_settings, running_account, write_policy
from fixtures.memory_store import MemoryClock
from fixtures.shell import sidecar
from fixtures.stripe_world import NOON

from sidecar.domain.catalog import (
    PriceContent,
    WantedCatalog,
    WantedMeter,
    WantedPrice,
    WantedProduct,
)
from sidecar.domain.catalog_wanted import lookup_key
from sidecar.outbound.stripe.catalog import StripeCatalog
from sidecar.outbound.stripe.client import StripeConnection
from sidecar.outbound.stripe.subscription_moves import StripeSubscriptions
from sidecar.services.cataloguing import Cataloguer, Ending
from sidecar.services.moving_subscriptions import SubscriptionMover
from sidecar.standins.stripe import StripeStandin
from sidecar.standins.stripe_faults import Fault, Faults
from sidecar.standins.stripe_settings import MovableClock

__all__ = ["sidecar"]

FAULTS = dict.fromkeys(
    (
        Fault.DROP_BEFORE_COMMIT,
        Fault.DROP_AFTER_COMMIT,
        Fault.ERROR_BEFORE_COMMIT,
        Fault.ERROR_AFTER_COMMIT,
        Fault.RATE_LIMIT,
    ),
    0.06,
)
HOUR = timedelta(hours=1)


async def no_pause(_round: int) -> None:
    pass


def wanted(amount: int) -> WantedCatalog:
    """A plan with a metered line at so many cents a million, and a fee that stays."""
    prices = {
        "input-tokens": PriceContent(
            currency="USD",
            meter="input-tokens",
            unit=Decimal(amount),
            divide_by=1_000_000,
            round="up",
        ),
        "@fee": PriceContent(currency="USD", meter="", unit=Decimal(999)),
    }
    return WantedCatalog(
        meters=(WantedMeter(event_name="input-tokens"),),
        products=(WantedProduct(plan="pro", name="Pro"),),
        prices=tuple(
            WantedPrice(plan="pro", line=line, content=content, lookup_key=lookup_key("pro", line))
            for line, content in prices.items()
        ),
    )


class Account:
    """A stand-in's account with what looks at it."""

    def __init__(self, standin: StripeStandin, connection: StripeConnection) -> None:
        self.standin = standin
        self.v1 = connection.client.v1
        self.catalog = StripeCatalog(connection)
        self.clock = MemoryClock(standin.clock())
        self.mover = SubscriptionMover(
            self.catalog,
            StripeSubscriptions(connection, subscriptions_max=1_000),
            self.clock,
            pause=no_pause,
        )

    async def apply(self, amount: int) -> None:
        done = await Cataloguer(self.catalog, pause=no_pause).apply(wanted(amount))
        assert done.ending is Ending.DONE

    async def price(self, line: str = "input-tokens") -> str:
        """The id of the line's present price."""
        keys = [lookup_key("pro", line)]
        return str((await self.v1.prices.list_async({"lookup_keys": keys})).data[0].id)

    async def subscribe(self, name: str) -> str:
        self.standin.add_customer(name, card="pm_card_visa")
        items = [{"price": await self.price()}, {"price": await self.price("@fee")}]
        made = await self.v1.subscriptions.create_async({"customer": name, "items": items})
        return str(made.id)

    def on(self) -> dict[str, list[str]]:
        """By subscription, the prices of its items."""
        found = self.standin.account.subscriptions.room.items.values()
        return {one["id"]: [item["price"]["id"] for item in one["items"]["data"]] for one in found}

    def pass_time(self, step: timedelta) -> None:
        self.standin.advance(step)
        self.clock.instant = self.standin.clock()


@asynccontextmanager
async def an_account():
    standin = StripeStandin(clock=MovableClock(now=NOON))
    async with standin.serving() as url:
        connection = StripeConnection(KEY, base_url=url, timeout_seconds=5.0)
        try:
            yield Account(standin, connection)
        finally:
            await connection.close()
    assert list(standin.bugs) == []


@pytest.mark.parametrize("seed", range(4))
async def test_all_are_moved_once_whatever_answers_are_lost(seed):
    async with an_account() as account:
        await account.apply(50)
        names = [await account.subscribe(f"cus_{number}") for number in range(8)]
        old, fee = await account.price(), await account.price("@fee")
        await account.apply(60)
        new = await account.price()
        planned = await account.mover.plan(wanted(60))
        assert [(move.item.subscription_id, move.old_id, move.new_id) for move in planned] == [
            (name, old, new) for name in sorted(names)
        ]
        account.standin.faults = Faults(seed=seed, paths=None, probabilities=FAULTS)
        results = await asyncio.gather(*(account.mover.move(wanted(60)) for _ in range(2)))
        while any(one.unavailable for one in results):
            results = [await account.mover.move(wanted(60))]
        account.standin.faults.stop()
        assert not any(one.refused for one in results)
        assert account.on() == {name: [new, fee] for name in names}
        moved = [
            event
            for event in account.standin.snapshot_events
            if event["type"] == "customer.subscription.updated"
            and "items" in event["data"].get("previous_attributes", {})
        ]
        assert len(moved) == len(names)
        again = await account.mover.move(wanted(60))
        assert (again.done, again.waiting, await account.mover.plan(wanted(60))) == ([], [], ())


async def test_before_the_new_price_is_made_the_plan_shows_who_is_on_the_old_one():
    async with an_account() as account:
        await account.apply(50)
        name = await account.subscribe("cus_1")
        assert await account.mover.plan(wanted(50)) == ()
        (move,) = await account.mover.plan(wanted(60))
        assert (move.item.subscription_id, move.new_id) == (name, "")
        moved = await account.mover.move(wanted(60))
        assert (moved.done, moved.waiting) == ([], [move])
        assert "the price that is yet to be made" in str(move)


async def test_within_so_many_hours_of_a_periods_beginning_and_the_others_later():
    async with an_account() as account:
        await account.apply(50)
        first = await account.subscribe("cus_1")
        account.pass_time(timedelta(days=10))
        second = await account.subscribe("cus_2")
        await account.apply(60)
        new = await account.price()
        account.pass_time(HOUR)
        moved = await account.mover.move(wanted(60), within=2 * HOUR)
        assert [move.item.subscription_id for move in moved.done] == [second]
        assert [move.item.subscription_id for move in moved.waiting] == [first]
        account.pass_time(timedelta(days=20))  # The first one's next period has begun.
        moved = await account.mover.move(wanted(60), within=2 * HOUR)
        assert [move.item.subscription_id for move in moved.done] == [first]
        assert {prices[0] for prices in account.on().values()} == {new}


async def test_there_and_back_and_there_again_within_a_day():
    async with an_account() as account:
        await account.apply(50)
        await account.subscribe("cus_1")
        for amount in (60, 50, 60, 50):
            await account.apply(amount)
            moved = await account.mover.move(wanted(amount))
            assert len(moved.done) == 1
            assert moved.unavailable == ""
            (prices,) = account.on().values()
            assert prices[0] == await account.price()


async def test_one_that_cannot_be_moved_is_told_and_keeps_no_other():
    async with an_account() as account:
        await account.apply(50)
        stuck, free = await account.subscribe("cus_1"), await account.subscribe("cus_2")
        ended = await account.subscribe("cus_3")
        await account.v1.subscriptions.cancel_async(ended)
        await account.apply(60)
        new = await account.price()
        await account.v1.subscriptions.update_async(stuck, {"items": [{"price": new}]})
        moved = await account.mover.move(wanted(60))
        assert [move.item.subscription_id for move in moved.done] == [free]
        ((move, why),) = moved.refused.values()
        assert move.item.subscription_id == stuck
        assert "same price" in why


def test_the_command_shows_asks_and_moves(sidecar, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    with running_account() as account:
        settings = account_settings(account.url, tmp_path)

        def catalog(*arguments: object) -> tuple[int, str, str]:
            ended = sidecar("catalog", *arguments, **settings)
            assert KEY not in ended.out + ended.err
            return ended.code, ended.out, ended.err

        write_policy(tmp_path / "policy", PLANS)
        assert catalog("apply", "--yes")[0] == 0
        account.standin.add_customer("cus_1", card="pm_card_visa")
        held = asyncio.run_coroutine_threadsafe(_subscribe(account), account.loop).result(10)
        write_policy(tmp_path / "policy", PLANS.replace('"0.80"', '"0.70"'))
        code, out, _ = catalog("plan")
        assert code == 2
        assert f"> subscription {held} (cus_1) three-tier/input-tokens: " in out
        assert "1 subscription items are on prices that were replaced" in out
        assert catalog("apply", "--yes")[0] == 0  # Moves nobody.
        code, out, _ = catalog("plan", "--json")
        (move,) = json.loads(out)["moves"]
        assert (code, move["subscription"], move["name"]) == (0, held, "three-tier/input-tokens")
        assert move["to"] is not None
        code, _, err = catalog("apply", "--move-subscriptions")
        assert code == 1
        assert "apply to Stripe, test mode?" in err
        assert json.loads(catalog("plan", "--json")[1])["moves"] == [move]
        code, out, _ = catalog("apply", "--yes", "--move-subscriptions", "--within-hours", "0")
        assert (code, out.splitlines()[-1]) == (
            0,
            "0 subscription items moved, 1 wait for their next period",
        )
        code, out, _ = catalog("apply", "--yes", "--move-subscriptions", "--json")
        assert (code, [one["subscription"] for one in json.loads(out)["moved"]["done"]]) == (
            0,
            [held],
        )
        code, out, _ = catalog("plan")
        assert (code, "subscription" in out) == (0, False)


async def _subscribe(account) -> str:
    marks = {"sidecar_plan": "three-tier", "sidecar_line": "input-tokens"}
    name = next(
        one["id"]
        for one in account.standin.account.catalog.prices.values()
        if marks.items() <= one["metadata"].items()
    )
    made = account.standin.account.cycles.create({"customer": "cus_1", "items": [{"price": name}]})
    return str(made["id"])
