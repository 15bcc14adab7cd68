"""The KV edit in a running ComfyUI: references are encoded once, and so are their keys and values."""

import numpy as np
import pytest
from PIL import Image

from host.graphs import klein, node

pytestmark = pytest.mark.host

KV_MODEL = "flux-2-klein-9b-kv-fp8.safetensors"
PROMPTS = ("a red fox in the snow", "the same cup, made of glass", "night, a street, rain")
LINE = "Klein 9B Reference Cache: "


def kv_edit(images, *, storage="model dtype", keep="between runs", model=KV_MODEL, **others):
    graph = klein(images, model=model, **others)
    graph["cache"] = node(
        "Klein9BReferenceCache", model=["load", 0], storage=storage, memory_gib=8.0, keep=keep, any_model=False
    )
    graph["guider"]["inputs"]["model"] = ["cache", 0]
    return graph


def encodes(host):
    return len(host.get("/klein9b_probe/vae_encodes"))


def lines_since(host, start):
    return [line.split(LINE)[1] for line in host.log()[start:].splitlines() if LINE in line]


def picture(host, graph):
    (path,) = host.pictures(host.run(graph))
    return np.asarray(Image.open(path)).astype(int)


def test_three_prompts_and_three_seeds_compute_the_references_once(host):
    start, before = len(host.log()), encodes(host)
    runs = [(prompt, 1) for prompt in PROMPTS] + [(PROMPTS[-1], seed) for seed in (2, 3)]
    pictures = [
        picture(host, kv_edit(["image_2.png", "image_4.png"], prompt=prompt, seed=seed)) for prompt, seed in runs
    ]
    assert encodes(host) - before == 2
    outcomes = [line.split(":")[0] for line in lines_since(host, start)]
    assert outcomes == ["miss"] + ["hit"] * 4
    for i, one in enumerate(pictures):
        assert all(np.abs(one - other).mean() > 1 for other in pictures[:i])


def test_a_warm_picture_is_the_cold_one(host):
    images = ["image_1.png", "image_3.png"]
    start = len(host.log())
    cold = picture(host, kv_edit(images, seed=11))
    picture(host, kv_edit(images, seed=12))
    warm = picture(host, kv_edit(images, seed=11))
    assert np.array_equal(cold, warm)
    assert "miss" in lines_since(host, start)[0] and "hit: 2 references" in lines_since(host, start)[1]


def test_distilled_weights_pass_through(host):
    """The picture is the one without the node, and nothing is cached."""
    start = len(host.log())
    images, distilled = ["image_1.png"], "flux-2-klein-9b.safetensors"
    got = picture(host, kv_edit(images, model=distilled, seed=21))
    assert np.array_equal(got, picture(host, klein(images, model=distilled, seed=21)))
    assert lines_since(host, start) == []
