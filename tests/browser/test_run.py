"""From a template to a picture on the canvas, by the buttons a person presses."""

import pytest

from browser.conftest import PACK_FOLDER

pytestmark = pytest.mark.host

PHOTOGRAPHS = {"Image 1": "image_1.png", "Image 2": "image_2.png"}


def choose_photographs(page):
    for title, value in PHOTOGRAPHS.items():
        page("choose", title=title, widget="image", value=value)


def test_run_shows_the_picture(page, drawing):
    page("openTemplate", folder=PACK_FOLDER, name="Klein 9B edit two images 16 GB")
    choose_photographs(page)
    outcome = page("run", title="Picture")
    page.screenshot(f"run {drawing}")
    assert outcome["picture"] == [128, 128]
