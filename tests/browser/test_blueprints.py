"""The blueprints: found by the search, one node on the canvas, and the graph in it runs."""

import pytest

from host.checkout import PACK

pytestmark = pytest.mark.host

BLUEPRINTS = sorted(path.stem for path in (PACK / "subgraphs").glob("*.json"))
FREE_SPOT = {"x": 700, "y": 400}
QUERIES = {
    "Klein 9B edit": ("Klein 9B edit", "klein edit"),
    "Klein 9B text to image": ("Klein 9B text to image", "klein text"),
}


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_it_is_one_node_found_by_search(page, name):
    for query in QUERIES[name]:
        page("reset")
        (type_,) = page("addBySearch", title=name, query=query, **FREE_SPOT)
        (node,) = page("nodes")
        assert node["title"] == name and not node["unknown"] and type_ == node["type"]
        assert {"prompt", "noise_seed", "diffusion_model", "text_encoder", "vae"} <= set(node["widgets"])
    page.screenshot(f"blueprint {name}")
    inside = {one["class_type"] for one in page("apiFormat").values()}
    assert {"Klein9BLoader", "Klein9BTextEncode", "Klein9BReferences", "SamplerCustomAdvanced", "VAEDecode"} <= inside


def test_the_picture_comes_out_of_it(page, comfy):
    page("addBySearch", title="Klein 9B text to image", query="Klein 9B text to image", **FREE_SPOT)
    graph = page("apiFormat")
    for one in graph.values():
        if one["class_type"] == "Klein9BReferences":
            one["inputs"] |= {"aspect_ratio": "custom", "aspect_ratio.width": 128, "aspect_ratio.height": 128}
            one["inputs"].pop("aspect_ratio.megapixels", None)
    (decoded,) = [key for key, one in graph.items() if one["class_type"] == "VAEDecode"]
    graph["save"] = {"class_type": "SaveImage", "inputs": {"images": [decoded, 0], "filename_prefix": "blueprint"}}
    (picture,) = comfy.host.pictures(comfy.host.run(graph))
    assert picture.exists()
