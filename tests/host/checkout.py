"""Where a ComfyUI checkout is, if there is one."""

import os
from pathlib import Path

PACK = Path(__file__).resolve().parents[2]

HOW_TO_GET_ONE = (
    "no ComfyUI checkout: clone it to ~/ComfyUI or name its folder in COMFYUI_PATH, "
    "then run make test again to install its requirements"
)


def _candidates() -> list[Path]:
    named = os.environ.get("COMFYUI_PATH")
    above = [PACK.parent.parent] if PACK.parent.name == "custom_nodes" else []
    return [*([Path(named)] if named else []), *above, Path.home() / "ComfyUI"]


def find_checkout() -> Path | None:
    """COMFYUI_PATH, then the folder above custom_nodes, then ~/ComfyUI."""
    for folder in _candidates():
        if (folder / "main.py").is_file() and (folder / "comfy" / "sd.py").is_file():
            return folder.resolve()
    return None
