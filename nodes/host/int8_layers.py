"""The host's int8 linear layers, given an input that is int8 already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ...kernels.int8 import Int8Input, Int8Rows, Int8Weight
from ...kernels.ops import Int8Ops
from ...klein.transformer import EVERY_TOKEN, Features
from .quantised_layers import matrix_of, multiplies_as

FORMAT = "int8_tensorwise"


def int8_input(layer: nn.Module) -> Int8Input | None:
    """How the layer wants its input; None where it is no int8 matrix used as such."""
    return Int8Input(_rotation(layer)) if multiplies_as(layer, FORMAT) and layer.bias is None else None


def int8_linear(layer: nn.Module, rows: Int8Rows, ops: Int8Ops) -> Tensor:
    """The layer's output, (batch, tokens, out features)."""
    (whole,) = int8_linear_features(layer, rows, (Features(0, None, EVERY_TOKEN),), ops)
    return whole


def int8_linear_features(layer: Any, rows: Int8Rows, wanted: Sequence[Features], ops: Int8Ops) -> list[Tensor]:
    """The wanted parts of it."""
    dtype = layer.weight.dtype
    with matrix_of(layer, rows.levels.device, dtype) as (held, _):
        matrix = Int8Weight(held._qdata, held._params.scale, _rotation(layer))
        return [ops.linear(rows.part(one.tokens.slice), _features(matrix, one), dtype) for one in wanted]


def _rotation(layer: Any) -> int:
    """How many features the layer's matrix is rotated by, 0 for none."""
    params = layer.weight._params
    return params.convrot_groupsize if getattr(params, "convrot", False) else 0


def _features(weight: Int8Weight, wanted: Features) -> Int8Weight:
    """Those rows of the matrix."""
    part = slice(wanted.start, wanted.stop)
    scale = weight.scale if weight.scale.numel() == 1 else weight.scale[part]
    return Int8Weight(weight.levels[part], scale, weight.rotation)
