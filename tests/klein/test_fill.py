"""What is put under a mask: from the visible pixels alone, and near them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klein9b.klein.fill import filled
from standins import photograph


def astronaut(width=512, height=512):
    return np.asarray(photograph("astronaut").resize((width, height)), np.float32) / 255


def hole(height, width):
    hidden = np.zeros((height, width), bool)
    hidden[height // 4 : height // 2, width // 3 : width // 2] = True
    return hidden


@pytest.mark.parametrize("size", [(512, 512), (701, 333), (64, 64), (1301, 1024)])
@pytest.mark.parametrize("other", ["noise", "white", "negative"])
def test_what_was_hidden_has_no_influence(size, other):
    image = astronaut(*size)
    hidden = hole(*image.shape[:2])
    changed = image.copy()
    noise = np.random.default_rng(3).random(image.shape, np.float32)
    changed[hidden] = {"noise": noise, "white": np.ones_like(image), "negative": 1 - image}[other][hidden]
    assert not np.array_equal(image, changed)
    assert np.array_equal(filled(image, hidden), filled(changed, hidden))


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=50)
def test_of_any_size_and_mask(height, width, share, seed):
    draw = np.random.default_rng(seed)
    image, hidden = draw.random((height, width, 3), np.float32), draw.random((height, width)) < share
    result = filled(image, hidden)
    assert np.array_equal(result[~hidden], image[~hidden])
    assert result.dtype == np.float32 and result.min() >= 0 and result.max() <= 1
    if not hidden.all():
        seen = image[~hidden]
        assert (result >= seen.min(axis=0) - 1 / 255).all() and (result <= seen.max(axis=0) + 1 / 255).all()


def test_one_colour_is_continued():
    image = np.full((100, 90, 3), 51 / 255, np.float32)
    assert np.array_equal(filled(image, hole(100, 90)), image)


def test_a_gradient_is_continued():
    image = np.linspace(0, 1, 300, dtype=np.float32)[None, :, None].repeat(200, axis=0).repeat(3, axis=2)
    hidden = hole(200, 300)
    assert np.abs(filled(image, hidden) - image)[hidden].mean() < 0.05
    assert np.abs(image[~hidden].mean() - image)[hidden].mean() > 0.08, "one mean colour would be seen"


def test_8bit_pictures_stay_8bit():
    levels = filled(astronaut(), hole(512, 512)) * np.float32(255)
    assert np.abs(levels - levels.round()).max() < 1e-3


def test_nothing_visible_is_grey():
    assert np.allclose(filled(astronaut(), np.ones((512, 512), bool)), 0.5, atol=1 / 255)


def test_nothing_hidden_is_the_image_itself():
    image = astronaut()
    assert filled(image, np.zeros((512, 512), bool)) is image
