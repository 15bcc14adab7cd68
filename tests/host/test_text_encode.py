"""Prompts in a running ComfyUI: encoded once, found again by the next process, the encoder's weights untouched."""

import numpy as np
import pytest
from PIL import Image

import standins
from host.conftest import PHOTOGRAPHS
from host.graphs import klein, node
from host.server import Host

pytestmark = pytest.mark.host

# The host's own line for every text encoder it loads.
LOADED = "CLIP/text encoder model load device"
BASE_MODEL = "flux-2-klein-base-9b.safetensors"
ROAD = "Klein 9B Text Encode"


@pytest.fixture(scope="module")
def base(models, tmp_path_factory):
    base = tmp_path_factory.mktemp("encode")
    (base / "models").symlink_to(models)
    standins.write_photographs(base / "input", PHOTOGRAPHS, longest_side=96)
    return base


def start(checkout, base, *arguments):
    return Host(checkout, base, arguments=arguments)


def encoded(images=(), *, prompt="a red fox in the snow", negative="", precision="fp32", **others):
    graph = klein(list(images), prompt=prompt, steps=1, **others)
    graph["prompt"] = node(
        "Klein9BTextEncode", clip=["load", 1], prompt=prompt, negative_prompt=negative, precision=precision
    )
    graph["references"]["inputs"]["negative"] = ["prompt", 1]
    return graph


def stocks(images=(), *, prompt="a red fox in the snow", **others):
    return klein(list(images), prompt=prompt, steps=1, **others)


def picture(host, graph):
    (path,) = host.pictures(host.run(graph))
    return np.asarray(Image.open(path))


class Log:
    """What the host wrote since this was made."""

    def __init__(self, host):
        self.host, self.start = host, len(host.log())

    @property
    def text(self):
        return self.host.log()[self.start :]

    @property
    def loads(self):
        return self.text.count(LOADED)


def maps_the_encoder(host):
    with open(f"/proc/{host.process.pid}/maps") as maps:
        return any(standins.TEXT_ENCODER in line for line in maps)


def test_a_restart_with_the_same_prompt_never_reads_the_encoder(checkout, base):
    with start(checkout, base) as host:
        log = Log(host)
        ours = picture(host, encoded())
        assert log.loads == 1
        again = picture(host, encoded(seed=8))
        assert log.loads == 1 and not np.array_equal(ours, again)
    with start(checkout, base) as host:
        log = Log(host)
        assert np.array_equal(picture(host, encoded()), ours)
        assert np.array_equal(picture(host, encoded(seed=8)), again)
        assert log.loads == 0 and not maps_the_encoder(host)
        theirs = picture(host, stocks())
        assert log.loads == 1 and np.array_equal(theirs, ours), "the same as CLIP Text Encode"


def test_a_new_prompt_loads_it_and_cfg_reads_the_negative(checkout, base):
    with start(checkout, base) as host:
        log = Log(host)
        one = picture(host, encoded(model=BASE_MODEL, cfg=4.0, negative="blurry"))
        assert log.loads == 1
        other = picture(host, encoded(model=BASE_MODEL, cfg=4.0, negative="sharp"))
        assert not np.array_equal(one, other)


@pytest.mark.parametrize("arguments", [(), ("--cache-none",), ("--cache-ram",)], ids=str)
def test_the_host_opens_nothing_by_accident(checkout, base, arguments):
    """Its caches and its bookkeeping look at every node's outputs."""
    with start(checkout, base, *arguments) as host:
        host.run(encoded(prompt="once"))
    with start(checkout, base, *arguments) as host:
        log = Log(host)
        for seed in (1, 2):
            host.run(encoded(prompt="once", seed=seed))
        host.post("/free", {"unload_models": True, "free_memory": True})
        host.run(encoded(prompt="once", seed=3))
        assert log.loads == 0


def test_freed_models_are_opened_again(checkout, base):
    with start(checkout, base) as host:
        first = picture(host, stocks(prompt="freed"))
        host.post("/free", {"unload_models": True, "free_memory": True})
        assert np.array_equal(picture(host, stocks(prompt="freed", seed=7)), first)


def test_a_missing_image_is_told(checkout, base):
    with start(checkout, base) as host:
        log = Log(host)
        host.run(encoded(["image_1.png"], prompt="the cup of image 2 on the table of image 1"))
        assert "Klein 9B References: The prompt speaks of image 2, but one image is connected." in log.text
        log = Log(host)
        host.run(encoded(["image_1.png", "image_2.png"], prompt="the cup of image 2 on the table of image 1"))
        assert "speaks of" not in log.text
        log = Log(host)
        host.run(encoded(prompt=f"a {'very ' * 600}(red:1.2) fox", negative="blurry"))
        assert log.text.count(ROAD) == 3 and "were cut" in log.text and "(red:1.2)" in log.text
