"""The gated activation of an MLP, behind the attention's output where one matrix takes both."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu

from ..fp8 import Fp8Input, Fp8Rows
from ..int8 import Int8Rows
from ..shapes import check_swiglu
from .fp8_rows import fp8_rows
from .int8_rows import int8_rows


def swiglu_concat(mlp: Tensor, attended: Tensor | None = None) -> Tensor:
    """attended followed by silu(a) * b, where a and b are the halves of mlp's features and silu(a) = a / (1 + exp(-a)).

    Args:
        mlp: (batch, tokens, 2 * width) in any floating dtype, which the result has too; may be a view.
        attended: (batch, tokens, hidden) of the same dtype, or None for the activation alone.

    Returns:
        (batch, tokens, hidden + width).

    Raises:
        ValueError: mlp has an odd number of features, or attended other tokens.
    """
    check_swiglu(mlp, attended)
    gate, value = mlp.chunk(2, dim=-1)
    activated = silu(gate) * value
    return activated if attended is None else torch.cat((attended, activated), dim=-1)


def swiglu_concat_int8(mlp: Tensor, attended: Tensor | None, rotation: int) -> Int8Rows:
    """`int8_rows` of `swiglu_concat`."""
    return int8_rows(swiglu_concat(mlp, attended), rotation)


def swiglu_concat_fp8(mlp: Tensor, attended: Tensor | None, wanted: Fp8Input) -> Fp8Rows:
    """`fp8_rows` of `swiglu_concat`."""
    return fp8_rows(swiglu_concat(mlp, attended), wanted)
