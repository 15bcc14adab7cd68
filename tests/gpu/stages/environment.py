"""Stage 1: what this machine is, and what the ladder chose on it and why."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import torch
from pack import ROOT

from ..context import Context, first_line

PACKAGES = ("triton", "comfy-kitchen", "comfy-aimdo", "sageattention", "numpy")


def run(context: Context) -> None:
    machine = describe(context)
    context.add("machine", **machine)
    for name, value in machine.items():
        context.say(f"  {name}: {value}")
    if context.no_host:
        context.skip("everything that runs in ComfyUI", context.no_host)
    for dtype in dict.fromkeys((context.dtype, torch.float16)):
        for exact in (True, False):
            ladder(context, dtype, exact)


def describe(context: Context) -> dict[str, str]:
    cuda = not context.dry and torch.cuda.is_available()
    found = {
        "card": card_name(context.dry),
        "driver": asked("driver_version") if cuda else "none",
        "power limit": asked("power.limit") if cuda else "none",
        "memory": f"{torch.cuda.mem_get_info()[1] / 2**30:.1f} GiB" if cuda else "none",
        "capability": "sm_{}{}".format(*torch.cuda.get_device_capability()) if cuda else "none",
        "torch": torch.__version__,
        "CUDA of torch": str(torch.version.cuda),
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "pack": commit(ROOT),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }
    return found | {name: version(name) for name in PACKAGES} | {"ComfyUI": comfy_version(context)}


def card_name(dry: bool) -> str:
    return "no card (dry run)" if dry or not torch.cuda.is_available() else torch.cuda.get_device_name()


def asked(question: str) -> str:
    """nvidia-smi's answer about the first card."""
    if shutil.which("nvidia-smi") is None:
        return "unknown: no nvidia-smi"
    command = ["nvidia-smi", f"--query-gpu={question}", "--format=csv,noheader", "--id=0"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=30)
    return answer.stdout.strip() or "unknown"


def version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def comfy_version(context: Context) -> str:
    if context.no_host:
        return "none"
    import comfyui_version

    return str(comfyui_version.__version__)


def commit(folder: Path) -> str:
    """Of a git checkout; files that differ from it are said."""
    git = ["git", "-C", str(folder)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True)
    except OSError:
        return "unknown: no git"
    if head.returncode:
        return "unknown: no git checkout"
    return head.stdout.strip() + (" with changes" if changed.stdout.strip() else "")


def ladder(context: Context, dtype: torch.dtype, exact: bool) -> None:
    try:
        like = torch.empty(1, 1, 1, dtype=dtype, device=context.device)
        found = ladder_for(context, like, exact)
    except Exception as error:
        context.skip(f"the ladder in {dtype}", first_line(error))
        return
    choices = [vars(choice) for choice in found.choices]
    context.add("ladder", where=found.where, dtype=str(dtype), exact=exact, choices=choices, table=found.table)
    context.say("\n".join(f"  {line}" for line in found.table.splitlines()))


def ladder_for(context: Context, like: torch.Tensor, exact: bool):
    """With the host's rotation where there is a host."""
    from klein9b.kernels.eager.rope import rope
    from klein9b.kernels.ladder import ops_for

    if context.no_host:
        return ops_for(like, exact=exact, rotation=rope)
    from klein9b.nodes.host.block_functions import host_rope

    return ops_for(like, exact=exact, rotation=host_rope())
