"""Run, pressed on a template, shows the picture on the canvas and what the loader found under the loader."""

import pytest

from browser.conftest import PACK_FOLDER

pytestmark = pytest.mark.host

TEMPLATE = "Klein 9B edit one image"
VARIANTS = {"classic": "auto", "nodes2": "distilled"}  # another choice, so that the host loads again


def test_the_picture_and_the_loaders_words_appear(page, drawing):
    page("openTemplate", folder=PACK_FOLDER, name=TEMPLATE)
    page("choose", type="LoadImage", widget="image", value="image_1.png")
    page("choose", type="Klein9BLoader", widget="variant", value=VARIANTS[drawing])
    outcome = page("run", type="SaveImage")
    page.screenshot(f"run {drawing}")
    assert outcome["picture"] == [128, 128]
    assert outcome["said"]["Klein9BLoader"][0].startswith("Klein 9B distilled")
