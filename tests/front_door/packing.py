"""The pack as the registry would publish it, made by comfy-cli itself."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from host.checkout import PACK

GIT = ("git", "-c", "user.name=klein9b", "-c", "user.email=klein9b@localhost", "-c", "commit.gpgsign=false")


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run([*GIT, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def is_repository(folder: Path) -> bool:
    try:
        return Path(git(folder, "rev-parse", "--show-toplevel").strip()) == folder
    except (OSError, subprocess.CalledProcessError):
        return False


def clone_working_tree(target: Path) -> Path:
    """A repository of one commit with the files of the working tree that git does not ignore, changed or not."""
    for name in git(PACK, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0"):
        source = PACK / name
        if name and source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)
    git(target, "init", "--quiet")
    git(target, "add", "--all")
    git(target, "commit", "--quiet", "--message", "The working tree")
    return target


def comfy(folder: Path, home: Path, *arguments: str) -> subprocess.CompletedProcess:
    """comfy-cli in a folder, telling nobody and writing its settings into a home of its own."""
    command = [sys.executable, "-m", "comfy_cli", "--skip-prompt", *arguments]
    private = {"DO_NOT_TRACK": "1", "HOME": str(home), "XDG_CONFIG_HOME": str(home), "NO_COLOR": "1", "COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, env=os.environ | private, capture_output=True, text=True, timeout=120)
