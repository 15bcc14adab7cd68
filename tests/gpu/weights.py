"""A MODEL of the host with random weights in Klein's names and shapes, made on the device they are for."""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from .cells import BF16, FP8, INT8
from .scale import CHANNELS, HEAD_DIM, MLP_RATIO, Scale

STD = 0.02
ROTATION = 256
FP8_LARGEST = 448
# Inputs up to 28 are not cut off.
FP8_INPUT = 1 / 16
GIB = 2**30
BYTES = {BF16: 2, FP8: 1, INT8: 1}


def shapes(scale: Scale) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Of every weight, by BFL's names."""
    wide, mlp = scale.hidden, MLP_RATIO * scale.hidden
    yield "img_in.weight", (wide, CHANNELS)
    yield "txt_in.weight", (wide, scale.context)
    yield "time_in.in_layer.weight", (wide, 256)
    yield "time_in.out_layer.weight", (wide, wide)
    yield "double_stream_modulation_img.lin.weight", (6 * wide, wide)
    yield "double_stream_modulation_txt.lin.weight", (6 * wide, wide)
    yield "single_stream_modulation.lin.weight", (3 * wide, wide)
    yield "final_layer.adaLN_modulation.1.weight", (2 * wide, wide)
    yield "final_layer.linear.weight", (CHANNELS, wide)
    for place in (f"double_blocks.{i}.{stream}" for i in range(scale.doubles) for stream in ("img", "txt")):
        yield f"{place}_attn.qkv.weight", (3 * wide, wide)
        yield f"{place}_attn.proj.weight", (wide, wide)
        yield f"{place}_mlp.0.weight", (2 * mlp, wide)
        yield f"{place}_mlp.2.weight", (wide, mlp)
        yield from ((f"{place}_attn.norm.{part}_norm.scale", (HEAD_DIM,)) for part in ("query", "key"))
    for place in (f"single_blocks.{i}" for i in range(scale.singles)):
        yield f"{place}.linear1.weight", (3 * wide + 2 * mlp, wide)
        yield f"{place}.linear2.weight", (wide, wide + mlp)
        yield from ((f"{place}.norm.{part}_norm.scale", (HEAD_DIM,)) for part in ("query", "key"))


def weights(scale: Scale, precision: str, device: torch.device, dtype: torch.dtype, keep: torch.device) -> Any:
    """A state dict: matrices normal, norms 1, those of the blocks in the precision's format.

    Args:
        device: where they are drawn and quantised.
        keep: where they are left.
    """
    generator = torch.Generator(device).manual_seed(0)
    made: dict[str, Tensor] = {}
    for name, shape in shapes(scale):
        drawn = torch.ones(shape, dtype=dtype, device=device)
        if len(shape) == 2:
            drawn.normal_(0, std(shape[1]), generator=generator)
        stored = _stored(name, drawn, precision) if len(shape) == 2 and "_blocks." in name else {name: drawn}
        # The host reads its marks where they are.
        made |= {key: tensor if key.endswith(".comfy_quant") else tensor.to(keep) for key, tensor in stored.items()}
    return made


def std(features: int) -> float:
    """0.02, or more where a matrix sums up so few features that its output would be next to nothing."""
    return max(STD, features**-0.5)


def _stored(name: str, matrix: Tensor, precision: str) -> dict[str, Tensor]:
    """As files have it: bf16 as it is, float8_e4m3fn with one scale for the matrix and one for its input, as BFL's file
    has them, int8_tensorwise rotated with a scale a row.
    """
    layer = name.removesuffix(".weight")
    more: dict[str, Tensor] = {}
    if precision == BF16:
        return {name: matrix}
    if precision == FP8:
        scale = matrix.abs().max().float() / FP8_LARGEST
        levels, mark = (matrix.float() / scale).to(torch.float8_e4m3fn), {"format": "float8_e4m3fn"}
        more = {f"{layer}.input_scale": torch.tensor(FP8_INPUT)}
    else:
        from klein9b.kernels.eager.int8_rows import int8_rows

        rows = int8_rows(matrix[None], ROTATION)
        levels, scale = rows.levels[0].contiguous(), rows.scale[0]
        mark = {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": ROTATION}
    coded = torch.tensor(list(json.dumps(mark).encode()), dtype=torch.uint8)
    return {name: levels, f"{layer}.weight_scale": scale, f"{layer}.comfy_quant": coded, **more}


def model(scale: Scale, precision: str, device: torch.device, dtype: torch.dtype) -> Any:
    """The host's MODEL. Where the card has room for the weights twice they never leave it."""
    import comfy.model_management
    import comfy.sd

    roomy = device.type == "cuda" and torch.cuda.mem_get_info(device)[0] > 2.5 * size(scale, precision)
    keep = device if roomy else torch.device("cpu")
    initial = mock.patch.object(comfy.model_management, "unet_inital_load_device", lambda *_: device)
    with torch.inference_mode(), initial if roomy else contextlib.nullcontext():
        made = weights(scale, precision, device, dtype, keep)
        return comfy.sd.load_diffusion_model_state_dict(made, model_options={"dtype": dtype})


def size(scale: Scale, precision: str) -> int:
    """Bytes of the blocks' matrices, and a little for the rest."""
    return int(scale.elements * BYTES[precision] * 1.08)


class Models:
    """Those made so far, as many as the card holds beside each other."""

    def __init__(self, scale: Scale, device: torch.device, dtype: torch.dtype) -> None:
        self.scale, self.device, self.dtype = scale, device, dtype
        self._made: dict[str, Any] = {}

    @property
    def loaded(self) -> list[str]:
        return list(self._made)

    def fit_together(self, precisions: list[str]) -> bool:
        """Beside 12 GiB for activations and references."""
        if self.device.type != "cuda":
            return True
        total = torch.cuda.mem_get_info(self.device)[1]
        return sum(size(self.scale, one) for one in precisions) + 12 * GIB <= total

    def get(self, precision: str, wanted: list[str] | None = None) -> Any:
        """Drops others where the card is too small, never one of the wanted."""
        if precision not in self._made:
            others = [one for one in self._made if one not in (wanted or ())]
            while others and not self.fit_together([*self._made, precision]):
                self.drop(others.pop(0))
            self._made[precision] = model(self.scale, precision, self.device, self.dtype)
        return self._made[precision]

    def drop(self, *precisions: str) -> None:
        """All of them where none is named."""
        import comfy.model_management

        for one in precisions or tuple(self._made):
            self._made.pop(one, None)
        gc.collect()
        comfy.model_management.cleanup_models_gc()
        comfy.model_management.soft_empty_cache()
