"""Interleaving, medians and noise, with a clock that the tests turn."""

import pytest

from gpu.bench import picture_seconds
from gpu.cells import BASE, DISTILLED
from gpu.timing import Timed, Visit, WallClock, interleaved, quantile, ratio_noise, turns


def timed(*runs):
    return Timed([Visit(list(run)) for run in runs])


def test_ways_take_turns_and_come_back():
    assert "".join(turns(["A", "B", "C"], 4)) == "ABCCBAABCCBA"


def test_a_machine_that_slows_down_slows_all_alike():
    """Each run takes longer than the one before it; in one order alone B would always come off worse."""
    count = iter(range(100))

    def visit():
        return Visit([1.0 + 0.1 * next(count)])

    found = interleaved({"A": visit, "B": visit}, rounds=4)
    assert found["A"].run == pytest.approx(found["B"].run)
    in_order = Timed([visit(), visit()]), Timed([visit(), visit()])
    assert ratio_noise(*in_order) > 0.05


def test_one_slow_run_is_not_the_median():
    assert timed([1, 1], [1, 1], [9, 1]).run == 2
    assert timed([1, 2], [1, 2], [9, 2]).first == 1
    assert timed([1, 2, 3], [1, 2, 3]).later == 2.5
    assert timed([4]).later == 4


def test_noise_is_how_far_the_same_is_from_itself():
    assert ratio_noise(timed([1.0]), timed([1.0])) == 0
    assert ratio_noise(timed([1.1]), timed([1.0])) == pytest.approx(0.1)


def test_the_middle_half():
    assert quantile([1, 2, 3, 4, 5], 0.25) == 2
    assert quantile([1.0, 2.0], 0.5) == 1.5
    assert timed([1], [2], [3], [4], [5]).spread == pytest.approx(2 / 3)


def test_a_base_picture_is_its_first_step_and_nineteen_others():
    runs = timed([3.0, 1.0, 1.0], [3.0, 1.0, 1.0])
    assert picture_seconds(runs, BASE) == 3.0 + 19
    assert picture_seconds(runs, DISTILLED) == 5.0


def test_the_clock_measures_between_its_marks():
    moments = iter([0.0, 1.0, 3.0])
    clock = WallClock(lambda: next(moments))
    clock.begin()
    clock.lap()
    clock.lap()
    assert clock.seconds() == [1.0, 2.0]
