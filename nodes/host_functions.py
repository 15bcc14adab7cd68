"""The host's attention, position rotation, norms and linear layers, as Klein's blocks borrow them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.ops
import torch
from comfy.ldm.flux.math import apply_rope1
from comfy.ldm.modules.attention import optimized_attention
from comfy.quant_ops import QuantizedTensor
from torch import Tensor, nn

from ..kernels.eager.heads_norm_rope import RmsNorm
from ..klein.transformer import BlockFunctions, Features

_PLAIN_FORWARD = comfy.ops.disable_weight_init.Linear.forward_comfy_cast_weights


def host_functions(transformer_options: dict[str, Any]) -> BlockFunctions:
    """With the attention these options choose."""

    def attention(q: Tensor, k: Tensor, v: Tensor, block: Any) -> Tensor:
        heads = block.num_heads
        return optimized_attention(q, k, v, heads, skip_reshape=True, transformer_options=transformer_options)

    return BlockFunctions(attention, apply_rope1, norm, linear_features)


def norm(module: Any, like: Tensor) -> RmsNorm:
    """The weight as the host's own norm would use it: cast where that casts, patches and all."""
    if not (module.comfy_cast_weights or module.weight_function or module.bias_function):
        return RmsNorm(module.weight, module.eps)
    weight, bias, stream = comfy.ops.cast_bias_weight(module, like, offloadable=True)
    kept = weight.clone()  # The next cast may reuse its memory.
    comfy.ops.uncast_bias_weight(module, weight, bias, stream)
    return RmsNorm(kept, module.eps)


def linear_features(linear: nn.Module, wanted: Sequence[Features]) -> list[Tensor]:
    """Computes only the wanted features where the layer is a plain one, else all of them."""
    if not is_plain(linear):
        return [linear(one.input)[..., one.start : one.stop] for one in wanted]
    weight, bias, stream = comfy.ops.cast_bias_weight(linear, wanted[0].input, offloadable=True)
    outputs = []
    for one in wanted:
        part = slice(one.start, one.stop)
        outputs.append(nn.functional.linear(one.input, weight[part], None if bias is None else bias[part]))
    comfy.ops.uncast_bias_weight(linear, weight, bias, stream)
    return outputs


def is_plain(linear: nn.Module) -> bool:
    """Whether the layer is one matrix product with an ordinary matrix, with nothing hung onto it."""
    return (
        getattr(type(linear), "forward_comfy_cast_weights", None) is _PLAIN_FORWARD
        and not is_hung_onto(linear)
        and not isinstance(linear.weight, QuantizedTensor)
        and isinstance(linear.weight, Tensor)
        and torch.is_floating_point(linear.weight)
    )


def is_hung_onto(module: nn.Module) -> bool:
    """Whether calling the module does more, or something else, than its class says."""
    return "forward" in vars(module) or bool(module._forward_hooks or module._forward_pre_hooks)
