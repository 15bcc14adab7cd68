"""Installing the pack's requirements never moves a version that ComfyUI chose."""

import json
import subprocess
import sys
from importlib.metadata import distributions, version

import pytest
from packaging.utils import canonicalize_name

from front_door.clean_host import NO_INDEX
from front_door.requirements_text import closure, names, requirements
from host.checkout import PACK

pytestmark = pytest.mark.host


def would_install(tmp_path, *arguments):
    """Versions by name that pip would install with these arguments."""
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--retries=1", "--dry-run", "--report", str(report)]
    answer = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=120)
    conflict = "ResolutionImpossible" in answer.stderr
    if not conflict and any(words in answer.stderr for words in NO_INDEX):
        pytest.skip("no package index to ask what pip would install")
    assert answer.returncode == 0, answer.stderr[-2000:]
    chosen = [one["metadata"] for one in json.loads(report.read_text())["install"]]
    return {canonicalize_name(one["name"]): one["version"] for one in chosen}


@pytest.fixture(scope="module")
def host_versions(checkout):
    """Everything ComfyUI's requirements bring, at the versions installed here."""
    versions = closure(requirements(checkout / "requirements.txt"))
    assert {"torch", "numpy", "aiohttp", "safetensors"} <= versions.keys()
    return versions


def installed_names():
    return {canonicalize_name(one.metadata["Name"]) for one in distributions()}


def test_pip_moves_nothing_here(checkout, tmp_path):
    """As Manager does it: into the environment that the host runs in."""
    moved = would_install(tmp_path, "-r", PACK / "requirements.txt")
    assert not moved.keys() & installed_names()


def test_pip_moves_nothing_in_an_environment_of_the_host_alone(host_versions, tmp_path):
    """This environment has the tests' packages too, so pip is asked to start from nothing but the host's versions."""
    pins = tmp_path / "host.txt"
    pins.write_text("".join(f"{name}=={chosen}\n" for name, chosen in host_versions.items()))
    chosen = would_install(tmp_path, "--ignore-installed", "-r", PACK / "requirements.txt", "-c", pins)
    assert names(requirements(PACK / "requirements.txt")) <= chosen.keys()
    assert {name: one for name, one in chosen.items() if host_versions.get(name, one) != one} == {}


def test_a_requirement_that_moves_a_version_would_be_seen(host_versions, tmp_path):
    wrong = tmp_path / "requirements.txt"
    wrong.write_text(f"tqdm!={version('tqdm')}\n")
    assert "tqdm" in would_install(tmp_path, "-r", wrong)
