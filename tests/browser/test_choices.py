"""What a freshly placed node offers: the files to get first, and no number that has no effect."""

import pytest

pytestmark = pytest.mark.host

AREA = "aspect_ratio.megapixels"


def widgets(page):
    (node,) = page("nodes")
    return node["widgets"]


def test_a_loader_without_files_names_those_to_get(empty_page):
    empty_page("placeNode", type="Klein9BLoader", x=500, y=200)
    empty_page("settle")
    empty_page.screenshot("loader without files")
    shown = widgets(empty_page)
    assert [shown[slot] for slot in ("diffusion_model", "text_encoder", "vae")] == [
        "flux-2-klein-9b-fp8.safetensors", "qwen_3_8b_fp8mixed.safetensors", "flux2-vae.safetensors",
    ]  # fmt: skip


def test_the_area_is_asked_for_where_it_counts(page, drawing):
    page("placeNode", type="Klein9BReferences", x=500, y=150)
    page("settle")
    assert AREA not in widgets(page)
    page("choose", title="Klein 9B References", widget="aspect_ratio", value="16:9")
    page.screenshot(f"references of a ratio {drawing}")
    assert widgets(page)[AREA] == 1
    page("choose", title="Klein 9B References", widget="aspect_ratio", value="enlarge_input_image")
    assert AREA in widgets(page)
    page("choose", title="Klein 9B References", widget="aspect_ratio", value="custom")
    assert AREA not in widgets(page) and widgets(page)["aspect_ratio.width"] == 1024
