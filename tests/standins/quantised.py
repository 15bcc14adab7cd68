"""Stand-in weights stored in the host's own quantised formats."""

import json
import re
from collections.abc import Callable

import torch
from torch import Tensor

_SCALED = {"float8_e4m3fn": (torch.float8_e4m3fn, 448), "int8_tensorwise": (torch.int8, 127)}
_NVFP4_LARGEST = 448 * 6  # of a block's scale in float8_e4m3, and of a code in float4_e2m1
FORMATS = (*_SCALED, "nvfp4")
BLOCKS = r"_blocks\."


def quantised(
    weights: dict[str, Tensor], format: str, layers: str = BLOCKS, input_scale: float | None = None
) -> dict[str, Tensor]:
    """The same with every matrix that `layers` is found in the name of as codes, scales and the host's mark.

    Args:
        input_scale: for the activations of each such layer.
    """
    mark = torch.tensor(list(json.dumps({"format": format}).encode()), dtype=torch.uint8)
    stored = dict(weights)
    for name, weight in weights.items():
        if weight.ndim == 2 and re.search(layers, name):
            layer = name.removesuffix(".weight")
            stored |= _coder(format)(name, weight) | {f"{layer}.comfy_quant": mark.clone()}
            if input_scale is not None:
                stored[f"{layer}.input_scale"] = torch.tensor(input_scale)
    return stored


def _coder(format: str) -> Callable[[str, Tensor], dict[str, Tensor]]:
    return _nvfp4 if format == "nvfp4" else lambda name, weight: _scaled(name, weight, *_SCALED[format])


def _scaled(name: str, weight: Tensor, dtype: torch.dtype, largest: int) -> dict[str, Tensor]:
    scale = weight.abs().max().float() / largest
    codes = weight / scale
    return {name: (codes if dtype.is_floating_point else codes.round()).to(dtype), f"{name}_scale": scale}


def _nvfp4(name: str, weight: Tensor) -> dict[str, Tensor]:
    import comfy_kitchen

    scale = weight.abs().max().float() / _NVFP4_LARGEST
    codes, blocks = comfy_kitchen.quantize_nvfp4(weight.float(), scale)
    return {name: codes, f"{name}_scale": blocks, f"{name}_scale_2": scale}
