"""The host's attention, position rotation and linear layers, as Klein's passes borrow them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.ops
import torch
from comfy.ldm.flux.math import apply_rope1
from comfy.ldm.modules.attention import optimized_attention
from comfy.quant_ops import QuantizedTensor
from torch import Tensor, nn

from ..klein.kv_pass import HostFunctions, Rows

_PLAIN_FORWARD = comfy.ops.disable_weight_init.Linear.forward_comfy_cast_weights


def host_functions(transformer_options: dict[str, Any]) -> HostFunctions:
    """With the attention these options choose."""

    def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        return optimized_attention(q, k, v, heads, skip_reshape=True, transformer_options=transformer_options)

    return HostFunctions(attention, apply_rope1, linear_rows)


def linear_rows(linear: nn.Module, wanted: Sequence[Rows]) -> list[Tensor]:
    """Computes only the wanted features where the layer is a plain one, else all of them."""
    if not is_plain(linear):
        return [linear(rows.input)[..., rows.start : rows.stop] for rows in wanted]
    weight, bias, stream = comfy.ops.cast_bias_weight(linear, wanted[0].input, offloadable=True)
    outputs = []
    for rows in wanted:
        part = slice(rows.start, rows.stop)
        outputs.append(nn.functional.linear(rows.input, weight[part], None if bias is None else bias[part]))
    comfy.ops.uncast_bias_weight(linear, weight, bias, stream)
    return outputs


def is_plain(linear: nn.Module) -> bool:
    """Whether the layer is one matrix product with an ordinary matrix, with nothing hung onto it."""
    return (
        getattr(type(linear), "forward_comfy_cast_weights", None) is _PLAIN_FORWARD
        and "forward" not in vars(linear)
        and not (linear._forward_hooks or linear._forward_pre_hooks)
        and not isinstance(linear.weight, QuantizedTensor)
        and isinstance(linear.weight, Tensor)
        and torch.is_floating_point(linear.weight)
    )
