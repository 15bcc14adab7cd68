"""A batch of photographs in the running host: each picture is the one that its photograph gives alone."""

import numpy as np
import pytest
import torch
from PIL import Image

import standins
from host.graphs import klein, node

pytestmark = pytest.mark.host

TOLERANCE = 1e-6  # relative; another photograph shows as 1e-2
AT_CFG_5 = 2e-6  # Guidance takes the two predictions' rounding five and four times; measured 1.1e-6.
KV = "flux-2-klein-9b-kv-fp8.safetensors"
BASE = "flux-2-klein-base-9b-fp8.safetensors"
NAMES = ("batch_1.png", "batch_2.png", "batch_3.png")
SHARED = ("image_2.png", "image_4.png")
EULER = {"sampler": "euler"}
RES_2S = {"sampler": "res_2s", "sampler.eta": 0.5, "sampler.final_step": "sigma_min"}


@pytest.fixture(scope="module")
def photographs(host):
    """Three of one size, whose sides are no multiples of 16."""
    for name, kind in zip(NAMES, ("astronaut", "chelsea", "coffee")):
        standins.photograph(kind).resize((107, 131), Image.Resampling.LANCZOS).save(host.base / "input" / name)


def accelerated(graph):
    graph["accelerate"] = node(
        "Klein9BAccelerate",
        model=graph["guider"]["inputs"]["model"],
        profile="exact",
        attention="auto",
        cfg_from=0.0,
        cfg_until=1.0,
    )
    return by(graph, ["accelerate", 0])


def cached(graph):
    kept = {"storage": "model dtype", "memory_gib": 8.0, "keep": "between runs", "any_model": True}
    graph["cache"] = node("Klein9BReferenceCache", model=graph["guider"]["inputs"]["model"], **kept)
    return by(graph, ["cache", 0])


def weaker(graph):
    """Image 1 at half strength."""
    graph["weaker"] = node(
        "Klein9BReferenceStrength",
        positive=["references", 0],
        negative=["references", 1],
        image=1,
        strength=0.5,
        start=0.0,
        end=1.0,
    )
    graph["guider"]["inputs"] |= {"positive": ["weaker", 0], "negative": ["weaker", 1]}
    return graph


def by(graph, model):
    graph["guider"]["inputs"]["model"] = model
    return graph


def as_batch(graph):
    """The three photographs connected to image 1 at once."""
    for name in NAMES:
        graph[name] = node("LoadImage", image=name)
    graph["two"] = node("ImageBatch", image1=[NAMES[0], 0], image2=[NAMES[1], 0])
    graph["three"] = node("ImageBatch", image1=["two", 0], image2=[NAMES[2], 0])
    graph["references"]["inputs"] |= {"images.image_1": ["three", 0], "image_1_batch": "photographs"}
    return graph


def run(host, graph, path):
    """Final latents, and the saved pictures."""
    entry = host.run(graph | {"probe": node("ProbeLatents", latents=["sample", 0], path=str(path))})
    return torch.load(path), [np.asarray(Image.open(one)).astype(int) for one in host.pictures(entry)]


def difference(one, other):
    return float((one - other).norm() / other.norm())


WAYS = {
    "distilled": ({}, []),
    "distilled, cached": ({}, [cached]),
    "KV, cached": ({"model": KV}, [cached]),
    "KV, cached and accelerated": ({"model": KV}, [cached, accelerated]),
    "base at cfg 5": ({"model": BASE, "cfg": 5.0, "steps": 3}, []),
    "image 1 weaker": ({}, [weaker]),
    "KV, cached, image 1 weaker": ({"model": KV}, [cached, weaker]),
    "res_2s with fresh noise": ({"sampler": RES_2S}, []),
    "padded": ({"fit": "pad"}, []),
}


@pytest.mark.parametrize("way", WAYS)
def test_each_picture_is_its_photographs_own(host, photographs, tmp_path, way):
    settings, changes = WAYS[way]

    def graph(name):
        made = klein([name, *SHARED], **{"steps": 4} | settings)
        for change in changes:
            made = change(made)
        return made

    alone = [run(host, graph(name), tmp_path / name) for name in NAMES]
    ((batch,), pictures) = run(host, as_batch(graph(NAMES[0])), tmp_path / "batch")
    assert len(batch) == len(pictures) == 3
    for row, picture, ((latent,), (wanted,)) in zip(batch, pictures, alone):
        assert difference(row, latent[0]) <= (AT_CFG_5 if "cfg" in settings else TOLERANCE)
        assert picture.shape == (131, 107, 3) and np.abs(picture - wanted).max() <= 1
    assert difference(batch[0], batch[1]) > 1000 * TOLERANCE, "the photographs are to differ"
