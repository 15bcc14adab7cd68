"""Every picture comes in by one rule, whatever its dtype and channels."""

import math

import numpy as np
import pytest
import torch

from standins.greys import DTYPES, FINE, LEVELS, ROUNDING, grey

pytestmark = pytest.mark.usefixtures("comfy_host")


def frames(**images):
    from klein9b.nodes.host.pictures import frames_in_order

    return frames_in_order(images)


def unusable(**images):
    with pytest.raises(ValueError) as caught:
        frames(**images)
    return str(caught.value)


class TestDtypes:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_a_quarter_is_a_quarter(self, dtype):
        (frame,) = frames(image_1=grey(dtype))
        assert frame.pixels.dtype == np.float32 and frame.pixels.shape == (4, 4, 3)
        assert np.abs(frame.pixels - 0.25).max() <= ROUNDING.get(dtype, FINE)

    @pytest.mark.parametrize("dtype", LEVELS, ids=str)
    def test_the_largest_level_is_white_and_none_is_black(self, dtype):
        white, black = frames(image_1=grey(dtype, 4), image_2=grey(dtype, 0))
        assert white.pixels.min() == 1 and black.pixels.max() == 0

    def test_a_boolean_is_black_or_white(self):
        (frame,) = frames(image_1=torch.tensor([[[[True, False, True]]]]))
        assert frame.pixels.tolist() == [[[1, 0, 1]]]

    def test_negative_levels_and_floats_out_of_range_are_clipped(self):
        low, wide = frames(
            image_1=torch.full((1, 1, 1, 3), -7, dtype=torch.int16), image_2=torch.tensor([[[[-1.0, 0.5, 2.0]]]])
        )
        assert low.pixels.max() == 0 and wide.pixels.tolist() == [[[0, 0.5, 1]]]


class TestChannels:
    def test_grey_is_repeated(self):
        (frame,) = frames(image_1=torch.full((1, 2, 2, 1), 128, dtype=torch.uint8))
        assert frame.pixels.shape == (2, 2, 3) and np.allclose(frame.pixels, 128 / 255)

    def test_transparency_is_laid_over_white(self):
        pixel = torch.tensor([255, 0, 0, 51], dtype=torch.uint8)
        (frame,) = frames(image_1=pixel.expand(1, 2, 2, 4))
        assert np.allclose(frame.pixels, [1.0, 0.8, 0.8])

    @pytest.mark.parametrize("channels", [0, 2, 5])
    def test_any_other_number_is_refused(self, channels):
        assert unusable(image_1=torch.ones(1, 2, 2, channels)).startswith("image_1: ")


def test_frames_follow_the_sockets_numbers_and_are_named_after_them():
    pair = torch.cat([grey(torch.float32, 2), grey(torch.float32, 3)])
    got = frames(image_10=grey(torch.float32, 4), image_2=pair, image_3=None, image_1=grey(torch.uint8, 0))
    assert [frame.label for frame in got] == ["image_1", "image_2, frame 1", "image_2, frame 2", "image_10"]
    assert [float(frame.pixels.mean()) for frame in got] == [0, 0.5, 0.75, 1]


def test_a_float_picture_in_range_is_not_copied():
    image = torch.rand(1, 4, 4, 3)
    (frame,) = frames(image_1=image)
    assert np.shares_memory(frame.pixels, image.numpy())


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (torch.zeros(0, 4, 4, 3), "image_2: The batch holds no frame. Connect one that does, or disconnect image_2."),
        (torch.zeros(4, 4, 3), r"image_2, frame 1: Expected pictures shaped [frames, height, width, channels]"),
        (torch.full((1, 4, 4, 3), math.nan), "image_2: The image holds NaN or infinite pixels"),
        (torch.ones(1, 4, 4, 2), "image_2: The image has 2 channels"),
        (torch.zeros(1, 0, 4, 3), "image_2: The image has no pixels"),
    ],
)
def test_the_sentence_begins_with_the_socket(image, words):
    assert unusable(image_1=grey(torch.float32), image_2=image).startswith(words)


class TestBatch:
    def picture(self, value=0.5, size=(4, 6), alpha=1.0, request_id="request-1"):
        from klein9b.remote.images import Decoded
        from klein9b.remote.service import Picture

        height, width = size
        image = np.full((height, width, 3), value, np.float32)
        mask = np.full((height, width), 1 - alpha, np.float32)
        image.flags.writeable = False
        decoded = Decoded(image=image, mask=mask, width=width, height=height, media_type="image/png")
        return Picture(decoded, {"request_id": request_id})

    def test_equal_sizes_are_one_batch_in_order(self, comfy_host):
        from klein9b.nodes.host.pictures import as_batch

        image, mask = as_batch([self.picture(0.25), self.picture(0.75, alpha=0.5)])
        assert image.shape == (2, 4, 6, 3) and image.dtype == torch.float32 and mask.shape == (2, 4, 6)
        assert [float(one.mean()) for one in image] == [0.25, 0.75]
        assert [float(one.mean()) for one in mask] == [0.0, 0.5]

    def test_other_sizes_are_refused_and_none_is_lost(self, comfy_host):
        from klein9b.nodes.host.pictures import as_batch
        from klein9b.remote.errors import SegmindError

        with pytest.raises(SegmindError) as caught:
            as_batch([self.picture(request_id="request-1"), self.picture(size=(8, 8), request_id="request-2")])
        for words in ("6x4, 8x8", "All of them are paid and kept.", "Segmind Jobs: request-1, request-2"):
            assert words in str(caught.value)
