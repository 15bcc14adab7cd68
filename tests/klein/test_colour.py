"""CIELAB and CIEDE2000 against scikit-image, and against a pair whose difference is published."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from klein9b.klein.colour import delta_e_2000, lab_of

# Sharma, Wu and Dalal (2005), table 1: where hues turn over, where one has none, blues, darks, and large differences.
PUBLISHED = [
    ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
    ((50, 3.1571, -77.2803), (50, 0, -82.7485), 2.8615),
    ((50, 0, 0), (50, -1, 2), 2.3669),
    ((50, 2.49, -0.001), (50, -2.49, 0.0009), 7.1792),
    ((50, 2.49, -0.001), (50, -2.49, 0.0011), 7.2195),
    ((50, 2.5, 0), (50, 0, -2.5), 4.3065),
    ((50, 2.5, 0), (73, 25, -18), 27.1492),
    ((50, 2.5, 0), (50, 3.1736, 0.5854), 1.0),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
    ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
]


@pytest.mark.parametrize(("one", "other", "difference"), PUBLISHED)
def test_it_is_the_published_difference(one, other, difference):
    one, other = (torch.tensor(lab, dtype=torch.float64)[:, None] for lab in (one, other))
    assert delta_e_2000(one, other).item() == pytest.approx(difference, abs=6e-5)
    assert delta_e_2000(other, one).item() == pytest.approx(difference, abs=6e-5)


@pytest.mark.peer
@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_it_is_scikit_images(seed):
    from skimage.color import deltaE_ciede2000

    random = np.random.default_rng(seed)
    one, other = random.uniform((0, -90, -90), (100, 90, 90), (2, 500, 3))
    ours = delta_e_2000(torch.from_numpy(one.T), torch.from_numpy(other.T)).numpy()
    assert np.abs(ours - deltaE_ciede2000(one, other)).max() < 1e-9


@pytest.mark.peer
def test_lab_is_scikit_images():
    from skimage.color import rgb2lab

    pixels = np.random.default_rng(0).uniform(size=(40, 50, 3)).astype(np.float32)
    ours = lab_of(torch.from_numpy(pixels).movedim(2, 0)).movedim(0, 2).numpy()
    assert np.abs(ours - rgb2lab(pixels)).max() < 0.02


def test_a_colour_does_not_differ_from_itself():
    lab = lab_of(torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(0)))
    assert delta_e_2000(lab, lab).max() == 0
