"""ComfyUI-Manager's own installer puts the pack into a clean ComfyUI, which loads and runs it; removal takes it all."""

import os
import shutil

import pytest

from front_door.clean_host import light_copy, manager_or_skip
from host.graphs import node
from host.server import Host

pytestmark = pytest.mark.host

GRAPH = {
    "latent": node("EmptyFlux2LatentImage", width=256, height=256, batch_size=1),
    "sigmas": node("Klein9BScheduler", latent=["latent", 0], steps=4, denoise=1.0, shift="flux2"),
    "sampler": node("Klein9BSampler", sampler="euler"),
    "show": node("PreviewAny", source=["sigmas", 0]),
}
# Files that the host, Manager and a person's runs leave, with this pack or without.
THEIRS = ("output", "temp", "input/3d", "user/__manager", "user/default")
THEIRS += ("host.log", "comfyui_detail.log", "__pycache__")


@pytest.fixture(scope="module")
def comfyui(checkout, tmp_path_factory):
    return light_copy(checkout, tmp_path_factory.mktemp("clean") / "ComfyUI")


@pytest.fixture(scope="module")
def manager(comfyui, tmp_path_factory):
    return manager_or_skip(tmp_path_factory.mktemp("manager"), comfyui)


def tree(folder):
    """Every file and folder below, with its content's identity, links not followed."""
    found = {}
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = os.path.join(parent, name)
            state = os.lstat(path)
            found[os.path.relpath(path, folder)] = None if os.path.isdir(path) else (state.st_size, state.st_mtime_ns)
    return {path: state for path, state in found.items() if not path.startswith(THEIRS)}


@pytest.fixture(scope="module")
def before(comfyui, manager):
    return tree(comfyui)


@pytest.fixture(scope="module")
def installed(before, manager, comfyui, repository):
    environment = manager.installed()
    assert "INSTALLED" in manager.install(repository)
    return comfyui / "custom_nodes" / "klein9b", manager.installed() - environment


@pytest.fixture(scope="module")
def session(installed, comfyui, manager):
    """One start and one run of that ComfyUI, in the environment that Manager installed into; its log and history."""
    with Host(comfyui, comfyui, python=manager.python) as host:
        return host.log(), host.run(GRAPH), host.get("/object_info")


def test_manager_clones_it_under_the_repositorys_name(installed):
    folder, _ = installed
    assert (folder / "__init__.py").is_file() and (folder / "nodes").is_dir()


def test_manager_adds_at_most_what_is_declared(installed):
    """The tests' own environment has httpx already, so nothing is left to add."""
    _, added = installed
    assert not added


def test_the_host_loads_it(session):
    log, _, known = session
    assert "IMPORT FAILED" not in log and "Cannot import" not in log
    assert "klein9b" in log.split("Import times for custom nodes:")[1]
    assert {"Klein9BLoader", "Klein9BReferences", "Klein9BScheduler", "Klein9BSampler"} <= set(known)
    assert known["Klein9BLoader"]["python_module"] == "custom_nodes.klein9b"


def test_the_host_runs_it(session):
    _, history, _ = session
    assert history["status"]["completed"]
    assert history["outputs"]["show"]["text"][0].startswith("tensor([1.0000")


def test_it_leaves_its_own_folder_as_git_has_it(session, installed):
    """A run writes nothing into the pack, so that git pull in it, Manager's update, always works."""
    from front_door.packing import git

    folder, _ = installed
    assert git(folder, "status", "--porcelain") == ""


def test_removal_leaves_only_what_is_the_users(session, installed, before, comfyui):
    folder, _ = installed
    shutil.rmtree(folder)
    assert tree(comfyui) == before


def test_a_file_left_behind_would_be_seen(before, comfyui):
    stray = comfyui / "models" / "klein9b.cache"
    stray.touch()
    try:
        assert tree(comfyui) != before
    finally:
        stray.unlink()
