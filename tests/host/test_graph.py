"""The pack inside a running ComfyUI: it loads cleanly, samples, refuses in sentences, and encodes once."""

import numpy as np
import pytest
from PIL import Image

from host.graphs import klein
from host.server import HostError

pytestmark = pytest.mark.host

NODES = ("Klein9BLoader", "Klein9BReferences", "Klein9BScheduler", "Klein9BSampler", "Klein9BRestore")
NODES += ("Klein9BTextEncode", "SegmindRemote", "SegmindJobs")


def encodes(host):
    """How often a VAE has encoded. Not a graph: the host drops models that the latest graph does not use."""
    return len(host.get("/klein9b_probe/vae_encodes"))


def picture(host, graph):
    (path,) = host.pictures(host.run(graph))
    return np.asarray(Image.open(path))


def test_the_pack_loads_under_any_folder_name(host):
    log = host.log()
    assert "IMPORT FAILED" not in log and "Cannot import" not in log
    assert "ComfyUI-some.other_name" in log.split("Import times for custom nodes:")[1]
    known = host.get("/object_info")
    assert all(name in known for name in NODES)


def test_its_help_pages_are_served(host):
    import urllib.parse
    import urllib.request

    folder = urllib.parse.quote("ComfyUI-some.other_name")
    for name in NODES:
        with urllib.request.urlopen(f"{host.url}/extensions/{folder}/docs/{name}.md") as page:
            assert page.read().startswith((b"# Klein 9B ", b"# Segmind "))


def test_text_to_image(host):
    assert picture(host, klein([])).shape == (256, 256, 3)


def test_two_references_move_the_picture(host):
    one = picture(host, klein(["image_1.png", "image_2.png"]))
    swapped = picture(host, klein(["image_1.png", "image_3.png"]))
    assert one.shape == swapped.shape == (128, 128, 3)
    assert np.abs(one.astype(int) - swapped.astype(int)).mean() > 0.1


def test_the_same_seed_gives_the_same_bytes(host):
    first = picture(host, klein(["image_1.png"], seed=3))
    host.run(klein(["image_1.png"], seed=4))
    assert np.array_equal(picture(host, klein(["image_1.png"], seed=3)), first)


@pytest.mark.parametrize("final_step", ["sigma_min", "denoise", "extrapolate"])
def test_res_2s(host, final_step):
    sampler = {"sampler": "res_2s", "sampler.eta": 0.0, "sampler.final_step": final_step}
    assert picture(host, klein(["image_1.png"], sampler=sampler, steps=2)).std() > 1


def test_a_changed_prompt_or_seed_encodes_nothing(host):
    images = ["image_4.png", "image_2.png"]
    host.run(klein(images, prompt="first"))
    before = encodes(host)
    host.run(klein(images, prompt="second", seed=11))
    host.run(klein(images[::-1], prompt="third"))
    assert encodes(host) == before


def test_odd_sizes_come_back_at_the_originals_size(host):
    Image.open(host.base / "input" / "image_2.png").resize((141, 93)).save(host.base / "input" / "odd.png")
    for fit in ("crop", "pad"):
        assert picture(host, klein(["odd.png"], fit=fit)).shape == (93, 141, 3)


def test_a_wrong_file_is_one_sentence(host):
    (host.base / "models" / "vae" / "broken.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    graph = klein([])
    graph["load"]["inputs"]["vae"] = "broken.safetensors"
    with pytest.raises(HostError, match=r"Klein9BLoader: .*broken\.safetensors"):
        host.run(graph)


def test_a_tiny_image_is_one_sentence(host):
    Image.new("RGB", (300, 40)).save(host.base / "input" / "tiny.png")
    with pytest.raises(HostError, match="image_1: The image is 300x40 pixels; FLUX.2 needs at least 64"):
        host.run(klein(["tiny.png"]))
