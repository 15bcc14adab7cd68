"""What Manager and the registry read of the pack before anybody installs it."""

import re

import pytest
from packaging.requirements import Requirement
from PIL import Image

from front_door.packing import git, is_repository
from front_door.requirements_text import requirements
from host.checkout import PACK

tomllib = pytest.importorskip("tomllib", reason="reading pyproject.toml needs Python 3.11")

OWN = {"pyproject.toml", "tests/front_door/test_metadata.py"}  # the one place, and where addresses are made up


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((PACK / "pyproject.toml").read_text())


def test_the_registry_identity(project):
    """A published name, publisher or version can never be changed."""
    assert project["project"]["name"] == "klein9b"
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["project"]["version"])


def names_of_the_publisher(project):
    """What is filled in by whoever publishes: by its key, empty until then."""
    urls, comfy = project["project"]["urls"], project["tool"]["comfy"]
    named = {key: urls[key] for key in ("Repository", "Documentation", "Bug Tracker")}
    return named | {key: comfy[key] for key in ("PublisherId", "Icon", "Banner")}


def test_the_publisher_is_all_there_or_not_at_all(project):
    names = names_of_the_publisher(project)
    publisher = names.pop("PublisherId")
    shapes = {"Icon": r"https://\S+/docs/icon\.png", "Banner": r"https://\S+/docs/banner\.jpg"}
    for key, value in names.items():
        wanted = shapes.get(key, r"https://\S+") if publisher else ""
        assert re.fullmatch(wanted, value), f"{key} is {value!r} and PublisherId {publisher!r}: fill in all six or none"


def test_the_readme_says_whether_it_is_published(project):
    """Whoever registers a name that the README tells people to get it by serves code to its readers."""
    is_published = bool(names_of_the_publisher(project)["PublisherId"])
    readme = (PACK / "README.md").read_text(encoding="utf-8")
    assert ("Not published yet: copy this folder into" in readme) is not is_published


SERVED = r"(?:git\w*\.\w+|registry\.comfy\.org|raw\.githubusercontent\.com)[/:]\S*?klein-?9b\b|git clone \S+klein9b"


def claims(text):
    """Addresses at which somebody could serve a pack of this name."""
    return re.findall(SERVED, text, re.IGNORECASE)


def test_no_other_file_names_an_owner(project):
    named = [value for value in names_of_the_publisher(project).values() if "/" in value]
    for path in tracked_text():
        text = path.read_text(encoding="utf-8")
        found = [*claims(text), *(one for one in named if one in text)]
        assert not found, f"{path.relative_to(PACK)} names {found}: pyproject.toml is the one place for it"


@pytest.mark.parametrize(
    "text",
    [
        "https://github.com/somebody/klein9b",
        "git@gitlab.com:somebody/Klein9B.git",
        "git clone https://a.b/c/klein9b",
        "https://registry.comfy.org/publishers/a/nodes/klein9b",
    ],
)
def test_a_name_that_somebody_could_take_is_seen(text):
    assert claims(f"Get it at {text} today")


def tracked_text():
    if not is_repository(PACK):
        pytest.skip("the pack is not a git clone, which lists its files")
    listed = git(PACK, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    here = (PACK / name for name in listed if name not in OWN)
    return [path for path in here if path.suffix in {".md", ".py", ".mjs", ".js", ".json", ".toml"} and path.is_file()]


def test_tool_comfy(project):
    comfy = dict(project["tool"]["comfy"])
    for key in ("PublisherId", "Icon", "Banner"):
        comfy.pop(key)
    assert comfy.pop("DisplayName") == "Klein 9B"
    assert comfy.pop("requires-comfyui") == ">=0.29.0"
    assert comfy.pop("includes", []) == []
    assert not comfy, f"unknown to the registry, or served twice: {sorted(comfy)}"


def test_its_pictures_have_the_registrys_shapes():
    with Image.open(PACK / "docs" / "icon.png") as icon, Image.open(PACK / "docs" / "banner.jpg") as banner:
        assert icon.width == icon.height <= 400
        assert banner.width * 9 == banner.height * 21


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
