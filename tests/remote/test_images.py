"""Images on their way up: what leaves the machine."""

import base64
import hashlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from picture_files import chunks, ramp
from PIL import Image, JpegImagePlugin

from klein9b.remote.errors import BadInput
from klein9b.remote.images import data_url, decode, encode

quick = settings(deadline=None, max_examples=150)
JPEG_STEP = 0.03  # a smooth picture at quality 95 comes back within 8 of 255


def noise(height, width):
    return np.random.default_rng(0).random((height, width, 3), dtype=np.float32)


# --- encode


@quick
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=20).map(lambda s: (*s, 3))))
def test_every_level_of_255_survives_the_round_trip(pixels):
    image = pixels.astype(np.float32) / np.float32(255)
    sent = encode(image)
    back = decode(sent.data)
    assert (sent.media_type, sent.note, back.note) == ("image/png", "", "")
    assert (sent.height, sent.width) == (back.height, back.width) == pixels.shape[:2]
    assert back.image.dtype == back.mask.dtype == np.float32
    np.testing.assert_array_equal(back.image, image)
    assert not back.mask.any()


def test_values_are_clipped_and_rounded_to_the_nearest_level():
    image = np.array([[[-1.0, 2.0, 0.5], [100.4 / 255, 100.6 / 255, 1e-9]]], np.float32)
    back = np.rint(decode(encode(image).data).image * 255)
    np.testing.assert_array_equal(back, [[[0, 255, 128], [100, 101, 0]]])


def test_a_batch_of_one_and_other_float_types_are_the_same_picture():
    image = ramp() / 255
    assert encode(image[None].astype(np.float32)) == encode(image) == encode(image.astype(np.float32))


BAD = [
    (np.zeros((4, 4, 3), np.uint8), "uint8"),
    (np.zeros((4, 4), np.float32), "4x4"),
    (np.zeros((2, 4, 4, 3), np.float32), "2x4x4x3"),
    (np.zeros((4, 4, 2), np.float32), "4x4x2"),
    (np.zeros((0, 4, 3), np.float32), "no pixels"),
    (np.broadcast_to(np.float32(0), (10_001, 10_000, 3)), "100 megapixels, more than the 100"),
    (np.full((4, 4, 3), np.nan, np.float32), "NaN"),
    (np.full((4, 4, 4), np.inf, np.float32), "infinity"),
]


@pytest.mark.parametrize(("image", "words"), BAD, ids=[words for _, words in BAD])
def test_what_cannot_be_a_picture_is_refused_before_anything_is_sent(image, words):
    with pytest.raises(BadInput, match=words) as caught:
        encode(image)
    assert "nothing was charged" in str(caught.value)


def test_transparent_parts_go_on_white_and_the_note_says_so():
    image = np.zeros((1, 3, 4), np.float32)
    image[..., 0] = 1.0
    image[0, :, 3] = 0.0, 0.5, 1.0
    sent = encode(image)
    np.testing.assert_allclose(decode(sent.data).image[0], [[1, 1, 1], [1, 0.5, 0.5], [1, 0, 0]], atol=0.5 / 255)
    assert "white" in sent.note


def test_an_opaque_alpha_changes_nothing():
    rgb = ramp() / 255
    rgba = np.concatenate([rgb, np.ones_like(rgb[..., :1])], -1)
    assert encode(rgba) == encode(rgb)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2048, 2048), (2048, 2048)),
        ((2049, 2048), (2048, 2047)),
        ((3000, 2000), (2508, 1672)),
        ((40_000, 2), (16384, 1)),
        ((10, 16384), (10, 16384)),
    ],
)
def test_pictures_over_four_megapixels_are_scaled_and_the_note_says_so(shape, expected):
    sent = encode(np.broadcast_to(np.float32([0.2, 0.4, 0.6]), (*shape, 3)))
    assert (sent.height, sent.width) == expected
    assert sent.height * sent.width <= 4 * 2**20
    assert bool(sent.note) == (shape != expected)
    if sent.note:
        assert f"{shape[1]}x{shape[0]} to {expected[1]}x{expected[0]}" in sent.note
    np.testing.assert_allclose(decode(sent.data).image, np.broadcast_to([0.2, 0.4, 0.6], (*expected, 3)), atol=1e-6)


def test_scaling_is_lanczos():
    image = noise(2100, 2100)
    sent = encode(image)
    wanted = Image.fromarray(np.rint(image * 255).astype(np.uint8)).resize((2048, 2048), Image.Resampling.LANCZOS)
    assert sent.sha256 == hashlib.sha256(b"RGB 2048x2048\0" + wanted.tobytes()).hexdigest()


def test_what_is_over_8_mib_as_png_goes_as_full_colour_jpeg():
    image = noise(1800, 1800)
    sent = encode(image)
    assert sent.media_type == "image/jpeg"
    assert "JPEG" in sent.note
    with Image.open(io.BytesIO(sent.data)) as picture:
        assert picture.format == "JPEG"
        assert JpegImagePlugin.get_sampling(picture) == 0  # 4:4:4
        assert np.abs(np.asarray(picture) / 255 - image).mean() < 0.02  # quality 95 on pure noise
    smaller = encode(image[:1600, :1600])
    assert (smaller.media_type, smaller.note) == ("image/png", "")


def test_the_hash_names_the_pixels_and_their_shape():
    flat = np.zeros((2, 6, 3), np.float32)
    assert encode(flat).sha256 == encode(flat.copy()).sha256
    assert len({encode(flat.reshape(shape)).sha256 for shape in ((2, 6, 3), (6, 2, 3), (3, 4, 3))}) == 3
    assert encode(flat).sha256 != encode(flat + np.float32(1 / 255)).sha256


def test_only_pixels_leave_the_machine():
    assert chunks(encode(ramp() / 255).data) == [b"IHDR", b"IDAT", b"IEND"]
    with Image.open(io.BytesIO(encode(noise(1800, 1800)).data)) as picture:
        assert set(picture.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


def test_the_data_url_holds_the_file():
    sent = encode(ramp() / 255)
    head, body = data_url(sent).split(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(body, validate=True) == sent.data
