"""The real host in this process: its checkout on sys.path, on the CPU, without torchaudio's libraries."""

import contextlib
import importlib.machinery
import os
import sys
import types
from pathlib import Path

import pytest
import torch

# What the host's own code needs torchvision to have registered; CPU-only builds may lack the library.
TORCHVISION_OPS = torch.library.Library("torchvision", "FRAGMENT")


def _stub_torchaudio():
    for name in ("torchaudio", "torchaudio.functional", "torchaudio.transforms"):
        stub = types.ModuleType(name)
        stub.__spec__ = importlib.machinery.ModuleSpec(name, None)
        stub.__path__ = []
        sys.modules.setdefault(name, stub)
    sys.modules["torchaudio.transforms"].MelScale = None


@pytest.fixture(scope="session")
def comfy_host():
    checkout = Path(os.environ.get("COMFYUI_PATH") or Path.home() / "ComfyUI")
    if not (checkout / "comfy" / "samplers.py").is_file():
        pytest.skip("No ComfyUI checkout: clone it to ~/ComfyUI or name it in COMFYUI_PATH.")
    sys.path.insert(0, str(checkout))
    for op in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):
            TORCHVISION_OPS.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _stub_torchaudio()
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    return checkout
