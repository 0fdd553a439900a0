"""What answers say of a store's life: going back is seen, overtaking is not mistaken for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import telemetry
from sidecar.domain.errors import StoreUnavailable
from sidecar.outbound.redis.shard_watch import ELSEWHERE, ShardWatch

KEY = "sc:{s07}:shard"


def learned(*positions: tuple[int, int]) -> ShardWatch:
    watch = ShardWatch()
    for position in positions:
        watch.take(KEY, watch.known(KEY), position)
    return watch


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 10)), min_size=1, max_size=30),
)
def test_answers_of_one_store_that_overtake_each_other_are_no_loss(calls):
    """Each call is answered by the store as it is then; the answer is read any time later."""
    watch, seq, answers = ShardWatch(), 0, []
    for writes, delay in calls:
        asked = watch.known(KEY)
        seq += writes
        answers.append((delay, asked, (1, seq)))
        due = [answer for answer in answers if answer[0] <= 0]
        answers = [(left - 1, *rest) for left, *rest in answers if left > 0]
        for _, was_asked, found in reversed(due):
            watch.take(KEY, was_asked, found)
    for _, was_asked, found in reversed(answers):
        watch.take(KEY, was_asked, found)
    assert not watch.lost


def test_a_lower_count_than_was_known_is_a_loss_until_there_is_a_later_epoch():
    watch = learned((3, 100))
    for found in ((3, 99), (3, 5_000), (2, 9)):
        with pytest.raises(StoreUnavailable):
            watch.take(KEY, watch.known(KEY), found)
    assert watch.lost == {7: 3}
    watch.take(KEY, watch.known(KEY), (4, 0))
    assert watch.lost == {}
    assert watch.take_renewed() == [7]
    assert watch.take_renewed() == []


def test_a_write_that_takes_the_number_of_a_lost_one_does_not_hide_the_loss():
    watch = learned((3, 100))
    with pytest.raises(StoreUnavailable):
        watch.take(KEY, watch.known(KEY), (3, 100), before=(3, 99))
    assert watch.lost == {7: 3}


def test_an_older_epoch_is_a_loss_whatever_its_count():
    watch = learned((3, 100))
    with pytest.raises(StoreUnavailable):
        watch.take(KEY, watch.known(KEY), (2, 1_000))
    with pytest.raises(StoreUnavailable):
        watch.take(KEY, (0, 0), (2, 1_001))
    watch.take(KEY, watch.known(KEY), (4, 0))
    assert watch.known(KEY) == (4, 0)


def test_a_shard_that_is_closed_for_a_while_has_lost_nothing():
    watch = learned((3, 100))
    with pytest.raises(StoreUnavailable):
        watch.take(KEY, watch.known(KEY), (0, 0))
    watch.take(KEY, watch.known(KEY), (3, 100))
    assert watch.lost == {}


def test_a_shard_on_another_node_is_refused_and_has_lost_nothing_yet():
    watch = learned((3, 100))
    before = telemetry.STORE_LOSSES.labels("absent")._value.get()
    with pytest.raises(StoreUnavailable, match="node"):
        watch.take(KEY, watch.known(KEY), ELSEWHERE)
    assert watch.lost == {}
    assert telemetry.SHARDS_LOST._value.get() == 1
    assert telemetry.STORE_LOSSES.labels("absent")._value.get() == before
    watch.take(KEY, watch.known(KEY), (3, 100))
    assert telemetry.SHARDS_LOST._value.get() == 0


def test_a_process_that_starts_believes_what_it_finds():
    assert learned((9, 4)).take_renewed() == []
