"""A ComfyUI of the tests' own, by comfy-cli, where no other is found. Standard library only."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from .checkout import FETCHED, why_unusable

VERSION = "0.29.0"
PATIENCE_S = 600.0
STALLED_S = 60
SAY_EVERY_S = 10.0


class NotFetched(RuntimeError):
    """There is still no ComfyUI; the message says why."""


def fetch(comfy: Path, say: Callable[[str], None], *, folder: Path = FETCHED, patience_s: float = PATIENCE_S) -> Path:
    """Clones ComfyUI into `folder`, which is complete or absent whatever happens, and tells how far it is.

    Args:
        comfy: comfy-cli's program.

    Raises:
        NotFetched: no git, no network, or more than `patience_s` seconds.
    """
    if shutil.which("git") is None:
        raise NotFetched("no ComfyUI could be fetched: there is no git, which comfy-cli needs")
    partial = folder.with_name(folder.name + ".partial")
    for leftover in (partial, folder):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    say(f"asking comfy-cli to put ComfyUI {VERSION} into {folder}, for at most {patience_s:.0f} s")
    try:
        _clone(comfy, partial, say, patience_s)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _clone(comfy: Path, folder: Path, say: Callable[[str], None], patience_s: float) -> None:
    log = folder.with_suffix(".log")
    with log.open("w+") as output:
        process = subprocess.Popen(_command(comfy, folder), stdout=output, stderr=output, **_quietly())
        ended = _wait(process, folder, say, patience_s)
        output.seek(0)
        said = [line.strip() for line in output if line.startswith(("fatal:", "error:"))]
    log.unlink()
    if not ended:
        raise NotFetched(f"no ComfyUI could be fetched: comfy-cli did not finish within {patience_s:.0f} s")
    if process.returncode != 0 or why_unusable(folder):
        reason = said[-1] if said else f"comfy-cli ended with {process.returncode}"
        raise NotFetched(f"no ComfyUI could be fetched: {reason}")


def _command(comfy: Path, folder: Path) -> list[str]:
    """torch is installed already, and the one here must stay; requirements are installed beside the tests' own."""
    options = ("--cpu", "--skip-manager", "--skip-torch-or-directml", "--skip-requirement", "--version", VERSION)
    return [str(comfy), "--skip-prompt", "--workspace", str(folder), "install", *options]


def _quietly() -> dict:
    """Nothing asks for a password, and a dead connection ends."""
    limits = {"GIT_TERMINAL_PROMPT": "0", "GIT_HTTP_LOW_SPEED_LIMIT": "1000", "GIT_HTTP_LOW_SPEED_TIME": str(STALLED_S)}
    return {
        "stdin": subprocess.DEVNULL,
        "env": os.environ | limits | {"DO_NOT_TRACK": "1"},
        "start_new_session": True,
    }


def _wait(process: subprocess.Popen, folder: Path, say: Callable[[str], None], patience_s: float) -> bool:
    """Whether it ended by itself."""
    start = time.monotonic()
    while time.monotonic() - start < patience_s:
        try:
            process.wait(min(SAY_EVERY_S, patience_s))
            return True
        except subprocess.TimeoutExpired:
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            say(f"fetching ComfyUI: {time.monotonic() - start:.0f} s, {size / 2**20:.0f} MiB")
    os.killpg(process.pid, 9)
    process.wait()
    return False
