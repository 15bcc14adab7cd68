"""Where a ComfyUI checkout is, if there is one. Standard library only: the environment is made by what this finds."""

from __future__ import annotations

import os
import re
from pathlib import Path

PACK = Path(__file__).resolve().parents[2]
FETCHED = PACK / "build" / "ComfyUI"
OLDEST = (0, 29)
NONE = "none"
FILES = ("main.py", "requirements.txt", "comfyui_version.py", "comfy/sd.py")


class NoHost(RuntimeError):
    """No ComfyUI that the pack runs in; the message says where was looked and what to do."""


class NotWanted(NoHost):
    """COMFYUI_PATH is "none"."""


class WrongPath(RuntimeError):
    """COMFYUI_PATH names something else."""


def find_checkout() -> Path:
    """COMFYUI_PATH, else the folder above custom_nodes, ~/ComfyUI or build/ComfyUI.

    Raises:
        NoHost: there is none, or it is not wanted.
        WrongPath: COMFYUI_PATH is neither a ComfyUI nor "none".
    """
    named = os.environ.get("COMFYUI_PATH")
    if named == NONE:
        raise NotWanted("COMFYUI_PATH is none, so what needs ComfyUI is left out")
    return _named(Path(named)) if named else _usual()


def why_unusable(folder: Path) -> str:
    """Why the pack cannot run in this folder; empty for a ComfyUI that is new enough."""
    missing = next((name for name in FILES if not (folder / name).is_file()), None)
    if missing:
        return f"it is no ComfyUI or an unfinished one: {missing} is missing"
    version = re.search(r"__version__ *= *[\"']([\d.]+)", (folder / "comfyui_version.py").read_text())
    if version is None or tuple(map(int, version[1].split(".")[:2])) < OLDEST:
        found = version[1] if version else "of unknown version"
        return f"it is ComfyUI {found} and the pack needs {'.'.join(map(str, OLDEST))} or newer"
    return ""


def _named(folder: Path) -> Path:
    reason = why_unusable(folder)
    if reason:
        raise WrongPath(f"COMFYUI_PATH is {folder}, but {reason}. Correct it, or unset it to look in the usual places.")
    return folder.resolve()


def _usual() -> Path:
    above = [PACK.parent.parent] if PACK.parent.name == "custom_nodes" else []
    passed_over = []
    for folder in (*above, Path.home() / "ComfyUI", FETCHED):
        reason = why_unusable(folder)
        if not reason:
            return folder.resolve()
        if folder.is_dir():
            passed_over.append(f"{folder} was passed over: {reason}. ")
    raise NoHost(
        "".join(passed_over) + "No ComfyUI: clone one to ~/ComfyUI or name its folder in COMFYUI_PATH, "
        "then run make again"
    )
