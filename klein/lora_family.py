"""Which model a LoRA was made for, where nothing of it fits Klein 9B."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .lora_names import find_place
from .lora_parts import Module, Shape, Unusable, modules_of
from .vram import KLEIN_9B, Dims

_SIZES = {
    "FLUX.2 [klein] 9B": KLEIN_9B,
    "FLUX.2 [klein] 4B": Dims(3072, 5, 20, 7680),
    "FLUX.2 [dev]": Dims(6144, 8, 48, 15360),
}
_FLUX1 = Dims(3072, 19, 38, 4096)
_NAMES = (
    (r"mode_blocks", "FLUX.3 [klein]"),
    (r"(^|[._])(input_blocks|output_blocks|down_blocks|up_blocks|mid_block|middle_block)[._]", "Stable Diffusion"),
    (r"joint_blocks[._]", "Stable Diffusion 3"),
    (r"(img|txt)_mod[._]1\b|(img|txt)_mlp[._]net[._]", "Qwen-Image"),
    (r"(img|txt)_mod[._]lin|norm1(_context)?[._]linear|(single|vector|guidance)_.*(modulation[._]lin|_in)", "FLUX.1"),
    (r"layers[._]\d+[._](attention|feed_forward)[._]|context_refiner|noise_refiner", "Z-Image or Lumina 2"),
    (r"blocks[._]\d+[._](self|cross)_attn", "Wan or another video model"),
)


def made_for(shapes: Mapping[str, Shape]) -> str:
    """The model's name, empty where the file's names and shapes do not say."""
    modules, _ = modules_of(shapes)
    for name, dims in _SIZES.items():
        if _fits(modules, dims):
            return name
    told = next((name for pattern, name in _NAMES if any(re.search(pattern, key) for key in modules)), "")
    return told or ("FLUX.1" if _is_flux1(modules) else "")


def name_of(dims: Dims) -> str:
    """The model of these sizes, or its width where it is another."""
    return next((name for name, one in _SIZES.items() if one == dims), f"a FLUX.2 model of width {dims.hidden}")


def _fits(modules: Mapping[str, Module], dims: Dims) -> bool:
    """All that is known of Klein's layers has this model's sizes."""
    found = [(place, _changes(module)) for name, module in modules.items() if (place := find_place(name, dims))]
    return bool(found) and all(changes == (place.rows, place.columns) for place, changes in found)


def _is_flux1(modules: Mapping[str, Module]) -> bool:
    """Layers named as Klein's and as wide as FLUX.1's on one side: its MLPs are of another ratio."""
    found = [(place, _changes(module)) for name, module in modules.items() if (place := find_place(name, _FLUX1))]
    return any(here == there for place, changes in found for here, there in zip(changes, (place.rows, place.columns)))


def _changes(module: Module) -> Shape:
    try:
        return module.changes(module.kind())
    except Unusable:
        return ()
