"""Credit: the same cases on the in-memory twin and on the real scripts."""

from collections.abc import AsyncIterator

import pytest
from fixtures.counter_stores import EXACT
from fixtures.credit_stores import CreditStore, open_credit

from sidecar.domain.errors import Conflict, InvalidInput, NotFound, TooMany
from sidecar.domain.grants import GRANTS_ACTIVE_MAX, GrantKind, Rollover
from sidecar.domain.money import AMOUNT_NANO_MAX
from sidecar.services.ports import CaptureStatus, PlaceStatus

HOUR = 3_600_000


@pytest.fixture(params=["twin", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[CreditStore]:
    url = None if request.param == "twin" else request.getfixturevalue("redis_url")
    async with open_credit(url) as store:
        yield store


async def test_credit_burns_by_priority_then_end_then_kind_then_beginning(store):
    promotional = {"kind": GrantKind.PROMOTIONAL}
    await store.give("paid", 20)
    await store.give("free", 10, **promotional)
    await store.give("soon", 30, ends=HOUR)
    await store.give("sooner", 40, ends=HOUR - 1)
    await store.give("first", 50, priority=1)
    assert [row[0] for row in await store.grants()] == ["first", "sooner", "soon", "free", "paid"]
    await store.place(1, output=100)
    assert await store.grants() == [
        ("first", "active", 0, 50),
        ("sooner", "active", 0, 40),
        ("soon", "active", 20, 10),
        ("free", "active", 10, 0),
        ("paid", "active", 20, 0),
    ]
    captured = await store.use(1, output=95)
    assert (captured.status, captured.booked_nano) == (CaptureStatus.CAPTURED, 95)
    assert (captured.held_nano, captured.overspent_nano) == (100, 0)
    assert (await store.grants())[0] == ("soon", "active", 25, 0)
    assert await store.numbers() == {"granted": 150, "used": 95, "available": 55}


async def test_credit_of_one_meter_is_never_lent_to_another(store):
    await store.give("input", 50, meters=("input",))
    await store.give("any", 10)
    refused = await store.place(1, output=11)
    assert (refused.status, refused.numbers.failed_credit) == (PlaceStatus.DENIED, True)
    assert refused.numbers.available_nano == 10
    placed = await store.place(2, output=10, input=40)
    assert (placed.status, placed.numbers.available_nano) == (PlaceStatus.PLACED, 10)
    assert await store.grants() == [("any", "active", 0, 10), ("input", "active", 10, 40)]


async def test_what_is_pinned_pays_its_request_after_the_grant_has_expired(store):
    await store.give("short", 50, ends=1_000)
    await store.place(1, output=30)
    await store.wait(1_000)
    await store.sweep()
    assert await store.grants() == [("short", "expired", 0, 30)]
    assert await store.numbers() == {"granted": 50, "expired": 20, "held": 30}
    assert (await store.place(2, output=1)).status is PlaceStatus.DENIED
    assert (await store.use(1, output=25)).overspent_nano == 0
    assert await store.grants() == []
    assert await store.numbers() == {"granted": 50, "expired": 25, "used": 25}


async def test_time_is_half_open_and_nothing_has_to_run_for_it(store):
    await store.give("later", 50, begins=1_000, ends=2_000)
    assert (await store.grants(), await store.numbers()) == ([("later", "scheduled", 50, 0)], {})
    await store.wait(999)
    assert (await store.place(1, output=1)).status is PlaceStatus.DENIED
    await store.wait(1)
    assert (await store.place(2, output=1)).status is PlaceStatus.PLACED
    await store.wait(999)
    assert (await store.place(3, output=1)).status is PlaceStatus.PLACED
    await store.wait(1)
    assert (await store.place(4, output=1)).status is PlaceStatus.DENIED


@pytest.mark.parametrize(
    ("used", "rolled", "expired"), [(0, 30, 70), (80, 20, 0), (95, 10, 0), (100, 10, 0)]
)
async def test_what_is_left_rolls_over_between_its_least_and_its_most(store, used, rolled, expired):
    await store.give("old", 100, ends=1_000)
    rollover = Rollover(from_grant_id="old", least_nano=10, most_nano=30)
    await store.give("new", 50, begins=1_000, rollover=rollover)
    if used:
        await store.use(1, output=used)
    await store.wait(1_000)
    await store.sweep()
    assert await store.grants() == [("new", "active", 50 + rolled, 0)]
    assert (await store.numbers()).get("expired", 0) == expired
    assert (await store.numbers())["available"] == 50 + rolled


async def test_overdraft_lets_usage_pass_and_the_next_grant_pays_it_first(store):
    await store.give("g", 10)
    await store.overdraw(20)
    assert (await store.place(1, output=31)).status is PlaceStatus.DENIED
    assert (await store.place(2, output=30)).status is PlaceStatus.PLACED
    assert (await store.use(2, output=30)).overspent_nano == 0
    assert await store.numbers() == {"granted": 10, "used": 30, "deficit": 20}
    await store.give("next", 50)
    assert await store.grants() == [("next", "active", 30, 0)]
    assert await store.numbers() == {"granted": 60, "used": 30, "available": 50}


async def test_usage_beyond_credit_and_overdraft_is_overspent(store):
    await store.give("g", 10)
    await store.overdraw(5)
    late = await store.use(1, output=18)
    assert (late.status, late.booked_nano) == (CaptureStatus.LATE, 18)
    assert (late.overspent_nano, late.held_nano) == (3, 0)
    assert await store.numbers() == {"granted": 10, "used": 18, "deficit": 8, "available": -3}


async def test_measured_usage_gives_back_to_the_grant_that_paid_the_estimate(store):
    await store.give("a", 50, priority=1)
    await store.give("b", 50, priority=2)
    await store.use(1, estimated=True, output=70)
    assert await store.grants() == [("b", "active", 30, 0)]
    corrected = await store.use(1, output=60)
    assert (corrected.status, corrected.booked_nano) == (CaptureStatus.CORRECTED, -10)
    assert await store.grants() == [("b", "active", 40, 0)]
    assert (await store.use(1, output=60)).status is CaptureStatus.DUPLICATE
    assert (await store.use(1, output=61)).status is CaptureStatus.CONFLICT


async def test_a_void_leaves_what_is_pinned_and_counts_once(store):
    await store.give("g", 50)
    await store.place(1, output=20)
    with pytest.raises(Conflict, match=r"0\.00000003 free, less than is asked for"):
        await store.take_back("g", 31, withdrawal_id="w_0")
    assert [await store.take_back("g", None) for _ in range(2)] == [30, 30]
    with pytest.raises(Conflict, match="did something else before"):
        await store.take_back("g", 5)
    assert await store.grants() == [("g", "void", 0, 20)]
    with pytest.raises(Conflict, match="has ended"):
        await store.take_back("g", None, withdrawal_id="w_2")
    await store.release(1)
    assert (await store.grants(), await store.numbers()) == ([], {"granted": 50, "voided": 50})
    with pytest.raises(Conflict, match=r"nothing of it is left \(0\.00 free\)"):
        await store.take_back("g", None, withdrawal_id="w_3")


async def test_a_dispute_takes_what_is_spent_as_debt(store):
    await store.give("g", 50)
    await store.use(1, output=40)
    assert await store.take_back("g", 50, kind="dispute") == 50
    assert await store.numbers() == {
        "granted": 50,
        "voided": 50,
        "used": 40,
        "deficit": 40,
        "available": -40,
    }
    with pytest.raises(InvalidInput):
        await store.take_back("g", None, kind="dispute", withdrawal_id="w_2")


async def test_a_grant_that_has_not_begun_is_voided_as_a_whole(store):
    await store.give("later", 50, begins=1_000)
    with pytest.raises(Conflict, match="as a whole"):
        await store.take_back("later", 20)
    assert await store.take_back("later", None, kind="refund", withdrawal_id="w_2") == 0
    await store.wait(1_000)
    await store.sweep()
    assert (await store.grants(), await store.numbers()) == ([], {})


async def test_a_grant_is_given_once_and_refused_with_its_reason(store):
    for _ in range(2):
        await store.give("g", EXACT)
    assert await store.numbers() == {"granted": EXACT, "available": EXACT}
    with pytest.raises(Conflict, match="other content"):
        await store.give("g", EXACT + 1)
    with pytest.raises(InvalidInput, match="has passed"):
        await store.give("past", 5, ends=0)
    with pytest.raises(Conflict, match="in USD"):
        await store.give("euro", 5, currency="EUR")
    with pytest.raises(InvalidInput, match="largest balance"):
        await store.give("much", AMOUNT_NANO_MAX)
    with pytest.raises(InvalidInput, match="above zero"):
        await store.give("none", 0)
    with pytest.raises(NotFound):
        await store.take_back("unknown", None)
    for number in range(GRANTS_ACTIVE_MAX - 1):
        await store.give(f"g_{number}", 1)
    with pytest.raises(TooMany):
        await store.give("one too many", 1)


async def test_the_balance_stays_in_its_bounds(store):
    await store.overdraw(AMOUNT_NANO_MAX)
    await store.use(1, output=AMOUNT_NANO_MAX)
    assert (await store.use(2, output=1)).status is CaptureStatus.OUT_OF_BOUNDS
    assert await store.numbers() == {"used": AMOUNT_NANO_MAX, "deficit": AMOUNT_NANO_MAX}
