"""The pictures on the shelf are those that the workflows make, and their words can be read."""

import numpy as np
import pytest
from PIL import Image, ImageColor

from browser import thumbnails
from host.workflow_files import WORKFLOWS

READABLE = 4.5  # to 1; Web Content Accessibility Guidelines, AA


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_it_is_drawn_from_the_workflow(path):
    with Image.open(path.with_suffix(".jpg")) as shipped:
        apart = np.abs(np.asarray(shipped, dtype=float) - np.asarray(thumbnails.thumbnail(path), dtype=float))
    assert apart.mean() < 3, "rebuild the workflows"


@pytest.mark.parametrize(
    ("ink", "ground"),
    [("INK", "GROUND"), ("INK", "PAPER"), ("INK", "LOCAL"), ("INK", "SEGMIND"), ("QUIET", "GROUND")],
)
def test_words_can_be_read(ink, ground):
    light, dark = sorted((luminance(getattr(thumbnails, one)) for one in (ink, ground)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= READABLE


def luminance(colour):
    """Relative luminance of sRGB, as WCAG 2.2 has it."""
    channels = np.array(ImageColor.getrgb(colour)) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))
