"""The host's attention, position rotation, norms and linear layers, as Klein's blocks borrow them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...kernels.eager.heads_norm_rope import RmsNorm
from ...klein.transformer import BlockFunctions, Features


def host_functions(transformer_options: dict[str, Any]) -> BlockFunctions:
    """With the attention these options choose, or else the one that later hosts let a block prefer."""
    import comfy.ldm.flux.math

    attend = comfy.ldm.flux.math.attention

    def attention(q: Tensor, k: Tensor, v: Tensor, block: Any) -> Tensor:
        preferred = getattr(block, "comfy_attention", None)
        wish = {} if preferred is None else {"preferred_attention": preferred}
        return attend(q, k, v, pe=None, transformer_options=transformer_options, **wish)

    return BlockFunctions(attention, comfy.ldm.flux.math.apply_rope1, norm, linear_features)


def plain(tensor: Any) -> Tensor:
    """A tensor, also out of the container in which later hosts hand one to attention, to be taken once."""
    return tensor if isinstance(tensor, Tensor) else tensor.take()


def norm(module: Any, like: Tensor) -> RmsNorm:
    """The weight as the host's own norm would use it: cast where that casts, patches and all."""
    if not (module.comfy_cast_weights or module.weight_function or module.bias_function):
        return RmsNorm(module.weight, module.eps)
    import comfy.ops

    weight, bias, stream = comfy.ops.cast_bias_weight(module, like, offloadable=True)
    kept = weight.clone()  # The next cast may reuse its memory.
    comfy.ops.uncast_bias_weight(module, weight, bias, stream)
    return RmsNorm(kept, module.eps)


def linear_features(linear: nn.Module, x: Tensor, wanted: Sequence[Features]) -> list[Tensor]:
    """Computes only the wanted features where the layer is a plain one; any other is called once, as a whole."""
    if not is_plain(linear):
        whole = linear(x)
        return [whole[:, one.first_token :, one.start : one.stop] for one in wanted]
    import comfy.ops

    weight, bias, stream = comfy.ops.cast_bias_weight(linear, x, offloadable=True)
    outputs = []
    for one in wanted:
        part = slice(one.start, one.stop)
        outputs.append(
            nn.functional.linear(x[:, one.first_token :], weight[part], None if bias is None else bias[part])
        )
    comfy.ops.uncast_bias_weight(linear, weight, bias, stream)
    return outputs


def is_plain(linear: nn.Module) -> bool:
    """Whether the layer is one matrix product with an ordinary matrix, with nothing hung onto it."""
    import comfy.ops
    import comfy.quant_ops

    plain_forward = comfy.ops.disable_weight_init.Linear.forward_comfy_cast_weights
    return (
        getattr(type(linear), "forward_comfy_cast_weights", None) is plain_forward
        and not is_hung_onto(linear)
        and not isinstance(linear.weight, comfy.quant_ops.QuantizedTensor)
        and isinstance(linear.weight, Tensor)
        and torch.is_floating_point(linear.weight)
    )


def is_hung_onto(module: nn.Module) -> bool:
    """Whether calling the module does more, or something else, than its class says."""
    return "forward" in vars(module) or bool(module._forward_hooks or module._forward_pre_hooks)
