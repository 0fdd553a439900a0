"""When unpaid invoices refuse: the twin's and the real script's word, and the domain's."""

import itertools
from collections.abc import AsyncIterator

import pytest
from fixtures.counter_stores import BASE_MS, EXACT, CounterStore, open_live, open_twin, state_facts

from sidecar.domain.periods import from_epoch_ms
from sidecar.domain.standing import Standing, StandingFact
from sidecar.domain.store_numbers import InvoiceDemand
from sidecar.services.ports import PlaceStatus

HOUR_MS = 3_600_000
DEMANDS = [
    InvoiceDemand(),
    InvoiceDemand(except_disputed=True),
    InvoiceDemand(minimum_nano=EXACT),
    *(
        InvoiceDemand(grace_ms=grace, minimum_nano=minimum, except_disputed=disputed)
        for grace, minimum, disputed in itertools.product(
            (0, HOUR_MS, HOUR_MS + 1), (0, EXACT), (False, True)
        )
    ),
]
FACTS = [
    {"due_since_ms": since, "due_nano": due, "disputed": disputed}
    for since, due, disputed in itertools.product(
        (None, BASE_MS - HOUR_MS, BASE_MS + 1),
        (None, 0, EXACT - 1, EXACT),
        (False, True),
    )
]


@pytest.fixture(params=["twin", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[CounterStore]:
    if request.param == "twin":
        async with open_twin() as store:
            yield store
    else:
        async with open_live(request.getfixturevalue("redis_url")) as store:
            yield store


@pytest.mark.parametrize("standing", list(Standing))
@pytest.mark.parametrize("facts", FACTS, ids=lambda facts: "-".join(map(str, facts.values())))
async def test_the_script_refuses_where_the_domain_says_so(store, standing, facts):
    await state_facts(store, StandingFact(standing=standing), **facts)
    for number, demand in enumerate(DEMANDS):
        outcome = await store.place(number, invoices=(demand,))
        numbers = outcome.numbers
        told = (numbers.due_since_ms, numbers.due_nano, numbers.disputed)
        assert told == tuple(facts.values())
        assert numbers.standing is standing
        assert demand.fails(numbers) is (outcome.status is PlaceStatus.DENIED), demand


async def test_a_soft_demand_only_tells_and_one_hard_one_of_several_refuses(store):
    await state_facts(
        store, StandingFact(standing=Standing.GRACE), due_since_ms=BASE_MS - 5, due_nano=7
    )
    soft = InvoiceDemand(grace_ms=1, hard=False)
    placed = await store.place(1, invoices=(soft,))
    assert placed.status is PlaceStatus.PLACED
    assert (placed.numbers.due_since_ms, placed.numbers.due_nano) == (BASE_MS - 5, 7)
    patient, strict = InvoiceDemand(grace_ms=6), InvoiceDemand(grace_ms=5)
    assert (await store.place(2, invoices=(soft, patient))).status is PlaceStatus.PLACED
    assert (await store.place(3, invoices=(patient, strict))).status is PlaceStatus.DENIED
    await store.wait(1)
    assert (await store.place(4, invoices=(patient,))).status is PlaceStatus.DENIED


async def test_a_standing_that_has_run_out_is_good_before_invoices_are_asked(store):
    until = from_epoch_ms(BASE_MS)
    await state_facts(store, StandingFact(standing=Standing.DELINQUENT, until=until))
    outcome = await store.place(1, invoices=(InvoiceDemand(),))
    assert outcome.status is PlaceStatus.PLACED
    assert outcome.numbers.standing is Standing.GOOD
