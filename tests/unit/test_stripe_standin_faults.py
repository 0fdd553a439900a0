import pytest

from sidecar.standins.stripe_faults import METER_EVENTS_PATH, Fault, Faults

CHANCES = {Fault.DROP_AFTER_COMMIT: 0.3, Fault.ERROR_BEFORE_COMMIT: 0.2}


def draw_many(faults, count=1_000):
    return [faults.draw(METER_EVENTS_PATH) for _ in range(count)]


def test_the_same_seed_gives_the_same_faults_and_another_seed_others():
    first = draw_many(Faults(seed=7, probabilities=CHANCES))
    assert first == draw_many(Faults(seed=7, probabilities=CHANCES))
    assert first != draw_many(Faults(seed=8, probabilities=CHANCES))


def test_faults_come_about_as_often_as_their_probability_says():
    faults = Faults(seed=7, probabilities=CHANCES)
    drawn = draw_many(faults)
    assert 250 < drawn.count(Fault.DROP_AFTER_COMMIT) < 350
    assert 150 < drawn.count(Fault.ERROR_BEFORE_COMMIT) < 250
    assert set(drawn) == {*CHANCES, Fault.NONE}
    assert sum(faults.drawn.values()) == 1_000


def test_the_script_comes_before_the_dice():
    script = [Fault.RATE_LIMIT, Fault.NONE]
    faults = Faults(probabilities={Fault.DROP_AFTER_COMMIT: 1.0}, script=script)
    assert draw_many(faults, 3) == [*script, Fault.DROP_AFTER_COMMIT]


def test_only_the_named_paths_draw():
    faults = Faults(script=[Fault.RATE_LIMIT])
    assert faults.draw("/v1/customers") is Fault.NONE
    assert faults.draw(METER_EVENTS_PATH) is Fault.RATE_LIMIT
    everywhere = Faults(script=[Fault.RATE_LIMIT], paths=None)
    assert everywhere.draw("/v1/customers") is Fault.RATE_LIMIT


def test_after_stop_everything_passes():
    faults = Faults(probabilities={Fault.LATENCY: 1.0}, script=[Fault.RATE_LIMIT])
    faults.stop()
    assert set(draw_many(faults, 10)) == {Fault.NONE}


@pytest.mark.parametrize("chances", [{Fault.LATENCY: -0.1}, {Fault.LATENCY: 0.6, Fault.NONE: 0.5}])
def test_impossible_probabilities_are_refused(chances):
    with pytest.raises(ValueError, match="probabilities"):
        Faults(probabilities=chances)
