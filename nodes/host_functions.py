"""The host's attention, position rotation and linear layers, as Klein's passes borrow them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..klein.reference_pass import HostFunctions, Rows


def host_functions(transformer_options: dict[str, Any]) -> HostFunctions:
    """With the attention these options choose, or else the one that later hosts let a block prefer."""
    import comfy.ldm.flux.math

    attend = comfy.ldm.flux.math.attention

    def attention(q: Tensor, k: Tensor, v: Tensor, block: Any) -> Tensor:
        preferred = getattr(block, "comfy_attention", None)
        wish = {} if preferred is None else {"preferred_attention": preferred}
        return attend(q, k, v, pe=None, transformer_options=transformer_options, **wish)

    return HostFunctions(attention, comfy.ldm.flux.math.apply_rope1, linear_rows)


def plain(tensor: Any) -> Tensor:
    """A tensor, also out of the container in which later hosts hand one to attention, to be taken once."""
    return tensor if isinstance(tensor, Tensor) else tensor.take()


def linear_rows(linear: nn.Module, wanted: Sequence[Rows]) -> list[Tensor]:
    """Computes only the wanted features where the layer is a plain one, else all of them."""
    if not is_plain(linear):
        return [linear(rows.input)[..., rows.start : rows.stop] for rows in wanted]
    import comfy.ops

    weight, bias, stream = comfy.ops.cast_bias_weight(linear, wanted[0].input, offloadable=True)
    outputs = []
    for rows in wanted:
        part = slice(rows.start, rows.stop)
        outputs.append(nn.functional.linear(rows.input, weight[part], None if bias is None else bias[part]))
    comfy.ops.uncast_bias_weight(linear, weight, bias, stream)
    return outputs


def is_plain(linear: nn.Module) -> bool:
    """Whether the layer is one matrix product with an ordinary matrix, with nothing hung onto it."""
    import comfy.ops
    import comfy.quant_ops

    plain_forward = comfy.ops.disable_weight_init.Linear.forward_comfy_cast_weights
    return (
        getattr(type(linear), "forward_comfy_cast_weights", None) is plain_forward
        and "forward" not in vars(linear)
        and not (linear._forward_hooks or linear._forward_pre_hooks)
        and not isinstance(linear.weight, comfy.quant_ops.QuantizedTensor)
        and isinstance(linear.weight, Tensor)
        and torch.is_floating_point(linear.weight)
    )
