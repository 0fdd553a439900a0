"""A policy is in force only once its rate cards are where every process can read them."""

import asyncio
from dataclasses import replace

import pytest
from fixtures.http_edges import FixedPolicies, make_policy
from fixtures.memory_accounts import MemoryRateCards
from fixtures.use_cases import AWAY, Grown

from sidecar.domain.errors import StoreUnavailable
from sidecar.domain.pricing import RateCard
from sidecar.services import publishing
from sidecar.services.publishing import PublishedPolicies


class FailingCards(MemoryRateCards):
    """Raises what it is given, one per publish; remembers how often it was asked."""

    def __init__(self, *failures: Exception | None) -> None:
        super().__init__()
        self.failures = list(failures)
        self.asked = 0

    async def publish(self, card: RateCard) -> None:
        self.asked += 1
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        await super().publish(card)


class Running:
    """Runs the worker while its context lasts."""

    def __init__(self, policies: PublishedPolicies) -> None:
        self._policies = policies
        self._stop = asyncio.Event()

    async def __aenter__(self) -> None:
        self._work = asyncio.create_task(self._policies.run(self._stop))

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        async with asyncio.timeout(10):
            await self._work


async def until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  What is watched sets no event.
            await asyncio.sleep(0.001)


async def test_nothing_is_in_force_before_the_first_publication():
    policies = PublishedPolicies(FixedPolicies(make_policy()), FailingCards(), poll_seconds=0.001)
    assert not policies.ready
    with pytest.raises(StoreUnavailable, match="no policy is published"):
        policies.current()


async def test_a_policy_is_in_force_after_all_of_its_cards():
    policy, cards = make_policy(), FailingCards(None, AWAY)
    policies = PublishedPolicies(FixedPolicies(policy), cards, poll_seconds=0.001)
    with pytest.raises(StoreUnavailable):
        await policies.publish()
    assert not policies.ready
    await policies.publish()
    assert policies.current() is policy
    assert set(cards.cards) == {card.version for card in policy.all_cards}


async def test_the_old_policy_stays_until_the_new_ones_cards_are_there():
    loaded = FixedPolicies(make_policy())
    cards = FailingCards()
    policies = PublishedPolicies(loaded, cards, poll_seconds=0.001)
    await policies.publish()
    old, loaded.policy = loaded.policy, replace(make_policy(), version="policy-2")
    cards.failures = [AWAY]
    with pytest.raises(StoreUnavailable):
        await policies.publish()
    assert policies.current() is old


async def test_the_worker_waits_for_a_store_and_follows_a_reload():
    loaded = FixedPolicies(make_policy())
    policies = PublishedPolicies(loaded, FailingCards(AWAY, AWAY), poll_seconds=0.001)
    failed = Grown("sidecar_worker_failures_total", worker="publishing")
    async with Running(policies):
        await until(lambda: policies.ready)
        assert failed.by == 2
        loaded.policy = replace(make_policy(), version="policy-2")
        await until(lambda: policies.current().version == "policy-2")


async def test_what_is_published_is_not_published_at_every_look():
    cards = FailingCards()
    policies = PublishedPolicies(FixedPolicies(make_policy()), cards, poll_seconds=0.0001)
    async with Running(policies):
        await until(lambda: policies.ready)
        await asyncio.sleep(0.02)
    assert cards.asked == 2


async def test_a_store_that_lost_its_data_gets_the_cards_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(publishing, "REPUBLISH_SECONDS", 0.0)
    cards = FailingCards()
    policies = PublishedPolicies(FixedPolicies(make_policy()), cards, poll_seconds=0.001)
    async with Running(policies):
        await until(lambda: policies.ready)
        cards.cards.clear()
        await until(lambda: len(cards.cards) == 2)
