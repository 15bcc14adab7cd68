"""From a template to a picture on the canvas, by the buttons a person presses."""

import pytest

from browser.conftest import PACK_FOLDER, put_models

pytestmark = pytest.mark.host

PHOTOGRAPHS = {"Image 1": "image_1.png", "Image 2": "image_2.png"}


def choose_photographs(page):
    for title, value in PHOTOGRAPHS.items():
        page("choose", title=title, widget="image", value=value)


class TestFirstRun:
    """With no model file yet, as after a fresh install."""

    def test_missing_files_are_listed_found_and_run(self, empty_page, comfy, models):
        empty_page("openTemplate", folder=PACK_FOLDER, name="Klein 9B edit two images")
        choose_photographs(empty_page)
        assert set(empty_page("listIssues", expected=True)) == {"missing-model"}
        put_models(comfy, models)
        empty_page("refreshModels")
        assert empty_page("listIssues") == {}
        outcome = empty_page("run", title="Picture")
        empty_page.screenshot("run classic")
        assert outcome["picture"] == [128, 128]
        assert outcome["said"]["Klein9BLoader"][0].startswith("Klein 9B distilled")


def test_nodes2_shows_the_picture_too(page):
    page("set", name="Comfy.VueNodes.Enabled", value=True)
    page("openTemplate", folder=PACK_FOLDER, name="Klein 9B edit two images")
    choose_photographs(page)
    outcome = page("run", title="Picture")
    page.screenshot("run nodes2")
    page("set", name="Comfy.VueNodes.Enabled", value=False)
    assert outcome["picture"] == [128, 128]
