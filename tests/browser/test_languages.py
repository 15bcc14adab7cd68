"""The frontend finds the pack's translations where they lie."""

import json

import pytest

from host.checkout import PACK

pytestmark = pytest.mark.host

LANGUAGE = "zh"


@pytest.fixture(scope="class")
def chinese(page, comfy):
    page("set", name="Comfy.Locale", value=LANGUAGE)
    page("open", url=comfy.host.url)
    yield page
    page("set", name="Comfy.Locale", value="en")
    page("open", url=comfy.host.url)


@pytest.fixture
def words():
    return json.loads((PACK / "locales" / LANGUAGE / "nodeDefs.json").read_text(encoding="utf-8"))


class TestChinese:
    def test_a_node_speaks_it(self, chinese, words):
        expected = words["Klein9BReferences"]
        chinese("placeNode", type="Klein9BReferences", x=500, y=200)
        chinese("settle")
        (node,) = chinese("nodes")
        chinese.screenshot("node in Chinese")
        assert node["title"] == expected["display_name"]
        assert node["outputs"] == [one["name"] for one in expected["outputs"].values()]
        for name in ("fit", "aspect_ratio", "batch_size"):
            assert node["labels"][name] == expected["inputs"][name]["name"]

    def test_the_options_of_an_option_speak_it(self, chinese, words):
        expected = words["Klein9BSampler"]
        chinese("placeNode", type="Klein9BSampler", x=500, y=200)
        chinese("choose", title=expected["display_name"], widget="sampler", value="res_2s")
        (node,) = chinese("nodes")
        assert node["labels"]["sampler.eta"] == expected["inputs"]["sampler_eta"]["name"]
        assert node["labels"]["sampler.final_step"] == expected["inputs"]["sampler_final_step"]["name"]

    def test_a_growing_socket_has_its_tooltip(self, chinese, words):
        node_id = chinese("placeNode", type="Klein9BReferences", x=500, y=200)
        shown = chinese("tooltip", id=node_id, input="images.image_1")
        assert shown == words["Klein9BReferences"]["inputs"]["images_image_1"]["tooltip"]
