"""The demo's edit is the one diffusers makes, and needs nothing of ComfyUI."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import standins
from demo.diffusers_klein import ComputedOnce, InContext
from demo.edit_alone import Scene, by_diffusers, distance, edit

pytestmark = pytest.mark.peer

TESTS = Path(__file__).resolve().parents[1]
# Measured 1.6e-7: float32 sums in another order. Swapped references show as 1.4e-3 and 1.9e-3.
SAME_MATHS = 1e-5
SIDE = 100

WITHOUT_A_HOST = """
import sys
from pathlib import Path

for name in ("comfy", "comfy_extras", "folder_paths", "torchvision", "torchaudio"):
    sys.modules[name] = None

from pack import importable

importable()

from demo import edit_alone

edit_alone.run(Path(sys.argv[1]), side=int(sys.argv[2]))
"""


@pytest.fixture(scope="module", autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module", params=[InContext, ComputedOnce])
def klein(request):
    return request.param()


@pytest.fixture(scope="module")
def scene():
    """The wider photograph is edited, so that height and width cannot be confused."""
    return Scene.of([standins.photograph(name, longest_side=SIDE) for name in ("coffee", "astronaut")])


@pytest.fixture(scope="module")
def references(klein, scene):
    return scene.references(klein)


@pytest.fixture(scope="module")
def latent(klein, scene, references):
    return edit(klein, scene, references)[0]


@pytest.fixture(scope="module")
def wanted(klein, scene):
    return by_diffusers(klein, scene)


def test_final_latents_are_diffusers(latent, wanted):
    assert distance(latent, wanted) < SAME_MATHS


def test_another_order_of_references_would_be_seen(klein, scene, references, wanted):
    swapped, _ = edit(klein, scene, references[::-1])
    assert distance(swapped, wanted) > 100 * SAME_MATHS


def test_the_picture_has_the_photographs_own_size_and_edge(klein, scene, latent):
    photograph, picture, placement = scene.photographs[0], scene.picture(klein, latent), scene.placements[0]
    left, top, grid = placement.left, placement.top, placement.grid
    assert picture.size == photograph.size != (grid.width, grid.height)
    left_edge = (0, 0, left, picture.height)
    assert picture.crop(left_edge).tobytes() == photograph.crop(left_edge).tobytes()
    inside = (left, top, left + grid.width, top + grid.height)
    assert picture.crop(inside).tobytes() != photograph.crop(inside).tobytes()


def forget(klein):
    klein.store.begin_run(0, 0, 0)


@pytest.mark.parametrize("klein", [ComputedOnce], indirect=True)
def test_references_are_computed_once_for_every_sampler(klein, scene, references):
    forget(klein)
    euler, first = edit(klein, scene, references, "euler")
    again, second = edit(klein, scene, references, "res_2s")
    forget(klein)
    fresh, third = edit(klein, scene, references, "res_2s")
    assert (first, second, third) == ("computed once", "found again", "computed once")
    assert torch.equal(again, fresh) and not torch.equal(again, euler)


def test_the_demo_needs_nothing_of_comfyui(tmp_path):
    here = {name: value for name, value in os.environ.items() if name != "COMFYUI_PATH"}
    shown = subprocess.run(
        [sys.executable, "-c", WITHOUT_A_HOST, tmp_path, str(SIDE)],
        env=here | {"PYTHONPATH": str(TESTS), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0, shown.stderr
    distances = [float(number) for number in re.findall(r"\d\.\de[+-]\d\d", shown.stdout)]
    assert len(distances) == 2 and max(distances) < SAME_MATHS
    pictures = list(tmp_path.glob("*.png"))
    assert len(pictures) == 3
    assert {Image.open(path).size for path in pictures} == {(SIDE, SIDE)}
