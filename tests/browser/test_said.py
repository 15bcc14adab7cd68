"""What nodes say, in both frontends and both drawings: it stays under them, and errors stand there too."""

import pytest

from browser.conftest import PACK_FOLDER

pytestmark = pytest.mark.host

KV = "Klein 9B KV edit two images"
DISTILLED = "flux-2-klein-9b-fp8.safetensors"
PHOTOGRAPHS = {"Image 1": "image_1.png", "Image 2": "image_2.png"}


def test_it_stays(page, drawing):
    page("openTemplate", folder=PACK_FOLDER, name=KV)
    for title, value in PHOTOGRAPHS.items():
        page("choose", title=title, widget="image", value=value)
    page("choose", title="Klein 9B Loader", widget="diffusion_model", value=DISTILLED)
    assert page("runToTheEnd") == "execution_success"
    page("fit")
    page.screenshot(f"said {drawing}")
    page("lookAt", type="Klein9BReferenceCache")
    page.screenshot(f"off {drawing}")
    page("lookAt", type="Klein9BLoader")
    page.screenshot(f"loader {drawing}")
    said = page("said")
    print(said)
    assert said["Klein9BReferenceCache"]["kind"] == "off"
