"""Starts a ComfyUI checkout's main.py where only CPU wheels of torch are installed.

torchvision and torchaudio come with no CPU build on the package index: their compiled halves refuse
to load beside a CPU torch. ComfyUI imports both but needs neither for images, so the missing ops are
declared and torchaudio's shared objects stay hidden.

Usage: launch.py COMFYUI_DIRECTORY [main.py arguments ...]
"""

import contextlib
import importlib.util
import os
import runpy
import sys
from pathlib import Path


def _declare_missing_torchvision_ops() -> None:
    import torch

    torch.library.define("torchvision::nms", "(Tensor dets, Tensor scores, float threshold) -> Tensor")
    torch.library.define("torchvision::qnms", "(Tensor dets, Tensor scores, float threshold) -> Tensor")


def _hide_torchaudio_shared_objects() -> None:
    """Imports torchaudio with its own look-up answering that no compiled extension is there."""
    spec = importlib.util.find_spec("torchaudio")
    library = Path(spec.origin).parent / "lib"
    glob = Path.glob

    def without_library(self: Path, pattern: str, **options):
        return iter(()) if self == library else glob(self, pattern, **options)

    Path.glob = without_library
    try:
        import torchaudio  # noqa: F401
    finally:
        Path.glob = glob


def cope_with_cpu_wheels() -> None:
    """Makes ``import torchvision`` and ``import torchaudio`` work beside a CPU torch, where they are installed."""
    with contextlib.suppress(ImportError):
        try:
            import torchvision  # noqa: F401
        except RuntimeError:
            for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
                del sys.modules[name]
            _declare_missing_torchvision_ops()
    with contextlib.suppress(ImportError):
        try:
            import torchaudio  # noqa: F401
        except OSError:
            for name in [n for n in sys.modules if n.split(".")[0] == "torchaudio"]:
                del sys.modules[name]
            _hide_torchaudio_shared_objects()


def main() -> None:
    checkout = Path(sys.argv[1]).resolve()
    cope_with_cpu_wheels()
    os.chdir(checkout)
    sys.argv = [str(checkout / "main.py"), *sys.argv[2:]]
    sys.path[0] = str(checkout)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
