"""The pack cloned, packed and unpacked once for the session."""

import zipfile

import pytest

from front_door.packing import clone_working_tree, comfy, is_repository
from host.checkout import PACK


@pytest.fixture(scope="session")
def repository(tmp_path_factory):
    if not is_repository(PACK):
        pytest.skip("the pack is not a git clone, and only what git tracks is published")
    return clone_working_tree(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def packed(repository, home, tmp_path_factory):
    """The folder that unzipping the registry's archive makes."""
    pytest.importorskip("comfy_cli", reason="comfy-cli packs the archive; make test installs it")
    answer = comfy(repository, home, "node", "pack")
    assert answer.returncode == 0 and "Warning" not in answer.stdout, answer.stdout + answer.stderr
    folder = tmp_path_factory.mktemp("registry") / "klein9b"
    with zipfile.ZipFile(repository / "node.zip") as archive:
        archive.extractall(folder)
    return folder
