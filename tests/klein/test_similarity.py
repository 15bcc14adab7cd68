"""A shifted, zoomed and turned picture: from points of which most are wrong, and over pixels."""

import cmath
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from klein9b.klein.similarity import Similarity, consensus, inside, warped

numbers = st.floats(-40, 40)


def of(shift, zoom, degrees):
    return Similarity(cmath.rect(zoom, math.radians(degrees)), shift)


@settings(deadline=None)
@given(st.builds(complex, numbers, numbers), st.floats(0.85, 1.2), st.floats(-14, 14), st.integers(0, 99))
def test_a_fifth_of_the_pairs_is_enough(shift, zoom, degrees, seed):
    random = np.random.default_rng(seed)
    points, others = random.uniform(-400, 400, (2, 200)) + 1j * random.uniform(-300, 300, (2, 200))
    wanted = of(shift, zoom, degrees)
    others[:40] = wanted.turn * points[:40] + wanted.shift
    found, agreeing = consensus(points, others, 1.0)
    assert agreeing[:40].sum() == 40
    if agreeing.sum() == 40:
        assert abs(found.shift - shift) < 1e-6 and abs(found.zoom - zoom) < 1e-9
        assert found.degrees == pytest.approx(degrees, abs=1e-6)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_of_next_to_no_pairs_nothing_moves(count):
    found, agreeing = consensus(np.zeros(count, complex), np.zeros(count, complex), 1.0)
    assert found == Similarity() and not agreeing.any()


def test_what_no_edit_would_be_is_not_found():
    points = np.random.default_rng(0).uniform(-100, 100, 60) + 1j * np.random.default_rng(1).uniform(-100, 100, 60)
    for wrong in (2 * points, -points, points.conj()):
        assert consensus(points, wrong, 1e-3)[1].sum() < 5


def test_nothing_moves_by_nothing():
    picture = torch.rand(3, 31, 46)
    assert (warped(picture, Similarity()) - picture).abs().max() < 1e-5
    assert inside(Similarity(), 46, 31).all()
    assert Similarity().farthest(46, 31) == 0


@pytest.mark.parametrize("shift", [3 + 0j, -2j, 4 - 5j])
def test_a_whole_shift_is_of_whole_pixels(shift):
    picture = torch.rand(1, 40, 40)
    moved = torch.roll(picture, (int(shift.imag), int(shift.real)), (1, 2))
    seen = inside(Similarity(1, shift), 40, 40)
    assert seen.sum() == (40 - abs(shift.real)) * (40 - abs(shift.imag))
    assert ((warped(moved, Similarity(1, shift)) - picture) * seen).abs().max() < 1e-4


def test_the_farthest_corner_tells_how_far():
    assert of(0, 1.01, 0).farthest(600, 800) == pytest.approx(5)
    assert of(3 + 4j, 1, 0).farthest(600, 800) == pytest.approx(5)
