"""One ComfyUI server with stand-in weights and a Segmind on loopback for the whole session."""

import pytest

import standins
from fake_segmind import FakeSegmind, Settings
from host.server import Host
from segmind_host import environment, remember_jobs, write_key

PHOTOGRAPHS = {
    "image_1.png": "astronaut",
    "image_2.png": "coffee",
    "image_3.png": "chelsea",
    "image_4.png": "rocket",
    "painted.png": "astronaut painted over",
    "photographs/image_1.png": "astronaut",
}


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    standins.write_models(folder)
    return folder


@pytest.fixture(scope="session")
def segmind():
    with FakeSegmind(settings=Settings(pixels=64 * 64, credits=100.0)) as running:
        yield running


@pytest.fixture(scope="session")
def host(checkout, models, segmind, tmp_path_factory):
    base = tmp_path_factory.mktemp("comfy")
    (base / "models").symlink_to(models)
    standins.write_photographs(base / "input", PHOTOGRAPHS, longest_side=128)
    write_key(base, segmind.key)
    remember_jobs(base, seconds=0.3)
    with Host(checkout, base, folder_name="ComfyUI-some.other_name", environment=environment(segmind)) as running:
        yield running
