"""On a machine without ComfyUI every test is still collected: nothing that only the host brings is imported for it."""

import importlib.metadata
import os
import subprocess
import sys

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from host.checkout import PACK

HERE = PACK / "tests"


def named_in(path):
    """The packages a requirements file asks for, those of files it names included."""
    for line in filter(None, (line.split("#")[0].strip() for line in path.read_text().splitlines())):
        if line.startswith("-r"):
            yield from named_in(path.parent / line.split()[1])
        else:
            yield Requirement(line).name


def distributions(names):
    """These and all that they need, as far as it is installed."""
    found, left = set(), [canonicalize_name(name) for name in names]
    while left:
        name = left.pop()
        if name in found or not list(importlib.metadata.Distribution.discover(name=name)):
            continue
        found.add(name)
        needed = map(Requirement, importlib.metadata.requires(name) or ())
        left += [
            canonicalize_name(one.name) for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})
        ]
    return found


def packages_only_the_host_brings(checkout):
    """What can be imported with a ComfyUI's requirements and not with the tests' own."""
    ours = distributions(["pip", "setuptools", "torch", *named_in(HERE / "requirements.txt")])
    only = distributions(named_in(checkout / "requirements.txt")) - ours
    owners = importlib.metadata.packages_distributions()
    return {package for package, by in owners.items() if {canonicalize_name(one) for one in by} <= only}


def collect(absent, folder):
    """pytest's answer, with no ComfyUI and none of these packages."""
    command = [sys.executable, HERE / "without_packages.py", ",".join(absent)]
    command += ["--collect-only", "-p", "no:cacheprovider", "-p", "no:xdist", folder]
    environment = os.environ | {"COMFYUI_PATH": "none", "PYTHONPATH": str(HERE)}
    return subprocess.run(command, cwd=PACK, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.host
def test_the_host_brings_packages_of_its_own(checkout):
    """Else the tests below would hide nothing."""
    assert {"aiohttp", "einops", "comfy_kitchen", "torchvision"} <= packages_only_the_host_brings(checkout)


@pytest.mark.host
def test_every_test_is_collected_without_them(checkout):
    answer = collect(packages_only_the_host_brings(checkout), HERE)
    assert answer.returncode == pytest.ExitCode.OK, answer.stdout[-3000:]


def test_an_import_of_them_at_collection_would_be_seen(tmp_path):
    (tmp_path / "test_careless.py").write_text("import einops\n\n\ndef test_nothing():\n    pass\n")
    answer = collect({"einops"}, tmp_path)
    assert answer.returncode == pytest.ExitCode.INTERRUPTED
    assert "No module named 'einops'" in answer.stdout
