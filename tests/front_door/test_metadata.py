"""What Manager and the registry read of the pack before anybody installs it."""

import re

import pytest
from packaging.requirements import Requirement

from front_door.requirements_text import requirements
from host.checkout import PACK

tomllib = pytest.importorskip("tomllib", reason="reading pyproject.toml needs Python 3.11")


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((PACK / "pyproject.toml").read_text())


def test_the_registry_identity(project):
    """A published name, publisher or version can never be changed."""
    assert project["project"]["name"] == "klein9b"
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["project"]["version"])
    assert re.fullmatch(r"https://github\.com/[\w-]+/klein9b", project["project"]["urls"]["Repository"])


def test_tool_comfy(project):
    comfy = project["tool"]["comfy"]
    assert comfy.pop("PublisherId") == "klein9b"
    assert comfy.pop("DisplayName") == "Klein 9B"
    assert comfy.pop("requires-comfyui") == ">=0.29.0"
    assert comfy.pop("includes", []) == []
    for picture in ("Icon", "Banner"):
        assert re.fullmatch(r"https://\S+\.(png|jpg|svg)", comfy.pop(picture, "https://absent.png"))
    assert not comfy, f"unknown to the registry, or served twice: {sorted(comfy)}"


def test_the_classifiers_are_the_registrys(project):
    """One that it does not know voids all of its kind."""
    known = {
        "Operating System :: OS Independent",
        "Environment :: GPU :: NVIDIA CUDA",
        "Environment :: GPU :: AMD ROCm",
        "Environment :: GPU :: Intel Arc",
        "Environment :: NPU :: Huawei Ascend",
        "Environment :: GPU :: Apple Metal",
    }
    asked = {one for one in project["project"]["classifiers"] if one.startswith(("Operating System", "Environment"))}
    assert asked <= known


def test_manager_and_pip_are_told_the_same(project):
    """Manager reads requirements.txt alone, pip and the registry pyproject.toml."""
    declared = [Requirement(text) for text in project["project"]["dependencies"]]
    assert sorted(map(str, requirements(PACK / "requirements.txt"))) == sorted(map(str, declared))


def test_the_files_it_names_are_there(project):
    assert (PACK / project["project"]["license"]["file"]).is_file()


def test_the_host_reads_the_same(checkout, project):
    """ComfyUI's own reader of these files, which warns in the log of what it does not like."""
    import sys
    from unittest import mock

    pytest.importorskip("pydantic_settings", reason="comes with ComfyUI's requirements")
    with mock.patch.object(sys, "path", [str(checkout), *sys.path]):
        from comfy_config.config_parser import extract_node_configuration
    read = extract_node_configuration(str(PACK))
    assert read.project.name == project["project"]["name"]
    assert read.tool_comfy.display_name == "Klein 9B"
    assert read.project.supported_comfyui_version == ">=0.29.0"
