"""Reference sizing against diffusers' own preprocessing, and the way back against a marked photograph."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from klein9b.klein.framing import (
    ASPECT_RATIOS,
    Fit,
    Placement,
    Size,
    UnusableImage,
    enlarged,
    fit_image,
    output_size,
    place_image,
    resample,
    restore_image,
    snap,
    to_rgb,
)
from standins import photograph

SIDES = st.integers(64, 3000)
LEVEL = 1 / 255


def as_array(picture):
    return np.asarray(picture.convert("RGB"), dtype=np.float32) / 255


def stretched(name, width, height):
    return as_array(photograph(name).resize((width, height), Image.Resampling.BICUBIC))


def legal(width, height):
    return max(width / height, height / width) <= 8


class TestPlacement:
    @pytest.mark.parametrize(
        ("size", "fit", "several", "scaled", "grid"),
        [
            (Size(512, 512), Fit.CROP, False, Size(512, 512), Size(512, 512)),
            (Size(1920, 1080), Fit.CROP, True, Size(1365, 768), Size(1360, 768)),
            (Size(1920, 1080), Fit.CROP, False, Size(1920, 1080), Size(1920, 1072)),
            (Size(4032, 3024), Fit.CROP, False, Size(2337, 1752), Size(2336, 1744)),
            (Size(1920, 1080), Fit.PAD, True, Size(1365, 768), Size(1376, 768)),
            (Size(100, 80), Fit.PAD, True, Size(100, 80), Size(112, 80)),
            (Size(1920, 1080), Fit.MEGAPIXEL, True, Size(1365, 768), Size(1360, 768)),
            (Size(320, 320), Fit.MEGAPIXEL, True, Size(1024, 1024), Size(1024, 1024)),
        ],
    )
    def test_sizes(self, size, fit, several, scaled, grid):
        placement = place_image(size, fit, several=several)
        assert (placement.scaled, placement.grid) == (scaled, grid)

    @given(SIDES, SIDES, st.sampled_from(Fit), st.booleans())
    @settings(deadline=None)
    def test_every_legal_size_lands_on_the_grid_near_its_middle(self, width, height, fit, several):
        if not legal(width, height):
            return
        placement = place_image(Size(width, height), fit, several=several)
        assert placement.grid.width % 16 == placement.grid.height % 16 == 0
        assert placement.grid.area > 0
        for grid, scaled, offset in (
            (placement.grid.width, placement.scaled.width, placement.left),
            (placement.grid.height, placement.scaled.height, placement.top),
        ):
            assert abs(grid - scaled) < 16
            assert abs(offset - (scaled - grid) / 2) <= 0.5
        if fit is not Fit.MEGAPIXEL:
            assert placement.scaled.width <= width and placement.scaled.height <= height, "never enlarged"

    @pytest.mark.parametrize(
        ("size", "words"), [(Size(63, 400), "at least 64"), (Size(800, 99), "8.1:1"), (Size(64, 513), "at most 8:1")]
    )
    def test_extremes_are_refused_in_a_sentence(self, size, words):
        with pytest.raises(UnusableImage, match=words):
            place_image(size, Fit.CROP, several=False)

    def test_the_limits_themselves_are_allowed(self):
        assert place_image(Size(64, 512), Fit.CROP, several=True).grid == Size(64, 512)


class TestOutputSize:
    @pytest.mark.parametrize("ratio", ASPECT_RATIOS)
    @pytest.mark.parametrize("megapixels", [0.25, 1.0, 2.0])
    def test_area_and_shape(self, ratio, megapixels):
        size = output_size(ratio, megapixels)
        across, down = ASPECT_RATIOS[ratio]
        assert size.width % 16 == size.height % 16 == 0
        assert size.area == pytest.approx(megapixels * 1024**2, rel=0.06)
        assert size.width / size.height == pytest.approx(across / down, rel=0.06)

    @pytest.mark.parametrize("size", [Size(512, 512), Size(300, 200), Size(64, 400)])
    def test_enlarged_keeps_the_shape_to_a_pixel(self, size):
        larger = enlarged(size, 1.0)
        assert larger.area == pytest.approx(1024**2, rel=0.005)
        assert larger.width == pytest.approx(larger.height * size.width / size.height, abs=larger.width / 400)

    @pytest.mark.parametrize("size", [Size(1024, 1024), Size(4000, 3000)])
    def test_nothing_is_made_smaller_by_enlarging(self, size):
        assert enlarged(size, 1.0) == size

    def test_one_megapixel_square(self):
        assert output_size("1:1", 1.0) == Size(1024, 1024)

    def test_snap_keeps_sizes_on_the_grid(self):
        assert snap(1001, 20) == Size(1008, 64)


class TestRgb:
    def test_transparency_is_laid_over_white(self):
        pixel = np.array([[[0.2, 0.4, 0.6, 0.25]]], dtype=np.float32)
        assert np.allclose(to_rgb(pixel), [[[0.8, 0.85, 0.9]]])

    def test_grey_becomes_rgb(self):
        assert to_rgb(np.full((2, 2, 1), 0.5, np.float32)).shape == (2, 2, 3)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_broken_pixels_are_refused(self, bad):
        image = np.zeros((4, 4, 3), np.float32)
        image[1, 2, 0] = bad
        with pytest.raises(UnusableImage, match="NaN or infinite"):
            to_rgb(image)

    def test_rgb_in_range_is_not_copied(self):
        image = np.full((4, 4, 3), 0.5, np.float32)
        assert to_rgb(image) is image

    def test_two_channels_are_no_image(self):
        with pytest.raises(UnusableImage, match="has 2 channels; expected 1"):
            to_rgb(np.zeros((4, 4, 2), np.float32))

    def test_values_outside_the_range_are_clipped(self):
        assert to_rgb(np.array([[[-1.0, 0.5, 2.0]]], np.float32)).tolist() == [[[0, 0.5, 1]]]


class TestResample:
    def test_every_8bit_level_is_recognised(self):
        levels = np.arange(256, dtype=np.float32).reshape(16, 16, 1) / np.float32(255)
        image = np.repeat(levels, 3, axis=-1)
        ours = resample(image, Size(8, 8))
        pillow = Image.fromarray((image * 255).round().astype(np.uint8)).resize((8, 8), Image.Resampling.LANCZOS)
        assert np.array_equal(ours, np.asarray(pillow, np.float32) / np.float32(255))

    def test_16bit_images_keep_their_precision(self):
        ramp = np.linspace(0, 1, 65536, dtype=np.float32).reshape(256, 256, 1).repeat(3, axis=-1)
        small = resample(ramp, Size(64, 64))
        assert len(np.unique(small)) > 1000


@pytest.mark.peer
class TestDiffusers:
    """diffusers.Flux2KleinPipeline prepares references as BFL does, up to one megapixel each."""

    @pytest.mark.parametrize("size", [(512, 512), (500, 333), (1400, 1100), (777, 1501)])
    def test_pixels_are_bit_equal(self, size):
        processing = pytest.importorskip("diffusers.pipelines.flux2.image_processor")
        processor = processing.Flux2ImageProcessor(vae_scale_factor=16, vae_latent_channels=32)
        picture = photograph("astronaut").resize(size, Image.Resampling.BICUBIC)
        placement = place_image(Size(*size), Fit.CROP, several=True)
        ours = fit_image(as_array(picture), placement)

        processor.check_image_input(picture)
        if picture.width * picture.height > 1024**2:
            picture = processor._resize_to_target_area(picture, 1024**2)
        theirs = processor.preprocess(
            picture, height=picture.height // 16 * 16, width=picture.width // 16 * 16, resize_mode="crop"
        )
        assert theirs.shape[2:] == (placement.grid.height, placement.grid.width)
        assert np.array_equal(theirs[0].permute(1, 2, 0).numpy(), ours * np.float32(2) - np.float32(1))

    def test_a_single_large_reference_differs_by_design(self):
        """BFL caps one reference at 2024^2 pixels, diffusers at 1024^2."""
        assert place_image(Size(1400, 1100), Fit.CROP, several=False).scaled == Size(1400, 1100)


def local_shift(before, after, *, tile=48):
    """The largest displacement, in pixels, of any textured tile."""
    from skimage.registration import phase_cross_correlation

    worst = 0.0
    grey = before.mean(-1), after.mean(-1)
    for top in range(0, before.shape[0] - tile + 1, 2 * tile):
        for left in range(0, before.shape[1] - tile + 1, 2 * tile):
            one, other = (image[top : top + tile, left : left + tile] for image in grey)
            if one.std() > 0.08:
                shift, _, _ = phase_cross_correlation(one, other, upsample_factor=20)
                worst = max(worst, float(np.abs(shift).max()))
    return worst


def marked_photograph(width, height):
    """A photograph with a checker mark every 48 pixels, so that every tile can be located."""
    image = stretched("astronaut", width, height)
    rows, columns = np.mgrid[:height, :width]
    mark = ((rows % 48 // 6) + (columns % 48 // 6)) % 2 == 0
    edge = (rows % 48 < 18) & (columns % 48 < 18)
    image[edge & mark] *= 0.2
    return image


class TestRestore:
    @pytest.mark.parametrize("fit", list(Fit))
    @pytest.mark.parametrize("size", [(1279, 721), (511, 767), (1500, 1111), (96, 300)])
    def test_nothing_shifts(self, fit, size):
        original = marked_photograph(*size)
        placement = place_image(Size(*size), fit, several=True)
        restored = restore_image(fit_image(original, placement), original, placement)
        assert restored.shape == original.shape
        assert local_shift(original, restored) <= 0.5

    def test_the_measure_sees_a_shift_of_one_pixel(self):
        original = marked_photograph(480, 480)
        assert local_shift(original, np.roll(original, 1, axis=1)) == pytest.approx(1, abs=0.1)

    def test_a_wrong_offset_would_be_seen(self):
        original = marked_photograph(1279, 721)
        placement = place_image(Size(1279, 721), Fit.CROP, several=True)
        fitted = fit_image(original, placement)
        wrong = Placement(placement.original, placement.scaled, placement.grid, placement.left + 2, placement.top)
        assert local_shift(original, restore_image(fitted, original, wrong)) > 1

    @pytest.mark.parametrize("fit", [Fit.CROP, Fit.PAD])
    def test_unscaled_images_come_back_bit_exact(self, fit):
        original = stretched("coffee", 503, 397)
        placement = place_image(Size(503, 397), fit, several=True)
        assert np.array_equal(restore_image(fit_image(original, placement), original, placement), original)

    def test_cropped_edges_are_the_originals(self):
        original = stretched("coffee", 503, 397)
        placement = place_image(Size(503, 397), Fit.CROP, several=True)
        restored = restore_image(np.zeros((384, 496, 3), np.float32), original, placement)
        assert np.array_equal(restored[:6], original[:6])
        assert restored[6:390, 3:499].max() == 0
        assert np.array_equal(restored[390:], original[390:])

    def test_an_enlarged_picture_is_laid_back(self):
        original = marked_photograph(512, 512)
        placement = place_image(Size(512, 512), Fit.CROP, several=True)
        twice = resample(original, Size(1024, 1024))
        assert local_shift(original, restore_image(twice, original, placement)) <= 0.5

    @pytest.mark.parametrize("scale", [1.33, 0.37, 2.71])
    @pytest.mark.parametrize("rounded", [round, int])
    def test_an_upscaler_that_rounds_both_sides_is_laid_back(self, scale, rounded):
        original = marked_photograph(511, 767)
        placement = place_image(Size(511, 767), Fit.CROP, several=True)
        size = Size(rounded(placement.grid.width * scale), rounded(placement.grid.height * scale))
        enlarged = resample(fit_image(original, placement), size)
        restored = restore_image(enlarged, original, placement)
        assert restored.shape == original.shape
        assert scale < 1 or local_shift(original, restored) <= 0.5

    def test_one_grid_step_more_is_another_shape(self):
        original = np.zeros((2048, 2048, 3), np.float32)
        placement = place_image(Size(2048, 2048), Fit.CROP, several=False)
        wider = np.zeros((placement.grid.height, placement.grid.width + 16, 3), np.float32)
        with pytest.raises(UnusableImage, match="cannot be laid"):
            restore_image(wider, original, placement)

    def test_another_shape_is_refused_with_the_way_out(self):
        original = stretched("coffee", 503, 397)
        placement = place_image(Size(503, 397), Fit.CROP, several=True)
        with pytest.raises(UnusableImage, match="is 512x512 but image 1 was fitted to 496x384"):
            restore_image(np.zeros((512, 512, 3), np.float32), original, placement)

    @given(SIDES, SIDES, st.sampled_from(Fit), st.booleans())
    @settings(deadline=None, max_examples=15)
    def test_any_size_keeps_flat_colour_everywhere(self, width, height, fit, several):
        """A constant picture stays constant: no dark seam from padding or sampling outside."""
        if not legal(width, height):
            return
        original = np.full((height, width, 3), 0.25, np.float32)
        placement = place_image(Size(width, height), fit, several=several)
        restored = restore_image(fit_image(original, placement), original, placement)
        assert np.abs(restored - original).max() <= LEVEL
