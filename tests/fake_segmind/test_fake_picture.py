"""The picture is a function of the inputs and looks like them."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from .picture import Sketch, draw, encode, size_of
from .service import ASPECT_RATIOS

AREA = 256 * 256
SKETCH = Sketch("a red cup on a wooden table", 7, (), "1:1", AREA)


def png(colour: str, size: tuple[int, int] = (64, 64)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def pixels(sketch: Sketch) -> bytes:
    return draw(sketch).tobytes()


def test_the_same_inputs_give_the_same_bytes() -> None:
    assert encode(draw(SKETCH), "png", 90) == encode(draw(SKETCH), "png", 90)


def test_every_input_shows() -> None:
    changed = [
        replace(SKETCH, prompt="another"),
        replace(SKETCH, seed=8),
        replace(SKETCH, references=(png("red"),)),
        replace(SKETCH, references=(png("blue"),)),
        replace(SKETCH, aspect_ratio="16:9"),
        replace(SKETCH, index=1),
    ]
    assert len({pixels(sketch) for sketch in [SKETCH, *changed]}) == 1 + len(changed)


def test_references_stand_side_by_side_in_order() -> None:
    canvas = np.asarray(draw(replace(SKETCH, references=(png("red"), png("blue")))))
    high, wide = canvas.shape[0] * 3 // 8, canvas.shape[1]
    assert tuple(canvas[high, wide // 4]) == (255, 0, 0)
    assert tuple(canvas[high, wide * 3 // 4]) == (0, 0, 255)


def test_words_are_written_below() -> None:
    canvas = np.asarray(draw(SKETCH).convert("L"))
    band = canvas[canvas.shape[0] * 3 // 4 :]
    assert band.max() > 200, "light ink"
    assert (band < 32).mean() > 0.5, "on a dark band"


@pytest.mark.parametrize("ratio", ASPECT_RATIOS)
def test_aspect_ratios(ratio: str) -> None:
    wide, high = size_of(ratio, AREA, (300, 200))
    asked = (3, 2) if ratio == "match_input_image" else tuple(map(int, ratio.split(":")))
    # Sides are rounded to 16, so each may be off by 8.
    assert abs(wide / high - asked[0] / asked[1]) <= 8 / wide + 8 / high * (wide / high) + 8 / high
    assert 0.8 < wide * high / AREA < 1.2 and wide % 16 == high % 16 == 0


def test_formats_and_quality() -> None:
    image = draw(SKETCH)
    for image_format in ("png", "jpeg", "webp"):
        assert Image.open(io.BytesIO(encode(image, image_format, 90))).format == image_format.upper()
    assert len(encode(image, "jpeg", 10)) < len(encode(image, "jpeg", 95))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode(image, "png", 90)))), np.asarray(image))


def test_a_reference_out_of_reach_is_a_grey_panel() -> None:
    assert draw(replace(SKETCH, references=(None,))).getpixel((128, 90)) == (96, 96, 104)
