"""Masks of every size and kind, against sums pixel by pixel."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from klein9b.klein.framing import Size
from klein9b.klein.mask import UnusableMask, coverage, feathered, united_mask

SIZE = Size(120, 80)


def disc(height, width, radius):
    rows, columns = np.mgrid[:height, :width]
    return ((rows - height / 2) ** 2 + (columns - width / 2) ** 2 < radius**2).astype(np.float32)


class TestUnitedMask:
    def test_a_batch_is_all_its_masks_together(self):
        masks = np.zeros((2, 80, 120), np.float32)
        masks[0, :10], masks[1, 5:20] = 0.5, 0.25
        assert united_mask(masks, SIZE)[[0, 7, 15, 30], 0].tolist() == [0.5, 0.5, 0.25, 0]

    def test_values_beyond_the_range_are_clipped(self):
        masks = np.full((1, 80, 120), 3, np.float32)
        masks[0, 0] = -1
        assert np.unique(united_mask(masks, SIZE)).tolist() == [0, 1]

    @pytest.mark.parametrize("shape", [(1, 80, 120), (3, 64, 64)])
    def test_where_nothing_is_marked_there_is_none(self, shape):
        """LoadImage gives 64x64 zeros for a picture without transparency."""
        assert united_mask(np.zeros(shape, np.float32), SIZE) is None

    @pytest.mark.parametrize("size", [(240, 160), (60, 40), (61, 40), (31, 20), (361, 240)])
    def test_the_same_shape_at_another_size_is_resampled(self, size):
        width, height = size
        mask = united_mask(disc(height, width, height / 4)[None], SIZE)
        wanted = disc(80, 120, 20)
        assert mask.shape == (80, 120) and mask.min() >= 0 and mask.max() <= 1
        assert np.abs(mask - wanted).mean() < 0.03
        assert not mask[:10].any() and (mask[30:50, 50:70] == 1).all(), "smooth at its edge alone"

    @pytest.mark.parametrize("size", [(80, 120), (100, 100), (120, 90), (64, 64)])
    def test_another_shape_is_told_so(self, size):
        width, height = size
        with pytest.raises(UnusableMask, match=f"mask is {width}x{height} pixels and the image 120x80"):
            united_mask(np.ones((1, height, width), np.float32), SIZE)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_broken_values_are_told(self, bad):
        masks = np.zeros((1, 80, 120), np.float32)
        masks[0, 3, 4] = bad
        with pytest.raises(UnusableMask, match="NaN or infinite"):
            united_mask(masks, SIZE)

    @pytest.mark.parametrize("shape", [(0, 80, 120), (80, 120), (1, 1, 80, 120)])
    def test_what_is_no_batch_of_masks_is_told_so(self, shape):
        with pytest.raises(UnusableMask, match="Expected masks shaped"):
            united_mask(np.ones(shape, np.float32), SIZE)


def mean_by_hand(mask, cell, cells):
    """The mean over a cell along one axis, in fractions."""
    start, stop = Fraction(cell * len(mask), cells), Fraction((cell + 1) * len(mask), cells)
    parts = [max(Fraction(0), min(stop, i + 1) - max(start, i)) for i in range(len(mask))]
    return sum(part * Fraction(float(value)) for part, value in zip(parts, mask)) / (stop - start)


class TestCoverage:
    def test_whole_cells_are_plain_means(self):
        mask = np.random.default_rng(1).random((64, 96), np.float32)
        wanted = mask.reshape(4, 16, 6, 16).mean(axis=(1, 3))
        assert np.allclose(coverage(mask, Size(6, 4)), wanted, atol=1e-6)

    @given(st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=1, max_size=40), st.integers(1, 30))
    @settings(deadline=None)
    def test_parts_of_pixels_count_in_part(self, values, cells):
        mask = np.array([values], np.float32)
        wanted = [float(mean_by_hand(values, cell, cells)) for cell in range(cells)]
        assert np.allclose(coverage(mask, Size(cells, 1))[0], wanted, atol=1e-6)

    @given(st.integers(1, 90), st.integers(1, 40), st.data())
    @settings(deadline=None)
    def test_a_cell_is_0_exactly_where_the_mask_does_not_touch_it(self, pixels, cells, data):
        marked = data.draw(st.integers(0, pixels - 1))
        mask = np.zeros((pixels, 1), np.float32)
        mask[marked] = 1e-3
        touched = [
            Fraction(marked) < Fraction((cell + 1) * pixels, cells) and Fraction(cell * pixels, cells) < marked + 1
            for cell in range(cells)
        ]
        assert (coverage(mask, Size(1, cells))[:, 0] > 0).tolist() == touched

    def test_a_full_mask_is_1_exactly(self):
        assert (coverage(np.ones((397, 503), np.float32), Size(31, 24)) == 1).all()


def pooled(pool, image, radius, **options):
    for side, margin in (((2 * radius + 1, 1), (radius, 0)), ((1, 2 * radius + 1), (0, radius))):
        image = pool(image, side, stride=1, padding=margin, **options)
    return image


class TestFeather:
    @given(st.integers(0, 9), st.integers(0, 2**32 - 1))
    @settings(deadline=None)
    def test_it_reaches_as_far_as_it_says(self, feather, seed):
        mask = (np.random.default_rng(seed).random((24, 31)) < 0.01).astype(np.float32)
        soft = feathered(mask, feather)
        near = np.zeros(mask.shape, bool)
        for row, column in np.argwhere(mask):
            near[max(0, row - feather) : row + feather + 1, max(0, column - feather) : column + feather + 1] = True
        assert np.array_equal(soft > 0, near)
        assert (soft[mask > 0] == 1).all() and soft.max(initial=0) <= 1

    def test_it_falls_outward(self):
        mask = np.zeros((41, 41), np.float32)
        mask[:, :10] = 1
        row = feathered(mask, 12)[20]
        assert (np.diff(row) <= 0).all() and (np.diff(row[9:23]) < 0).sum() >= 6
        assert row[15] == pytest.approx(0.5, abs=0.2)

    def test_a_soft_mask_is_nowhere_made_harder(self):
        mask = np.linspace(0, 1, 50, dtype=np.float32)[None].repeat(20, axis=0)
        assert (feathered(mask, 8) >= mask).all()

    @pytest.mark.parametrize("feather", [0, 1, 2, 8, 33, 300])
    def test_it_is_widened_by_half_and_blurred_twice_by_the_rest(self, feather):
        """By torch's pools, which look at each neighbour of each pixel."""
        wide = -(-feather // 2)
        rest = feather - wide
        mask = np.random.default_rng(feather).random((40, 57), np.float32) ** 40
        soft = pooled(torch.nn.functional.max_pool2d, torch.from_numpy(mask)[None, None], wide)
        for radius in (-(-rest // 2), rest // 2):
            soft = pooled(torch.nn.functional.avg_pool2d, soft, radius, count_include_pad=False)
        assert np.abs(feathered(mask, feather) - np.maximum(soft[0, 0].numpy(), mask)).max() < 1e-5

    def test_the_mask_itself_is_not_written_into(self):
        mask = disc(30, 30, 5)
        before = mask.copy()
        feathered(mask, 6)
        assert np.array_equal(mask, before)
