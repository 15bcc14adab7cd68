"""One ComfyUI server with stand-in weights for the whole session."""

import pytest

import standins
from host.checkout import HOW_TO_GET_ONE, find_checkout
from host.server import Host

PHOTOGRAPHS = {
    "image_1.png": "astronaut",
    "image_2.png": "coffee",
    "image_3.png": "chelsea",
    "image_4.png": "rocket",
}


@pytest.fixture(scope="session")
def checkout():
    found = find_checkout()
    if found is None:
        pytest.skip(HOW_TO_GET_ONE)
    return found


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    standins.write_models(folder)
    return folder


@pytest.fixture(scope="session")
def host(checkout, models, tmp_path_factory):
    base = tmp_path_factory.mktemp("comfy")
    (base / "models").symlink_to(models)
    standins.write_photographs(base / "input", PHOTOGRAPHS, longest_side=128)
    with Host(checkout, base, folder_name="ComfyUI-some.other_name") as running:
        yield running
