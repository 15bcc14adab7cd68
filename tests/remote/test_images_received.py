"""Files on their way back: what a picture may hold, and what is refused."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import chunk, file_of, png, ramp
from PIL import Image, ImageCms, ImageFile, PngImagePlugin

from klein9b.remote.errors import DownloadRefused
from klein9b.remote.images import decode

quick = settings(deadline=None, max_examples=150)
JPEG_STEP = 0.03  # a smooth picture at quality 95 comes back within 8 of 255


KINDS = [
    ("PNG", {}, 0),
    ("WEBP", {"lossless": True}, 0),
    ("JPEG", {"quality": 95, "subsampling": 0}, JPEG_STEP),
    ("JPEG", {"quality": 95, "subsampling": 0, "progressive": True}, JPEG_STEP),
    ("WEBP", {"quality": 95}, 2 * JPEG_STEP),
]
IDS = [f"{kind} {options}" for kind, options, _ in KINDS]


@pytest.mark.parametrize(("kind", "options", "step"), KINDS, ids=IDS)
def test_the_three_formats(kind, options, step):
    back = decode(file_of(ramp(), kind, **options))
    np.testing.assert_allclose(back.image, ramp() / 255, atol=step + 1e-7)
    assert back.media_type == f"image/{kind.lower()}"
    assert (back.mask.shape, back.mask.any(), back.note) == ((12, 16), False, "")


def expected_of(mode):
    """RGB and alpha of the ramp after it was stored in a Pillow mode, by Pillow's own conversion."""
    picture = Image.fromarray(np.dstack([ramp(), ramp()[..., :1]])).convert(mode)
    rgba = np.asarray(picture.convert("RGBA"))
    return picture, rgba[..., :3] / 255, rgba[..., 3] / 255


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_png_of_every_mode(mode):
    picture, rgb, alpha = expected_of(mode)
    back = decode(file_of(picture, "PNG"))
    np.testing.assert_allclose(back.image, rgb, atol=1e-7)
    np.testing.assert_allclose(back.mask, 1 - alpha, atol=1e-7)


def test_the_mask_is_one_where_the_picture_is_transparent():
    rgba = np.full((1, 3, 4), 255, np.uint8)
    rgba[0, :, 3] = 0, 51, 255
    for kind in ("PNG", "WEBP"):
        options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
        back = decode(file_of(rgba, kind, **options))
        np.testing.assert_allclose(back.mask, [[1.0, 0.8, 0.0]], atol=1e-7)
        assert back.image.shape == (1, 3, 3)


def test_a_palette_with_a_transparent_entry_and_colours_named_transparent():
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putdata([0, 1])
    back = decode(file_of(palette, "PNG", transparency=1))
    np.testing.assert_array_equal(back.mask, [[0, 1]])
    np.testing.assert_array_equal(back.image, [[[1, 0, 0], [0, 1, 0]]])
    named = decode(file_of(np.uint8([[[1, 2, 3], [4, 5, 6]]]), "PNG", transparency=(4, 5, 6)))
    np.testing.assert_array_equal(named.mask, [[0, 1]])


LEVELS = np.array([0, 1, 255, 256, 257, 32767, 32768, 65534, 65535])


def test_16_bit_gray_keeps_its_precision():
    row = LEVELS.astype(">u2").tobytes()
    back = decode(png((9, 1, 16, 0), [row]))
    np.testing.assert_allclose(back.image[0, :, 1], LEVELS / 65535, atol=1e-7)
    assert (back.mask.any(), back.note) == (False, "")
    named = decode(png((9, 1, 16, 0), [row], chunk(b"tRNS", struct.pack(">H", 257))))
    np.testing.assert_array_equal(named.mask[0], LEVELS == 257)


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_16_bit_colour_is_scaled_to_8_and_the_note_says_so(colour, channels):
    row = np.repeat(LEVELS, channels).astype(">u2").tobytes()
    back = decode(png((9, 1, 16, colour), [row]))
    np.testing.assert_allclose(back.image[0, :, 1], LEVELS / 65535, atol=1 / 255)  # Pillow keeps the upper 8 bits
    assert back.image[0, -1, 0] == 1.0
    assert "16 bits" in back.note


def test_cmyk_jpeg_becomes_rgb():
    back = decode(file_of(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95))
    np.testing.assert_allclose(back.image[4, 4], [1, 0, 0], atol=JPEG_STEP)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    stored = ramp()
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.swapaxes(0, 1),
        6: stored[::-1].swapaxes(0, 1),
        7: stored[::-1, ::-1].swapaxes(0, 1),
        8: stored[:, ::-1].swapaxes(0, 1),
    }[orientation]
    back = decode(file_of(stored, kind, exif=exif, **options))
    np.testing.assert_allclose(back.image, upright / 255, atol=JPEG_STEP if kind == "JPEG" else 1e-7)
    assert (back.height, back.width) == upright.shape[:2] == back.mask.shape


def srgb_profile():
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped_profile():
    """sRGB with the names of its red and blue primaries exchanged."""
    return srgb_profile().replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_an_embedded_profile_is_followed(kind):
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    red = np.tile(np.uint8([255, 0, 0]), (8, 8, 1))
    back = decode(file_of(red, kind, icc_profile=swapped_profile(), **options))
    np.testing.assert_allclose(back.image[4, 4], [0, 0, 1], atol=JPEG_STEP)
    assert back.note == ""


def test_an_srgb_profile_changes_no_pixel_and_alpha_is_kept():
    rgba = np.dstack([ramp(), ramp()[..., 0]])
    back = decode(file_of(rgba, "PNG", icc_profile=srgb_profile()))
    np.testing.assert_allclose(back.image, ramp() / 255, atol=1e-7)
    np.testing.assert_allclose(back.mask, 1 - ramp()[..., 0] / 255, atol=1e-7)


def gray_profile():
    """A gray profile with the tone curve of sRGB."""
    return srgb_profile().replace(b"RGB XYZ", b"GRAYXYZ").replace(b"rTRC", b"kTRC")


def test_a_gray_profile_is_followed_on_gray_and_not_on_colour():
    gray = Image.fromarray(ramp()).convert("L")
    followed = decode(file_of(gray, "PNG", icc_profile=gray_profile()))
    np.testing.assert_allclose(followed.image, np.dstack([np.asarray(gray)] * 3) / 255, atol=1.01 / 255)
    assert followed.note == ""
    refused = decode(file_of(ramp(), "PNG", icc_profile=gray_profile()))
    np.testing.assert_allclose(refused.image, ramp() / 255, atol=1e-7)
    assert "profile" in refused.note


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("profile", [b"nonsense", srgb_profile()[:200], srgb_profile().replace(b"RGB XYZ", b"CMYKXYZ")])
def test_a_broken_profile_does_not_cost_the_picture(mode, profile):
    picture = Image.fromarray(ramp()).convert(mode)
    back = decode(file_of(picture, "PNG", icc_profile=profile))
    np.testing.assert_allclose(back.image, np.asarray(picture.convert("RGB")) / 255, atol=1e-7)
    assert "profile" in back.note


def broken_exif(old, new):
    """A turned picture's EXIF with one more tag, and bytes of it changed."""
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 2.0
    assert old in exif.tobytes()
    return exif.tobytes().replace(old, new)


BROKEN_EXIF = [
    broken_exif(b"MM\0*", b"MM\0\0"),  # Pillow: SyntaxError, not a TIFF file
    broken_exif(b"\x01\x1a\0\x05", b"\x01\x08\0\x05"),  # struct.error while writing it back
]


@pytest.mark.parametrize("exif", BROKEN_EXIF)
def test_a_broken_exif_does_not_cost_the_picture(exif):
    back = decode(file_of(ramp(), "PNG", exif=exif))
    np.testing.assert_allclose(back.image, ramp() / 255, atol=1e-7)
    assert "EXIF" in back.note


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=80), st.integers(0, 60))
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow says what it skips
def test_no_exif_costs_the_picture(junk, keep):
    exif = broken_exif(b"MM", b"MM")[:keep] + junk
    assert sorted(decode(file_of(ramp(), "PNG", exif=exif)).image.shape) == [3, 12, 16]


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_of_an_animation_the_first_frame_is_read_and_the_note_says_so(kind, options):
    frames = [Image.fromarray(ramp()), Image.new("RGB", (16, 12), "red"), Image.new("RGB", (16, 12), "blue")]
    data = file_of(frames[0], kind, save_all=True, append_images=frames[1:], duration=100, **options)
    back = decode(data)
    np.testing.assert_allclose(back.image, ramp() / 255, atol=1e-7)
    assert "first of its 3 frames" in back.note


# --- decode: what is refused


@pytest.mark.parametrize("data", [b"<html>502 Bad Gateway</html>", b"GIF89a" + bytes(40), b"BM" + bytes(60), b"{}" * 9])
def test_other_files_are_refused_for_good(data):
    with pytest.raises(DownloadRefused, match="not a PNG, JPEG or WebP") as caught:
        decode(data)
    assert not caught.value.retryable
    assert "has been charged" in str(caught.value)


def test_files_over_64_mib_are_refused_for_good():
    with pytest.raises(DownloadRefused, match="64 MiB") as caught:
        decode(b"\x89PNG\r\n\x1a\n" + bytes(64 << 20))
    assert not caught.value.retryable


SIZES = [(8192, 8192), (32_001, 1000), (16385, 1), (1, 16385), (20_000, 20_000), (2**31 - 1, 2**31 - 1)]


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_many_pixels_are_refused_from_the_header(width, height, monkeypatch):
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: pytest.fail("a pixel was decoded"))
    with pytest.raises(DownloadRefused, match="megapixels") as caught:
        decode(png((width, height, 8, 2), [b""]))
    assert not caught.value.retryable


def test_the_largest_picture_accepted():
    data = file_of(Image.new("L", (16384, 100)), "PNG")
    assert decode(data).image.shape == (100, 16384, 3)


@pytest.fixture(params=[False, True], ids=["Pillow as it comes", "LOAD_TRUNCATED_IMAGES set by another pack"])
def pillow(request, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", request.param)
    before = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
    yield request.param
    assert before == (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS)


def with_thumbnail():
    """A JPEG with another whole JPEG in front of its picture, end marker and all."""
    inner = file_of(ramp()[:4, :4], "JPEG")
    outer = file_of(ramp(), "JPEG")
    data = outer[:2] + b"\xff\xe2" + struct.pack(">H", len(inner) + 2) + inner + outer[2:]
    assert data.count(b"\xff\xd9") == 2
    return data


FILES = [file_of(ramp(), kind, **options) for kind, options, _ in KINDS] + [with_thumbnail()]


@pytest.mark.parametrize("data", FILES, ids=[*IDS, "JPEG with a thumbnail"])
def test_every_cut_is_refused_and_may_be_fetched_again(data, pillow):
    decode(data)
    for length in range(len(data)):
        with pytest.raises(DownloadRefused) as caught:
            decode(data[:length])
        assert caught.value.retryable, length


@pytest.mark.parametrize("data", FILES[:2], ids=IDS[:2])
def test_bytes_after_the_end_do_no_harm(data, pillow):
    np.testing.assert_array_equal(decode(data + b"trailing").image, decode(data).image)


def test_a_changed_byte_anywhere_in_a_png_is_noticed(pillow):
    data, whole = FILES[0], decode(FILES[0])
    for index in range(len(data)):
        changed = data[:index] + bytes([data[index] ^ 0x20]) + data[index + 1 :]
        with pytest.raises(DownloadRefused):
            np.testing.assert_array_equal(decode(changed).image, whole.image)


@pytest.mark.parametrize("flag", [False, True])
@settings(deadline=None, max_examples=400)
@given(st.sampled_from(FILES), st.integers(0), st.integers(1, 255))
def test_a_changed_byte_decodes_or_is_refused(flag, data, index, change):
    index %= len(data)
    changed = data[:index] + bytes([data[index] ^ change]) + data[index + 1 :]
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, flag
    try:
        back = decode(changed)
    except DownloadRefused:
        return
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
    assert back.image.shape == (back.height, back.width, 3)
    assert back.image.min() >= 0.0
    assert back.image.max() <= 1.0


@quick
@given(st.sampled_from([b"", *(data[:30] for data in FILES)]), st.binary(max_size=200))
def test_nonsense_is_refused(head, tail):
    with pytest.raises(DownloadRefused):
        decode(head + tail)
