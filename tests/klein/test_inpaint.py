"""Where a photograph is cut for inpainting, what is hidden of it, and that nothing else of it changes."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from klein9b.klein.framing import Size, UnusableImage, resample
from klein9b.klein.inpaint import Area, Sides, Window, plan_inpainting, restore_inpainting
from klein9b.klein.mask import UnusableMask, feathered
from standins import photograph

MEGAPIXEL = 1024**2
AROUND = Area(MEGAPIXEL, 0.5)
WHOLE = Area(MEGAPIXEL)
SIDES = st.integers(64, 900)


def picture(width, height, name="astronaut"):
    return np.asarray(photograph(name).resize((width, height)), np.float32) / 255


def mask_of(width, height, box):
    mask = np.zeros((height, width), np.float32)
    left, top, right, bottom = box
    mask[top:bottom, left:right] = 1
    return mask


@st.composite
def boxes(draw):
    """An image's size and a box in it."""
    width, height = draw(SIDES), draw(SIDES)
    assume(max(width, height) <= 8 * min(width, height))
    left, right = sorted(draw(st.lists(st.integers(0, width), min_size=2, max_size=2, unique=True)))
    top, bottom = sorted(draw(st.lists(st.integers(0, height), min_size=2, max_size=2, unique=True)))
    return width, height, (left, top, right, bottom)


def plan(width, height, box, area=AROUND, **settings):
    return plan_inpainting(np.zeros((height, width, 3), np.float32), mask_of(width, height, box), area, **settings)


class TestWindow:
    @given(boxes(), st.floats(0, 2), st.integers(0, 100), st.sampled_from([0.06, 0.3, 1.0, 2.0]))
    @settings(deadline=None)
    def test_it_lies_inside_and_holds_the_mask_and_its_feather(self, case, context, feather, megapixels):
        width, height, (left, top, right, bottom) = case
        area = Area(int(megapixels * MEGAPIXEL), context)
        planned = plan(width, height, (left, top, right, bottom), area, feather=feather)
        window = planned.window
        reach = max(64, feather, math.ceil(context * max(right - left, bottom - top)))
        assert 0 <= window.left <= max(0, left - reach) and min(width, right + reach) <= window.left + window.width
        assert 0 <= window.top <= max(0, top - reach) and min(height, bottom + reach) <= window.top + window.height
        assert window.left + window.width <= width and window.top + window.height <= height
        assert min(window.width, window.height) >= 64
        assert max(window.width, window.height) <= 8 * min(window.width, window.height)
        assert planned.blend.shape == (window.height, window.width)

    @given(boxes(), st.sampled_from([None, 0.5]), st.integers(int(0.06 * MEGAPIXEL), 4 * MEGAPIXEL))
    @settings(deadline=None)
    def test_the_grid_is_the_budget_in_the_windows_shape(self, case, context, budget):
        width, height, box = case
        planned = plan(width, height, box, Area(budget, context))
        window, grid = planned.window, planned.grid
        assert grid.width % 16 == grid.height % 16 == 0 and min(grid.width, grid.height) >= 64
        assert grid.area <= budget
        scale = math.sqrt(budget / window.size.area)
        if context is None:
            scale = min(1, scale)
        assert abs(grid.width - window.width * scale) < 16 and abs(grid.height - window.height * scale) < 16

    def test_a_small_mask_in_a_large_photograph(self):
        planned = plan(4000, 3000, (1000, 1000, 1200, 1100))
        assert planned.window == Window(900, 900, 400, 300)
        assert planned.grid.area > 0.95 * MEGAPIXEL

    def test_a_tiny_mask_has_surroundings(self):
        assert plan(1000, 1000, (500, 500, 501, 501)).window == Window(436, 436, 129, 129)

    def test_a_narrow_mask_at_an_edge_is_widened_inward(self):
        assert plan(2000, 2000, (0, 0, 2000, 1), Area(MEGAPIXEL, 0)).window == Window(0, 0, 2000, 250)

    def test_a_narrow_mask_in_the_middle_is_widened_to_both_sides(self):
        assert plan(2000, 2000, (0, 1000, 2000, 1002), Area(MEGAPIXEL, 0)).window == Window(0, 876, 2000, 250)

    def test_almost_all_is_all(self):
        assert plan(1000, 1000, (60, 60, 900, 900), Area(MEGAPIXEL, 0)).window == Window(0, 0, 1000, 1000)
        assert plan(1000, 1000, (60, 60, 800, 800), Area(MEGAPIXEL, 0)).window == Window(0, 0, 864, 864)

    def test_around_the_mask_is_enlarged_and_a_whole_picture_is_not(self):
        assert plan(512, 512, (0, 0, 512, 512)).grid == Size(1024, 1024)
        assert plan(512, 512, (0, 0, 512, 512), WHOLE).grid == Size(512, 512)

    def test_a_whole_picture_over_the_budget_is_made_smaller(self):
        assert plan(2048, 1024, (0, 0, 9, 9), WHOLE).grid.area <= MEGAPIXEL

    @pytest.mark.parametrize(
        ("size", "words"), [((63, 400), "at least 64"), ((64, 640), "an aspect of 10.0:1")], ids=["small", "narrow"]
    )
    def test_extremes_are_refused(self, size, words):
        with pytest.raises(UnusableImage, match=words):
            plan(*size, (0, 0, 20, 20))

    def test_a_small_photograph_may_grow(self):
        assert plan(40, 100, (0, 0, 20, 20), sides=Sides(left=60)).canvas.shape == (100, 100, 3)

    def test_nothing_to_paint_is_told(self):
        with pytest.raises(UnusableMask, match="mask is empty or not connected"):
            plan_inpainting(picture(100, 100), None, AROUND)


class TestPicture:
    def test_on_the_grid_it_is_the_photographs_own_memory(self):
        image = picture(512, 384)
        planned = plan_inpainting(image, mask_of(512, 384, (3, 5, 40, 50)), WHOLE)
        assert np.shares_memory(planned.picture, image) and np.array_equal(planned.picture, image)

    @pytest.mark.parametrize("area", [AROUND, WHOLE], ids=["around", "whole"])
    def test_what_was_hidden_is_nowhere_in_the_visible_picture(self, area):
        image, mask = picture(1301, 900), mask_of(1301, 900, (300, 200, 557, 411))
        mask[250:260, 560:600] = 0.01
        changed = np.where(mask[..., None] > 0, np.random.default_rng(1).random(image.shape, np.float32), image)
        one, other = (plan_inpainting(pixels, mask, area) for pixels in (image, changed))
        assert np.array_equal(one.visible_picture, other.visible_picture)
        assert not np.array_equal(one.picture, other.picture)

    def test_elsewhere_the_two_are_alike(self):
        planned = plan_inpainting(picture(1024, 1024), mask_of(1024, 1024, (300, 200, 557, 411)), WHOLE)
        seen = planned.mask == 0
        assert np.array_equal(planned.picture[seen], planned.visible_picture[seen])

    def test_coverage_is_of_the_window(self):
        planned = plan(2048, 2048, (1024, 1024, 1152, 1088), Area(MEGAPIXEL, 0.5))
        assert planned.window == Window(960, 960, 256, 192)
        covered = planned.coverage
        assert covered.shape == (planned.grid.height // 16, planned.grid.width // 16)
        inside = covered.mean() * planned.window.size.area
        assert inside == pytest.approx(128 * 64, rel=1e-3)
        assert np.count_nonzero(covered) < 0.25 * covered.size

    def test_a_full_mask_leaves_nothing(self):
        assert (plan(512, 512, (0, 0, 512, 512)).coverage == 1).all()


class TestSides:
    def test_edges_are_repeated_and_marked(self):
        image = picture(200, 100)
        planned = plan_inpainting(image, None, WHOLE, sides=Sides(left=30, bottom=50))
        assert planned.canvas.shape == (150, 230, 3)
        assert np.array_equal(planned.canvas[:100, 30:], image)
        assert (planned.canvas[:100, :30] == image[:, :1]).all() and (planned.canvas[100:, 30:] == image[-1]).all()
        assert (planned.mask[:100, 30:] == 0).all() and (planned.mask[:, :30] == 1).all()
        assert (planned.mask[100:] == 1).all()

    def test_the_feather_reaches_into_the_photograph_there_alone(self):
        planned = plan_inpainting(picture(200, 100), None, WHOLE, feather=9, sides=Sides(right=40))
        row = planned.mask[50]
        assert (row[:191] == 0).all() and (row[200:] == 1).all()
        assert row[191:200] == pytest.approx(np.arange(1, 10) / 10)
        assert np.array_equal(planned.blend[50], row), "it is the feather, and gets none of its own"

    def test_a_mask_counts_beside_it(self):
        image = picture(300, 200)
        planned = plan_inpainting(image, mask_of(300, 200, (50, 60, 70, 80)), WHOLE, sides=Sides(left=40, top=10))
        assert (planned.mask[70:90, 90:110] == 1).all() and planned.mask[100, 150] == 0

    def test_the_window_is_cut_around_what_grows(self):
        planned = plan_inpainting(picture(2000, 500), None, Area(MEGAPIXEL, 0.2), sides=Sides(left=200))
        assert planned.window == Window(0, 0, 300, 500)


class TestBlend:
    @pytest.mark.parametrize("area", [AROUND, WHOLE], ids=["around", "whole"])
    def test_it_is_the_feathered_mask(self, area):
        mask = mask_of(700, 500, (300, 200, 340, 260))
        mask[480:, :20] = 0.5
        planned = plan_inpainting(picture(700, 500), mask, area, feather=21)
        assert np.array_equal(planned.blend, feathered(mask, 21)[planned.window.part])


class TestRestore:
    @given(boxes(), st.integers(0, 40), st.sampled_from([None, 0.0, 0.5]), st.booleans())
    @settings(deadline=None, max_examples=40)
    def test_beyond_the_feather_every_pixel_is_the_photographs(self, case, feather, context, growing):
        width, height, box = case
        left, top, right, bottom = box
        sides = Sides(left=17, bottom=5) if growing else Sides()
        image = picture(width, height)
        assume(max(width + 17, height + 5) <= 8 * min(width, height))
        planned = plan_inpainting(
            image, mask_of(width, height, box), Area(MEGAPIXEL // 4, context), feather=feather, sides=sides
        )
        before = image.copy()
        restored = restore_inpainting(np.ones((planned.grid.height, planned.grid.width, 3), np.float32), planned)
        rows, columns = np.mgrid[:height, :width]
        away = (rows < top - feather) | (rows >= bottom + feather) | (columns < left - feather)
        away |= columns >= right + feather
        if growing:
            away &= (columns >= feather) & (rows < height - feather)
        inside = restored[:height, sides.left :]
        assert np.array_equal(inside[away], image[away])
        assert (inside[top:bottom, left:right] == 1).all()
        assert np.array_equal(image, before), "nobody writes into the photograph"

    def test_8bit_levels_come_back_as_levels(self):
        image = picture(503, 397, "coffee")
        planned = plan_inpainting(image, mask_of(503, 397, (100, 100, 200, 180)), AROUND, feather=8)
        noise = np.random.default_rng(1).random((planned.grid.height, planned.grid.width, 3), np.float32)
        restored = restore_inpainting(noise, planned)
        kept = np.ones((397, 503), bool)
        kept[92:188, 92:208] = False
        saved = (restored * np.float32(255)).round().astype(np.uint8)
        assert np.array_equal(saved[kept], np.asarray(photograph("coffee").resize((503, 397)))[kept])
        assert not np.array_equal(restored[~kept], image[~kept])

    @pytest.mark.parametrize("size", [(1301, 901), (640, 480), (333, 777)])
    def test_nothing_shifts_or_scales(self, size):
        """The photograph, softened so that resampling loses little, edited into itself."""
        image = resample(resample(picture(*size), Size(size[0] // 8, size[1] // 8)), Size(*size))
        planned = plan_inpainting(image, mask_of(*size, (100, 90, 220, 230)), AROUND)
        restored = restore_inpainting(planned.picture, planned)
        assert np.abs(restored - image).max() < 0.01
        assert np.abs(np.roll(image, 1, axis=1) - image)[90:230, 100:220].max() > 0.03, "one pixel would be seen"

    @pytest.mark.parametrize("scale", [2, 1.5, 0.5])
    def test_an_upscaled_picture_is_laid_back(self, scale):
        image = resample(resample(picture(900, 700), Size(90, 70)), Size(900, 700))
        planned = plan_inpainting(image, mask_of(900, 700, (100, 90, 220, 230)), AROUND, feather=6)
        size = Size(round(planned.grid.width * scale), round(planned.grid.height * scale))
        assert np.abs(restore_inpainting(resample(planned.picture, size), planned) - image).max() < 0.02

    def test_another_shape_is_refused(self):
        planned = plan(512, 512, (0, 0, 512, 512))
        with pytest.raises(UnusableImage, match="is 1024x768 but image 1 was fitted to 1024x1024.*Klein 9B Inpaint"):
            restore_inpainting(np.zeros((768, 1024, 3), np.float32), planned)

    def test_without_resampling_it_comes_back_bit_exact(self):
        image = picture(512, 384)
        planned = plan_inpainting(image, mask_of(512, 384, (100, 100, 180, 200)), WHOLE, feather=12)
        assert np.abs(restore_inpainting(planned.picture, planned) - image).max() < 1e-6
        hard = plan_inpainting(image, mask_of(512, 384, (100, 100, 180, 200)), WHOLE)
        assert np.array_equal(restore_inpainting(hard.picture, hard), image)
