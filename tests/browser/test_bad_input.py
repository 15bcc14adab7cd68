"""What a person may lack: the graph opens all the same, and what is missing is named."""

import pytest

from browser.conftest import PACK_FOLDER
from browser.test_said import KV, PHOTOGRAPHS
from host.checkout import PACK

pytestmark = pytest.mark.host

UNTRANSLATED = "ru"


def test_a_photograph_that_is_gone_is_named(page, drawing, complaints):
    page("openTemplate", folder=PACK_FOLDER, name=KV)
    for title in PHOTOGRAPHS:
        page("choose", title=title, widget="image", value=f"gone {title}.png")
    assert len(page("nodes")) > len(PHOTOGRAPHS)
    page("runRefused")
    text = " ".join(line for lines in page("listIssues").values() for line in lines)
    page.screenshot(f"photographs gone {drawing}")
    assert all(title in text for title in PHOTOGRAPHS)


@pytest.fixture(scope="class")
def untranslated(page, comfy):
    assert not (PACK / "locales" / UNTRANSLATED).exists()
    page("set", name="Comfy.Locale", value=UNTRANSLATED)
    page("open", url=comfy.host.url)
    yield page
    page("set", name="Comfy.Locale", value="en")
    page("open", url=comfy.host.url)


class TestALanguageWithoutTranslation:
    def test_the_nodes_speak_english(self, untranslated):
        untranslated("placeNode", type="Klein9BReferences", x=500, y=200)
        (node,) = untranslated("nodes")
        untranslated.screenshot("a language without translation")
        assert node["title"] == "Klein 9B References" and node["widgets"]["fit"]
