"""Stand-in weights whose blocks are stored in one of the host's own quantised formats."""

import json

import torch
from torch import Tensor

# The host's name -> how a weight is stored, and the largest magnitude of it.
FORMATS = {"float8_e4m3fn": (torch.float8_e4m3fn, 448), "int8_tensorwise": (torch.int8, 127)}


def quantised(weights: dict[str, Tensor], format: str) -> dict[str, Tensor]:
    """The same with every matrix in a block as codes, a scale and the host's mark."""
    dtype, largest = FORMATS[format]
    mark = torch.tensor(list(json.dumps({"format": format}).encode()), dtype=torch.uint8)
    stored = dict(weights)
    for name, weight in weights.items():
        if weight.ndim == 2 and "_blocks." in name:
            layer, scale = name.removesuffix(".weight"), weight.abs().max().float() / largest
            codes = weight / scale
            stored[name] = (codes if dtype.is_floating_point else codes.round()).to(dtype)
            stored |= {f"{layer}.weight_scale": scale, f"{layer}.comfy_quant": mark}
    return stored
