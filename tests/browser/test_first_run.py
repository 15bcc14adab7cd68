"""A clean ComfyUI and a person who knows nothing of the pack: from Manager's installer to the first picture."""

import json
import re
import shutil

import pytest

import standins
from browser.frontend import Frontend
from browser.settings import SETTINGS
from browser.toolchain import find_toolchain
from front_door.clean_host import light_copy, manager_or_skip
from front_door.packing import clone_working_tree, is_repository
from host.checkout import PACK
from host.conftest import PHOTOGRAPHS
from host.server import PROBE, Host

pytestmark = pytest.mark.host

TEMPLATE = "Klein 9B edit two images 16 GB"
OWN_PHOTOGRAPHS = {"Image 1": "image_1.png", "Image 2": "image_2.png"}


@pytest.fixture
def comfyui(checkout, tmp_path):
    """A folder with no model file, and the pack where Manager put it; started in the environment Manager uses."""
    if not is_repository(PACK):
        pytest.skip("the pack is not a git clone, and only what git tracks is published")
    folder = light_copy(checkout, tmp_path / "ComfyUI")
    manager = manager_or_skip(tmp_path, folder)
    (tmp_path / "repository").mkdir()
    assert "INSTALLED" in manager.install(clone_working_tree(tmp_path / "repository"))
    (folder / "custom_nodes" / "klein9b_probe").symlink_to(PROBE)  # lets stand-in weights be loaded
    settings = folder / "user" / "default" / "comfy.settings.json"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(json.dumps(SETTINGS))
    with Host(folder, folder, python=manager.python) as host:
        yield host


@pytest.fixture
def page(browser, comfyui):
    """A browser of its own: the session's stays where it is."""
    own = Frontend(find_toolchain())
    own.name = "first run"
    own("open", url=comfyui.url)
    yield own
    own.close()


def files_in_the_note(text):
    """Folder and name of each model file in the note's table."""
    return re.findall(r"\b(diffusion_models|text_encoders|vae)/(\S+\.safetensors)", text)


def download(files, models, comfyui):
    for folder, name in files:
        target = comfyui.base / "models" / folder / name
        target.parent.mkdir(exist_ok=True)
        shutil.copy2(models / folder / name, target)


def test_from_the_installer_to_the_first_picture(page, comfyui, models, tmp_path):
    page("openTemplate", folder="klein9b", name=TEMPLATE)
    page.screenshot("1 opened")
    files = files_in_the_note(page("readNote"))
    missing = page("listIssues", expected=True)
    page.screenshot("2 what is missing")
    assert len(files) == 3
    assert set(missing) == {"missing-model"} and all(name in missing["missing-model"] for _, name in files)

    download(files, models, comfyui)
    page("refreshModels")
    assert page("listIssues") == {}
    standins.write_photographs(tmp_path / "own", PHOTOGRAPHS, longest_side=128)
    for title, name in OWN_PHOTOGRAPHS.items():
        page("upload", title=title, file=str(tmp_path / "own" / name))
    outcome = page("run", title="Picture")
    page("set", name="Comfy.RightSidePanel.IsOpen", value=False)
    page("fit")
    page.screenshot("3 the picture")
    assert outcome["picture"] == [128, 128]
    assert outcome["said"]["Klein9BPlan"]
    assert page("heard") == {"complaints": [], "toasts": []}
