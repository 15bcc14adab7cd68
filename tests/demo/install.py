"""A ComfyUI checkout: the one at hand, else comfy-cli's own install where the network allows it."""

import os
import subprocess
import sys
from pathlib import Path

from host.checkout import find_checkout

from .say import say

PATIENCE_S = 600


def find_or_install(folder: Path) -> Path | None:
    """The checkout, or None where none can be had."""
    found = find_checkout()
    if found is not None:
        return found
    if not (folder / "main.py").exists():
        say(f"no ComfyUI found; asking comfy-cli to install one into {folder}")
        _comfy_install(folder)
    return folder if (folder / "main.py").exists() else None


def _comfy_install(folder: Path) -> None:
    """torch is installed already, and the one here must stay."""
    comfy = str(Path(sys.executable).with_name("comfy"))
    command = [comfy, "--skip-prompt", "--workspace", str(folder), "install", "--cpu"]
    command += ["--skip-manager", "--skip-torch-or-directml", "--version", "0.29.0"]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    try:
        subprocess.run(command, timeout=PATIENCE_S, env=os.environ | {"DO_NOT_TRACK": "1"}, **quiet)
    except subprocess.TimeoutExpired:
        say(f"comfy-cli did not finish within {PATIENCE_S} s")
