"""A ComfyUI as after a fresh install, without copying one, and ComfyUI-Manager to install packs into it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

ADDRESS = "https://owner.invalid/klein9b"  # a name that nobody can register

# What a user's runs and settings fill; the rest of a checkout is only read.
OWN_FOLDERS = ("custom_nodes", "input", "models", "output", "temp", "user")
NO_INDEX = ("No matching distribution found", "Could not find a version", "Failed to establish a new connection")


class NoPackageIndex(RuntimeError):
    """pip found no index that has the package."""


def light_copy(checkout: Path, target: Path) -> Path:
    """The checkout's top-level modules, links to its packages, and folders for what belongs to the user.

    They are empty but for the one image that ComfyUI ships.

    The modules are copied because folder_paths finds the base folder by its own real path.
    """
    target.mkdir()
    for source in checkout.iterdir():
        if source.is_file():
            shutil.copy2(source, target / source.name)
        elif source.name not in (*OWN_FOLDERS, ".git", "__pycache__"):
            (target / source.name).symlink_to(source)
    for name in OWN_FOLDERS:
        (target / name).mkdir()
    shutil.copy2(checkout / "input" / "example.png", target / "input")
    return target


@dataclass(frozen=True)
class Manager:
    """ComfyUI-Manager's command line in an environment above the tests' own, for one ComfyUI folder."""

    python: Path
    comfyui: Path

    def run(self, *arguments: str, repositories: dict[str, Path]) -> str:
        """cm-cli without its network, with repository addresses answered by local folders."""
        settings = self.comfyui / "user" / "__manager" / "config.ini"
        settings.parent.mkdir(parents=True, exist_ok=True)
        settings.write_text("[default]\nnetwork_mode = offline\nsecurity_level = weak\n")
        environment = {"COMFYUI_PATH": str(self.comfyui), "GIT_CONFIG_COUNT": str(len(repositories))}
        for i, (address, folder) in enumerate(repositories.items()):
            environment |= {f"GIT_CONFIG_KEY_{i}": f"url.{folder.as_uri()}.insteadOf", f"GIT_CONFIG_VALUE_{i}": address}
        command = [self.python, "-m", "cm_cli", *arguments]
        answer = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=300)
        assert answer.returncode == 0, answer.stdout[-2000:] + answer.stderr[-2000:]
        return answer.stdout

    def install(self, repository: Path) -> str:
        """The pack by its address, taken from a local repository; returns what Manager said."""
        command = ("install", ADDRESS, "--mode", "local", "--exit-on-fail")
        return self.run(*command, repositories={ADDRESS: repository})

    def installed(self) -> set[str]:
        """Distributions added to this environment, as name==version."""
        command = [self.python, "-m", "pip", "list", "--format=freeze", "--path", self._packages()]
        return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())

    def _packages(self) -> str:
        return sysconfig.get_path("purelib", vars=dict.fromkeys(("base", "platbase"), str(self.python.parents[1])))


def manager_or_skip(folder: Path, comfyui: Path) -> Manager:
    if not (comfyui / "manager_requirements.txt").is_file():
        pytest.skip("this ComfyUI names no ComfyUI-Manager in manager_requirements.txt")
    try:
        return install_manager(folder / "environment", comfyui)
    except NoPackageIndex:
        pytest.skip("ComfyUI-Manager is not installed and no package index has it")


def install_manager(folder: Path, comfyui: Path) -> Manager:
    """The Manager that this ComfyUI pins, in a throw-away environment.

    Raises:
        NoPackageIndex: it could not be had.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    manager = Manager(folder / "bin" / "python", comfyui)
    Path(manager._packages(), "tests_environment.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = [manager.python, "-m", "pip", "install", "--quiet", "--retries=1", "-r", "manager_requirements.txt"]
    answer = subprocess.run(command, cwd=comfyui, capture_output=True, text=True)
    if any(words in answer.stderr for words in NO_INDEX):
        raise NoPackageIndex(answer.stderr)
    assert answer.returncode == 0, answer.stderr[-2000:]
    return manager
