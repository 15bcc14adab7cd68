"""Which steps lie inside an interval of a schedule."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klein9b.klein.interval import CfgInterval, step_start

SCHEDULE = [1.0, 0.9, 0.75, 0.5, 0.25, 0.0]
FRACTION = st.floats(0, 1)


def line(fraction):
    """A model whose sigma falls evenly."""
    return 1 - fraction


def held(start, end, schedule=SCHEDULE, sigma_at=line):
    interval = CfgInterval(start, end)
    return [sigma for sigma in schedule[:-1] if interval.holds(sigma, schedule, sigma_at)]


@pytest.mark.parametrize(
    ("start", "end", "wanted"),
    [
        (0, 1, [1.0, 0.9, 0.75, 0.5, 0.25]),
        (0, 0.4, [1.0, 0.9, 0.75]),
        (0.05, 1, [0.9, 0.75, 0.5, 0.25]),
        (0.25, 0.5, [0.75, 0.5]),
        (0.26, 0.49, []),
        (0.5, 0.5, []),
        (0, 0, []),
        (1, 1, []),
    ],
)
def test_both_ends_belong_to_it_unless_it_is_empty(start, end, wanted):
    assert held(start, end) == wanted


@given(FRACTION, FRACTION, FRACTION)
def test_two_neighbours_hold_what_both_together_hold(a, b, c):
    a, b, c = sorted((a, b, c))
    if a < b < c:
        assert set(held(a, b)) | set(held(b, c)) == set(held(a, c))


def test_a_schedule_that_starts_above_the_models_first_sigma_begins_inside():
    above = 1 + 2**-20
    assert held(0, 0.3, [above, 0.5, 0.0]) == [above]


def test_sigmas_of_the_model_may_be_tensors():
    torch = pytest.importorskip("torch")
    assert held(0.25, 0.5, sigma_at=lambda fraction: torch.tensor([1 - fraction])) == [0.75, 0.5]


@pytest.mark.parametrize(
    ("sigma", "start"),
    [(0.9, 0.9), (0.85, 0.9), (0.75 * (1 + 1e-7), 0.75), (0.1, 0.25), (1e-4, 0.25), (0.0, 0.0), (1.5, 1.5)],
)
def test_an_evaluation_belongs_to_the_step_around_it(sigma, start):
    assert step_start(sigma, SCHEDULE) == start


@pytest.mark.parametrize(("sigma", "start"), [(0.25, 0.25), (0.3, 0.25), (0.9, 0.9), (0.95, 0.9)])
def test_an_evaluation_of_a_schedule_that_rises(sigma, start):
    assert step_start(sigma, SCHEDULE[::-1]) == start


def test_without_a_schedule_an_evaluation_stands_for_itself():
    assert step_start(0.3, []) == 0.3
    assert CfgInterval(0.6, 0.8).holds(0.3, [], line) and not CfgInterval(0.6, 0.65).holds(0.3, [], line)


def test_all_evaluations_of_a_step_are_judged_alike():
    interval = CfgInterval(0, 0.3)
    assert interval.holds(0.75, SCHEDULE, line) and interval.holds(0.6, SCHEDULE, line)
    assert not interval.holds(0.6, [], line)


@pytest.mark.parametrize(("start", "end"), [(0.6, 0.5), (1, 0)])
def test_an_end_before_the_start_is_refused(start, end):
    with pytest.raises(ValueError, match=f"starts at {start} and ends at {end}, before it starts: swap the two"):
        CfgInterval(start, end)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.1, 1.1])
def test_what_is_no_fraction_is_refused(value):
    for name in ("start", "end"):
        with pytest.raises(ValueError, match=f"The {name} of the cfg interval is {value}, but must be from 0"):
            CfgInterval(**({"start": 0.0, "end": 1.0} | {name: value}))


@pytest.mark.parametrize(
    ("start", "end", "words"),
    [
        (0, 1, ""),
        (0.4, 0.4, "cfg acts in no step"),
        (0.2, 0.75, "cfg acts only from 20% to 75% of the schedule"),
    ],
)
def test_it_says_what_is_approximate(start, end, words):
    assert CfgInterval(start, end).approximate == words
