"""Klein 9B Quantize in a running ComfyUI: made once, listed, sampled from; a refusal does not cost the picture."""

import numpy as np
import pytest
from PIL import Image

from host.graphs import MODEL, klein, node

pytestmark = pytest.mark.host

MADE = "made by a test-int8.safetensors"


@pytest.fixture
def made(models):
    path = models / "diffusion_models" / MADE
    yield path
    path.unlink(missing_ok=True)


def pixels(host, graph):
    (path,) = host.pictures(host.run(graph))
    return np.asarray(Image.open(path)).astype(float)


def test_what_is_made_is_listed_and_gives_the_same_picture_nearly(host, made):
    quantize = node("Klein9BQuantize", file=f"diffusion_models/{MODEL}", name=MADE)
    host.run({"quantize": quantize})
    listed = host.get("/object_info/Klein9BQuantize")["Klein9BQuantize"]["input"]["required"]["file"][1]["options"]
    assert made.exists() and f"diffusion_models/{MADE}" in listed
    images = ["image_1.png"]
    wanted = pixels(host, klein(images))
    start = len(host.log())
    got = pixels(host, klein(images, model=MADE) | {"quantize": quantize})
    assert f"Klein 9B Quantize writes nothing: {MADE} is in " in host.log()[start:]
    assert 0 < np.abs(got - wanted).mean() < 2
    assert np.abs(pixels(host, klein(images, seed=8)) - wanted).mean() > 10
