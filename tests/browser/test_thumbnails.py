"""The pictures on the shelf are those that the workflows make, and their words can be read."""

import numpy as np
import pytest
from PIL import Image, ImageColor

from browser import thumbnails
from browser.contrast import READABLE, contrast, luminance
from host.workflow_files import WORKFLOWS


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
    one, other = (luminance(np.array(ImageColor.getrgb(getattr(thumbnails, name))) / 255) for name in (ink, ground))
    assert contrast(one, other) >= READABLE
