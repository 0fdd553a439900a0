"""Explanations by live numbers, on the real scripts in a real Redis."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from fixtures.live_store import CUSTOMER, LiveStore
from fixtures.policy_parts import CARD, CREDITS, FULL, with_rules

from sidecar.app.explaining import explain_live, new_hold_id
from sidecar.domain.errors import ConfigError, NotFound
from sidecar.domain.requests import normalise_path
from sidecar.inbound.denials import word_denial
from sidecar.inbound.extraction.request_body import read_request_facts
from sidecar.services.asking import Asked, customer_of, request_of
from sidecar.services.check_context import CheckContext, place_demand
from sidecar.services.explaining import Explainer, Question
from sidecar.services.explanation import RuleOutcome
from sidecar.services.live_explaining import LiveNumbers
from sidecar.services.ports import PlaceStatus
from sidecar.settings import Settings

POLICY = replace(with_rules(CREDITS, FULL), cards={"prepaid": replace(CARD, plan="prepaid")})
EXPLAINER = Explainer(POLICY, read_facts=read_request_facts, word=word_denial)
ASKED = Asked(method="POST", path="/ai/chat", customer_id=CUSTOMER)
NEEDED_NANO = 500_000
"""1,000 tokens of input by default, 500 nano each."""


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[LiveStore]:
    store = await LiveStore.open(redis_url)
    yield store
    await store.connection.aclose()


def live(store: LiveStore) -> LiveNumbers:
    return LiveNumbers(
        directory=store.directory,
        balances=store.balances,
        clock=store.clock,
        new_hold_id=new_hold_id,
    )


async def place(store: LiveStore) -> PlaceStatus:
    """A hold for the same request, really."""
    now = store.clock.now()
    facts = await store.facts()
    request = request_of(ASKED, now, hold_id=new_hold_id(now))
    prepared = EXPLAINER.prepare(Question(request=request, at=now, customer=facts))
    context = CheckContext(
        policy=POLICY, request=request, view=POLICY.view(request, normalise_path(request.path))
    )
    demand = place_demand(context, facts, prepared.plan, ttl_ms=60_000)
    deadline = replace(demand, deadline=now.replace(year=now.year + 1))
    return (await store.balances.place_hold(deadline)).status


async def test_an_explanation_foretells_each_hold_and_takes_nothing(store):
    await store.add_customer(granted=2 * NEEDED_NANO)
    for held, used in ((0, 0), (NEEDED_NANO, 1_500)):
        before = await store.dump()
        found = await live(store).explain(EXPLAINER, ASKED)
        assert await store.dump() == before
        assert found.answer.allow
        assert found.numbers is not None
        assert found.numbers.available_nano == 2 * NEEDED_NANO - held
        counter = found.rules[1].counter
        assert counter is not None
        assert (counter.before, counter.after) == (used, used + 1_500)
        assert await place(store) is PlaceStatus.PLACED
    found = await live(store).explain(EXPLAINER, ASKED)
    assert found.rules[0].outcome is RuleOutcome.DECIDES
    assert found.answer.code == "no_available_credits"
    assert await place(store) is PlaceStatus.DENIED


async def test_a_key_that_the_store_does_not_know_is_explained_all_the_same(store):
    await store.add_customer(granted=NEEDED_NANO)
    found = await live(store).explain(EXPLAINER, replace(ASKED, credential_id="crd_1"))
    assert found.answer.allow


async def test_the_command_reads_the_configured_redis(store, redis_url):
    await store.add_customer(granted=NEEDED_NANO)
    settings = Settings(redis_url=redis_url, shards=4)
    found = await explain_live(settings, EXPLAINER, ASKED)
    assert found.answer.allow
    assert found.numbers is not None
    assert found.numbers.source == "live"
    with pytest.raises(NotFound, match="cus_unknown"):
        await explain_live(settings, EXPLAINER, replace(ASKED, customer_id="cus_unknown"))
    with pytest.raises(ConfigError, match="SIDECAR_REDIS_URL"):
        await explain_live(Settings(redis_url=""), EXPLAINER, ASKED)


def test_given_plans_decide_currency():
    assert customer_of(POLICY, replace(ASKED, plan="prepaid")).currency == "USD"
