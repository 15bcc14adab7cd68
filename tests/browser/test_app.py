"""The app: somebody who knows only a phone's camera picks two photographs, writes a sentence and presses Run."""

import json

import pytest

import standins
from browser.conftest import PACK_FOLDER
from host.conftest import PHOTOGRAPHS
from host.workflow_files import GRAPHS

pytestmark = pytest.mark.host

TWO = "Klein 9B edit two images 16 GB"


@pytest.fixture
def own(tmp_path):
    """Photographs that ComfyUI has never seen."""
    standins.write_photographs(
        tmp_path, {f"own_{name}": subject for name, subject in PHOTOGRAPHS.items()}, longest_side=128
    )
    return tmp_path


@pytest.fixture
def app(page):
    """A page that ends in the graph, whatever the test did."""
    page("set", name="Comfy.RightSidePanel.IsOpen", value=False)
    page("set", name="Comfy.VueNodes.Enabled", value=True)  # where newer frontends draw an app's graph
    yield page
    page("leaveApp")
    page("set", name="Comfy.VueNodes.Enabled", value=False)


def test_two_photographs_a_sentence_and_run(app, own):
    app("openTemplate", folder=PACK_FOLDER, name=TWO)
    assert app("enterApp") == ["Photograph 1", "Photograph 2", "What to make", "Seed"]
    app.screenshot("app 1 opened")
    app("pickPhotograph", label="Photograph 1", file=str(own / "own_image_1.png"))
    app("pickPhotograph", label="Photograph 2", file=str(own / "own_image_2.png"))
    app("writeInto", label="What to make", text="Put the cup from image 2 beside the woman in image 1.")
    app.screenshot("app 2 filled in")
    outcome = app("runApp", least=2)
    app.screenshot("app 3 both pictures")
    assert outcome["sizes"] == [[128, 128]] * len(outcome["sizes"])
    assert "compare.a" in outcome["large"]  # the new picture, not the photograph
    chosen = [one["inputs"]["image"] for one in app("apiFormat").values() if one["class_type"] == "LoadImage"]
    assert [name.partition(".")[0] for name in chosen] == ["own_image_1", "own_image_2"]
    app("leaveApp")
    app("fit")
    assert app("underSlider", title="Compare") == 2
    app.screenshot("app 4 compared in the graph")


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.stem)
def test_every_form_has_words_for_a_person(app, path):
    app("load", graph=json.loads(path.read_text()))
    asked = app("enterApp")
    app.screenshot(f"app of {path.stem}")
    assert len(asked) == len(json.loads(path.read_text())["extra"]["linearData"]["inputs"])
    assert all(
        " " in label or label.capitalize() in ("Photograph", "Seed", "Shape", "Megapixels") for label in asked
    ), asked


def test_without_models_it_opens_and_says_what_is_missing(empty_page):
    empty_page("openTemplate", folder=PACK_FOLDER, name=TWO)
    assert "missing-model" in empty_page("listIssues", expected=True)
    try:
        assert empty_page("enterApp") == ["Photograph 1", "Photograph 2", "What to make", "Seed"]
        empty_page.screenshot("app without models")
        said = empty_page("readPage").lower()
        assert "resolve these issues" in said or "missing" in said or "show errors in graph" in said
    finally:
        empty_page("leaveApp")
