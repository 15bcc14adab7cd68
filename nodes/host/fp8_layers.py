"""The host's float8 linear layers, given an input that is float8 already."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ...kernels.fp8 import Fp8Input, Fp8Rows
from ...kernels.kitchen import fp8_is_rounded
from ...kernels.machine import first_line
from ...klein.transformer import Features
from .quantised_layers import matrix_of, multiplies_as

log = logging.getLogger(__name__)

FORMAT = "float8_e4m3fn"


def is_fp8(layer: nn.Module) -> bool:
    """Whether the layer multiplies in float8."""
    return multiplies_as(layer, FORMAT)


def fp8_input(layer: nn.Module, x: Tensor) -> Fp8Input | None:
    """How the layer makes float8 of an input of x's device and dtype; None where it does not."""
    if not is_fp8(layer):
        return None
    rounded = _is_rounded(x.device, x.dtype)
    return None if rounded is None else Fp8Input(_scale(layer, x.device), rounded)


def fp8_linear(layer: Any, rows: Fp8Rows) -> Tensor:
    """The layer's output, (batch, tokens, out features): it takes float8 as it takes what it has made of its input."""
    made: Tensor = layer(_flat(rows, layer.layout_type))
    return made.unflatten(0, rows.levels.shape[:2])


def fp8_linear_features(layer: Any, rows: Fp8Rows, wanted: Sequence[Features]) -> list[Tensor]:
    """The wanted parts of it, by the same product."""
    with matrix_of(layer, rows.levels.device, rows.dtype) as (matrix, bias):
        return [_features(matrix, bias, rows.part(one.tokens.slice), one) for one in wanted]


def _features(matrix: Any, bias: Tensor | None, rows: Fp8Rows, wanted: Features) -> Tensor:
    part, layout = slice(wanted.start, wanted.stop), matrix._layout_cls
    some = _held(matrix._qdata[part], matrix._params.scale, matrix._params.orig_dtype, layout)
    made = nn.functional.linear(_flat(rows, layout), some, None if bias is None else bias[part])
    return made.unflatten(0, rows.levels.shape[:2])


def _flat(rows: Fp8Rows, layout: str) -> Any:
    """(batch * tokens, features), as the host holds them."""
    return _held(rows.levels.flatten(0, 1), rows.scale, rows.dtype, layout)


def _held(levels: Tensor, scale: Tensor, dtype: torch.dtype, layout: str) -> Any:
    """In the host's container."""
    import comfy.quant_ops

    params = comfy.quant_ops.get_layout_class(layout).Params(
        scale=scale, orig_dtype=dtype, orig_shape=tuple(levels.shape)
    )
    return comfy.quant_ops.QuantizedTensor(levels, layout, params)


def _scale(layer: Any, device: torch.device) -> Tensor:
    """That of the file, else 1."""
    given = getattr(layer, "input_scale", None)
    if given is None:
        return torch.ones((), dtype=torch.float32, device=device)
    import comfy.model_management

    scale: Tensor = comfy.model_management.cast_to_device(given, device, None)
    return scale.float()


@cache
def _is_rounded(device: torch.device, dtype: torch.dtype) -> bool | None:
    """None where comfy_kitchen is of another kind."""
    try:
        return fp8_is_rounded(device, dtype)
    except Exception as error:
        why = first_line(error)
        log.warning("Klein 9B Accelerate leaves float8 to the layers, as comfy_kitchen does not tell of it: %s", why)
        return None
